//! Question: what does the loop of a client pay for its game server: to seal one token, to write the frame with it, both as they
//! follow each other, and to read the request that began it?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use peer_server::codec::connect_token::{Layout, PrivateKey, Token, open, seal};
use peer_server::dialect::bevygap;
use peer_server::message::game_server::{CertDigest, Feedback, Grant, KeyIndex, SessionName};

const REQUEST: &str = r#"{"client_ip": "81.128.157.123", "game": "bevygap-spaceships", "version": "1"}"#;

fn connect_token(c: &mut Criterion) {
    let public = "203.0.113.10:30004".parse().expect("an address");
    let token = Token {
        protocol_id: 80_085,
        created_s: 1_730_000_000,
        expires_s: 1_730_000_025,
        nonce: [3; 24],
        timeout_s: 15,
        public: vec![public],
        internal: vec![public],
        client_id: 0x0102_0304_0506_0708,
        client_to_server: [5; 32],
        server_to_client: [6; 32],
        user_data: [0; 256],
    };
    let ready = Feedback::Ready(Box::new(Grant {
        session: SessionName::new("000000000001-S").expect("a name"),
        client_id: token.client_id,
        public,
        internal: Vec::new(),
        cert_digest: CertDigest::parse(&"e3".repeat(32)).expect("a digest"),
        key: KeyIndex(0),
    }));
    let key = PrivateKey::new([7; 32]);
    let sealed = seal(&token, &key, Layout::LightyearLe).expect("a good token");

    let mut group = c.benchmark_group("connect_token");
    group.throughput(Throughput::Elements(1));
    group.bench_function("seal", |b| {
        b.iter(|| seal(black_box(&token), &key, Layout::LightyearLe));
    });
    group.bench_function("open", |b| {
        b.iter(|| {
            open(
                black_box(&sealed[..]),
                &key,
                Layout::LightyearLe,
                80_085,
                1_730_000_000,
                Some(public),
            )
        });
    });
    let mut out = Vec::with_capacity(4096);
    group.bench_function("frame", |b| {
        b.iter(|| {
            out.clear();
            bevygap::push_frame(&mut out, black_box(&ready), &sealed[..]);
            out.len()
        });
    });
    group.bench_function("seal_and_frame", |b| {
        b.iter(|| {
            out.clear();
            let sealed = seal(black_box(&token), &key, Layout::LightyearLe).expect("a good token");
            bevygap::push_frame(&mut out, black_box(&ready), &sealed[..]);
            out.len()
        });
    });
    group.bench_function("request", |b| b.iter(|| bevygap::parse_request(black_box(REQUEST))));
    group.finish();
}

criterion_group!(benches, connect_token);
criterion_main!(benches);
