//! Question: what does a signal of 0.3 KB cost between two loops, in batches of 1, 16 and 256: the mailbox alone (append,
//! push, take, hand back), with a wake-up of the receiver, and with both shards' decisions (route at the sender's loop,
//! membership at the target's)? And control mail, which carries no bytes?
//!
//! Both ends run in one thread: that cache lines travel between cores is not in it, `peer-stress` shows that (cross-loop
//! pairs).

mod world;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peer_server::event_loop::Delivery;
use peer_server::ids::{LoopId, NamespaceId, SessionId};
use peer_server::mailbox::{Batch, Mailbox, Waker, connect};
use peer_server::message::DirectKind;
use peer_server::shard::{DirectMail, Mail, Route};
use world::{Member, World, scattered};

const SENDER: LoopId = LoopId::new(0);
const RECEIVER: LoopId = LoopId::new(1);
const PAYLOAD: [u8; 300] = [b'x'; 300];
const BATCHES: [usize; 3] = [1, 16, 256];
const PAIRS: usize = 500;

fn mail(c: &mut Criterion) {
    let mut group = c.benchmark_group("mail");
    let (world, pairs) = pairs_across();
    let [mut sender, mut receiver] = two_loops();
    for size in BATCHES {
        let mut next = pairs.iter().cycle();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("mailbox", size), |b| {
            b.iter(|| {
                append(&mut sender, &world, next.by_ref().take(size));
                assert!(sender.push());
                take(&mut receiver, |mail, bytes| _ = black_box((mail, bytes)));
            });
        });
        group.bench_function(BenchmarkId::new("mailbox_of_a_sleeper", size), |b| {
            b.iter(|| {
                assert!(receiver.try_sleep());
                append(&mut sender, &world, next.by_ref().take(size));
                assert!(sender.push());
                receiver.awake();
                take(&mut receiver, |mail, bytes| _ = black_box((mail, bytes)));
            });
        });
        let [from, to] = [SENDER, RECEIVER].map(|id| &world.shards[id.index()]);
        group.bench_function(BenchmarkId::new("routed", size), |b| {
            b.iter(|| {
                let routed = next.by_ref().take(size).inspect(|[member, target]| {
                    let route = from.route(member.key, black_box(&target.fingerprint), None);
                    assert!(matches!(route, Route::Loop { to: RECEIVER, .. }));
                });
                append(&mut sender, &world, routed);
                assert!(sender.push());
                take(&mut receiver, |mail, bytes| {
                    let route = to.receive(mail, namespaces(bytes, mail));
                    assert!(matches!(route, Route::Local { .. }));
                });
            });
        });
        group.bench_function(BenchmarkId::new("control", size), |b| {
            b.iter(|| {
                for [member, _] in next.by_ref().take(size) {
                    let fingerprint = member.fingerprint;
                    sender.control(RECEIVER, Delivery::Mail(Mail::GoneDone { fingerprint }));
                }
                assert!(sender.push());
                take(&mut receiver, |_, _| {});
            });
        });
    }
    group.finish();
}

/// Puts one signal of each pair into the batch, as the event loop does.
fn append<'a>(mailbox: &mut Mailbox<Delivery>, world: &World, pairs: impl Iterator<Item = &'a [Member; 2]>) {
    let shard = &world.shards[SENDER.index()];
    for [from, to] in pairs {
        let batch = mailbox
            .traffic(RECEIVER, 16 + PAYLOAD.len())
            .expect("it is emptied each time");
        let start = batch.bytes.len() as u32;
        for namespace in shard.shares(from.key) {
            batch.bytes.extend_from_slice(&namespace.to_bytes());
        }
        let shares = start..batch.bytes.len() as u32;
        let payload = batch.push_bytes(&PAYLOAD);
        batch.items.push(Delivery::Direct(DirectMail {
            kind: DirectKind::Signal,
            from: from.fingerprint,
            session: SessionId::new(SENDER, 1),
            origin: SENDER,
            to: to.fingerprint,
            shares,
            about: None,
            about_name: payload.start..payload.start,
            payload: Some(payload),
        }));
    }
}

/// Takes all batches and hands each signal out with the batch's bytes.
fn take(mailbox: &mut Mailbox<Delivery>, mut each: impl FnMut(&DirectMail, &[u8])) {
    while let Some(mut batch) = mailbox.take() {
        let bytes = std::mem::take(&mut batch.bytes);
        for delivery in batch.items.drain(..) {
            match black_box(delivery) {
                Delivery::Direct(mail) => each(&mail, &bytes),
                other => drop(other),
            }
        }
        batch.bytes = bytes;
        mailbox.done(batch);
    }
}

fn namespaces(bytes: &[u8], mail: &DirectMail) -> impl Iterator<Item = NamespaceId> {
    let ids = bytes[Batch::<Delivery>::slice(bytes, &mail.shares)].as_chunks::<16>().0;
    ids.iter().map(|id| NamespaceId::from_bytes(*id))
}

fn two_loops() -> [Mailbox<Delivery>; 2] {
    let wakers = [SENDER, RECEIVER].map(|_| Waker::new().expect("there is a descriptor"));
    let (mailboxes, _) = connect(wakers.into(), 16 << 20);
    mailboxes.try_into().expect("two were asked for")
}

/// Pairs whose first lives at the one loop and whose second at the other, in a namespace each.
fn pairs_across() -> (World, Vec<[Member; 2]>) {
    let mut world = World::new(2);
    let mut pairs = Vec::new();
    for first in (0..).step_by(2) {
        let namespace = format!("pair {first}");
        let pair = [first, first + 1].map(|number| world.member(number, &namespace));
        if pair.map(|member| member.home) == [SENDER, RECEIVER] {
            pairs.push(pair);
        }
        if pairs.len() == PAIRS {
            break;
        }
    }
    (world, scattered(&pairs))
}

criterion_group!(benches, mail);
criterion_main!(benches);
