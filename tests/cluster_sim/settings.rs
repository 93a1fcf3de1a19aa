//! What a seed stands for: the fleet, what its clients do, and what breaks.
//!
//! Owns: how often everything happens.
//! Never: looks at anything but the random numbers of its seed.

use crate::workload::{Random, Settings as Load};

/// What a seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What clients do.
    pub(crate) load: Load,
    /// The loops of each node.
    pub(crate) loops: Vec<usize>,
    /// How often: act, mail, feed, commands, inbox, events, traffic, time.
    pub(crate) weights: [usize; 8],
    /// Milliseconds that pass at once, at most.
    pub(crate) tick_ms: usize,
    /// How often something breaks.
    pub(crate) faults: usize,
    /// What: a reset, the broker stopped, emptied, a node stopped, killed, cut off, an inbox trimmed.
    pub(crate) fault_weights: [usize; 7],
}

impl Settings {
    /// A fleet in which nothing breaks by itself, for scenes that a test directs.
    pub(crate) fn calm(loops: &[usize]) -> Self {
        Self {
            load: Load {
                keys: 8,
                names: 3,
                ..Load::calm(1)
            },
            loops: loops.to_vec(),
            weights: [10, 20, 20, 20, 20, 20, 20, 3],
            tick_ms: 50,
            faults: 0,
            fault_weights: [1; 7],
        }
    }

    pub(crate) fn draw(random: &mut Random) -> Self {
        let nodes = random.pick(&[2, 3, 3]);
        let lockstep = random.chance(15);
        let breaks = !lockstep && random.chance(75);
        let load = Load {
            keys: random.pick(&[3, 6, 12]),
            names: random.pick(&[1, 2, 3]),
            rounds: random.below(2) + 1,
            actions: random.pick(&[40, 100, 250]),
            lockstep,
            kicks: random.chance(50),
            connects: random.pick(&[4, 8, 20]),
            disconnects: random.pick(&[0, 3, 10]),
            ..Load::calm(1)
        };
        let kinds = [
            [1, 0, 0, 0, 0, 0, 0],
            [0, 1, 0, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0, 0],
        ];
        let more = [[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1]];
        let kinds: Vec<[usize; 7]> = kinds
            .into_iter()
            .chain(more)
            .chain([[3, 1, 1, 2, 2, 2, 1]; 4])
            .collect();
        let fault_weights = random.pick(&kinds);
        Self {
            load,
            loops: (0..nodes).map(|_| random.below(3) + 1).collect(),
            weights: random.pick(&[
                [10, 20, 20, 20, 20, 20, 20, 3],
                [20, 30, 20, 20, 4, 20, 20, 2],
                [20, 30, 20, 4, 20, 20, 10, 2],
                [20, 5, 20, 20, 20, 30, 20, 2],
                [20, 30, 20, 20, 20, 5, 4, 2],
                [30, 10, 30, 10, 10, 10, 10, 10],
            ]),
            tick_ms: random.pick(&[20, 200, 1000]),
            faults: if breaks { random.pick(&[1, 2, 4]) } else { 0 },
            fault_weights,
        }
    }
}
