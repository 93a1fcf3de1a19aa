//! What a node pays for the state of a large cluster: `cargo test --release --lib fold::tests::scale -- --ignored --nocapture`.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use super::*;

const MEMBERS: u64 = 100_000;
const SPACES: u64 = 10_000;

#[test]
#[ignore = "a measurement"]
fn a_hundred_thousand_members_and_as_many_who_wait() {
    let (mut state, mut log) = (State::default(), Log::default());
    log.apply(&mut state, &log.take(0));
    log.apply(&mut state, &log.take(1));
    let homes: Vec<Home> = state.leases.values().map(|lease| lease.home).collect();
    let before = resident();
    let steps: [(&str, &dyn Fn(u64) -> What); 3] =
        [("registrations", &register), ("joins", &enter), ("requests", &wait)];
    let mut numbers = [0; 2];
    for (kind, what) in steps {
        // As they come: bytes, made beforehand.
        let entries: Vec<Vec<u8>> = (0..MEMBERS)
            .map(|index| {
                let by = index as usize % 2;
                numbers[by] += 1;
                let act = Act {
                    node: homes[by].0,
                    epoch: homes[by].1,
                    line: 1,
                    number: numbers[by],
                    anew: false,
                    group: [0; 16],
                    what: what(index),
                };
                Entry::Act(act).encode()
            })
            .collect();
        let bytes: usize = entries.iter().map(Vec::len).sum();
        let (resident_before, begun) = (resident(), Instant::now());
        for entry in &entries {
            log.now += 1000;
            log.bytes(&mut state, entry);
        }
        let each = begun.elapsed() / MEMBERS as u32;
        let grown = resident().saturating_sub(resident_before) / MEMBERS;
        println!(
            "{kind}: {} bytes each in the log, {each:?} and {grown} bytes of memory",
            bytes as u64 / MEMBERS
        );
    }
    println!("the state has {} MiB", resident().saturating_sub(before) >> 20);
    assert_eq!(state.queues.values().map(BTreeMap::len).sum::<usize>() as u64, MEMBERS);
    let begun = Instant::now();
    let bytes = state.encode();
    println!(
        "a snapshot: {} MiB, written in {:?}",
        bytes.len() >> 20,
        begun.elapsed()
    );
    let begun = Instant::now();
    let read = State::decode(&bytes).unwrap();
    println!("and read in {:?}", begun.elapsed());
    assert!(read == state);
    let begun = Instant::now();
    log.now += 1;
    let (node, epoch) = homes[1];
    log.apply(&mut state, &Entry::Release { node, epoch, nonce: 0 });
    println!("a node with half of it goes in {:?}", begun.elapsed());
}

#[derive(Default)]
struct Log {
    now: u64,
}

impl Log {
    fn take(&self, index: usize) -> Entry {
        Entry::Take {
            node: node(index),
            nonce: 0,
            above: Epoch(0),
        }
    }

    fn apply(&mut self, state: &mut State, entry: &Entry) {
        self.bytes(state, &entry.encode());
    }

    /// For an onlooker that has nothing to do with it.
    fn bytes(&mut self, state: &mut State, entry: &[u8]) {
        let eye = Eye {
            own: None,
            number: &number,
            missed: (0, 0),
        };
        let entry = Entry::decode(entry).unwrap();
        state.apply(state.sequence() + 1, self.now, Some(&entry), &eye, &mut Vec::new());
    }
}

fn someone(index: u64) -> Who {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    Who {
        fingerprint: Fingerprint::from_bytes(bytes),
        session: SessionId::from_u64(index + 1),
    }
}

fn shown(index: u64) -> Arc<PeerInfo> {
    let mut info = PeerInfo::clone(&info(0, "1"));
    info.fingerprint = someone(index).fingerprint;
    info.alias = format!("brave-otter-{index}").into();
    Arc::new(info)
}

fn register(index: u64) -> What {
    What::Register {
        who: someone(index),
        aliases: vec![format!("brave-otter-{index}").into()],
    }
}

fn enter(index: u64) -> What {
    let name = format!("namespace-{}", index % SPACES);
    What::Join {
        who: someone(index),
        namespace: space(&name),
        name: name.into(),
        info: shown(index),
        room: false,
        members_max: u32::MAX,
        refuse: None,
        roster: false,
    }
}

/// In groups of two that never are complete: each has criteria of its own.
fn wait(index: u64) -> What {
    let mut criteria = [0; 32];
    criteria[..8].copy_from_slice(&index.to_le_bytes());
    What::Match {
        who: someone(index),
        namespace: space("arena"),
        name: "arena".into(),
        info: shown(index),
        group_size: 2,
        criteria: CriteriaKey(criteria),
        ticket: CommandId::from_u64(index),
        refuse: None,
        resumed: false,
    }
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
