//! Metrics: plain counters of one loop, published now and then to atomics that anybody may read.
//!
//! Owns: every metric's name, kind, labels and help, and the Prometheus text (version 0.0.4).
//! Never: shares a cache line between two writing loops, or takes a label value from a stranger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! metrics {
    ($($name:ident = $kind:ident $family:literal $labels:literal $help:literal,)*) => {
        /// One number that a loop keeps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Metric { $(#[doc = $help] $name,)* }

        /// In the order of [`Metric`]: kind, family, labels, help.
        const ROWS: &[Row] = &[$(Row { kind: Kind::$kind, family: $family, labels: $labels, help: $help },)*];
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
}

struct Row {
    kind: Kind,
    family: &'static str,
    labels: &'static str,
    help: &'static str,
}

metrics! {
    ConnectionsHttp = Gauge "peer_server_connections" "state=\"http\"" "Open connections by state.",
    ConnectionsUnregistered = Gauge "peer_server_connections" "state=\"unregistered\"" "Open connections by state.",
    ConnectionsLobby = Gauge "peer_server_connections" "state=\"lobby\"" "Open connections by state.",
    ConnectionsSeeking = Gauge "peer_server_connections" "state=\"seeking\"" "Open connections by state.",
    ConnectionsRegistered = Gauge "peer_server_connections" "state=\"registered\"" "Open connections by state.",
    ConnectionsClosing = Gauge "peer_server_connections" "state=\"closing\"" "Open connections by state.",
    ConnectionsPaused = Gauge "peer_server_connections_paused" "" "Connections that are not read: they wait for an answer from another loop, or for their own client to read.",
    Peers = Gauge "peer_server_peers" "" "Registered peers.",
    Namespaces = Gauge "peer_server_namespaces" "" "Plain namespaces.",
    Rooms = Gauge "peer_server_rooms" "" "Rooms.",
    MatchWaiting = Gauge "peer_server_match_waiting" "" "Match requests that wait.",
    Aliases = Gauge "peer_server_aliases" "" "Aliases that resolve.",
    OpenSums = Gauge "peer_server_broadcasts_open" "" "Broadcasts whose refusals are still being counted.",
    PunchSimpleSessions = Gauge "peer_server_punch_sessions" "dialect=\"simple\"" "Sessions, or registered clients, of the punch dialects.",
    PunchNatpunchClients = Gauge "peer_server_punch_sessions" "dialect=\"natpunch\"" "Sessions, or registered clients, of the punch dialects.",
    PunchMatchmakerSessions = Gauge "peer_server_punch_sessions" "dialect=\"matchmaker\"" "Sessions, or registered clients, of the punch dialects.",
    PunchNatpunchLobbies = Gauge "peer_server_punch_lobbies" "dialect=\"natpunch\"" "Lobbies of the punch dialects.",
    PunchMatchmakerLobbies = Gauge "peer_server_punch_lobbies" "dialect=\"matchmaker\"" "Lobbies of the punch dialects.",
    StateBytes = Gauge "peer_server_state_bytes" "" "Bytes kept for peers, estimated.",
    OutputBytes = Gauge "peer_server_output_bytes" "" "Bytes of unsent output.",
    PoolBlocksTaken = Gauge "peer_server_pool_blocks_taken" "" "Buffers in use.",
    PoolBytesKept = Gauge "peer_server_pool_kept_bytes" "" "Bytes of buffers kept for use.",
    MailBacklog = Gauge "peer_server_mail_backlog_batches" "" "Batches of mail that another loop's inbox could not take yet.",
    Accepted = Counter "peer_server_accepted_total" "" "Connections accepted.",
    AcceptPaused = Counter "peer_server_accept_paused_total" "" "Pauses of accepting for want of descriptors or memory.",
    AcceptRefused = Counter "peer_server_accept_refused_total" "" "Connections refused because too many were unregistered.",
    AddressRefused = Counter "peer_server_address_refused_total" "" "Connections refused by a limit of their address.",
    OriginRefused = Counter "peer_server_origin_refused_total" "" "Upgrades refused for their origin.",
    Upgrades = Counter "peer_server_upgrades_total" "" "Connections that became WebSockets.",
    HttpRequests = Counter "peer_server_http_requests_total" "" "HTTP requests, upgrades included.",
    TlsHandshakes = Counter "peer_server_tls_handshakes_total" "" "TLS handshakes completed.",
    Moved = Counter "peer_server_connections_moved_total" "" "Connections handed to the home loop of their key.",
    MovesLost = Counter "peer_server_connections_lost_moving_total" "" "Connections lost for want of a descriptor at the home loop of their key.",
    Registrations = Counter "peer_server_registrations_total" "" "Registrations completed.",
    Replaced = Counter "peer_server_sessions_replaced_total" "" "Sessions replaced by a registration of the same key.",
    Matches = Counter "peer_server_matches_total" "" "Groups completed.",
    BytesIn = Counter "peer_server_received_bytes_total" "" "Bytes received, under TLS after decryption.",
    BytesOut = Counter "peer_server_sent_bytes_total" "" "Bytes sent, under TLS before encryption.",
    MessagePing = Counter "peer_server_messages_total" "type=\"ping\"" "Messages from peers by type.",
    MessageSignal = Counter "peer_server_messages_total" "type=\"signal\"" "Messages from peers by type.",
    MessageRelay = Counter "peer_server_messages_total" "type=\"relay\"" "Messages from peers by type.",
    MessageBroadcast = Counter "peer_server_messages_total" "type=\"broadcast\"" "Messages from peers by type.",
    MessageJoin = Counter "peer_server_messages_total" "type=\"join\"" "Messages from peers by type.",
    MessageLeave = Counter "peer_server_messages_total" "type=\"leave\"" "Messages from peers by type.",
    MessageDiscover = Counter "peer_server_messages_total" "type=\"discover\"" "Messages from peers by type.",
    MessageMatch = Counter "peer_server_messages_total" "type=\"match\"" "Messages from peers by type.",
    MessageCreateRoom = Counter "peer_server_messages_total" "type=\"create_room\"" "Messages from peers by type.",
    MessageJoinRoom = Counter "peer_server_messages_total" "type=\"join_room\"" "Messages from peers by type.",
    MessageRoomInfo = Counter "peer_server_messages_total" "type=\"room_info\"" "Messages from peers by type.",
    MessageKick = Counter "peer_server_messages_total" "type=\"kick\"" "Messages from peers by type.",
    MessageMetadata = Counter "peer_server_messages_total" "type=\"metadata\"" "Messages from peers by type.",
    MessageIceServers = Counter "peer_server_messages_total" "type=\"ice_servers\"" "Messages from peers by type.",
    MessageRegister = Counter "peer_server_messages_total" "type=\"register\"" "Messages from peers by type.",
    MessageRefused = Counter "peer_server_messages_total" "type=\"other\"" "Messages from peers by type.",
    Deliveries = Counter "peer_server_deliveries_total" "" "Signals, relays and broadcasts queued for a receiver.",
    Error400 = Counter "peer_server_errors_total" "code=\"400\"" "Errors told to peers by code.",
    Error403 = Counter "peer_server_errors_total" "code=\"403\"" "Errors told to peers by code.",
    Error404 = Counter "peer_server_errors_total" "code=\"404\"" "Errors told to peers by code.",
    Error409 = Counter "peer_server_errors_total" "code=\"409\"" "Errors told to peers by code.",
    Error429 = Counter "peer_server_errors_total" "code=\"429\"" "Errors told to peers by code.",
    Error503 = Counter "peer_server_errors_total" "code=\"503\"" "Errors told to peers by code.",
    RefusedForbidden = Counter "peer_server_refused_deliveries_total" "reason=\"no_shared_namespace\"" "Peer-made messages not delivered, by reason.",
    RefusedNotFound = Counter "peer_server_refused_deliveries_total" "reason=\"peer_not_found\"" "Peer-made messages not delivered, by reason.",
    RefusedFull = Counter "peer_server_refused_deliveries_total" "reason=\"buffer_full\"" "Peer-made messages not delivered, by reason.",
    RefusedMail = Counter "peer_server_refused_deliveries_total" "reason=\"mail_full\"" "Peer-made messages not delivered, by reason.",
    RateLimited = Counter "peer_server_rate_limited_total" "" "Messages dropped by the rate limit of their peer.",
    StaleMail = Counter "peer_server_mail_stale_total" "" "Mail between loops for a session or request that was over.",
    Close1000 = Counter "peer_server_closes_total" "code=\"1000\"" "WebSocket closes by code, whoever began.",
    Close1001 = Counter "peer_server_closes_total" "code=\"1001\"" "WebSocket closes by code, whoever began.",
    Close1002 = Counter "peer_server_closes_total" "code=\"1002\"" "WebSocket closes by code, whoever began.",
    Close1005 = Counter "peer_server_closes_total" "code=\"1005\"" "WebSocket closes by code, whoever began.",
    Close1006 = Counter "peer_server_closes_total" "code=\"1006\"" "WebSocket closes by code, whoever began.",
    Close1007 = Counter "peer_server_closes_total" "code=\"1007\"" "WebSocket closes by code, whoever began.",
    Close1008 = Counter "peer_server_closes_total" "code=\"1008\"" "WebSocket closes by code, whoever began.",
    Close1009 = Counter "peer_server_closes_total" "code=\"1009\"" "WebSocket closes by code, whoever began.",
    Close1012 = Counter "peer_server_closes_total" "code=\"1012\"" "WebSocket closes by code, whoever began.",
    Close1013 = Counter "peer_server_closes_total" "code=\"1013\"" "WebSocket closes by code, whoever began.",
    Close4001 = Counter "peer_server_closes_total" "code=\"4001\"" "WebSocket closes by code, whoever began.",
    CloseOther = Counter "peer_server_closes_total" "code=\"other\"" "WebSocket closes by code, whoever began.",
    PingsSent = Counter "peer_server_pings_sent_total" "" "Control pings sent.",
    PongTimeouts = Counter "peer_server_pong_timeouts_total" "" "Connections closed because they were silent.",
    WriteTimeouts = Counter "peer_server_write_timeouts_total" "" "Connections closed because they took no byte.",
    SlowConsumers = Counter "peer_server_slow_consumers_total" "" "Connections closed because their send buffer was full.",
    PresenceWrites = Counter "peer_server_presence_writes_total" "" "Writes of presence that had waited for more of it.",
    DatagramsStun = Counter "peer_server_datagrams_received_total" "dialect=\"stun\"" "Datagrams received by dialect.",
    DatagramsMatchmaker = Counter "peer_server_datagrams_received_total" "dialect=\"matchmaker\"" "Datagrams received by dialect.",
    DatagramsSimple = Counter "peer_server_datagrams_received_total" "dialect=\"simple\"" "Datagrams received by dialect.",
    DatagramsNatpunch = Counter "peer_server_datagrams_received_total" "dialect=\"natpunch\"" "Datagrams received by dialect.",
    DatagramsUnknown = Counter "peer_server_datagrams_received_total" "dialect=\"unknown\"" "Datagrams received by dialect.",
    DatagramsSentStun = Counter "peer_server_datagrams_sent_total" "dialect=\"stun\"" "Datagrams handed to the kernel by dialect, those that it did not take included.",
    DatagramsSentMatchmaker = Counter "peer_server_datagrams_sent_total" "dialect=\"matchmaker\"" "Datagrams handed to the kernel by dialect, those that it did not take included.",
    DatagramsSentSimple = Counter "peer_server_datagrams_sent_total" "dialect=\"simple\"" "Datagrams handed to the kernel by dialect, those that it did not take included.",
    DatagramsSentNatpunch = Counter "peer_server_datagrams_sent_total" "dialect=\"natpunch\"" "Datagrams handed to the kernel by dialect, those that it did not take included.",
    DroppedUnknown = Counter "peer_server_datagrams_dropped_total" "reason=\"unknown\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedMalformed = Counter "peer_server_datagrams_dropped_total" "reason=\"malformed\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedRateLimited = Counter "peer_server_datagrams_dropped_total" "reason=\"rate_limited\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedFull = Counter "peer_server_datagrams_dropped_total" "reason=\"full\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedNotAllowed = Counter "peer_server_datagrams_dropped_total" "reason=\"not_allowed\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedBound = Counter "peer_server_datagrams_dropped_total" "reason=\"bound\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedMailFull = Counter "peer_server_datagrams_dropped_total" "reason=\"mail_full\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DroppedNotSent = Counter "peer_server_datagrams_dropped_total" "reason=\"not_sent\"" "Datagrams, and answers to them, that came to nothing, by reason.",
    DatagramBytesIn = Counter "peer_server_datagram_received_bytes_total" "" "Bytes of datagrams received.",
    DatagramBytesOut = Counter "peer_server_datagram_sent_bytes_total" "" "Bytes of datagrams handed to the kernel.",
    GameServerWaiting = Gauge "peer_server_game_server_requests_waiting" "" "Requests for game servers under way.",
    GameServerReserved = Gauge "peer_server_game_server_places" "state=\"reserved\"" "Places on game servers that are taken, those of the provider's sessions included.",
    GameServerClaimed = Gauge "peer_server_game_server_places" "state=\"claimed\"" "Places on game servers that are taken, those of the provider's sessions included.",
    GameServerSessionsOpen = Gauge "peer_server_game_server_sessions_open" "" "Sessions of the provider that were made and not deleted.",
    GameServerNats = Gauge "peer_server_game_server_nats_connected" "" "Whether the NATS server of the game servers is connected.",
    GameServerReady = Counter "peer_server_game_server_requests_total" "outcome=\"ready\"" "Requests for game servers by what came of them.",
    GameServerAbandoned = Counter "peer_server_game_server_requests_total" "outcome=\"abandoned\"" "Requests for game servers by what came of them.",
    GameServerLimited = Counter "peer_server_game_server_requests_total" "outcome=\"limited\"" "Requests for game servers by what came of them.",
    GameServerTimedOut = Counter "peer_server_game_server_requests_total" "outcome=\"timed_out\"" "Requests for game servers by what came of them.",
    GameServerUnavailable = Counter "peer_server_game_server_requests_total" "outcome=\"unavailable\"" "Requests for game servers by what came of them.",
    GameServerForwarded = Counter "peer_server_game_server_requests_total" "outcome=\"forwarded\"" "Requests for game servers by what came of them.",
    GameServerFailed = Counter "peer_server_game_server_requests_total" "outcome=\"failed\"" "Requests for game servers by what came of them.",
    SeekersBadRequest = Counter "peer_server_game_server_refused_total" "reason=\"bad_request\"" "Clients of the matchmaker web service that were refused before anybody looked for a server, by reason.",
    SeekersSilent = Counter "peer_server_game_server_refused_total" "reason=\"silent\"" "Clients of the matchmaker web service that were refused before anybody looked for a server, by reason.",
    SeekersTicket = Counter "peer_server_game_server_refused_total" "reason=\"ticket\"" "Clients of the matchmaker web service that were refused before anybody looked for a server, by reason.",
    SeekersOrigin = Counter "peer_server_game_server_refused_total" "reason=\"origin\"" "Clients of the matchmaker web service that were refused before anybody looked for a server, by reason.",
    SeekersReportSecret = Counter "peer_server_game_server_refused_total" "reason=\"report_secret\"" "Clients of the matchmaker web service that were refused before anybody looked for a server, by reason.",
    GameServerFrames = Counter "peer_server_game_server_frames_sent_total" "" "Words to those who seek a game server.",
    GameServerUnclaimed = Counter "peer_server_game_server_places_unclaimed_total" "" "Places on game servers that were given up because nobody came, those of the provider's sessions included.",
    GameServerReports = Counter "peer_server_game_server_reports_total" "" "Reports of game servers that count.",
    GameServerSessionsCreated = Counter "peer_server_game_server_sessions_total" "event=\"created\"" "Sessions of the provider by what became of them.",
    GameServerSessionsDeleted = Counter "peer_server_game_server_sessions_total" "event=\"deleted\"" "Sessions of the provider by what became of them.",
    GameServerSessionsUnclaimed = Counter "peer_server_game_server_sessions_total" "event=\"unclaimed\"" "Sessions of the provider by what became of them.",
    GameServerSessionsAbandoned = Counter "peer_server_game_server_sessions_total" "event=\"abandoned\"" "Sessions of the provider by what became of them.",
    GameServerCallsGood = Counter "peer_server_game_server_calls_total" "outcome=\"good\"" "Calls of the provider's interface by outcome.",
    GameServerCallsFailed = Counter "peer_server_game_server_calls_total" "outcome=\"failed\"" "Calls of the provider's interface by outcome.",
    GameServerCallNanos = Counter "peer_server_game_server_call_seconds_total" "" "Time that calls of the provider's interface took.",
    BrokerUp = Gauge "peer_server_broker_up" "" "Whether the broker is there.",
    BrokerLeaseAge = Gauge "peer_server_broker_lease_age_seconds" "" "Time since the renewal that this node's lease counts from.",
    BrokerRoundTrip = Gauge "peer_server_broker_round_trip_seconds" "" "Time that the last renewal of the lease took.",
    BrokerQueueBytes = Gauge "peer_server_broker_queue_bytes" "" "Bytes that wait for the broker.",
    ClusterNodes = Gauge "peer_server_cluster_nodes" "" "Nodes that were alive at the last renewal.",
    ClusterPeers = Gauge "peer_server_cluster_peers" "" "Peers that were registered on them.",
    BrokerCommands = Counter "peer_server_broker_commands_total" "" "Commands handed to the broker.",
    BrokerBatches = Counter "peer_server_broker_batches_total" "" "Batches that they were handed over in.",
    BrokerCommandsLost = Counter "peer_server_broker_commands_lost_total" "" "Commands whose answer never came.",
    BrokerMessagesOut = Counter "peer_server_broker_messages_total" "direction=\"out\"" "Messages between nodes.",
    BrokerMessagesIn = Counter "peer_server_broker_messages_total" "direction=\"in\"" "Messages between nodes.",
    BrokerBytesOut = Counter "peer_server_broker_message_bytes_total" "direction=\"out\"" "Bytes of messages between nodes.",
    BrokerBytesIn = Counter "peer_server_broker_message_bytes_total" "direction=\"in\"" "Bytes of messages between nodes.",
    BrokerUnheard = Counter "peer_server_broker_unheard_total" "" "Messages to a node that nobody listened to.",
    BrokerLinkGaps = Counter "peer_server_broker_link_gaps_total" "" "Messages of other nodes that never came.",
    BrokerStrange = Counter "peer_server_broker_strange_total" "" "Messages of other nodes, and entries of the broker's data, that made no sense.",
    BrokerForeign = Counter "peer_server_broker_foreign_total" "" "Messages of nodes of another implementation, or without shared state.",
    BrokerRefusedFull = Counter "peer_server_broker_refused_total" "reason=\"full\"" "Commands and messages between nodes that were not taken, by reason.",
    BrokerRefusedDown = Counter "peer_server_broker_refused_total" "reason=\"down\"" "Commands and messages between nodes that were not taken, by reason.",
    BrokerRefusedBehind = Counter "peer_server_broker_refused_total" "reason=\"behind\"" "Commands and messages between nodes that were not taken, by reason.",
    BrokerDropped = Counter "peer_server_broker_dropped_total" "" "Messages that waited for the broker when it was lost.",
    BrokerReconnects = Counter "peer_server_broker_reconnects_total" "" "Times that the broker was back.",
    NodeFramesSent = Counter "peer_server_node_frames_total" "event=\"sent\"" "Messages of peers, and refusals of them, between nodes.",
    NodeFramesReceived = Counter "peer_server_node_frames_total" "event=\"received\"" "Messages of peers, and refusals of them, between nodes.",
    NodeFramesDropped = Counter "peer_server_node_frames_total" "event=\"dropped\"" "Messages of peers, and refusals of them, between nodes.",
    NodeFramesFaulty = Counter "peer_server_node_frames_total" "event=\"faulty\"" "Messages of peers, and refusals of them, between nodes.",
    NodeFramesMisled = Counter "peer_server_node_frames_total" "event=\"misled\"" "Messages of peers, and refusals of them, between nodes.",
    NodeDeliveries = Counter "peer_server_node_deliveries_total" "" "Deliveries of messages that came from other nodes.",
    NodeRefusedHere = Counter "peer_server_node_refusals_total" "by=\"here\"" "Messages to or from other nodes that were refused, by whom.",
    NodeRefusedThere = Counter "peer_server_node_refusals_total" "by=\"there\"" "Messages to or from other nodes that were refused, by whom.",
    NodeRefusedBroker = Counter "peer_server_node_refusals_total" "by=\"broker\"" "Messages to or from other nodes that were refused, by whom.",
    Wakeups = Counter "peer_server_loop_iterations_total" "" "Turns of the event loops.",
    BusyNanos = Counter "peer_server_loop_busy_seconds_total" "" "Time that the loops spent working.",
}

