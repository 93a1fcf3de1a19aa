//! Steady traffic allocates nothing: not per message, not per delivery, not per ping or timer.
//!
//! Owns: an allocator that counts what every thread but the test's own asks for, a bare client that needs no thread, and
//! the patterns of traffic. The server runs in this process, so its loops are the threads that are counted. One test, so
//! that nothing else of the harness runs beside it.
//! Never: measures time.
#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use peer_server::broker::{Queues, Routes};
use peer_server::codec::node_traffic::{self, Direct, Kind};
use peer_server::config::Config;
use peer_server::ids::{Fingerprint, NodeNo};
use peer_server::message::cluster::{Change, Command, Event, Member, Reply, Roster, What};
use peer_server::server::{Server, Service, Substitutes};
use serde_json::{Value, json};

#[test]
fn steady_traffic_allocates_nothing() {
    EXEMPT.set(true);
    for loops in [1, 2] {
        let server = Server::start(&config(loops), Service::Peers).unwrap();
        let mut peers = lobby(server.addresses()[0], MEMBERS);
        warm_up(&mut peers);
        for kind in ["signal", "relay"] {
            assert_allocates_nothing(&format!("{kind}, {loops} loops"), 3, |_| {
                direct_to_all(&mut peers, kind, &[&text(250), &text(250), &text(250)]);
                direct_to_all(&mut peers, kind, &[&text(LARGEST)]);
            });
        }
        assert_allocates_nothing(&format!("ping, {loops} loops"), 320, |_| {
            for peer in &mut peers[..TALKERS] {
                peer.send(&[CLIENT_PING]);
                peer.expect("pong");
            }
        });
        assert_allocates_nothing(&format!("broadcast, {loops} loops"), 100, |round| {
            broadcast(&mut peers, round, 250);
        });
        // A join itself allocates: the request, its mail, the list of members. But not for each of a thousand deliveries.
        assert_allocates_at_most(60, &format!("presence, {loops} loops"), 8, |_| presence(&mut peers));
        assert_allocates_nothing(&format!("control frames, {loops} loops"), 6, |_| {
            control_frames(&mut peers);
        });
        let askers = askers(server.datagram_addresses()[0]);
        askers.iter().for_each(ask_for_address);
        assert_allocates_nothing(&format!("STUN, {loops} loops"), 20, |_| {
            askers.iter().for_each(ask_for_address);
        });
        drop(peers);
        server.stop();
        other_nodes(loops);
    }
}

/// Signals to peers of another node, whose place is known, and from them. The other node and the broker are this test's thread.
fn other_nodes(loops: usize) {
    let mut node = Node::start(loops);
    let (targets, mut peers) = (node.targets(), node.lobby());
    let message = |target: &Fingerprint, bytes: usize| {
        let target = String::from_utf8(target.hex().to_vec()).unwrap();
        json!({"type": "signal", "to": target, "payload": text(bytes)}).to_string()
    };
    let messages: Vec<[String; 2]> = targets
        .iter()
        .map(|target| [message(target, 250), message(target, LARGEST)])
        .collect();
    // One peer after the other: a batch between loops that grows very large gives its bytes back.
    let all_to_all = |node: &mut Node, peers: &mut [Peer]| {
        for peer in peers {
            for [small, large] in &messages {
                peer.send(&[small, large]);
            }
            node.expect_sent(2 * targets.len());
        }
    };
    // Where they are is asked once.
    all_to_all(&mut node, &mut peers);
    assert_allocates_nothing(&format!("signals to another node, {loops} loops"), 20, |_| {
        all_to_all(&mut node, &mut peers);
    });
    let payload = json!(text(250)).to_string();
    assert_allocates_nothing(&format!("signals from another node, {loops} loops"), 20, |_| {
        for peer in &mut peers {
            for from in &targets {
                node.sends(from, &peer.fingerprint, &payload);
            }
            targets.iter().for_each(|_| drop(peer.expect("signal")));
        }
    });
    drop(peers);
    node.server.stop();
}

/// With two loops the homes of keys are drawn at random for each process: all pairs of so many peers contain pairs on one
/// loop and pairs across, but for one run in two thousand million.
const TALKERS: usize = 32;
const TRIES: usize = 4;
const MEMBERS: usize = 1000;
/// A payload that still fits a new buffer: which of a loop's buffers have grown is a matter of chance.
const LARGEST: usize = 3000;

/// Gives everything its size: the loops' lists, which take turns in their roles, all buffers, and all batches of mail that
/// the joins have left in circulation.
fn warm_up(peers: &mut [Peer]) {
    (0..40).for_each(|round| broadcast(peers, round, LARGEST));
    direct_to_all(peers, "signal", &[&text(LARGEST)]);
    direct_to_all(peers, "signal", &[&text(LARGEST)]);
}

