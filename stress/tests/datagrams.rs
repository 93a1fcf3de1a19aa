//! What goes by UDP: answers are counted when they are right, what is lost is said, and what no server should say fails the
//! run. A thread of the test answers, so that it can be told to go wrong.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../src/scenario/punch/keys.rs"]
mod keys;
#[allow(dead_code)]
#[path = "../src/stun.rs"]
mod stun;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

/// A datagram, and where it goes.
type Datagram = (Vec<u8>, SocketAddr);

/// What is done to an answer.
type Spoil = fn(Datagram) -> Vec<Datagram>;

const SHORT: &[&str] = &["peers=4", "warm_up=0.05", "seconds=0.2"];
/// Long enough for a client to ask again.
const LONG: &[&str] = &["peers=4", "warm_up=0", "seconds=1.5"];
/// The answer that is spoiled; there are more in the first moments.
const SPOILED: usize = 20;

const STUN: &[&str] = &["stun"];
const SIMPLE: &[&str] = &["punch", "dialect=simple"];
const MEETING: &[&str] = &["punch", "dialect=simple", "join=true"];
const NATPUNCH: &[&str] = &["punch", "dialect=natpunch"];

fn stress(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_peer-stress"))
        .args(args)
        .args(["--json", "--server-cores", "0", "--generator-cores", "0"])
        .output()
        .unwrap()
}

fn rounds(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let targets: Value = serde_json::from_slice(&output.stdout).unwrap();
    targets
        .as_array()
        .unwrap()
        .iter()
        .map(|rounds| rounds[0].clone())
        .collect()
}

/// At a rate, a machine that is busy elsewhere may not have come to the first in this time.
fn something_arrived(round: &Value, way: &[&str]) -> bool {
    let at_rate = way.iter().any(|set| set.starts_with("rate=") && *set != "rate=0");
    round["failed"] == 0 && (at_rate || round["messages"].as_u64().unwrap() > 0)
}

#[test]
fn every_way_to_ask_is_answered() {
    let ways: &[&[&str]] = &[&["window=1"], &["window=4"], &["rate=2000"]];
    for scenario in [STUN, SIMPLE, MEETING, NATPUNCH] {
        for way in ways {
            let server = serve("127.0.0.1", responder(scenario), b"", |answer| vec![answer]);
            let round = &rounds(&stress(
                &[&["run"], scenario, SHORT, way, &["--target", &server]].concat(),
            ))[0];
            assert!(something_arrived(round, way), "{scenario:?} {way:?}: {round}");
        }
    }
    for scenario in [STUN, NATPUNCH] {
        let server = serve("::1", responder(scenario), b"", |answer| vec![answer]);
        rounds(&stress(&[&["run"], scenario, SHORT, &["--target", &server]].concat()));
    }
}

#[test]
fn a_peer_server_stands_all_of_it_without_limits() {
    // Built beside the program that is tested, by the same `cargo test --workspace`.
    let server = Path::new(env!("CARGO_BIN_EXE_peer-stress")).with_file_name("peer-server");
    let ways: &[(&[&str], &[&str])] = &[
        (STUN, &["window=1", "--loops", "2"]),
        (STUN, &["window=8", "ipv6=true"]),
        (STUN, &["rate=5000"]),
        (SIMPLE, &["rate=0"]),
        (SIMPLE, &["rate=1000", "--loops", "2"]),
        (MEETING, &["rate=0"]),
        (MEETING, &["rate=0", "--loops", "2"]),
        (NATPUNCH, &["ipv6=true"]),
        (NATPUNCH, &["rate=1000", "--loops", "2"]),
    ];
    for (scenario, way) in ways {
        let target = ["--target", server.to_str().unwrap()];
        let round = &rounds(&stress(&[&["run"], *scenario, SHORT, way, &target].concat()))[0];
        assert!(round["messages"].as_u64().unwrap() > 0, "{scenario:?} {way:?}: {round}");
        assert!(round["cpu_ns"].as_f64().unwrap() > 0.0, "{scenario:?} {way:?}: {round}");
        assert_eq!(round["failed"], 0, "{scenario:?} {way:?}: {round}");
    }
}

