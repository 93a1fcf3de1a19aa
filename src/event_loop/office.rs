//! The office of the desk: on one loop, with the provider and the register; on the others, the way to it.
//!
//! Owns: who is told what the desk says, and what providers say to it.
//! Never: decides anything; the desk does. Never waits for a provider.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::seekers::{SHUTTING_DOWN, is_last};
use super::{Delivery, EventLoop};
use crate::ids::{ConnId, LoopId};
use crate::message::game_server::{Event, Failure, Feedback, Note, Outcome, Report, Reported, Seek, Seeker, Wanted};
use crate::metrics::Metric;
use crate::provider::{Answer, GameServerProvider, Registry};
use crate::shard::desk::{Desk, Output};

/// The loop that has the desk.
pub const DESK_LOOP: LoopId = LoopId::new(0);
/// Events of providers that are taken in one turn: each may be a token.
const EVENTS_MAX: usize = 64;

/// The desk with those who work for it.
pub struct Office {
    /// The desk.
    pub desk: Desk,
    /// Who finds servers that are not configured.
    pub provider: Option<Box<dyn GameServerProvider>>,
    /// Where game servers look up who comes.
    pub registry: Option<Box<dyn Registry>>,
}

impl Office {
    /// Stops those who work for the desk. Their threads are waited for, so this is for after the loop has ended.
    pub fn stop(mut self) {
        // The provider's last changes of its record go through the thread of the register, which must not wait for us.
        if let Some(registry) = &mut self.registry {
            registry.ignore_events();
        }
        if let Some(provider) = &mut self.provider {
            provider.stop();
        }
        if let Some(registry) = &mut self.registry {
            registry.stop();
        }
    }
}

/// The office on its loop, with what is known of those who ask over NATS.
pub(super) struct Staff {
    pub(super) desk: Desk,
    provider: Option<Box<dyn GameServerProvider>>,
    registry: Option<Box<dyn Registry>>,
    /// The requests over NATS that have not had their last word: whether their answer is in one piece.
    remotes: BTreeMap<u64, bool>,
}

impl Staff {
    pub(super) fn new(office: Office) -> Self {
        let Office {
            desk,
            provider,
            registry,
        } = office;
        Self {
            desk,
            provider,
            registry,
            remotes: BTreeMap::new(),
        }
    }

    /// The loop has ended.
    pub(super) fn close(self) -> Office {
        Office {
            desk: self.desk,
            provider: self.provider,
            registry: self.registry,
        }
    }
}

/// Mail to and from the desk.
#[derive(Debug)]
pub enum Mail {
    /// Somebody at this address seeks a server.
    Seek(Seeker, IpAddr, Seek),
    /// A seeker is gone.
    Left(Seeker),
    /// A game server reports; the connection to be told.
    Report(LoopId, ConnId, Report),
    /// A seeker of this loop is told.
    Tell(ConnId, Feedback),
    /// A game server's connection is told.
    Reported(ConnId, Reported),
}

impl EventLoop {
    /// Has the desk look for a server.
    pub(super) fn ask_desk(&mut self, seeker: Seeker, from: IpAddr, seek: Seek) {
        self.post_to_desk(Mail::Seek(seeker, from, seek));
    }

    /// Nobody waits any more.
    pub(super) fn tell_desk_left(&mut self, seeker: Seeker) {
        self.post_to_desk(Mail::Left(seeker));
    }

    pub(super) fn post_to_desk(&mut self, mail: Mail) {
        match self.id == DESK_LOOP {
            true => self.on_desk_mail(mail),
            false => self.mailbox.control(DESK_LOOP, Delivery::Desk(Box::new(mail))),
        }
    }

