//! The inbox: mail of other loops, into the shard or onto connections.
//!
//! Owns: what each delivery does.
//! Never: waits; what an inbox does not hold now comes in a later turn.

use std::ops::Range;

use super::peers::{Direct, Sender};
use super::{Delivery, EventLoop, MAIL_BATCH};
use crate::ids::NamespaceId;
use crate::message::Refusal;
use crate::shard::{DirectMail, FanOutMail, Held, Route};

impl EventLoop {
    pub(super) fn receive_mail(&mut self) {
        for _ in 0..MAIL_BATCH {
            let Some(mut batch) = self.mailbox.take() else { return };
            let bytes = std::mem::take(&mut batch.bytes);
            for delivery in batch.items.drain(..) {
                self.receive(delivery, &bytes);
            }
            batch.bytes = bytes;
            self.mailbox.done(batch);
            self.flush_early();
        }
    }

    fn receive(&mut self, delivery: Delivery, bytes: &[u8]) {
        match delivery {
            Delivery::Mail(mail) => self.shard.handle_mail(mail),
            Delivery::Direct(mail) => self.receive_direct(&mail, bytes),
            Delivery::FanOut(mail) => self.receive_fan_out(&mail, bytes),
            Delivery::Returned(mail) => self.on_returned(&mail, bytes),
            Delivery::Plain(resolved) => self.on_plain_resolved(&resolved),
            Delivery::Punch(mail) => {
                self.punch.handle_mail(*mail, self.clock.now_ms);
                self.drain_punch();
            }
            Delivery::Adopt(moving) => self.adopt(*moving),
            Delivery::Admit(ask) => self.on_admit(ask),
            Delivery::Admitted(answer) => self.on_admitted(answer),
            Delivery::AddressChanged(change) => self.addresses.change(&change),
            Delivery::RouteFailed(target, node) => self.shard.route_failed(&target, node),
            Delivery::Desk(mail) => self.on_desk_mail(*mail),
            Delivery::StatsAsked(asked) => self.on_stats_asked(asked),
            Delivery::StatsAnswered(answered) => self.on_stats_answered(answered),
            Delivery::Reload(config) => self.tls = Some(config),
            Delivery::Stop => self.start_drain(),
        }
        self.drain_outputs();
    }

    fn receive_direct(&mut self, mail: &DirectMail, bytes: &[u8]) {
        let refused = match self.shard.receive(mail, namespaces_of(bytes, &mail.shares)) {
            Route::Local { conn, about } => {
                let name = about.then(|| text_of(bytes, &mail.about_name));
                let payload = mail.payload.as_ref().map(|payload| text_of(bytes, payload));
                self.forward(conn, &mail.from, &mail.to, mail.kind, name, payload).err()
            }
            Route::Hold { peer } => self.shard.hold(peer, held_of(mail, bytes, true)).err(),
            Route::Away { node, about } => self.pass_away(node, mail, about, bytes).err(),
            Route::Ask { about } => self.shard.keep(held_of(mail, bytes, about)).err(),
            Route::Refused(Refusal::PeerNotFound) if self.returns(mail, bytes) => None,
            Route::Refused(refusal) => Some(refusal),
            // A key's home is arithmetic: every loop computes the same one.
            Route::Loop { .. } => None,
        };
        if let Some(refusal) = refused {
            self.shard.refuse(mail.origin, mail.from, mail.session, refusal);
        }
    }

    fn receive_fan_out(&mut self, mail: &FanOutMail, bytes: &[u8]) {
        let mut exclude = std::mem::take(&mut self.scratch.exclude);
        exclude.clear();
        let hashes = bytes.get(Range {
            start: mail.exclude.start as usize,
            end: mail.exclude.end as usize,
        });
        exclude.extend(
            hashes
                .unwrap_or_default()
                .as_chunks::<8>()
                .0
                .iter()
                .map(|hash| u64::from_le_bytes(*hash)),
        );
        let sender = Sender {
            fingerprint: mail.from,
            session: mail.session,
            origin: mail.origin,
        };
        let (name, payload) = (text_of(bytes, &mail.name), text_of(bytes, &mail.payload));
        let refused = self.fan_out(mail.namespace, &sender, name, payload, &exclude);
        self.scratch.exclude = exclude;
        self.shard.answer_fan_out(mail, refused);
    }
}

/// A direct message from another loop that must wait; with the namespace that it names only if `about`.
fn held_of(mail: &DirectMail, bytes: &[u8], about: bool) -> Box<Held> {
    let direct = Direct {
        kind: mail.kind,
        about: mail
            .about
            .filter(|_| about)
            .map(|id| (id, text_of(bytes, &mail.about_name))),
        payload: mail.payload.as_ref().map(|payload| text_of(bytes, payload)),
    };
    let sender = Sender {
        fingerprint: mail.from,
        session: mail.session,
        origin: mail.origin,
    };
    direct.held(&sender, &mail.to, namespaces_of(bytes, &mail.shares).collect())
}

/// The text at a place in a batch's bytes.
pub(super) fn text_of<'a>(bytes: &'a [u8], range: &Range<u32>) -> &'a str {
    let bytes = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
    // It was a `str` when it was put there by a loop of this process; the check is cheap beside the copy that follows.
    simdutf8::basic::from_utf8(bytes).unwrap_or_default()
}

/// The namespaces at a place in a batch's bytes.
pub(super) fn namespaces_of<'a>(bytes: &'a [u8], range: &Range<u32>) -> impl Iterator<Item = NamespaceId> + 'a {
    let bytes = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
    bytes.as_chunks::<16>().0.iter().map(|id| NamespaceId::from_bytes(*id))
}