/// Upper bounds of the loop lag's buckets, in microseconds.
const LAG_BOUNDS_US: [u64; 9] = [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000];
const COUNT: usize = ROWS.len();

/// The numbers of one loop, kept by it alone.
#[derive(Clone, Debug)]
pub struct Counters {
    values: [u64; COUNT],
    /// Turns by how long they took: the time for which nothing else could be served.
    lag: [u64; LAG_BOUNDS_US.len() + 1],
    lag_nanos: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: [0; COUNT],
            lag: [0; LAG_BOUNDS_US.len() + 1],
            lag_nanos: 0,
        }
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Counts many.
    pub fn add(&mut self, metric: Metric, many: u64) {
        self.values[metric as usize] += many;
    }

    /// Counts one less of a gauge.
    pub fn take(&mut self, metric: Metric) {
        let value = &mut self.values[metric as usize];
        debug_assert!(*value > 0, "a gauge went below zero: {metric:?}");
        *value = value.saturating_sub(1);
    }

    /// What is counted so far.
    pub fn get(&self, metric: Metric) -> u64 {
        self.values[metric as usize]
    }

    /// Sets a gauge.
    pub fn set(&mut self, metric: Metric, value: u64) {
        self.values[metric as usize] = value;
    }

    /// One turn of the loop took so long.
    pub fn turn(&mut self, nanos: u64) {
        let bucket = LAG_BOUNDS_US
            .iter()
            .position(|bound| nanos <= bound * 1000)
            .unwrap_or(LAG_BOUNDS_US.len());
        self.lag[bucket] += 1;
        self.lag_nanos += nanos;
        self.add(Metric::BusyNanos, nanos);
        self.count(Metric::Wakeups);
    }

    /// Counts an error told to a peer.
    pub fn error(&mut self, code: u16) {
        self.count(match code {
            403 => Metric::Error403,
            404 => Metric::Error404,
            409 => Metric::Error409,
            429 => Metric::Error429,
            503 => Metric::Error503,
            _ => Metric::Error400,
        });
    }

    /// Counts the end of a WebSocket.
    pub fn close(&mut self, code: u16) {
        self.count(match code {
            1000 => Metric::Close1000,
            1001 => Metric::Close1001,
            1002 => Metric::Close1002,
            1005 => Metric::Close1005,
            1006 => Metric::Close1006,
            1007 => Metric::Close1007,
            1008 => Metric::Close1008,
            1009 => Metric::Close1009,
            1012 => Metric::Close1012,
            1013 => Metric::Close1013,
            4001 => Metric::Close4001,
            _ => Metric::CloseOther,
        });
    }
}