#[test]
fn another_server_is_started_by_its_command_line_and_compared() {
    let program = env!("CARGO_BIN_EXE_peer-stress");
    for (ipv6, host) in [("ipv6=false", "{address}"), ("ipv6=true", "[{address}]")] {
        let other = format!("other={program} floor --stun --address {host}:{{port}}");
        let sets = SHORT.iter().chain([&ipv6]).flat_map(|setting| ["--set", *setting]);
        let args: Vec<&str> = ["compare", "floor", &other, "--workload", "stun"]
            .into_iter()
            .chain(sets)
            .collect();
        let rounds = rounds(&stress(&args));
        assert_eq!(
            (&rounds[0]["target"], &rounds[1]["target"]),
            (&"floor".into(), &"other".into())
        );
        for round in rounds {
            assert!(round["messages"].as_u64().unwrap() > 0, "{round}");
            assert!(round["cpu_ns"].as_f64().unwrap() > 0.0, "{round}");
        }
    }
    let output = stress(&["run", "stun", "--target", &format!("{program} floor --stun {{port}}")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("does not answer"));
}

#[test]
fn what_is_lost_is_said_and_asked_again() {
    let lose: Spoil = |_| Vec::new();
    let cases: &[(&[&str], &[u8])] = &[
        (STUN, b""),
        (SIMPLE, b"HR:"),
        (MEETING, b"HR:"),
        (MEETING, b"JR:"),
        (MEETING, b"NJ:"),
        (NATPUNCH, b""),
    ];
    thread::scope(|scope| {
        for (scenario, prefix) in cases {
            scope.spawn(move || {
                let server = serve("127.0.0.1", responder(scenario), prefix, lose);
                let round = &rounds(&stress(&[&["run"], *scenario, LONG, &["--target", &server]].concat()))[0];
                // On a machine that is busy elsewhere others may be late as well.
                assert!(
                    round["lost"].as_u64().unwrap() > 0,
                    "{scenario:?} {}: {round}",
                    prefix.escape_ascii()
                );
            });
        }
    });
}

#[test]
fn what_no_server_should_say_fails_the_run() {
    let double: Spoil = |answer| vec![answer.clone(), answer];
    // The last byte of the address, of the session, of the key or of the text; a port; a transaction; a verb or a field.
    let change_last: Spoil = |(mut bytes, to)| {
        let last = bytes.last_mut().unwrap();
        *last = if *last == b'z' { b'y' } else { b'z' };
        vec![(bytes, to)]
    };
    let change_key: Spoil = |(mut bytes, to)| {
        bytes[5..9].rotate_left(2);
        vec![(bytes, to)]
    };
    let change_transaction: Spoil = |(mut bytes, to)| {
        bytes[19] ^= 1;
        vec![(bytes, to)]
    };
    let refuse: Spoil = |(mut bytes, to)| {
        bytes[1] ^= 0x10;
        vec![(bytes, to)]
    };
    let change_id: Spoil = |(mut bytes, to)| {
        let at = bytes.len() - 5;
        bytes[at] = b'x';
        vec![(bytes, to)]
    };
    let cases: &[(&[&str], &[u8], Spoil)] = &[
        (STUN, b"", double),
        (STUN, b"", change_last),
        (STUN, b"", change_transaction),
        (STUN, b"", refuse),
        (SIMPLE, b"HR:", double),
        (SIMPLE, b"HR:", change_key),
        (SIMPLE, b"HR:", refuse),
        (MEETING, b"JR:", double),
        (MEETING, b"JR:", change_key),
        (MEETING, b"JR:", change_last),
        (MEETING, b"NJ:", double),
        (MEETING, b"NJ:", change_last),
        (NATPUNCH, b"", double),
        (NATPUNCH, b"", refuse),
        (NATPUNCH, b"", change_id),
    ];
    thread::scope(|scope| {
        for (case, (scenario, prefix, spoil)) in cases.iter().enumerate() {
            scope.spawn(move || {
                let server = serve("127.0.0.1", responder(scenario), prefix, *spoil);
                let output = stress(&[&["run"], *scenario, SHORT, &["--target", &server]].concat());
                expect_failure(&output, &format!("case {case}, {scenario:?}"));
            });
        }
    });
}

#[test]
fn a_server_may_miss_the_end_of_one_registration_and_not_of_all() {
    thread::scope(|scope| {
        for (scenario, end) in [(SIMPLE, &b"CS:"[..]), (NATPUNCH, b"\x4a")] {
            for (misses, settings) in [(1, LONG), (usize::MAX, SHORT)] {
                scope.spawn(move || {
                    let (mut right, mut ends) = (responder(scenario), 0);
                    let deaf = move |request: &[u8], from: SocketAddr, server: SocketAddr| {
                        ends += usize::from(request.starts_with(end));
                        match request.starts_with(end) && ends <= misses {
                            true => Vec::new(),
                            false => right(request, from, server),
                        }
                    };
                    let server = serve("127.0.0.1", Box::new(deaf), b"", |answer| vec![answer]);
                    let output = stress(&[&["run"], scenario, settings, &["--target", &server]].concat());
                    match misses {
                        1 => assert!(rounds(&output)[0]["lost"].as_u64().unwrap() > 0, "{scenario:?}"),
                        _ => expect_failure(&output, "deaf"),
                    }
                });
            }
        }
    });
}

#[test]
fn a_server_that_is_not_there_fails_the_run() {
    thread::scope(|scope| {
        for scenario in [STUN, SIMPLE, NATPUNCH] {
            scope.spawn(move || {
                let server = serve("127.0.0.1", Box::new(|_, _, _| Vec::new()), b"", |answer| vec![answer]);
                let output = stress(&[&["run"], scenario, SHORT, &["--target", &server]].concat());
                expect_failure(&output, "silent");
            });
        }
    });
}

fn expect_failure(output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{what}: {said}");
    assert!(said.contains("FAIL"), "{what}: {said}");
}

/// What a server with that address, the last, makes of a request.
type Responder = Box<dyn FnMut(&[u8], SocketAddr, SocketAddr) -> Vec<Datagram> + Send>;

/// The server that a scenario needs.
fn responder(scenario: &[&str]) -> Responder {
    match *scenario {
        ["stun"] => Box::new(|request, from, _| {
            let mut answer = [0; 64];
            answer[..request.len()].copy_from_slice(request);
            let len = stun::answer(&mut answer, from);
            vec![(answer[..len].to_vec(), from)]
        }),
        [_, "dialect=natpunch", ..] => {
            let (mut registrations, mut heard) = (HashMap::new(), 0);
            Box::new(move |request, from, _| natpunch(&mut registrations, &mut heard, request, from))
        }
        _ => {
            let (mut hosts, mut sessions) = (HashMap::new(), 0);
            Box::new(move |request, from, server| simple(&mut hosts, &mut sessions, request, from, server))
        }
    }
}

/// A host has one session until it closes it.
fn simple(
    hosts: &mut HashMap<SocketAddr, (Vec<u8>, Vec<u8>)>,
    sessions: &mut u64,
    request: &[u8],
    from: SocketAddr,
    server: SocketAddr,
) -> Vec<Datagram> {
    let (verb, fields) = request.split_at(3);
    let remote = keys::key(from);
    match verb {
        b"HS:" => {
            let (_, session) = hosts.entry(from).or_insert_with(|| {
                *sessions += 1;
                let random = (0..8).map(|letter| b'a' + (*sessions >> (4 * letter)) as u8 % 16);
                (fields.to_vec(), keys::key(server).into_iter().chain(random).collect())
            });
            vec![([b"HR:", &remote[..], b":", session].concat(), from)]
        }
        b"JS:" => {
            let (local, wanted) = (&fields[..12], &fields[13..]);
            let (to, (host_local, _)) = hosts.iter().find(|(_, (_, session))| session == wanted).unwrap();
            let host = keys::key(*to);
            vec![
                ([b"JR:", &remote[..], b":", &host, b":", host_local].concat(), from),
                ([b"NJ:", &remote[..], b":", local].concat(), *to),
            ]
        }
        b"CS:" => {
            hosts.remove(&from);
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// A client that was heard of since it registered is another when it registers again.
fn natpunch(
    clients: &mut HashMap<SocketAddr, (u64, bool)>,
    registrations: &mut u64,
    request: &[u8],
    from: SocketAddr,
) -> Vec<Datagram> {
    if request[0] != 0x0a {
        clients.entry(from).and_modify(|(_, heard)| *heard = true);
        return Vec::new();
    }
    if clients.get(&from).is_none_or(|(_, heard)| *heard) {
        *registrations += 1;
        clients.insert(from, (*registrations, false));
    }
    let id = format!("6d92cce4-b926-4304-aa69-{:012x}", clients[&from].0);
    let ip = from.ip().to_string();
    let port = from.port();
    let mut endpoint = vec![0x0a, ip.len() as u8];
    endpoint.extend(ip.bytes());
    // A port of three groups of seven bits, as all that clients get have.
    endpoint.extend([0x10, port as u8 | 0x80, (port >> 7) as u8 | 0x80, (port >> 14) as u8]);
    let mut response = vec![0x08, 1, 0x12, endpoint.len() as u8];
    response.extend(endpoint);
    response.extend([0x1a, id.len() as u8]);
    response.extend(id.bytes());
    let mut message = vec![0x12, response.len() as u8];
    message.extend(response);
    vec![(message, from)]
}

/// Serves until the test ends, rightly but for one answer that begins with `prefix`.
fn serve(host: &str, mut respond: Responder, prefix: &'static [u8], spoil: Spoil) -> String {
    let socket = UdpSocket::bind((host.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let (mut buffer, mut seen) = ([0; 2048], 0);
        while let Ok((bytes, from)) = socket.recv_from(&mut buffer) {
            for answer in respond(&buffer[..bytes], from, address) {
                seen += usize::from(answer.0.starts_with(prefix));
                let is_it = answer.0.starts_with(prefix) && seen == SPOILED;
                let answers = if is_it { spoil(answer) } else { vec![answer] };
                for (bytes, to) in answers {
                    socket.send_to(&bytes, to).unwrap();
                }
            }
        }
    });
    address.to_string()
}
