//! What goes by UDP: answers are counted when they are right, what is lost is said, and what no server should say fails the
//! run. A thread of the test answers, so that it can be told to go wrong.
#![allow(clippy::unwrap_used, missing_docs)]

#[allow(dead_code)]
#[path = "../src/stun.rs"]
mod stun;

use std::net::{IpAddr, SocketAddr, UdpSocket};
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

#[test]
fn every_way_to_ask_is_answered() {
    let ways: &[&[&str]] = &[&["window=1"], &["window=4"], &["rate=2000"]];
    for scenario in [STUN] {
        for way in ways {
            let server = serve("127.0.0.1", responder(scenario), b"", |answer| vec![answer]);
            let round = &rounds(&stress(
                &[&["run"], scenario, SHORT, way, &["--target", &server]].concat(),
            ))[0];
            assert!(round["messages"].as_u64().unwrap() > 0, "{scenario:?} {way:?}: {round}");
            assert_eq!(
                (&round["failed"], &round["lost"]),
                (&0.into(), &0.into()),
                "{scenario:?} {way:?}"
            );
        }
    }
    let server = serve("::1", responder(STUN), b"", |answer| vec![answer]);
    rounds(&stress(&[&["run"], STUN, SHORT, &["--target", &server]].concat()));
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
    let cases: &[(&[&str], &[u8])] = &[(STUN, b"")];
    thread::scope(|scope| {
        for (scenario, prefix) in cases {
            scope.spawn(move || {
                let server = serve("127.0.0.1", responder(scenario), prefix, lose);
                let round = &rounds(&stress(&[&["run"], *scenario, LONG, &["--target", &server]].concat()))[0];
                assert_eq!(round["lost"], 1, "{scenario:?} {}: {round}", prefix.escape_ascii());
            });
        }
    });
}

#[test]
fn what_no_server_should_say_fails_the_run() {
    let double: Spoil = |answer| vec![answer.clone(), answer];
    // The last byte of the address; the transaction; success.
    let change_last: Spoil = |(mut bytes, to)| {
        let last = bytes.last_mut().unwrap();
        *last = if *last == b'z' { b'y' } else { b'z' };
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
    let cases: &[(&[&str], &[u8], Spoil)] = &[
        (STUN, b"", double),
        (STUN, b"", change_last),
        (STUN, b"", change_transaction),
        (STUN, b"", refuse),
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
fn a_server_that_is_not_there_fails_the_run() {
    let server = serve("127.0.0.1", Box::new(|_, _, _| Vec::new()), b"", |answer| vec![answer]);
    let output = stress(&[&["run"], STUN, SHORT, &["--target", &server]].concat());
    expect_failure(&output, "silent");
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
        _ => unreachable!(),
    }
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
