//! Connections to Redis, what is published and heard on them, and the broker's threads over it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use peer_server::broker::redis::{Address, Redis, RedisOptions, Tls};
use peer_server::broker::{
    Channel, Engine, Epoch, Link, NodeId, Nodes, Options, Running, Subscriber, Times, Trouble, Wake, connect, start,
};
use peer_server::codec::node_traffic::{self, Direct, Kind};
use peer_server::ids::{Fingerprint, Homes, NodeNo};
use peer_server::message::cluster::Event;
use tempfile::TempDir;

use crate::server::RedisServer;

/// Nothing that is right takes so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server with arguments of its own, on a port of this machine.
struct Served {
    child: Child,
    /// Where it runs; removed after it.
    _folder: TempDir,
    port: u16,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// None: there is no redis-server here. `arguments` are given the port.
    fn start(folder: TempDir, arguments: impl Fn(u16) -> Vec<String>) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(arguments(port))
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => Some(Self {
                child,
                _folder: folder,
                port,
            }),
            Err(_) => {
                eprintln!("skipped: there is no redis-server (Debian's package redis-server)");
                None
            }
        }
    }

    fn plain(more: &[&str]) -> Option<Self> {
        Self::start(tempfile::tempdir().unwrap(), |port| {
            let mut arguments: Vec<String> = words(&["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()]);
            arguments.extend(words(more));
            arguments
        })
    }

    fn options(&self) -> RedisOptions {
        RedisOptions::new(Address::parse(&format!("127.0.0.1:{}", self.port)).unwrap())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn engine(options: RedisOptions, number: u8) -> Redis {
    Redis::new(options, Arc::new(Nodes::new(node(number))), true)
}

const fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

/// What opening comes to when the server has started.
fn opened(options: &RedisOptions) -> Result<(), Trouble> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match engine(options.clone(), 1).publisher() {
            Err(Trouble::Lost(why)) if why.contains("refused (os error") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome.map(drop),
        }
    }
}

/// What is heard next, on which channel.
fn heard(subscriber: &mut dyn Subscriber) -> (Option<Channel>, Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    let mut got = None;
    while got.is_none() {
        assert!(Instant::now() < deadline, "nothing was heard");
        let told = &mut |(channel, bytes): (Option<Channel>, &[u8])| {
            assert!(got.is_none(), "one at a time");
            got = Some((channel, bytes.to_vec()));
        };
        subscriber.receive(Duration::from_millis(10), told).unwrap();
    }
    got.unwrap()
}

#[test]
fn a_password_a_user_and_a_database_are_told() {
    let user = ["--user", "peer", "on", ">secret", "~*", "&*", "+@all"];
    let Some(server) = Served::plain(&[&["--requirepass", "general"], &user[..]].concat()) else {
        return;
    };
    let general = RedisOptions {
        password: Some("general".to_owned()),
        ..server.options()
    };
    opened(&general).unwrap();
    assert!(opened(&server.options()).is_err());
    let wrong = RedisOptions {
        password: Some("wrong".to_owned()),
        ..server.options()
    };
    let Err(Trouble::Lost(why)) = opened(&wrong) else {
        panic!()
    };
    assert!(why.to_lowercase().contains("auth") && !why.contains("wrong\""), "{why}");
    let own = RedisOptions {
        user: Some("peer".to_owned()),
        password: Some("secret".to_owned()),
        db: 3,
        ..server.options()
    };
    opened(&own).unwrap();
    engine(own.clone(), 1).subscriber().map(drop).unwrap();
    let far = RedisOptions { db: 99, ..own };
    assert!(opened(&far).is_err(), "there are sixteen");
}

#[test]
fn tls_wants_an_authority_that_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let ca = authority(folder.path());
    let files = [
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "key.pem",
        "--tls-ca-cert-file",
        "ca.pem",
    ];
    let server = Served::start(folder, |port| {
        let port = port.to_string();
        let more = [
            "--bind",
            "127.0.0.1",
            "--port",
            "0",
            "--save",
            "",
            "--tls-auth-clients",
            "no",
            "--tls-port",
            &port,
        ];
        [words(&more), words(&files)].concat()
    });
    let Some(server) = server else { return };
    let with = |ca: Option<Vec<u8>>| RedisOptions {
        tls: Some(Tls { ca }),
        ..server.options()
    };
    opened(&with(Some(ca.clone()))).unwrap();
    let Err(Trouble::Lost(why)) = opened(&with(None)) else {
        panic!()
    };
    assert!(why.contains("certificate"), "{why}");
    let elsewhere = tempfile::tempdir().unwrap();
    assert!(opened(&with(Some(authority(elsewhere.path())))).is_err());
    assert!(opened(&with(Some(b"no certificate".to_vec()))).is_err());
    assert!(opened(&server.options()).is_err(), "it does not speak in plain text");
    // Everything works over it, a message of many records too.
    let (mut publisher, mut subscriber) = pair(&with(Some(ca)));
    let message = vec![7; 300_000];
    publisher.publish(&[(Channel::Signal, &message)], &mut |_| {}).unwrap();
    assert_eq!(heard(&mut *subscriber), (Some(Channel::Signal), message));
}