    pub(super) fn on_desk_mail(&mut self, mail: Mail) {
        let now_ms = self.clock.now_ms;
        match mail {
            Mail::Tell(conn, feedback) => return self.on_seeker_told(conn, &feedback),
            Mail::Reported(conn, reported) => return self.on_reported(conn, reported),
            Mail::Seek(seeker, from, seek) => {
                if let Some(office) = &mut self.office {
                    office.desk.seek(seeker, Some(from), seek, now_ms);
                }
            }
            Mail::Left(seeker) => {
                if let Some(office) = &mut self.office {
                    office.desk.leave(seeker, now_ms);
                }
            }
            Mail::Report(by, conn, report) => {
                let Some(office) = &mut self.office else { return };
                let reported = office.desk.report(report, now_ms);
                match by == self.id {
                    true => self.on_desk_mail(Mail::Reported(conn, reported)),
                    false => {
                        let mail = Mail::Reported(conn, reported);
                        self.mailbox.control(by, Delivery::Desk(Box::new(mail)));
                    }
                }
            }
        }
        self.drain_desk();
    }

    /// Does what the desk says.
    pub(super) fn drain_desk(&mut self) {
        while let Some(output) = self.office.as_mut().and_then(|office| office.desk.poll_output()) {
            match output {
                Output::Tell { seeker, feedback } => self.tell_seeker(seeker, feedback),
                output => self.instruct(output),
            }
        }
    }

    fn tell_seeker(&mut self, seeker: Seeker, feedback: Feedback) {
        match seeker {
            Seeker::Conn { loop_id, conn } if loop_id == self.id => self.on_seeker_told(conn, &feedback),
            Seeker::Conn { loop_id, conn } => {
                let mail = Box::new(Mail::Tell(conn, feedback));
                self.mailbox.control(loop_id, Delivery::Desk(mail));
            }
            Seeker::Remote(remote) => self.tell_remote(remote, &feedback),
        }
    }

    /// Frames and then the end, or one answer.
    fn tell_remote(&mut self, remote: u64, feedback: &Feedback) {
        let last = is_last(feedback);
        let remotes = self.office.as_mut().map(|office| &mut office.remotes);
        let known = remotes.and_then(|remotes| match last {
            true => remotes.remove(&remote),
            false => remotes.get(&remote).copied(),
        });
        let Some(in_one_piece) = known else { return };
        let mut body = Vec::new();
        let answer = if !in_one_piece {
            self.push_feedback(&mut body, feedback);
            (!body.is_empty()).then(|| Answer::Frame(lossy(&body)))
        } else if last {
            let status = self.push_outcome(&mut body, feedback);
            let body = lossy(&body);
            Some(Answer::Outcome(Outcome { status, body }))
        } else {
            None
        };
        let Some(registry) = self.office.as_mut().and_then(|office| office.registry.as_mut()) else {
            return;
        };
        if let Some(answer) = answer {
            self.counters.count(Metric::GameServerFrames);
            registry.answer(remote, answer);
        }
        if last {
            registry.answer(remote, Answer::End);
        }
    }

    /// A request came over NATS.
    fn on_remote_asked(&mut self, remote: u64, seek: Seek) {
        let (now_ms, draining) = (self.clock.now_ms, self.drain.is_some());
        let Some(office) = &mut self.office else { return };
        office.remotes.insert(remote, seek.wanted == Wanted::Configured);
        match draining {
            true => self.tell_remote(remote, &Feedback::Failed(SHUTTING_DOWN)),
            false => office.desk.seek(Seeker::Remote(remote), None, seek, now_ms),
        }
    }

    /// The server goes: whoever asked over NATS is told, like those who are connected.
    pub(super) fn dismiss_remotes(&mut self) {
        let now_ms = self.clock.now_ms;
        let Some(office) = &mut self.office else { return };
        let remotes: Vec<u64> = office.remotes.keys().copied().collect();
        for remote in &remotes {
            office.desk.leave(Seeker::Remote(*remote), now_ms);
        }
        for remote in remotes {
            self.tell_remote(remote, &Feedback::Failed(SHUTTING_DOWN));
        }
        self.drain_desk();
    }

