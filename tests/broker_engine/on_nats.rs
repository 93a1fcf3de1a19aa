//! The scenarios on NATS, and what only NATS has: a log that is folded, shortened and loaded.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use peer_server::broker::nats::{Nats, NatsOptions};
use peer_server::broker::{Channel, Engine, Epoch, NodeId, Nodes, Trouble};
use peer_server::message::cluster::What;

use crate::bench::*;
use crate::nats_server::NatsServer;

/// The streams.
const STREAMS: [&str; 2] = ["peer_cluster", "peer_cluster_state"];

/// How long what must come may take.
const WITHIN: Duration = Duration::from_secs(20);
/// How often leases are renewed that are to be held.
const RENEW: Duration = Duration::from_millis(300);

struct OnNats {
    server: Arc<NatsServer>,
    snapshot_after: u32,
    held: Arc<Mutex<Vec<(NodeId, Epoch)>>>,
    holder: Option<(Sender<()>, JoinHandle<()>)>,
}

impl OnNats {
    fn new(server: NatsServer, snapshot_after: u32) -> Self {
        let (server, held) = (Arc::new(server), Arc::new(Mutex::new(Vec::new())));
        let (end, ended) = channel();
        let (renewed, at) = (held.clone(), server.clone());
        let holder = std::thread::spawn(move || {
            at.with_client(async |client| {
                while ended.recv_timeout(RENEW) == Err(RecvTimeoutError::Timeout) {
                    let held: Vec<(NodeId, Epoch)> = renewed.lock().unwrap().clone();
                    for (node, epoch) in held {
                        let (subject, entry) = entry(b'r', node, epoch);
                        client.publish(subject, entry.into()).await.unwrap();
                    }
                    client.flush().await.unwrap();
                }
            });
        });
        Self {
            server,
            snapshot_after,
            held,
            holder: Some((end, holder)),
        }
    }
}

impl Drop for OnNats {
    fn drop(&mut self) {
        if let Some((end, holder)) = self.holder.take() {
            drop(end);
            let _ = holder.join();
        }
    }
}

/// As `broker::nats::entry` has it.
const ENTRY_VERSION: u8 = 2;

/// An entry about a lease, as a node writes it.
fn entry(kind: u8, node: NodeId, epoch: Epoch) -> (String, Vec<u8>) {
    let mut entry = vec![ENTRY_VERSION, kind];
    entry.extend(node.as_bytes());
    entry.extend(epoch.0.to_be_bytes());
    entry.extend([0; 8]);
    (format!("peer.log.lease.{node}"), entry)
}

impl Bench for OnNats {
    fn engine(&self, nodes: Arc<Nodes>) -> Arc<dyn Engine> {
        let options = NatsOptions {
            url: self.server.url(),
            own_channel: true,
            snapshot_after: self.snapshot_after,
            ..NatsOptions::default()
        };
        Arc::new(Nats::new(&options, nodes).unwrap())
    }

    fn flush(&self) {
        self.server.with_client(async |client| {
            let context = jetstream::new(client);
            for stream in STREAMS {
                context.delete_stream(stream).await.unwrap();
            }
        });
    }

    fn buries_at_once(&self) -> bool {
        true
    }

    fn hold(&self, node: NodeId, epoch: Epoch) {
        self.held.lock().unwrap().push((node, epoch));
    }

    /// Its lease is over as if it had given it back: the log's clock is the broker's, which a test cannot turn.
    fn lapse(&self, node: NodeId, epoch: Epoch) {
        let (subject, entry) = entry(b'x', node, epoch);
        self.server.with_client(async |client| {
            let context = jetstream::new(client);
            let sent = context.publish(subject, entry.into()).await;
            sent.unwrap().await.unwrap();
        });
    }
}

impl OnNats {
    /// The first and the last entry that the log has.
    fn log(&self) -> (u64, u64) {
        self.server.with_client(async |client| {
            let stream = jetstream::new(client).get_stream(STREAMS[0]).await.unwrap();
            let state = &stream.cached_info().state;
            (state.first_sequence, state.last_sequence)
        })
    }
}

fn with_nats(scenario: impl FnOnce(&OnNats)) {
    if let Some(server) = NatsServer::start() {
        scenario(&OnNats::new(server, 0));
    }
}

macro_rules! scenarios {
    ($($module:ident: $($name:ident)*;)*) => {
        $($(
            #[test]
            fn $name() {
                with_nats(|bench| crate::$module::$name(bench));
            }
        )*)*
    };
}

