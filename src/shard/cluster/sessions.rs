//! Sessions in a cluster: their way into the broker's directory, and out of it.
//!
//! Owns: the registrations that wait for the broker, and the ends that it has not confirmed.
//! Never: ends a session but through `peers`.

use std::collections::VecDeque;

use compact_str::CompactString;

use super::Asked as Command;
use super::resume::Resuming;
use crate::ids::{CommandId, ConnId, Fingerprint, Homes};
use crate::message::Refusal;
use crate::message::cluster::{Reply, What, Who};
use crate::shard::Shard;
use crate::shard::aliases::{self, CANDIDATES};
use crate::shard::output::Output;
use crate::shard::peers::PeerKey;
use crate::shard::registration::{Candidates, Claim, Registering};

/// Ends under way at a time. When a load balancer drops everybody at once, the queue to the broker has to do with more than
/// that; the others wait here.
const ENDS_MAX: usize = 1024;
/// How many of them are given for one sign of the broker: where there is no room for them they all come back.
const ENDS_AT_ONCE: usize = 64;

/// What the directory has not confirmed.
#[derive(Debug)]
pub(super) struct Sessions {
    /// Ends to be given, again if they were lost. Not more than peers may be registered: while the broker is lost nobody
    /// registers, and else each registration comes with a reply, upon which more of them are given than it can add.
    pub(super) ends: VecDeque<Who>,
    ends_under_way: usize,
    /// See [`super::resume`].
    pub(super) resuming: Resuming,
}

/// What a session waits for.
#[derive(Debug)]
pub(super) enum Asked {
    /// To be registered.
    Register,
    /// To be forgotten.
    End,
    /// See [`super::resume`].
    Resume,
}

impl Sessions {
    pub(super) fn new(homes: &Homes) -> Self {
        Self {
            ends: VecDeque::new(),
            ends_under_way: 0,
            resuming: Resuming::new(homes),
        }
    }

    /// Ends that were given and not answered.
    pub(super) fn ends_under_way(&self) -> usize {
        self.ends_under_way
    }
}

impl Shard {
    pub(super) fn on_session_reply(&mut self, id: CommandId, who: Who, asked: Asked, reply: Reply) {
        match asked {
            Asked::Register => self.on_registration_reply(id, who, &reply),
            Asked::End => {
                let Some(cluster) = &mut self.cluster else { return };
                cluster.sessions.ends_under_way -= 1;
                if matches!(reply, Reply::Lost) {
                    cluster.sessions.ends.push_back(who);
                }
            }
            Asked::Resume => self.on_resume_reply(id, who, &reply),
        }
    }

    /// Whatever was waiting for the broker goes on, as far as it may be under way.
    pub(in crate::shard) fn tell_sessions(&mut self) {
        self.give_ends();
        self.resume_more();
    }

    /// A key has nothing here that is in the way of its next session: the broker is asked for that.
    pub(in crate::shard) fn register_in_cluster(&mut self, fingerprint: &Fingerprint) {
        let is_up = self.is_up();
        let arrival = self.peers.arrivals.get_mut(fingerprint);
        let Some(arrival) = arrival.filter(|arrival| arrival.outstanding == 0) else {
            return;
        };
        let Some(next) = &arrival.next else { return };
        let Claim::Broker {
            candidates,
            command: None,
        } = next.claim
        else {
            return;
        };
        if !is_up {
            let conn = next.conn;
            arrival.next = None;
            return self.refuse_arrival(fingerprint, conn, Refusal::BrokerUnavailable);
        }
        let aliases = candidates.aliases(fingerprint, &next.alias);
        let who = Who {
            fingerprint: *fingerprint,
            session: next.session,
        };
        let command = Some(self.command(Command::Session(who, Asked::Register), What::Register { who, aliases }));
        let arrival = self.peers.arrivals.get_mut(fingerprint);
        if let Some(next) = arrival.and_then(|arrival| arrival.next.as_mut()) {
            next.claim = Claim::Broker { candidates, command };
        }
    }

