//! Question: what does a Binding request cost before and after the kernel: to tell its dialect, and to answer it, plain, with
//! a fingerprint, over IPv6, and refused for an unknown attribute? What do datagrams of the other dialects cost to be told?

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::codec::stun;
use peer_server::dialect::demultiplexer::classify;

const PLAIN: &str = "000100002112a4420102030405060708090a0b0c";
const FINGERPRINT: &str = "000100082112a4420102030405060708090a0b0c802800045b20f9cc";
const UNKNOWN: &str = "000100082112a4420102030405060708090a0b0c7777000461626364";
/// RFC 5769 section 2.1: what an ICE agent sends.
const ICE: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b\
151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const SIMPLE: &str = "48533a777a676a61686d737765766c";
const NATPUNCH: &str = "4a260a2462353566376534612d623361322d346530612d626631362d303062353436616564383033";
const MATCHMAKER: &str = "000000001400007b2254797065223a322c2244617461223a22227d";

fn stun(c: &mut Criterion) {
    let v4: SocketAddr = "192.0.2.1:32853".parse().expect("an address");
    let v6: SocketAddr = "[2001:db8::1]:32853".parse().expect("an address");
    let mut group = c.benchmark_group("stun/classify_and_answer");
    group.throughput(Throughput::Elements(1));
    for (name, request, source) in [
        ("plain", PLAIN, v4),
        ("plain_ipv6", PLAIN, v6),
        ("fingerprint", FINGERPRINT, v4),
        ("ice_agent", ICE, v4),
        ("unknown_attribute", UNKNOWN, v4),
    ] {
        let request = unhex(request);
        let mut out = Vec::with_capacity(stun::ANSWER_MAX);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| {
                out.clear();
                let dialect = classify(black_box(&request));
                (dialect, stun::push_answer(&mut out, black_box(&request), source))
            });
        });
    }
    group.finish();
    let mut group = c.benchmark_group("stun/classify_others");
    group.throughput(Throughput::Elements(1));
    for (name, datagram) in [("simple", SIMPLE), ("natpunch", NATPUNCH), ("matchmaker", MATCHMAKER)] {
        let datagram = unhex(datagram);
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| classify(black_box(&datagram)))
        });
    }
    group.finish();
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hex digit") as u8;
    text.as_bytes()
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

criterion_group!(benches, stun);
criterion_main!(benches);
