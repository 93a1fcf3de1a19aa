//! Any requests at any times: every question has one answer, nothing grows, and after silence nothing is left.

use std::collections::HashMap;

use super::*;

/// What the storm knows of one connection.
#[derive(Default)]
struct Seen {
    asks: u32,
    answers: u32,
    admitted: bool,
    closed: bool,
}

struct Storm {
    world: World,
    clients: Vec<Client>,
    sessions: Vec<SessionId>,
    codes: Vec<Code>,
    seen: HashMap<Client, Seen>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let limits = Limits {
            sessions_max: 12,
            matchmaker_connections_max: 10,
            matchmaker_lobbies_per_session: 3,
            misses_per_min_per_ip: 20,
            ..Limits::default()
        };
        let mut world = World::with([1, 2, 4][seed as usize % 3], limits, seed);
        world.slow = true;
        Self {
            world,
            clients: Vec::new(),
            sessions: vec![SessionId::random(&mut StdRng::seed_from_u64(seed))],
            codes: vec![Code::parse("zzzzzz").unwrap()],
            seen: HashMap::new(),
        }
    }

    fn pick<T: Copy>(&mut self, from: impl Fn(&Self) -> &[T]) -> Option<T> {
        let len = from(self).len();
        (len > 0).then(|| {
            let at = self.world.random.random_range(0..len);
            from(self)[at]
        })
    }

    /// The latest ones: the others are soon over.
    fn sessions(&self) -> &[SessionId] {
        &self.sessions[self.sessions.len().saturating_sub(5)..]
    }

    fn codes(&self) -> &[Code] {
        &self.codes[self.codes.len().saturating_sub(2)..]
    }

    fn listen(&mut self) {
        for (client, told) in std::mem::take(&mut self.world.told) {
            let seen = self.seen.get_mut(&client).unwrap();
            assert!(!seen.closed, "a closed connection is told nothing");
            match told {
                Told::Admitted => seen.admitted = true,
                Told::Closed => {
                    seen.closed = true;
                    self.clients.retain(|other| *other != client);
                    self.world.close(client);
                }
                Told::Reply(reply) => {
                    seen.answers += 1;
                    assert!(seen.answers <= seen.asks, "an answer to nothing");
                    match reply {
                        Reply::Session(session) => self.sessions.push(session),
                        Reply::Code(code) => self.codes.push(code),
                        Reply::Done | Reply::Refused(_) => {}
                    }
                }
            }
        }
    }

    fn step(&mut self) {
        let address = format!("192.0.2.{}:5000", self.world.random.random_range(1..9));
        match self.world.random.random_range(0..20) {
            0 => {
                let at = self.world.random.random_range(0..self.world.loops.len());
                let number = self.world.random.random_range(1..4);
                // Told before it is known here: the closed and the admitted of one step are the same connection's.
                self.world.connections += 1;
                let conn = ConnId::new(self.world.connections, self.world.connections);
                self.seen.insert((at, conn), Seen::default());
                self.clients.push((at, conn));
                let remote = SocketAddr::new(format!("192.0.2.{number}").parse().unwrap(), 1);
                self.world.loops[at].open_matchmaker(conn, remote, self.world.now_ms);
                self.world.collect(at);
            }
            1 => {
                if let Some(client) = self.pick(|storm| &storm.clients) {
                    self.clients.retain(|other| *other != client);
                    self.seen.get_mut(&client).unwrap().closed = true;
                    self.world.close(client);
                }
            }
            2..8 => self.ask(),
            8..11 => {
                let session = self.pick(Self::sessions).unwrap();
                let sequence = self.world.random.random_range(1..4);
                self.world.claim(&address, session, sequence);
            }
            11 => self.world.datagram(&address, Request::KeepAlive),
            12 => self.world.datagram(&address, Request::Ack { sequence: 1 }),
            13..19 => {
                for _ in 0..self.world.random.random_range(0..6) {
                    self.world.deliver();
                }
            }
            _ => {
                let ms = [1, 100, 1_000, 7_000][self.world.random.random_range(0..4)];
                self.world.pass(ms);
            }
        }
        self.listen();
    }

    fn ask(&mut self) {
        let (session, code) = (self.pick(Self::sessions), self.pick(Self::codes));
        let Some(client) = self.pick(|storm| &storm.clients) else {
            return;
        };
        let seen = self.seen.get_mut(&client).unwrap();
        if !seen.admitted || seen.answers < seen.asks {
            return;
        }
        seen.asks += 1;
        let ask = match self.world.random.random_range(0..7) {
            0..2 => Ask::NewClient,
            2 => Ask::Create { session },
            3..5 => Ask::Join { code, session },
            5 => Ask::Start { code, session },
            _ => Ask::Bad,
        };
        self.world.post(client, ask);
    }
}

#[test]
fn whatever_happens_every_question_has_one_answer_and_silence_leaves_nothing() {
    let mut started = 0;
    for seed in 0..150 {
        let mut storm = Storm::new(seed);
        for _ in 0..400 {
            storm.step();
            let (sessions, lobbies) = storm.world.held();
            assert!(sessions <= 12 && lobbies <= 12, "seed {seed}: {sessions} {lobbies}");
        }
        let sent = storm.world.sent.iter();
        started += sent
            .filter(|(_, event)| matches!(event, Event::Endpoints { .. }))
            .count();
        storm.world.slow = false;
        storm.world.settle();
        storm.listen();
        for (client, seen) in &storm.seen {
            assert!(
                seen.closed || seen.asks == seen.answers,
                "seed {seed}: {client:?} waits"
            );
        }
        for client in std::mem::take(&mut storm.clients) {
            storm.seen.get_mut(&client).unwrap().closed = true;
            storm.world.close(client);
        }
        storm.world.pass(40_000);
        storm.world.assert_empty();
    }
    assert!(started > 100, "few starts: {started}");
}