/// Writes a server's key and certificate, and that of the authority that signed it, which is returned.
fn authority(folder: &Path) -> Vec<u8> {
    let own = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&own).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, own);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = words(&["localhost", "127.0.0.1"]);
    let cert = rcgen::CertificateParams::new(names)
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    for (name, text) in [
        ("ca.pem", &ca),
        ("cert.pem", &cert.pem()),
        ("key.pem", &key.serialize_pem()),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    ca.into_bytes()
}

#[test]
fn sentinels_say_where_the_primary_is() {
    let Some(primary) = Served::plain(&[]) else { return };
    opened(&primary.options()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let monitor = format!("sentinel monitor main 127.0.0.1 {} 1\n", primary.port);
    std::fs::write(folder.path().join("sentinel.conf"), monitor).unwrap();
    let sentinel = Served::start(folder, |port| {
        words(&[
            "sentinel.conf",
            "--sentinel",
            "--bind",
            "127.0.0.1",
            "--port",
            &port.to_string(),
        ])
    });
    let Some(sentinel) = sentinel else { return };
    opened(&sentinel.options()).unwrap();
    let at = |name: &str| {
        // Of the first nobody is there.
        let text = format!("sentinel://{name}@127.0.0.1:1,127.0.0.1:{}", sentinel.port);
        RedisOptions::new(Address::parse(&text).unwrap())
    };
    let (mut publisher, mut subscriber) = pair(&at("main"));
    publisher.publish(&[(Channel::Relay, b"x")], &mut |_| {}).unwrap();
    assert_eq!(heard(&mut *subscriber), (Some(Channel::Relay), b"x".to_vec()));
    let Err(Trouble::Lost(why)) = opened(&at("other")) else {
        panic!()
    };
    assert!(why.contains("knows no other"), "{why}");
    drop(primary);
    assert!(engine(at("main"), 1).publisher().is_err());
}

/// A publisher of node 1 and a subscriber of node 2.
fn pair(options: &RedisOptions) -> (Box<dyn peer_server::broker::Publisher>, Box<dyn Subscriber>) {
    let subscriber = engine(options.clone(), 2).subscriber().unwrap();
    (engine(options.clone(), 1).publisher().unwrap(), subscriber)
}

#[test]
fn messages_go_to_their_channels_in_order_and_the_unheard_are_told() {
    let Some(server) = RedisServer::start() else { return };
    let options = RedisOptions::new(Address::Socket(server.socket()));
    let nodes = Arc::new(Nodes::new(node(1)));
    let number = |node, epoch| nodes.number(node, Epoch(epoch)).unwrap().unwrap();
    let (two, three, earlier) = (number(node(2), 1), number(node(3), 1), number(node(1), 1));
    let mut publisher = Redis::new(options.clone(), nodes.clone(), true).publisher().unwrap();
    let mut subscriber = engine(options.clone(), 2).subscriber().unwrap();
    let mut unheard = Vec::new();
    let batch: [(Channel, &[u8]); 6] = [
        (Channel::Node(two), b"1"),
        (Channel::Node(three), b"2"),
        (Channel::Node(earlier), b"3"),
        (Channel::Signal, b"4"),
        (Channel::Node(two), b"\0\r\n5"),
        (Channel::Ack, b"6"),
    ];
    publisher
        .publish(&batch, &mut |(channel, _)| unheard.push(channel))
        .unwrap();
    unheard.sort_by_key(|channel| *channel != Channel::Node(three));
    assert_eq!(unheard, [Channel::Node(three), Channel::Node(earlier)]);
    let mut got = Vec::new();
    while got.len() < 4 {
        let told = &mut |(channel, bytes): (Option<Channel>, &[u8])| got.push((channel, bytes.to_vec()));
        subscriber.receive(Duration::from_millis(10), told).unwrap();
    }
    let wanted: [(Option<Channel>, &[u8]); 4] = [
        (None, b"1"),
        (Some(Channel::Signal), b"4"),
        (None, b"\0\r\n5"),
        (Some(Channel::Ack), b"6"),
    ];
    assert_eq!(got, wanted.map(|(channel, bytes)| (channel, bytes.to_vec())));
    // Without shared state nobody sends to this node alone.
    let alone = Redis::new(options, Arc::new(Nodes::new(node(3))), false)
        .subscriber()
        .unwrap();
    publisher
        .publish(&batch[1..2], &mut |(channel, _)| unheard.push(channel))
        .unwrap();
    assert_eq!(unheard.len(), 3);
    drop(alone);
}

#[test]
fn a_server_that_is_silent_is_noticed_by_all_who_use_it() {
    let Some(server) = RedisServer::start() else { return };
    let options = RedisOptions {
        timeout: Duration::from_millis(50),
        ..RedisOptions::new(Address::Socket(server.socket()))
    };
    let (mut publisher, mut subscriber) = pair(&options);
    let listen = |subscriber: &mut dyn Subscriber| subscriber.receive(Duration::from_millis(5), &mut |_| {});
    // Silence alone is nothing: it answers when it is asked.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        listen(&mut *subscriber).unwrap();
    }
    server.freeze();
    let begun = Instant::now();
    while listen(&mut *subscriber).is_ok() {
        assert!(begun.elapsed() < PATIENCE);
    }
    let batch: Vec<(Channel, &[u8])> = vec![(Channel::Signal, b"x"); 200];
    let begun = Instant::now();
    assert!(publisher.publish(&batch, &mut |_| {}).is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "not so long for each of them");
    server.thaw();
}