    fn on_registration_reply(&mut self, id: CommandId, who: Who, reply: &Reply) {
        let is_it = |next: &mut Registering| matches!(next.claim, Claim::Broker { command, .. } if command == Some(id));
        let arrival = self.peers.arrivals.get_mut(&who.fingerprint);
        let Some(mut next) = arrival.and_then(|arrival| arrival.next.take_if(is_it)) else {
            // It was given up or replaced: the broker was told so already, or told it.
            return;
        };
        let Reply::Registered { alias } = reply else {
            let refusal = match reply {
                Reply::Refused(refusal) => *refusal,
                _ => Refusal::BrokerUnavailable,
            };
            self.refuse_arrival(&who.fingerprint, next.conn, refusal);
            // Perhaps it was done.
            return self.end_in_cluster(who);
        };
        if let (Some(place), Claim::Broker { candidates, .. }) = (alias, &next.claim)
            && *candidates == Candidates::Made
        {
            next.alias = aliases::made(&who.fingerprint, *place);
        }
        self.peers.arrivals.remove(&who.fingerprint);
        self.forget_route(&who.fingerprint);
        if alias.is_some() {
            // The alias is decided; its home here is told so that it need not ask the broker. What it answers does not matter.
            self.claim_alias(&who.fingerprint, who.session, next.alias.clone());
        }
        self.make_peer(who.fingerprint, next, alias.is_some());
    }

    fn refuse_arrival(&mut self, fingerprint: &Fingerprint, conn: ConnId, refusal: Refusal) {
        self.permits.registered.release();
        self.outputs.push_back(Output::RegistrationRefused { conn, refusal });
        self.forget_arrival_if_done(fingerprint);
    }

    /// A registration will not be: the broker forgets it, if it was asked.
    pub(in crate::shard) fn give_up_in_cluster(&mut self, fingerprint: &Fingerprint, registering: &Registering) {
        if let Claim::Broker { command: Some(_), .. } = registering.claim {
            self.end_in_cluster(Who {
                fingerprint: *fingerprint,
                session: registering.session,
            });
        }
    }

    /// A session is over: the broker is told, now or when it can be.
    pub(in crate::shard) fn end_in_cluster(&mut self, who: Who) {
        if let Some(cluster) = &mut self.cluster {
            cluster.sessions.resuming.forget(who.session);
            cluster.sessions.ends.push_back(who);
            self.tell_sessions();
        }
    }

    fn give_ends(&mut self) {
        for _ in 0..ENDS_AT_ONCE {
            let cluster = self.cluster.as_mut().filter(|cluster| cluster.up);
            let Some(cluster) = cluster.filter(|cluster| cluster.sessions.ends_under_way < ENDS_MAX) else {
                return;
            };
            let Some(who) = cluster.sessions.ends.pop_front() else {
                return;
            };
            cluster.sessions.ends_under_way += 1;
            self.command(Command::Session(who, Asked::End), What::End { who });
        }
    }

    /// Another node has a session of the key, and has ended this one. The broker is told the end all the same: that news may
    /// be from before the broker was lost, and the session have been taken up again since, if the other one was over by then.
    pub(super) fn on_session_replaced(&mut self, who: Who) {
        if let Some(key) = self.peers.find_session(&who.fingerprint, who.session) {
            self.lose_session(who, key);
            return self.end_in_cluster(who);
        }
        // The word of it may be here before the reply to the registration.
        let is_it = |next: &mut Registering| next.session == who.session;
        let arrival = self.peers.arrivals.get_mut(&who.fingerprint);
        match arrival.and_then(|arrival| arrival.next.take_if(is_it)) {
            Some(next) => {
                self.permits.registered.release();
                self.close_replaced(next.conn);
                self.forget_arrival_if_done(&who.fingerprint);
            }
            None => self.counters.stale_mail += 1,
        }
    }

    /// Ends a session of which the broker knows that it is over.
    pub(super) fn lose_session(&mut self, who: Who, key: PeerKey) {
        if let Some(cluster) = &mut self.cluster {
            cluster.sessions.resuming.forget(who.session);
        }
        if let Some(conn) = self.forget_session(key) {
            self.permits.registered.release();
            self.close_replaced(conn);
        }
        self.tell_sessions();
    }
}