    /// What is the provider's or the register's business.
    fn instruct(&mut self, output: Output) {
        let now_ms = self.clock.now_ms;
        let Some(office) = &mut self.office else { return };
        match (output, &mut office.provider, &mut office.registry) {
            (Output::Submit(id, seek), provider, _) => {
                let taken = provider
                    .as_mut()
                    .is_some_and(|provider| provider.submit(id, seek).is_ok());
                if !taken {
                    let failed = Event::Failed(id, Failure::UNAVAILABLE);
                    office.desk.handle_event(failed, now_ms);
                }
            }
            (
                Output::Register {
                    id,
                    client_id,
                    placement,
                    wants_digest,
                },
                _,
                registry,
            ) => {
                let taken = registry
                    .as_mut()
                    .is_some_and(|registry| registry.register(id, client_id, &placement, wants_digest).is_ok());
                if !taken {
                    office.desk.handle_event(Event::NotRegistered(id), now_ms);
                }
            }
            (Output::Cancel(id), Some(provider), _) => provider.cancel(id),
            (Output::Claimed(session), Some(provider), _) => provider.claimed(&session),
            (Output::Released(session), Some(provider), _) => provider.released(&session),
            (_, _, _) => {}
        }
    }

    /// Takes what the provider and the register say.
    pub(super) fn serve_office(&mut self) {
        let now_ms = self.clock.now_ms;
        for _ in 0..EVENTS_MAX {
            let Some(office) = &mut self.office else { return };
            let provider = office.provider.as_mut().and_then(|provider| provider.poll_event());
            let event = provider.or_else(|| office.registry.as_mut().and_then(|registry| registry.poll_event()));
            match event {
                None => return,
                Some(Event::Asked(remote, seek)) => self.on_remote_asked(remote, seek),
                Some(Event::Noted(note)) => self.on_noted(note),
                Some(event) => office.desk.handle_event(event, now_ms),
            }
            self.drain_desk();
        }
    }

    /// Whether a provider has said something that was not taken yet.
    pub(super) fn office_has_events(&self) -> bool {
        self.office.as_ref().is_some_and(|office| {
            office.provider.as_ref().is_some_and(|provider| provider.has_events())
                || office.registry.as_ref().is_some_and(|registry| registry.has_events())
        })
    }

    fn on_noted(&mut self, note: Note) {
        let open = self.counters.get(Metric::GameServerSessionsOpen);
        match note {
            Note::Called { took, good } => {
                self.counters.count(match good {
                    true => Metric::GameServerCallsGood,
                    false => Metric::GameServerCallsFailed,
                });
                self.counters.add(Metric::GameServerCallNanos, took.as_nanos() as u64);
            }
            Note::Created => {
                self.counters.count(Metric::GameServerSessionsCreated);
                self.counters.set(Metric::GameServerSessionsOpen, open + 1);
            }
            Note::Deleted => {
                self.counters.count(Metric::GameServerSessionsDeleted);
                // It may have been made before this process began.
                self.counters
                    .set(Metric::GameServerSessionsOpen, open.saturating_sub(1));
            }
            Note::Unclaimed => self.counters.count(Metric::GameServerSessionsUnclaimed),
            Note::Abandoned => self.counters.count(Metric::GameServerSessionsAbandoned),
            Note::Connected(connected) => self.counters.set(Metric::GameServerNats, connected.into()),
        }
    }

    /// Takes over what the desk counted.
    pub(super) fn publish_office(&mut self) {
        let Some(office) = &self.office else { return };
        let figures = office.desk.figures();
        for (metric, value) in [
            (Metric::GameServerWaiting, figures.waiting),
            (Metric::GameServerReserved, figures.reserved),
            (Metric::GameServerClaimed, figures.claimed),
            (Metric::GameServerReady, figures.ready),
            (Metric::GameServerAbandoned, figures.abandoned),
            (Metric::GameServerLimited, figures.limited),
            (Metric::GameServerTimedOut, figures.timed_out),
            (Metric::GameServerUnavailable, figures.unavailable),
            (Metric::GameServerForwarded, figures.forwarded),
            (Metric::GameServerFailed, figures.failed),
            (Metric::GameServerUnclaimed, figures.unclaimed),
            (Metric::GameServerReports, figures.reports),
        ] {
            self.counters.set(metric, value);
        }
    }

    /// Does what is due at the desk.
    pub(super) fn expire_desk(&mut self) {
        let now_ms = self.clock.now_ms;
        let Some(office) = &mut self.office else { return };
        if office.desk.poll_timeout().is_some_and(|due_ms| due_ms <= now_ms) {
            office.desk.handle_timeout(now_ms);
            self.drain_desk();
        }
    }
}

/// What we wrote ourselves is UTF-8.
fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