#[test]
fn a_new_connection_takes_the_place_of_the_one_before() {
    let Some(server) = RedisServer::start() else { return };
    let engine = engine(RedisOptions::new(Address::Socket(server.socket())), 1);
    let mut first = engine.publisher().unwrap();
    first.publish(&[(Channel::Signal, b"x")], &mut |_| {}).unwrap();
    let mut second = engine.publisher().unwrap();
    assert!(first.publish(&[(Channel::Signal, b"x")], &mut |_| {}).is_err());
    second.publish(&[(Channel::Signal, b"x")], &mut |_| {}).unwrap();
    let mut first = engine.lease().unwrap();
    let epoch = first.take().unwrap().epoch;
    let mut second = engine.lease().unwrap();
    assert!(matches!(first.renew(epoch), Err(Trouble::Lost(_))));
    second.renew(epoch).unwrap();
}

/// The broker's threads of one node with one loop.
struct Threads {
    nodes: Arc<Nodes>,
    links: Vec<Link>,
    bell: Receiver<()>,
    running: Running,
}

impl Threads {
    fn start(server: &RedisServer, number: u8) -> Self {
        let nodes = Arc::new(Nodes::new(node(number)));
        let options = RedisOptions::new(Address::Socket(server.socket()));
        let engine = Arc::new(Redis::new(options, nodes.clone(), true));
        let (ring, bell) = unbounded();
        let wake: Wake = Arc::new(move || {
            let _ = ring.send(());
        });
        let homes = Homes::new(1, [1, 2, 3, 4]).in_cluster();
        let (links, queues, routes) = connect(&homes, vec![wake], 1 << 20);
        let options = Options {
            cluster_state: true,
            times: Times {
                telling: Duration::from_millis(10),
                ..Times::default()
            },
        };
        let running = start(engine, options, nodes.clone(), queues, routes).unwrap();
        running.wait_up(PATIENCE).unwrap();
        Self {
            nodes,
            links,
            bell,
            running,
        }
    }

    /// The next event that is so; others are passed over.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.links[0].poll_event() {
                if wanted(&event) {
                    return event;
                }
            }
            self.bell.recv_deadline(deadline).expect("it never happened");
        }
    }

    /// Any epoch will do for an address.
    fn number(&self, other: &Self) -> NodeNo {
        self.nodes.number(other.nodes.own(), Epoch(1)).unwrap().unwrap()
    }
}

#[test]
fn two_nodes_send_to_each_other_and_come_back_after_their_broker_was_lost() {
    let Some(mut server) = RedisServer::start() else { return };
    let (mut one, mut two) = (Threads::start(&server, 1), Threads::start(&server, 2));
    let send = |one: &mut Threads, to: NodeNo| {
        let (target, from) = (Fingerprint::of_key("to"), Fingerprint::of_key("from"));
        let direct = Direct {
            kind: Kind::Relay,
            to: target.as_bytes(),
            from: from.as_bytes(),
            session: 1,
            about: None,
            payload: Some("1"),
        };
        let mut frames = Vec::new();
        node_traffic::push_direct(&mut frames, &direct, std::iter::empty());
        let wanted = frames.clone();
        one.links[0].publish(Channel::Node(to), &mut frames).unwrap();
        wanted
    };
    let to = one.number(&two);
    let wanted = send(&mut one, to);
    let Event::Traffic { from, frames } = two.until(|event| matches!(event, Event::Traffic { .. })) else {
        panic!()
    };
    assert_eq!(two.nodes.name(from).unwrap().0, node(1));
    assert_eq!(frames, wanted);

    server.kill();
    for node in [&mut one, &mut two] {
        node.until(|event| matches!(event, Event::Down));
    }
    server.restart();
    for node in [&mut one, &mut two] {
        node.until(|event| matches!(event, Event::Up));
        node.until(|event| matches!(event, Event::Compare));
        assert!(node.running.figures().read().up);
    }
    let wanted = send(&mut one, to);
    let Event::Traffic { frames, .. } = two.until(|event| matches!(event, Event::Traffic { .. })) else {
        panic!()
    };
    assert_eq!(frames, wanted);

    two.running.stop();
    one.until(|event| matches!(event, Event::NodeGone(_)));
    one.running.stop();
}