scenarios! {
    spaces: members_hear_of_each_other_in_one_order refusals_come_in_their_order an_owner_may_kick
        coming_again_changes_only_what_differs a_room_that_others_made_again_is_another_room;
    sessions: a_key_has_one_session the_end_of_a_session_is_the_end_of_all_it_has
        going_on_keeps_what_is_named_and_ends_the_rest a_membership_and_a_match_request_are_kept_each_for_itself;
    matches: who_asks_the_same_is_matched_wherever_it_is no_request_is_met_twice the_dead_are_not_matched
        a_kick_and_an_end_take_requests_back;
    lease: an_epoch_that_is_over_is_refused each_node_hears_once_that_another_is_gone
        what_the_dead_had_can_be_had_before_it_is_swept a_node_whose_lease_stands_goes_on_where_it_was
        a_node_that_comes_back_is_another_and_has_its_places_again a_key_taken_elsewhere_meanwhile_is_not_given_back
        a_fleet_tells_everything_again_to_a_broker_that_forgot a_renewal_counts_who_is_there;
}

#[test]
fn a_log_that_was_shortened_is_whole_for_those_who_come_and_those_who_are_there() {
    let Some(server) = NatsServer::start() else { return };
    let bench = &OnNats::new(server, 100);
    let (mut one, mut two) = (Node::new(bench, 1), Node::new(bench, 2));
    let (a, b) = (one.register('a', 1), two.register('b', 1));
    one.batch(vec![create(a, "room", 3), seek(a, 2, 7)]);
    two.ask(join_room(b, "room"));
    let deadline = Instant::now() + WITHIN;
    // Several times over.
    for last in [100, 400, 800] {
        while bench.log().0 < last {
            one.batch((0..40).map(|_| show(a, "room", "x")).collect());
            assert!(Instant::now() < deadline, "the log is not shortened: {:?}", bench.log());
        }
    }
    let mut three = Node::new(bench, 3);
    assert_eq!(three.ask(roster("room")), "[a(x)1@1 b1@2] of a for 3");
    assert_eq!(three.ask(resolve("alias-a")), "resolved a");
    let c = three.register('c', 1);
    assert_eq!(three.ask(seek(c, 2, 8)), "done");
    assert_eq!(one.events().last().unwrap(), "lobby=ac for a1#7");
    assert_eq!(two.ask(roster("room")), "[a(x)1@1 b1@2] of a for 3");
    assert_eq!(two.events().last().unwrap(), "room~a(x)1@1");
}

/// Says that a snapshot is whole of which there are no parts.
fn marker(version: u8) -> Vec<u8> {
    let mut entry = vec![version, b's'];
    entry.extend([0; 16]);
    entry.extend(1_u32.to_be_bytes());
    entry
}

#[test]
fn a_log_without_its_snapshot_is_begun_anew_only_if_nobody_is_there() {
    std::thread::scope(|both| {
        both.spawn(|| look_for_a_snapshot(ENTRY_VERSION, "a snapshot: it is being replaced"));
        both.spawn(|| look_for_a_snapshot(ENTRY_VERSION + 1, "peer_cluster: nodes of another version use it"));
    });
}

fn look_for_a_snapshot(version: u8, why: &str) {
    with_nats(|bench| {
        let one = Node::new(bench, 1);
        let made = || {
            bench.server.with_client(async |client| {
                let stream = jetstream::new(client).get_stream(STREAMS[0]).await.unwrap();
                stream.cached_info().created
            })
        };
        bench.server.with_client(async |client| {
            let context = jetstream::new(client);
            let sent = context.publish("peer.log.snapshot", marker(version).into());
            sent.await.unwrap().await.unwrap();
        });
        let before = made();
        // Its lease is renewed meanwhile.
        let two = bench.engine(Arc::new(Nodes::new(NodeId::from_bytes([2; 16]))));
        let refused = two.lease().err().unwrap().to_string();
        assert_eq!(refused, format!("NATS: {why}"));
        assert_eq!(made(), before);
        bench.held.lock().unwrap().clear();
        drop(one);
        assert!(two.lease().unwrap().take().unwrap().empty);
        assert_ne!(made(), before);
    });
}