impl Candidates {
    /// The aliases to be asked for; `alias` is the one shown if none of them is to be had.
    fn aliases(self, fingerprint: &Fingerprint, alias: &CompactString) -> Vec<CompactString> {
        match self {
            Self::None => Vec::new(),
            Self::Wanted => vec![alias.clone()],
            Self::Made => (0..CANDIDATES).map(|place| aliases::made(fingerprint, place)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixtures::Scene;
    use super::*;
    use crate::message::cluster::Event;
    use crate::message::{CLOSE_REPLACED, Event as Told};
    use crate::shard::mail::Mail;

    const FIRST: ConnId = ConnId::new(1, 1);
    const SECOND: ConnId = ConnId::new(2, 1);

    fn registers(what: &What) -> (Who, Vec<CompactString>) {
        match what {
            What::Register { who, aliases } => (*who, aliases.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn ends(what: &What) -> Who {
        match what {
            What::End { who } => *who,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_broker_says_which_alias_a_peer_holds() {
        let mut scene = Scene::new();
        let key = scene.key(1);
        let looks_like_a_key = "ab".repeat(32);
        let cases: [(&str, usize, Option<u8>, &str); 5] = [
            ("", 8, Some(3), &aliases::made(&key, 3)),
            ("", 8, None, &aliases::made(&key, 0)),
            ("ada", 1, Some(0), "ada"),
            ("ada", 1, None, "ada"),
            (&looks_like_a_key, 0, None, &looks_like_a_key),
        ];
        for (wanted, asked, granted, shown) in cases {
            scene.register(FIRST, key, wanted);
            assert!(scene.registered.is_empty(), "the broker is waited for");
            let what = scene.answer(Reply::Registered { alias: granted });
            let (who, aliases) = registers(&what);
            assert_eq!(aliases.len(), asked);
            assert!(asked != 1 || aliases[0] == shown);
            let (conn, peer) = scene.registered.pop().unwrap();
            assert_eq!(conn, FIRST);
            let record = scene.shard.peers.get(peer).unwrap();
            assert_eq!((record.session, record.alias_held), (who.session, granted.is_some()));
            assert_eq!(record.info.alias, shown);
            assert!(matches!(scene.told.pop(), Some((FIRST, Told::Registered { alias, .. })) if alias == shown));
            // Its home on this node knows the holder without the broker, until the session ends.
            let claimed = |mail: &(_, Mail)| matches!(mail, (_, Mail::ClaimAlias { alias, .. }) if alias == shown);
            let known = scene.shard.aliases.resolve(shown) == Some(key) || scene.mail.iter().any(claimed);
            assert_eq!(known, granted.is_some());
            scene.shard.close(peer);
            scene.collect();
            assert_eq!(scene.shard.aliases.len(), 0);
            let ended = scene.answer(Reply::Done);
            assert_eq!(ends(&ended), who);
            assert_eq!(scene.permits.registered.now(), 0);
            scene.mail.clear();
        }
    }

    #[test]
    fn a_key_that_registers_again_ends_its_first_session_before() {
        let mut scene = Scene::new();
        let (peer, old) = scene.peer(1);
        scene.register(SECOND, old.fingerprint, "");
        assert_eq!(scene.closed, [(FIRST, CLOSE_REPLACED)]);
        assert_eq!(ends(&scene.answer(Reply::Done)), old);
        let (new, _) = registers(&scene.answer(Reply::Registered { alias: Some(0) }));
        assert_ne!(new, old);
        assert_eq!(scene.registered.pop().map(|(conn, _)| conn), Some(SECOND));
        assert!(!scene.shard.serves(peer, FIRST));
        assert_eq!(scene.permits.registered.now(), 1);
    }

    #[test]
    fn the_broker_is_asked_when_every_home_has_let_go() {
        let mut scene = Scene::new();
        let (peer, old) = scene.peer(1);
        let name = scene.name(0);
        scene.join(peer, &name);
        scene.mail.clear();
        scene.register(SECOND, old.fingerprint, "");
        assert_eq!(ends(&scene.answer(Reply::Done)), old);
        assert!(scene.commands.is_empty(), "a home has not answered");
        assert!(scene.mail.iter().any(|(_, mail)| matches!(mail, Mail::Gone { .. })));
        let fingerprint = old.fingerprint;
        scene.shard.handle_mail(Mail::GoneDone { fingerprint });
        scene.collect();
        let (new, _) = registers(&scene.answer(Reply::Registered { alias: None }));
        assert_eq!(scene.session(&fingerprint), Some(new.session));
    }

    #[test]
    fn a_registration_that_is_given_up_leaves_no_session_behind() {
        for reply in [Reply::Registered { alias: Some(0) }, Reply::Lost] {
            let mut scene = Scene::new();
            let key = scene.key(1);
            scene.register(FIRST, key, "ada");
            let command = scene.commands.pop_front().unwrap();
            let (who, _) = registers(&command.what);
            scene.shard.abandon_registration(FIRST, &key);
            scene.collect();
            assert_eq!(ends(&scene.answer(Reply::Done)), who);
            scene.reply(command.id, reply);
            assert!(scene.registered.is_empty() && scene.refused.is_empty() && scene.commands.is_empty());
            assert_eq!(scene.permits.registered.now(), 0);
            assert!(scene.shard.peers.arrivals.is_empty());
        }
    }

    #[test]
    fn a_registration_replaced_by_the_next_one_ends_first() {
        let mut scene = Scene::new();
        let key = scene.key(1);
        scene.register(FIRST, key, "ada");
        scene.register(SECOND, key, "ada");
        assert_eq!(scene.closed, [(FIRST, CLOSE_REPLACED)]);
        let commands = scene.take_commands();
        let [first, end, second] = &commands[..] else {
            panic!("{commands:?}");
        };
        let (old, _) = registers(&first.what);
        assert_eq!(ends(&end.what), old);
        let (new, _) = registers(&second.what);
        for command in [first, second] {
            scene.reply(command.id, Reply::Registered { alias: Some(0) });
        }
        scene.reply(end.id, Reply::Done);
        assert_eq!(scene.registered.len(), 1);
        assert_eq!(scene.session(&key), Some(new.session));
        assert_eq!(scene.permits.registered.now(), 1);
    }

    #[test]
    fn without_the_broker_a_registration_is_refused_and_replaces_nobody() {
        let mut scene = Scene::down();
        let key = scene.key(1);
        scene.register(FIRST, key, "");
        assert_eq!(scene.refused, [(FIRST, Refusal::BrokerUnavailable)]);
        scene.refused.clear();
        scene.hear(Event::Up);
        let (peer, who) = scene.peer(1);
        scene.lose_broker();
        scene.register(SECOND, who.fingerprint, "");
        assert_eq!(scene.refused, [(SECOND, Refusal::BrokerUnavailable)]);
        assert!(scene.closed.is_empty() && scene.shard.serves(peer, FIRST));
        assert_eq!(scene.permits.registered.now(), 1);
    }

    #[test]
    fn a_registration_whose_reply_is_lost_is_ended_when_the_broker_is_back() {
        let mut scene = Scene::new();
        let key = scene.key(1);
        scene.register(FIRST, key, "");
        let (who, _) = registers(&scene.commands[0].what);
        scene.lose_broker();
        assert_eq!(scene.refused, [(FIRST, Refusal::BrokerUnavailable)]);
        assert_eq!(scene.permits.registered.now(), 0);
        scene.hear(Event::Up);
        assert_eq!(ends(&scene.answer(Reply::Done)), who);
        assert!(scene.commands.is_empty());
    }

    #[test]
    fn a_registration_that_waits_for_a_home_while_the_broker_goes_is_refused() {
        let mut scene = Scene::new();
        let (peer, old) = scene.peer(1);
        let (name, fingerprint) = (scene.name(0), old.fingerprint);
        scene.join(peer, &name);
        scene.register(SECOND, fingerprint, "");
        scene.lose_broker();
        assert!(scene.refused.is_empty());
        scene.shard.handle_mail(Mail::GoneDone { fingerprint });
        scene.collect();
        assert_eq!(scene.refused, [(SECOND, Refusal::BrokerUnavailable)]);
        assert_eq!(scene.permits.registered.now(), 0);
        assert!(scene.shard.peers.arrivals.is_empty());
    }

    #[test]
    fn ends_that_were_lost_are_told_first() {
        let mut scene = Scene::new();
        let (staying, stays) = scene.peer(1);
        let (leaving, leaves) = scene.peer(2);
        let (gone, goes) = scene.peer(3);
        scene.shard.close(leaving);
        scene.collect();
        scene.lose_broker();
        scene.shard.close(gone);
        scene.collect();
        assert!(scene.commands.is_empty(), "nothing is given that would be lost");
        scene.hear(Event::Up);
        let told = [scene.answer(Reply::Done), scene.answer(Reply::Done)];
        assert_eq!([ends(&told[0]), ends(&told[1])], [leaves, goes]);
        let what = scene.answer(Reply::Registered { alias: Some(0) });
        assert!(matches!(what, What::Resume { who, .. } if who == stays));
        assert!(scene.shard.serves(staying, FIRST));
        assert!(scene.shard.cluster_ready() && scene.commands.is_empty());
    }

    #[test]
    fn many_ends_do_not_fill_the_queue() {
        let mut scene = Scene::new();
        let count = ENDS_MAX as u32 + 100;
        for slot in 0..count {
            let (conn, key) = (ConnId::new(slot, 1), scene.key(slot));
            scene.register(conn, key, "");
            let register = scene.commands.pop_back().unwrap();
            scene.reply(register.id, Reply::Registered { alias: None });
            let (_, peer) = scene.registered.pop().unwrap();
            scene.shard.close(peer);
            scene.collect();
        }
        assert_eq!(scene.commands.len(), ENDS_MAX);
        let mut told = std::collections::BTreeSet::new();
        while !scene.commands.is_empty() {
            assert!(told.insert(ends(&scene.answer(Reply::Done))), "each is told once");
        }
        assert_eq!(told.len(), count as usize);
    }

    #[test]
    fn ends_for_which_there_was_no_room_go_when_the_broker_answers() {
        let mut scene = Scene::new();
        let (peer, who) = scene.peer(1);
        let key = scene.key(2);
        scene.register(SECOND, key, "");
        scene.busy = true;
        scene.shard.close(peer);
        scene.collect();
        scene.busy = false;
        assert_eq!(scene.commands.len(), 1, "only the registration");
        scene.answer(Reply::Registered { alias: Some(0) });
        assert_eq!(ends(&scene.answer(Reply::Done)), who);
    }

    #[test]
    fn who_registers_on_another_node_is_replaced_here() {
        let mut scene = Scene::new();
        let (peer, who) = scene.peer(1);
        scene.hear(Event::Replaced(who));
        assert_eq!(scene.closed, [(FIRST, CLOSE_REPLACED)]);
        assert!(!scene.shard.serves(peer, FIRST));
        assert_eq!(ends(&scene.answer(Reply::Done)), who);
        assert_eq!(scene.permits.registered.now(), 0);
        scene.hear(Event::Replaced(who));
        assert_eq!(scene.closed.len(), 1);
    }

    #[test]
    fn who_is_replaced_elsewhere_before_the_reply_is_here_never_registers() {
        let mut scene = Scene::new();
        let key = scene.key(1);
        scene.register(FIRST, key, "");
        let (who, _) = registers(&scene.commands[0].what);
        scene.hear(Event::Replaced(who));
        assert_eq!(scene.closed, [(FIRST, CLOSE_REPLACED)]);
        scene.answer(Reply::Registered { alias: Some(0) });
        assert!(scene.registered.is_empty() && scene.refused.is_empty() && scene.commands.is_empty());
        assert_eq!(scene.permits.registered.now(), 0);
        assert!(scene.shard.peers.arrivals.is_empty());
    }

    #[test]
    fn a_replacement_elsewhere_does_not_end_the_session_after_it() {
        let mut scene = Scene::new();
        let (_, old) = scene.peer(1);
        scene.register(SECOND, old.fingerprint, "");
        scene.answer(Reply::Done);
        scene.answer(Reply::Registered { alias: Some(0) });
        scene.hear(Event::Replaced(old));
        assert_eq!(scene.closed, [(FIRST, CLOSE_REPLACED)]);
        assert!(scene.session(&old.fingerprint).is_some());
    }
}
