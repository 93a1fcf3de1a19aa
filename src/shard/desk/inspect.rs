//! What tests want to know of the desk.
//!
//! Owns: nothing. Never: changes the desk.

use super::requests::{Origin, Phase};
use super::sessions::Standing;
use super::{Desk, Held};

impl Desk {
    /// Whether nothing is under way and nothing is kept for anybody who is to come; players may still be on the servers.
    pub fn is_idle(&self) -> bool {
        let nobody_comes = self.fleet.figures().0 == 0 && self.sessions.figures().0 == 0;
        nobody_comes && self.requests.is_empty() && self.seekers.is_empty() && self.poll_timeout().is_none()
    }

    /// Proves that the state agrees with itself. Panics if not: for tests and the simulator.
    #[allow(clippy::missing_panics_doc)]
    pub fn check_invariants(&self) {
        self.fleet.check_invariants();
        self.sessions.check_invariants();
        assert!(self.digests.is_sound() && self.deadlines.is_sound());
        assert!(self.settled.is_empty());
        let limits = &self.settings.limits;
        assert!(limits.waiting_max == 0 || self.requests.len() <= limits.waiting_max as usize);
        let mut counted = 0;
        let mut clocks = 0;
        for (id, request) in &self.requests {
            assert_eq!(self.seekers.get(&request.seeker), Some(&Held::Waiting(*id)));
            clocks += usize::from(request.deadline.is_some());
            if let Some(prefix) = request.prefix {
                counted += 1;
                let waiting = self.guard.waiting(prefix);
                assert!(waiting > 0 && (limits.waiting_per_ip == 0 || waiting <= limits.waiting_per_ip));
            }
            match &request.phase {
                Phase::Sought { .. } | Phase::Forwarded { .. } => {}
                Phase::Registering { origin, client_id, .. } => match origin {
                    Origin::Fleet => assert_eq!(self.fleet.kept(*client_id), Some((request.seeker, false))),
                    Origin::Provider => assert_eq!(self.sessions.standing(*client_id), Some(Standing::Asked)),
                },
            }
        }
        assert_eq!(counted, self.guard.waiting_in_all(), "who waits is counted");
        assert_eq!(clocks, self.deadlines.len(), "a clock for each request");
        for (seeker, held) in &self.seekers {
            match held {
                Held::Waiting(id) => assert!(self.requests.get(id).is_some_and(|request| request.seeker == *seeker)),
                Held::Given(client_id) => match self.fleet.kept(*client_id) {
                    Some(kept) => assert_eq!(kept, (*seeker, true)),
                    None => assert_eq!(self.sessions.standing(*client_id), Some(Standing::Told)),
                },
            }
        }
        let figures = self.figures();
        let outcomes = figures.ready
            + figures.abandoned
            + figures.limited
            + figures.timed_out
            + figures.unavailable
            + figures.forwarded
            + figures.failed;
        assert_eq!(
            figures.requests,
            outcomes + figures.waiting,
            "every request has one outcome"
        );
    }
}