#[test]
fn a_broker_that_starts_again_has_lost_everything_and_is_found_so() {
    let Some(server) = NatsServer::start() else { return };
    let bench = &OnNats::new(server, 0);
    let mut one = Node::new(bench, 1);
    let a = one.register('a', 1);
    bench.server.kill();
    assert!(matches!(one.lease.renew(one.epoch), Err(Trouble::Lost(_))));
    assert!(matches!(
        one.try_batch(vec![leave(a, "lobby")]).1,
        Err(Trouble::Lost(_))
    ));
    assert!(one.inbox.read(Duration::from_secs(1), &mut |_| ()).is_err());
    assert!(one.engine.lease().is_err());
    bench.server.run();
    let epoch = one.epoch;
    assert!(one.come_back().empty);
    assert!(one.epoch > epoch);
    assert_eq!(one.ask(What::End { who: a }), "done");
    assert_eq!(one.events(), [""; 0]);
}

#[test]
fn an_inbox_without_news_waits_and_holds_nobody_up() {
    with_nats(|bench| {
        let Node {
            mut inbox,
            mut lease,
            epoch,
            ..
        } = Node::new(bench, 1);
        let (done, is_done) = channel();
        let reader = std::thread::spawn(move || {
            while is_done.try_recv().is_err() {
                inbox.read(Duration::from_millis(20), &mut |_| ()).unwrap();
            }
        });
        for _ in 0..10 {
            lease.renew(epoch).unwrap();
        }
        done.send(()).unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn traffic_arrives_in_order_and_it_is_told_that_nobody_listens() {
    with_nats(|bench| {
        let (one, two) = (Node::new(bench, 1), Node::new(bench, 2));
        let number = |id: u8, epoch| one.nodes.number(NodeId::from_bytes([id; 16]), epoch).unwrap().unwrap();
        let (there, nobody) = (Channel::Node(number(2, two.epoch)), Channel::Node(number(9, Epoch(1))));
        let mut hears = two.engine.subscriber().unwrap();
        let mut sends = one.engine.publisher().unwrap();
        let sent: Vec<Vec<u8>> = (0..200u8).map(|byte| vec![byte; 100]).collect();
        let batch: Vec<(Channel, &[u8])> = sent.iter().map(|bytes| (there, &bytes[..])).collect();
        sends.publish(&batch, &mut |place| panic!("{place:?}")).unwrap();
        sends
            .publish(&[(Channel::Broadcast, b"all"), (nobody, b"x")], &mut |_| ())
            .unwrap();
        let mut heard = Vec::new();
        let deadline = Instant::now() + WITHIN;
        while heard.len() < sent.len() + 1 {
            let told = &mut |(channel, bytes): (Option<Channel>, &[u8])| heard.push((channel, bytes.to_vec()));
            hears.receive(Duration::from_millis(100), told).unwrap();
            assert!(Instant::now() < deadline, "only {} came", heard.len());
        }
        let direct: Vec<Vec<u8>> = heard
            .iter()
            .filter(|(channel, _)| channel.is_none())
            .map(|(_, bytes)| bytes.clone())
            .collect();
        assert_eq!(direct, sent);
        assert!(heard.contains(&(Some(Channel::Broadcast), b"all".to_vec())));
        // It is told when others have been sent since, and it is known which one it was.
        let mut unheard = Vec::new();
        while unheard.is_empty() {
            let mut told = |(channel, bytes): (Channel, &[u8])| unheard.push((channel, bytes.to_vec()));
            sends.publish(&[(there, b"later")], &mut told).unwrap();
            assert!(Instant::now() < deadline, "nobody is told of");
        }
        assert_eq!(unheard, [(nobody, b"x".to_vec())]);
    });
}

/// What a command costs: `cargo test --test broker_engine what_commands_cost -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn what_commands_cost() {
    with_nats(|bench| {
        let mut nodes = [1, 2, 3].map(|number| Node::new(bench, number));
        let one = &mut nodes[0];
        let a = one.register('a', 1);
        one.ask(join(a, "lobby"));
        for size in [1, 16, 256] {
            let (rounds, begun) = (4096 / size, Instant::now());
            for _ in 0..rounds {
                one.batch((0..size).map(|_| show(a, "lobby", "x")).collect());
            }
            let each = begun.elapsed() / (rounds * size);
            let begun = Instant::now();
            for _ in 0..rounds.min(500) {
                one.batch((0..size).map(|_| find('a')).collect());
            }
            let read = begun.elapsed() / (rounds.min(500) * size);
            println!("batches of {size}: a change takes {each:?}, a read {read:?}");
        }
    });
}
