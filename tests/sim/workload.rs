//! The workload: what clients do, drawn from a seed.
//!
//! Owns: the generator of random numbers, the settings that a seed stands for, and the next action.
//! Never: looks at anything but what it drew before, so a seed replays.

use peer_server::message::DirectKind;
use peer_server::shard::Rate;

/// splitmix64: one word of state, every seed is good.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True `percent` times of a hundred.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// An index, drawn by weight; not all weights are 0.
    pub(crate) fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut left = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            if left < *weight {
                return index;
            }
            left -= weight;
        }
        0
    }
}

/// Whom a direct message names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Key(usize),
    Alias(String),
}

/// A request of a client; names and keys are places in the world's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Req {
    Join {
        name: usize,
        app: &'static str,
        meta: Option<u32>,
    },
    Leave(usize),
    Discover(usize),
    Match {
        name: usize,
        size: u32,
        criteria: u8,
    },
    Create {
        name: usize,
        max: u32,
    },
    JoinRoom(usize),
    Info(usize),
    Kick {
        name: usize,
        target: Option<usize>,
    },
    Metadata(u32),
    Direct {
        kind: DirectKind,
        to: To,
        about: Option<usize>,
    },
    Broadcast {
        name: usize,
        exclude: Vec<To>,
    },
}

/// What happens next at the clients' side.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Connect { key: usize, alias: String },
    Disconnect(usize),
    Ask(usize, Req),
}

/// What a seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) loops: usize,
    pub(crate) keys: usize,
    pub(crate) names: usize,
    pub(crate) rounds: usize,
    pub(crate) actions: usize,
    /// Every action is carried through before the next: the reference model foretells all events.
    pub(crate) lockstep: bool,
    pub(crate) send_buffer_size: usize,
    pub(crate) send_buffer_bytes: usize,
    pub(crate) traffic_max: usize,
    pub(crate) max_peers: usize,
    pub(crate) max_rooms: usize,
    pub(crate) max_match_waiting: usize,
    pub(crate) messages: Option<Rate>,
    pub(crate) deliveries: Option<Rate>,
    /// Aliases that are made for one key are asked for by others.
    pub(crate) steal_made: bool,
    pub(crate) kicks: bool,
    /// Clients that read seldom, of a hundred.
    pub(crate) slow: usize,
    /// How often: act, push, handle, feed, read.
    pub(crate) weights: [usize; 5],
    /// Of a hundred actions: connections made, and ended.
    pub(crate) connects: usize,
    pub(crate) disconnects: usize,
}

impl Settings {
    /// A world without limits that matter, for scenes that a test directs itself.
    pub(crate) fn calm(loops: usize) -> Self {
        Self {
            loops,
            keys: 0,
            names: 0,
            rounds: 0,
            actions: 0,
            lockstep: false,
            send_buffer_size: 32,
            send_buffer_bytes: 1 << 20,
            traffic_max: 1 << 20,
            max_peers: 1000,
            max_rooms: 1000,
            max_match_waiting: 1000,
            messages: None,
            deliveries: None,
            steal_made: false,
            kicks: true,
            slow: 0,
            weights: [1; 5],
            connects: 0,
            disconnects: 0,
        }
    }

    pub(crate) fn draw(random: &mut Random) -> Self {
        let lockstep = random.chance(20);
        let crowd = random.chance(8);
        let mut settings = Self {
            loops: random.below(5) + 1,
            keys: if crowd { 24 } else { random.below(9) + 2 },
            names: if crowd { 2 } else { random.below(5) + 1 },
            rounds: random.below(3) + 1,
            actions: random.pick(&[40, 150, 500]),
            lockstep,
            max_peers: random.pick(&[1000, 1000, 1000, 3]),
            max_rooms: random.pick(&[1000, 1000, 1]),
            max_match_waiting: random.pick(&[1000, 1000, 1]),
            steal_made: random.chance(25),
            kicks: random.chance(50),
            weights: random.pick(&[
                [10, 30, 40, 20, 10],
                [30, 10, 30, 30, 10],
                [30, 30, 5, 30, 5],
                [40, 4, 10, 40, 2],
                [40, 40, 40, 4, 10],
            ]),
            connects: random.pick(&[4, 8, 20]),
            disconnects: random.pick(&[0, 3, 10]),
            ..Self::calm(1)
        };
        if !lockstep {
            settings.send_buffer_size = random.pick(&[2, 5, 32, 32]);
            settings.send_buffer_bytes = random.pick(&[400, 1 << 20, 1 << 20]);
            settings.traffic_max = random.pick(&[30, 100, 500, 1 << 20, 1 << 20]);
            settings.messages = random.pick(&[None, None, None, Rate::new(20, 10)]);
            settings.deliveries = random.pick(&[None, None, None, Rate::new(50, 20)]);
            settings.slow = random.pick(&[0, 0, 30]);
        }
        settings
    }

