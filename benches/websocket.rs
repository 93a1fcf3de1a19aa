//! Question: what does it cost to take a text message out of what a client sent (header, unmasking, UTF-8), and to frame one
//! for it, at 0.3 KB, 4 KB and 60 KB? What do short frames cost that came in one read, or a message in two fragments, or
//! letters beyond ASCII?
//!
//! What is decoded is copied anew for each round, because it is unmasked in place: a few nanoseconds are the copy's.

mod frames;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use frames::{OneBuffer, SETTINGS, in_two_frames, masked_frame};
use peer_server::codec::websocket::{Data, OpCode, Step, begin_frame, end_frame, next, push_close, push_header};

const TEXT: OpCode = OpCode::Data(Data::Text);
const SIZES: [(&str, usize); 3] = [("300B", 300), ("4KB", 4_096), ("60KB", 61_440)];
/// A full window of a busy sender.
const IN_ONE_READ: usize = 16;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket/decode");
    for (name, len) in SIZES {
        let input = masked_frame(&ascii(len));
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(BenchmarkId::new("whole", name), |b| b.decode_all(&input, 1));
    }
    let read = masked_frame(&ascii(300)).repeat(IN_ONE_READ);
    group.throughput(Throughput::Bytes(read.len() as u64));
    group.bench_function(BenchmarkId::new("16_in_one_read", "300B"), |b| {
        b.decode_all(&read, IN_ONE_READ)
    });
    let fragments = in_two_frames(&ascii(4_096));
    group.throughput(Throughput::Bytes(fragments.len() as u64));
    group.bench_function(BenchmarkId::new("two_fragments", "4KB"), |b| {
        b.decode_all(&fragments, 1)
    });
    let letters = masked_frame(&"žluťoučký kůň ".repeat(4_096 / 20));
    group.throughput(Throughput::Bytes(letters.len() as u64));
    group.bench_function(BenchmarkId::new("beyond_ascii", "4KB"), |b| b.decode_all(&letters, 1));
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("websocket/encode");
    let mut out = Vec::with_capacity(1 << 17);
    for (name, len) in SIZES {
        let text = ascii(len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("length_known", name), |b| {
            b.iter(|| {
                out.clear();
                push_header(&mut out, black_box(TEXT), false, text.len());
                out.extend_from_slice(black_box(text.as_bytes()));
                black_box(out.len())
            });
        });
        group.bench_function(BenchmarkId::new("length_guessed", name), |b| {
            b.iter(|| {
                out.clear();
                let mark = begin_frame(&mut out, black_box(len));
                out.extend_from_slice(black_box(text.as_bytes()));
                end_frame(&mut out, mark, black_box(TEXT), false);
                black_box(out.len())
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("close", |b| {
        b.iter(|| {
            out.clear();
            push_close(&mut out, black_box(Some(1001)), black_box("server shutting down"));
            black_box(out.len())
        });
    });
    group.finish();
}

/// Decodes all of an input in every round.
trait DecodeAll {
    fn decode_all(&mut self, sent: &[u8], messages: usize);
}

impl DecodeAll for criterion::Bencher<'_> {
    fn decode_all(&mut self, sent: &[u8], messages: usize) {
        let (mut input, mut partial, mut buffers) = (sent.to_vec(), None, OneBuffer::default());
        self.iter(|| {
            input.copy_from_slice(sent);
            let (mut at, mut found) = (0, 0);
            while let Step::Text(text) = next(&mut partial, black_box(&mut input), &mut at, &SETTINGS, &mut buffers) {
                black_box(text);
                found += 1;
            }
            assert_eq!(found, messages);
        });
    }
}

fn ascii(len: usize) -> String {
    let line = r#"{"type":"signal","payload":{"candidate":"candidate:842163049 1 udp 1677729535"}}"#;
    line.chars().cycle().take(len).collect()
}

criterion_group!(benches, decode, encode);
criterion_main!(benches);