/// Every talker to every other, same loop or not: what it sends arrives in one read, as candidates trickle.
fn direct_to_all(peers: &mut [Peer], kind: &str, data: &[&str]) {
    for (from, to) in pairs(TALKERS) {
        let target = &peers[to].fingerprint;
        let message = |data: &&str| {
            json!({"type": kind, "to": target, "payload": {"signal_type": "candidate", "candidate": data}}).to_string()
        };
        let messages: Vec<String> = data.iter().map(message).collect();
        peers[from].send(&messages.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in data {
            peers[to].expect(kind);
        }
    }
}

fn pairs(peers: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..peers * peers)
        .map(move |pair| (pair / peers, pair % peers))
        .filter(|(from, to)| from != to)
}

/// From one talker or another to all members; every second time one is left out. The sender hears a pong in the same turn
/// of its loop, so that all members have output at once.
fn broadcast(peers: &mut [Peer], round: usize, bytes: usize) {
    let (from, excluded) = (1 + round % (TALKERS - 1), (round % 2 == 1).then_some(0));
    let mut payload = json!({"namespace": "lobby", "data": text(bytes)});
    if let Some(excluded) = excluded {
        payload["exclude"] = json!([peers[excluded].fingerprint, "nobody"]);
    }
    let message = json!({"type": "broadcast", "payload": payload}).to_string();
    peers[from].send(&[&message, CLIENT_PING]);
    for (at, peer) in peers.iter_mut().enumerate() {
        if Some(at) != excluded {
            peer.expect(if at == from { "pong" } else { "broadcast" });
        }
    }
}

/// One goes and comes back, and all others hear of it.
fn presence(peers: &mut [Peer]) {
    let (guest, others) = peers.split_first_mut().unwrap();
    guest.send(&[&request("leave"), &request("join")]);
    guest.expect("peer_list");
    for peer in others {
        peer.expect("peer_joined");
    }
}

fn request(kind: &str) -> String {
    json!({"type": kind, "payload": {"namespace": "lobby"}}).to_string()
}

/// A ping of the server for each talker, and one of its own. The server pings all members all the time, by its timers.
fn control_frames(peers: &mut [Peer]) {
    for peer in &mut peers[..TALKERS] {
        while peer.next_frame().0 != PING {}
        peer.send_frame(PONG, b"");
        peer.send_frame(PING, b"hello");
        // Another ping of the server may come first. It need not be answered: anything that is sent counts.
        while peer.next_frame().0 != PONG {}
    }
}

/// Sockets enough for some of them to be served by each loop.
fn askers(server: SocketAddr) -> Vec<UdpSocket> {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()));
    let asker = |_| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect(server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    (0..TALKERS).map(asker).collect()
}