/// The numbers that one loop last published. Aligned so that two loops never write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
struct Published {
    values: [AtomicU64; COUNT],
    lag: [AtomicU64; LAG_BOUNDS_US.len() + 1],
    lag_nanos: AtomicU64,
}

/// What all loops published, and what is the whole process's.
#[derive(Clone, Debug)]
pub struct Board {
    loops: Arc<[Published]>,
    /// Written by whichever loop is asked for it.
    process: Arc<[AtomicU64; COUNT]>,
}

impl Board {
    /// A board for so many loops.
    pub fn new(loops: usize) -> Self {
        let zeros = || Published {
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            lag: std::array::from_fn(|_| AtomicU64::new(0)),
            lag_nanos: AtomicU64::new(0),
        };
        Self {
            loops: (0..loops).map(|_| zeros()).collect(),
            process: Arc::new(std::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    /// Publishes the numbers of the loop with this index. Only that loop may.
    pub fn publish(&self, index: usize, counters: &Counters) {
        let Some(published) = self.loops.get(index) else { return };
        let own = counters.values.iter().chain(&counters.lag).chain([&counters.lag_nanos]);
        let shown = published
            .values
            .iter()
            .chain(&published.lag)
            .chain([&published.lag_nanos]);
        for (value, shown) in own.zip(shown) {
            shown.store(*value, Ordering::Relaxed);
        }
    }

    /// Sets what no loop counts, for the whole process.
    pub fn set(&self, metric: Metric, value: u64) {
        self.process[metric as usize].store(value, Ordering::Relaxed);
    }

    /// The sum over all loops, and what is the whole process's.
    pub fn sum(&self, metric: Metric) -> u64 {
        self.sum_at(metric as usize)
    }

    fn sum_at(&self, index: usize) -> u64 {
        let loops = self.loops.iter().map(|published| &published.values[index]);
        loops
            .chain([&self.process[index]])
            .map(|value| value.load(Ordering::Relaxed))
            .sum()
    }

    /// Appends everything in the Prometheus text format.
    pub fn push_text(&self, out: &mut Vec<u8>) {
        let mut family = "";
        for (index, row) in ROWS.iter().enumerate() {
            if row.family != family {
                family = row.family;
                let kind = if row.kind == Kind::Counter { "counter" } else { "gauge" };
                push_head(out, family, row.help, kind);
            }
            let sum = self.sum_at(index);
            let labels = if row.labels.is_empty() {
                String::new()
            } else {
                format!("{{{}}}", row.labels)
            };
            let seconds = family.ends_with("_seconds") || family.ends_with("_seconds_total");
            let value = if seconds {
                format!("{:.6}", sum as f64 / 1e9)
            } else {
                sum.to_string()
            };
            out.extend_from_slice(format!("{family}{labels} {value}\n").as_bytes());
        }
        self.push_lag(out);
        push_head(out, "peer_server_build_info", "The running version.", "gauge");
        let version = env!("CARGO_PKG_VERSION");
        out.extend_from_slice(format!("peer_server_build_info{{version=\"{version}\"}} 1\n").as_bytes());
        push_head(out, "peer_server_loops", "Event loops.", "gauge");
        out.extend_from_slice(format!("peer_server_loops {}\n", self.loops.len()).as_bytes());
    }

    fn push_lag(&self, out: &mut Vec<u8>) {
        const FAMILY: &str = "peer_server_loop_lag_seconds";
        push_head(
            out,
            FAMILY,
            "How long a turn of a loop kept everything else waiting.",
            "histogram",
        );
        let mut total = 0;
        for (bucket, bound) in LAG_BOUNDS_US.iter().map(Some).chain([None]).enumerate() {
            total += self
                .loops
                .iter()
                .map(|l| l.lag[bucket].load(Ordering::Relaxed))
                .sum::<u64>();
            let bound = bound.map_or("+Inf".to_owned(), |micros| format!("{}", *micros as f64 / 1e6));
            out.extend_from_slice(format!("{FAMILY}_bucket{{le=\"{bound}\"}} {total}\n").as_bytes());
        }
        let nanos: u64 = self.loops.iter().map(|l| l.lag_nanos.load(Ordering::Relaxed)).sum();
        let sum = nanos as f64 / 1e9;
        out.extend_from_slice(format!("{FAMILY}_sum {sum:.6}\n{FAMILY}_count {total}\n").as_bytes());
    }
}

fn push_head(out: &mut Vec<u8>, family: &str, help: &str, kind: &str) {
    out.extend_from_slice(format!("# HELP {family} {help}\n# TYPE {family} {kind}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn families_stand_together_and_names_follow_the_conventions() {
        let mut seen: Vec<&str> = Vec::new();
        for row in ROWS {
            if seen.last() != Some(&row.family) {
                assert!(!seen.contains(&row.family), "{} is split", row.family);
                seen.push(row.family);
            }
            assert!(row.family.starts_with("peer_server_"));
            assert_eq!(
                row.kind == Kind::Counter,
                row.family.ends_with("_total"),
                "{}",
                row.family
            );
        }
    }

    #[test]
    fn loops_are_summed_and_the_lag_is_cumulative() {
        let board = Board::new(2);
        let mut counters = Counters::default();
        counters.add(Metric::BytesIn, 5);
        counters.turn(50_000);
        counters.turn(2_000_000_000);
        board.publish(0, &counters);
        board.publish(1, &counters);
        for _ in 0..2 {
            board.set(Metric::BrokerUp, 1);
            board.set(Metric::BrokerLeaseAge, 1_500_000_000);
        }
        assert_eq!(board.sum(Metric::BytesIn), 10);
        let mut text = Vec::new();
        board.push_text(&mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("peer_server_received_bytes_total 10\n"));
        assert!(text.contains("peer_server_loop_lag_seconds_bucket{le=\"0.0001\"} 2\n"));
        assert!(text.contains("peer_server_loop_lag_seconds_bucket{le=\"+Inf\"} 4\n"));
        assert!(text.contains("peer_server_errors_total{code=\"404\"} 0\n"));
        assert!(text.contains("peer_server_broker_up 1\n"));
        assert!(text.contains("peer_server_broker_lease_age_seconds 1.500000\n"));
    }
}
