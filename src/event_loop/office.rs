//! The office of the desk: on one loop, with the provider and the register; on the others, the way to it.
//!
//! Owns: who is told what the desk says, and what providers say to it.
//! Never: decides anything; the desk does. Never waits for a provider.

use super::{Delivery, EventLoop};
use crate::ids::{ConnId, LoopId};
use crate::message::game_server::{Event, Failure, Feedback, Report, Reported, Seek, Seeker};
use crate::provider::{Answer, GameServerProvider, Registry};
use crate::shard::desk::{Desk, Output};

/// The loop that has the desk.
pub const DESK_LOOP: LoopId = LoopId::new(0);
/// Events of providers that are taken in one turn.
const EVENTS_MAX: usize = 256;

/// The desk with those who work for it.
pub struct Office {
    /// The desk.
    pub desk: Desk,
    /// Who finds servers that are not configured.
    pub provider: Option<Box<dyn GameServerProvider>>,
    /// Where game servers look up who comes.
    pub registry: Option<Box<dyn Registry>>,
}

/// Mail to and from the desk.
#[derive(Debug)]
pub enum Mail {
    /// Somebody seeks a server.
    Seek(Seeker, Seek),
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
    pub(super) fn ask_desk(&mut self, seeker: Seeker, seek: Seek) {
        self.to_desk(Mail::Seek(seeker, seek));
    }

    /// Nobody waits any more.
    pub(super) fn tell_desk_left(&mut self, seeker: Seeker) {
        self.to_desk(Mail::Left(seeker));
    }

    fn to_desk(&mut self, mail: Mail) {
        match self.id == DESK_LOOP {
            true => self.on_desk_mail(mail),
            false => self.mailbox.control(DESK_LOOP, Delivery::Desk(Box::new(mail))),
        }
    }

    pub(super) fn on_desk_mail(&mut self, mail: Mail) {
        let now_ms = self.clock.now_ms;
        match mail {
            Mail::Tell(conn, feedback) => return self.on_seeker_told(conn, &feedback),
            Mail::Reported(..) => return,
            Mail::Seek(seeker, seek) => {
                if let Some(office) = &mut self.office {
                    office.desk.seek(seeker, seek, now_ms);
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
            Seeker::Remote(remote) => {
                let mut frame = Vec::new();
                self.push_feedback(&mut frame, &feedback);
                let Some(registry) = self.office.as_mut().and_then(|office| office.registry.as_mut()) else {
                    return;
                };
                if !frame.is_empty() {
                    registry.answer(remote, Answer::Frame(String::from_utf8_lossy(&frame).into_owned()));
                }
                if matches!(feedback, Feedback::Ready(_) | Feedback::Failed(_) | Feedback::End) {
                    registry.answer(remote, Answer::End);
                }
            }
        }
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
                Some(Event::Asked(remote, seek)) => office.desk.seek(Seeker::Remote(remote), seek, now_ms),
                Some(Event::Noted(_)) => {}
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