    /// The next action, given the connections that are open or registering (by serial), aliases that were seen, and who
    /// made which room.
    pub(crate) fn action(
        &self,
        random: &mut Random,
        live: &[usize],
        aliases: &[String],
        owners: &[(usize, usize)],
    ) -> Action {
        let dice = random.below(100);
        if live.is_empty() || dice < self.connects || (live.len() < self.keys / 2 && dice < 60) {
            let key = random.below(self.keys);
            return Action::Connect {
                key,
                alias: self.alias(random, key, aliases),
            };
        }
        let serial = live[random.below(live.len())];
        if dice < self.connects + self.disconnects {
            return Action::Disconnect(serial);
        }
        match self.request(random, aliases) {
            // Most kicks by chance would be refused: let those ask who may.
            Req::Kick { target, .. } if !owners.is_empty() && random.chance(80) => {
                let (serial, name) = random.pick(owners);
                Action::Ask(serial, Req::Kick { name, target })
            }
            request => Action::Ask(serial, request),
        }
    }

    fn alias(&self, random: &mut Random, key: usize, seen: &[String]) -> String {
        match random.below(10) {
            0..=3 => String::new(),
            // Nobody else ever asks for this one.
            4 | 5 => format!("own-{key}"),
            6 => "aB".repeat(32),
            7 if self.steal_made && !seen.is_empty() => seen[random.below(seen.len())].clone(),
            _ => random.pick(&["bee", "cat"]).into(),
        }
    }

    fn target(&self, random: &mut Random, seen: &[String]) -> To {
        match random.below(10) {
            0 => To::Alias("bee".into()),
            1 => To::Alias(format!("own-{}", random.below(self.keys))),
            2 if !seen.is_empty() => To::Alias(seen[random.below(seen.len())].clone()),
            3 => To::Alias(random.pick(&["nobody", "cat"]).into()),
            4 if random.chance(20) => To::Alias("aB".repeat(32)),
            _ => To::Key(random.below(self.keys)),
        }
    }

    fn request(&self, random: &mut Random, seen: &[String]) -> Req {
        let name = random.below(self.names);
        let kick = if self.kicks { 8 } else { 0 };
        match random.weighted(&[22, 8, 3, 9, 6, 8, 2, kick, 3, 30, 12]) {
            0 => Req::Join {
                name,
                app: random.pick(&["", "", "game"]),
                meta: random.chance(30).then(|| random.below(100) as u32),
            },
            1 => Req::Leave(name),
            2 => Req::Discover(name),
            3 => Req::Match {
                name,
                size: random.pick(&[2, 2, 2, 3, 4]),
                criteria: random.pick(&[0, 0, 1]),
            },
            4 => Req::Create {
                name,
                max: random.below(4) as u32 + 1,
            },
            5 => Req::JoinRoom(name),
            6 => Req::Info(name),
            7 => Req::Kick {
                name,
                target: (!random.chance(5)).then(|| random.below(self.keys)),
            },
            8 => Req::Metadata(random.below(100) as u32),
            9 => Req::Direct {
                kind: random.pick(&[DirectKind::Signal, DirectKind::Relay]),
                to: self.target(random, seen),
                about: random.chance(30).then(|| random.below(self.names)),
            },
            _ => Req::Broadcast {
                name,
                exclude: (0..random.pick(&[0, 0, 1, 2]))
                    .map(|_| self.target(random, seen))
                    .collect(),
            },
        }
    }
}
