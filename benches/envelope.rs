//! Question: what does it cost to prove a received text well-formed and find the members of its envelope, against
//! simd-json (tape, on the scratch copy that it needs because it rewrites what it parses) and serde_json (borrowed,
//! payload as raw value), for a candidate of 0.3 KB, an offer of 4 KB full of line ends, and a dense payload of 60 KB?
//! And all that the codec and the dialect do to such a signal, frame in to frame out: header, unmasking, UTF-8, envelope,
//! target, and the forward?

mod frames;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use frames::{OneBuffer, SETTINGS, masked_frame};
use peer_server::codec::json::scan_envelope;
use peer_server::codec::websocket::{self, Data, OpCode, Step, push_header};
use peer_server::dialect::peer::{self, Forward, Incoming, Target};
use peer_server::ids::Fingerprint;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The members of the envelope as serde_json borrows them. Absent and empty are not told apart: an optional borrowed
/// string would be allocated.
#[derive(Deserialize)]
struct Borrowed<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    to: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

fn envelope(c: &mut Criterion) {
    for (name, text) in [
        ("candidate_300B", candidate()),
        ("offer_4KB", offer()),
        ("dense_60KB", dense()),
    ] {
        let mut group = c.benchmark_group(format!("envelope/{name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_with_input(BenchmarkId::from_parameter("ours"), text.as_str(), |b, text| {
            b.iter(|| black_box(scan_envelope(black_box(text))).is_ok());
        });
        group.bench_with_input(BenchmarkId::from_parameter("simd_json"), text.as_str(), |b, text| {
            let mut scratch = vec![0; text.len() + simd_json::INPUT_PADDING];
            let mut buffers = simd_json::Buffers::new(text.len());
            let mut spare = Some(simd_json::Tape::null());
            b.iter(|| {
                let text = black_box(text);
                scratch[..text.len()].copy_from_slice(text.as_bytes());
                let mut tape = spare.take().expect("put back by every round").reset();
                simd_json::fill_tape_padded(&mut scratch, text.len(), &mut buffers, &mut tape).expect("well-formed");
                black_box(&tape);
                spare = Some(tape.reset());
            });
        });
        group.bench_with_input(BenchmarkId::from_parameter("serde_json"), text.as_str(), |b, text| {
            b.iter(|| {
                let found: Borrowed<'_> = serde_json::from_str(black_box(text)).expect("well-formed");
                black_box((found.kind, found.to, found.namespace, found.payload));
            });
        });
        group.finish();
    }
}

/// The frame is copied anew for each round, because it is unmasked in place: a few nanoseconds are the copy's.
fn forward(c: &mut Criterion) {
    let mut group = c.benchmark_group("forward");
    for (name, text) in [
        ("candidate_300B", candidate()),
        ("offer_4KB", offer()),
        ("dense_60KB", dense()),
    ] {
        let sent = masked_frame(&text);
        let (mut input, mut out, mut scratch) = (sent.clone(), Vec::new(), Vec::new());
        let from = Fingerprint::of_key("sender");
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                input.copy_from_slice(&sent);
                out.clear();
                forward_one(black_box(&mut input), &from, &mut scratch, &mut out);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

fn forward_one(input: &mut [u8], from: &Fingerprint, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let mut partial = None;
    let step = websocket::next(&mut partial, input, &mut 0, &SETTINGS, &mut OneBuffer::default());
    let Step::Text(text) = step else { panic!("a whole text") };
    let Ok(Incoming::Direct { kind, to, payload, .. }) = peer::parse(text, scratch) else {
        panic!("a signal")
    };
    let Target::Peer(to) = to else { panic!("a fingerprint") };
    let forward = Forward {
        kind,
        from,
        to: &to,
        namespace: None,
        payload,
        ts_ms: 1_790_000_000_123,
    };
    push_header(out, OpCode::Data(Data::Text), false, peer::forward_len(&forward));
    peer::push_forward(out, &forward);
}

/// A trickled candidate as a browser's client sends it.
fn candidate() -> String {
    let line = "candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 192.168.1.20 rport 46154 \
                generation 0 ufrag kF3x network-cost 999";
    signal(&format!(
        r#"{{"signal_type":"candidate","candidate":{{"candidate":"{line}","sdpMid":"0","sdpMLineIndex":0}}}}"#
    ))
}

/// An offer: lines of a session description, their ends escaped.
fn offer() -> String {
    let mut sdp = String::from(r"v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n");
    let mut number = 96;
    while sdp.len() < 3_800 {
        let _ = write!(sdp, r"a=rtpmap:{number} VP8/90000\r\na=rtcp-fb:{number} nack pli\r\n");
        let _ = write!(
            sdp,
            r"a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode=1\r\n"
        );
        number += 1;
    }
    signal(&format!(r#"{{"signal_type":"offer","sdp":"{sdp}"}}"#))
}

/// Many short tokens: the worst that a payload of this size does to a scan.
fn dense() -> String {
    let mut items = String::new();
    while items.len() < 60_000 {
        let _ = write!(
            items,
            r#"{{"id":{},"on":true,"at":[1.5,-2,3e4],"name":"p","x":null}},"#,
            items.len()
        );
    }
    signal(&format!("[{}]", items.trim_end_matches(',')))
}

fn signal(payload: &str) -> String {
    let to = "3f9a".repeat(16);
    format!(r#"{{"type":"signal","to":"{to}","payload":{payload}}}"#)
}

criterion_group!(benches, envelope, forward);
criterion_main!(benches);