/// Binding requests at once, one with a fingerprint and one that is refused among them.
fn ask_for_address(socket: &UdpSocket) {
    const PLAIN: &[u8] = b"\0\x01\0\0\x21\x12\xa4\x42abcdefghijkl";
    const UNKNOWN: &[u8] = b"\0\x01\0\x04\x21\x12\xa4\x42abcdefghijkl\x77\x77\0\0";
    const FINGERPRINT: &[u8] =
        b"\0\x01\0\x08\x21\x12\xa4\x42\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x80\x28\0\x04\x5b\x20\xf9\xcc";
    for _ in 0..8 {
        for request in [PLAIN, UNKNOWN, FINGERPRINT] {
            socket.send(request).unwrap();
        }
    }
    for _ in 0..24 {
        assert!(socket.recv(&mut [0; 100]).unwrap() >= 32);
    }
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn config(loops: usize) -> Config {
    Config {
        // On an unspecified address every datagram comes, and leaves, with ours.
        host: vec![IpAddr::V4(if loops == 1 {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        })],
        port: 0,
        loops,
        pin_cores: false,
        metrics_enabled: false,
        rate_limit_per_sec: 0,
        fanout_per_sec: 0,
        stun_answers_per_sec: 100_000,
        stun_answers_per_prefix_per_sec: 1_000_000,
        send_buffer_size: 4096,
        presence_window_from: 100,
        ping_interval: Duration::from_millis(400),
        pong_wait: Duration::from_secs(3600),
        ..Config::default()
    }
}

fn assert_allocates_nothing(what: &str, rounds: usize, round: impl FnMut(usize)) {
    assert_allocates_at_most(0, what, rounds, round);
}

/// Counts what the server's threads ask for in all rounds but the first.
///
/// On a busy machine a loop may fall further behind than ever before, and then one more batch of mail or block is made, which
/// is kept: so it may try again, a few times. What is allocated for a message is allocated in every try.
fn assert_allocates_at_most(in_a_round: u64, what: &str, rounds: usize, mut round: impl FnMut(usize)) {
    round(0);
    let mut tries = (0..TRIES).map(|_| {
        ALLOCATIONS.store(0, Ordering::SeqCst);
        COUNTING.store(true, Ordering::SeqCst);
        (0..rounds).for_each(&mut round);
        COUNTING.store(false, Ordering::SeqCst);
        ALLOCATIONS.load(Ordering::SeqCst)
    });
    assert!(
        tries.any(|allocations| allocations <= in_a_round * rounds as u64),
        "{what}: the first ones are shown above"
    );
}

/// A server whose broker is this test's thread.
struct Node {
    server: Server,
    queues: Queues,
    routes: Routes,
    roster: Roster,
}

/// Where everybody is who is not here.
const ELSEWHERE: NodeNo = NodeNo::new(1).unwrap();
const AWAY: usize = 8;

impl Node {
    fn start(loops: usize) -> Self {
        let (ends, taken) = mpsc::channel();
        let substitutes = Substitutes {
            broker: Some(Box::new(move |queues, routes| ends.send((queues, routes)).unwrap())),
            ..Substitutes::default()
        };
        let server = Server::start_with(&config(loops), Service::Peers, substitutes).unwrap();
        let (queues, routes) = taken.recv().unwrap();
        queues.set_up(true);
        routes.tell_all(&Event::Up);
        // The page is gathered from all loops, so all of them have heard of it then.
        let mut page = TcpStream::connect(server.addresses()[0]).unwrap();
        page.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        page.read_to_end(&mut Vec::new()).unwrap();
        // How many messages a loop makes before it gets a buffer back is a matter of chance.
        (0..200).for_each(|_| queues.recycle(Vec::with_capacity(1 << 17)));
        Self {
            server,
            queues,
            routes,
            roster: Roster::default(),
        }
    }

    fn targets(&self) -> Vec<Fingerprint> {
        (0..AWAY)
            .map(|number| Fingerprint::of_key(&format!("away {number}")))
            .collect()
    }

    /// Peers in one namespace; the answers that they wait for are given here.
    fn lobby(&mut self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = (0..TALKERS)
            .map(|_| Peer::connect(self.server.addresses()[0]))
            .collect();
        for (number, peer) in peers.iter_mut().enumerate() {
            peer.send(&[&json!({"type": "register", "payload": {"public_key": format!("key {number}")}}).to_string()]);
            self.answer();
            let registered: Value = serde_json::from_slice(&peer.expect("registered")).unwrap();
            peer.fingerprint = registered["from"].as_str().unwrap().to_owned();
            peer.send(&[&request("join")]);
            self.answer();
            peer.expect("peer_list");
        }
        peers
    }

    fn answer(&mut self) {
        let Command { id, what } = self.queues.next_command(WITHIN).unwrap();
        let reply = match what {
            What::Register { .. } => Reply::Registered { alias: Some(0) },
            What::Find { .. } => Reply::Found(Some(ELSEWHERE)),
            What::Join {
                who,
                namespace,
                info,
                roster,
                ..
            } => {
                let session = who.session;
                let member = Member {
                    node: None,
                    session,
                    info,
                };
                self.roster.version += 1;
                self.roster.members.push(member.clone());
                let version = self.roster.version;
                let change = Change::Joined { member, room: None };
                let event = Event::Changed {
                    namespace,
                    version,
                    change,
                };
                self.routes.tell(self.routes.homes().of_namespace(namespace), event);
                let roster = roster.then(|| Box::new(self.roster.clone()));
                Reply::Joined { version, roster }
            }
            other => panic!("{other:?}"),
        };
        self.routes.tell(id.loop_id(), Event::Replied { id, reply });
    }

    /// Takes so many frames off the queue.
    fn expect_sent(&mut self, frames: usize) {
        let (mut seen, deadline) = (0, Instant::now() + WITHIN);
        while seen < frames {
            if let Some((_, bytes)) = self.queues.next_traffic(Duration::from_millis(1)) {
                seen += node_traffic::split(&bytes).count();
                self.queues.recycle(bytes);
            } else if self.queues.has_commands() {
                self.answer();
            }
            assert!(Instant::now() < deadline, "{seen} of {frames} frames were sent");
        }
        assert_eq!(seen, frames);
    }

    fn sends(&self, from: &Fingerprint, to: &str, payload: &str) {
        let to = Fingerprint::parse(to).unwrap();
        let direct = Direct {
            kind: Kind::Signal,
            to: to.as_bytes(),
            from: from.as_bytes(),
            session: 1,
            about: None,
            payload: Some(payload),
        };
        let mut frames = Vec::new();
        let homes = self.routes.homes();
        let lobby = homes.namespace("lobby").to_bytes();
        node_traffic::push_direct(&mut frames, &direct, std::iter::once(lobby));
        let from = ELSEWHERE;
        self.routes
            .pass(homes.of_fingerprint(&to), Event::Traffic { from, frames })
            .unwrap();
    }
}

/// So many peers, all in one namespace, each of which has heard everything so far.
fn lobby(server: SocketAddr, members: usize) -> Vec<Peer> {
    let mut peers: Vec<Peer> = (0..members).map(|_| Peer::connect(server)).collect();
    for (number, peer) in peers.iter_mut().enumerate() {
        let key = format!("key {number}");
        peer.send(&[&json!({"type": "register", "payload": {"public_key": key}}).to_string()]);
    }
    for peer in &mut peers {
        let registered: Value = serde_json::from_slice(&peer.expect("registered")).unwrap();
        peer.fingerprint = registered["from"].as_str().unwrap().to_owned();
    }
    let join = request("join");
    peers.iter_mut().for_each(|peer| peer.send(&[&join]));
    for peer in &mut peers {
        peer.expect("peer_list");
    }
    peers
}

const WITHIN: Duration = Duration::from_secs(20);
const CLIENT_PING: &str = r#"{"type":"ping"}"#;
const TEXT: u8 = 1;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A client without a thread: it sends what it is told and reads what it is asked for.
struct Peer {
    stream: TcpStream,
    fingerprint: String,
    input: Vec<u8>,
    parsed: usize,
}

impl Peer {
    fn connect(server: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        Self {
            stream,
            fingerprint: String::new(),
            input: Vec::new(),
            parsed: 0,
        }
    }

    /// Sends text messages in one write.
    fn send(&mut self, texts: &[&str]) {
        let mut bytes = Vec::new();
        for text in texts {
            push_masked(&mut bytes, TEXT, text.as_bytes());
        }
        self.stream.write_all(&bytes).unwrap();
    }

    fn send_frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut bytes = Vec::new();
        push_masked(&mut bytes, opcode, payload);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next message of this type. Others before it may only be news of members.
    fn expect(&mut self, kind: &str) -> Vec<u8> {
        let wanted = format!(r#"{{"type":"{kind}""#);
        loop {
            let (opcode, payload) = self.next_frame();
            if opcode == TEXT && payload.starts_with(wanted.as_bytes()) {
                return payload;
            }
            let other = String::from_utf8_lossy(&payload);
            assert!(
                opcode == PING || other.contains(r#""peer_joined""#) || other.contains(r#""peer_left""#),
                "{kind} is awaited: {other}"
            );
        }
    }

    fn next_frame(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some((opcode, start, end)) = frame(&self.input[self.parsed..]) {
                let payload = self.input[self.parsed + start..self.parsed + end].to_vec();
                self.parsed += end;
                return (opcode, payload);
            }
            self.input.drain(..self.parsed);
            self.parsed = 0;
            let mut chunk = [0; 16 * 1024];
            let read = self.stream.read(&mut chunk).expect("something must come");
            assert!(read > 0, "the server closed the connection");
            self.input.extend_from_slice(&chunk[..read]);
        }
    }
}

/// A masked frame; a mask of zeros is as good as any other here.
fn push_masked(bytes: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    bytes.push(0x80 | opcode);
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
}

/// The opcode of a whole frame of the server, and where its payload starts and ends.
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let [first, len, rest @ ..] = bytes else { return None };
    let (start, len) = match (*len, rest) {
        (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
        (127, [0, 0, 0, 0, a, b, c, d, ..]) => (10, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        (126 | 127, _) => return None,
        (len, _) => (2, usize::from(len)),
    };
    (bytes.len() >= start + len).then_some((first & 15, start, start + len))
}

/// Counts while [`COUNTING`], in every thread that is not exempt.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// How many of the unwanted allocations are shown with where they come from.
const SHOWN: u64 = 3;

thread_local! {
    /// Set by the test's own thread; constant and without a destructor, so that reading it allocates nothing.
    static EXEMPT: Cell<bool> = const { Cell::new(false) };
}

fn count(layout_bytes: usize) {
    if COUNTING.load(Ordering::Relaxed) && !EXEMPT.get() && ALLOCATIONS.fetch_add(1, Ordering::Relaxed) < SHOWN {
        EXEMPT.set(true);
        eprintln!("{layout_bytes} bytes are allocated by\n{}", Backtrace::force_capture());
        EXEMPT.set(false);
    }
}

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { System.dealloc(ptr, layout) }
    }
}
