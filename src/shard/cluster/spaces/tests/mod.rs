//! The home of a namespace, told by hand what the broker says, in every order that the two connections allow.
#![allow(clippy::unwrap_used)]

mod entering;
mod faults;
mod matches;

use std::sync::Arc;

use super::*;
use crate::message::cluster::{Command, Event, Member, RoomTerms, Roster};
use crate::message::{CriteriaKey, Matched, Meta};
use crate::shard::mail::Change as Presence;
use crate::shard::{Limits, Output, Permits};

/// The home under test is loop 0; the peers are served by loop 1, so that all they hear of is mail.
struct Home {
    shard: Shard,
    permits: Arc<Permits>,
    space: NamespaceId,
    name: Arc<str>,
    requests: u32,
    commands: Vec<Command>,
    unheard: Vec<String>,
}

impl Home {
    fn new() -> Self {
        let homes = Homes::new(2, [1, 2, 3, 4]).in_cluster();
        let limits = Arc::new(Limits {
            max_peers: 1000,
            max_rooms: 1,
            max_match_waiting: 2,
            messages: None,
            deliveries: None,
            send_buffer_size: 32,
            send_buffer_bytes: 1 << 20,
            state_bytes: 1 << 30,
        });
        let permits = Arc::new(Permits::default());
        let mut names = (0..).map(|number| format!("place {number}"));
        let name = names
            .find(|name| homes.of_namespace(homes.namespace(name)).index() == 0)
            .unwrap();
        let space = homes.namespace(&name);
        let mut shard = Shard::new(LoopId::new(0), homes, limits, permits.clone(), [0; 32]);
        shard.join_cluster();
        let mut home = Self {
            shard,
            permits,
            space,
            name: name.as_str().into(),
            requests: 0,
            commands: Vec::new(),
            unheard: Vec::new(),
        };
        home.tell(Event::Up);
        home.tell(Event::Compare);
        home
    }

    /// The peer of this letter: its key is at home on loop 1.
    fn key(&self, peer: char) -> Fingerprint {
        let mut keys = (0..).map(|number| Fingerprint::of_key(&format!("{peer}{number}")));
        let homes = self.shard.homes.clone();
        keys.find(|key| homes.of_fingerprint(key).index() == 1).unwrap()
    }

    fn letter(&self, key: &Fingerprint) -> char {
        ('a'..='z').find(|peer| self.key(*peer) == *key).unwrap()
    }

    fn info(&self, peer: char) -> Arc<PeerInfo> {
        Arc::new(PeerInfo {
            fingerprint: self.key(peer),
            alias: "".into(),
            app_type: "".into(),
            meta: Meta::default(),
        })
    }

    fn who(&self, peer: char) -> Who {
        Who {
            fingerprint: self.key(peer),
            session: SessionId::from_u64(peer as u64),
        }
    }

    /// What the copy says, which is asked only while the broker is down.
    fn look(&mut self, who: char, ask: Ask) {
        let up = std::mem::replace(&mut self.shard.cluster.as_mut().unwrap().up, false);
        self.ask(who, ask);
        self.shard.cluster.as_mut().unwrap().up = up;
    }

    fn ask(&mut self, peer: char, ask: Ask) {
        self.requests += 1;
        let Who { fingerprint, session } = self.who(peer);
        let asker = Asker {
            loop_id: LoopId::new(1),
            fingerprint,
            session,
            peer: Some(PeerKey(peer as u32)),
            request: self.requests,
        };
        let namespace = self.space;
        self.shard.handle_mail(Mail::Ask { asker, namespace, ask });
    }

    fn ask_join(&mut self, peer: char) {
        self.ask_to_enter(peer, false);
    }

    fn ask_to_enter(&mut self, peer: char, room: bool) {
        let (name, info) = (self.name.clone(), self.info(peer));
        let crowded = false;
        self.ask(
            peer,
            Ask::Join {
                name,
                info,
                room,
                crowded,
            },
        );
    }

    fn ask_create(&mut self, peer: char) {
        let (name, info) = (self.name.clone(), self.info(peer));
        let (max_size, crowded) = (9, false);
        let ask = Ask::CreateRoom {
            name,
            info,
            max_size,
            crowded,
        };
        self.ask(peer, ask);
    }

    fn ask_match(&mut self, peer: char) {
        let ask = Ask::Match {
            name: (*self.name).into(),
            info: self.info(peer),
            group_size: 2,
            criteria: CriteriaKey([0; 32]),
        };
        self.ask(peer, ask);
    }

    fn gone(&mut self, peer: char) {
        let Who { fingerprint, session } = self.who(peer);
        let asker = Asker {
            loop_id: LoopId::new(1),
            fingerprint,
            session,
            peer: None,
            request: 0,
        };
        let namespaces = vec![self.space];
        self.shard.handle_mail(Mail::Gone { asker, namespaces });
    }

    fn rejoin(&mut self, peer: char, member: bool, ticket: bool) {
        let mail = Mail::Rejoin {
            who: self.who(peer),
            loop_id: LoopId::new(1),
            peer: PeerKey(peer as u32),
            namespace: self.space,
            info: self.info(peer),
            member,
            ticket,
        };
        self.shard.handle_mail(mail);
    }

    fn tell(&mut self, event: Event) {
        self.shard.handle_cluster(event);
    }

    /// Replies to the oldest command without a reply.
    fn reply(&mut self, reply: Reply) -> What {
        self.take_outputs();
        let Command { id, what } = self.commands.remove(0);
        self.tell(Event::Replied { id, reply });
        what
    }

    fn joined(&mut self, version: u64, roster: Option<Box<Roster>>) {
        let what = self.reply(Reply::Joined {
            version,
            roster: roster.clone(),
        });
        if let What::Join { roster: asked, .. } = what {
            assert_eq!(asked, roster.is_some(), "a roster is given if it is asked for");
        }
    }

    fn change(&mut self, version: u64, change: Change) {
        let namespace = self.space;
        self.tell(Event::Changed {
            namespace,
            version,
            change,
        });
    }

    fn comes(&mut self, version: u64, peer: char, node: Option<u16>) {
        let (member, room) = (self.member(peer, node), None);
        self.change(version, Change::Joined { member, room });
    }

    fn comes_to_room(&mut self, version: u64, peer: char, node: Option<u16>) {
        let (member, room) = (self.member(peer, node), self.terms());
        self.change(version, Change::Joined { member, room });
    }

    fn goes(&mut self, version: u64, peer: char, node: Option<u16>) {
        let (node, who) = (node.and_then(NodeNo::new), self.who(peer));
        let kicked_by = None;
        self.change(version, Change::Left { node, who, kicked_by });
    }

    fn is_kicked(&mut self, version: u64, peer: char) {
        let (node, who, kicked_by) = (None, self.who(peer), Some(self.key('o')));
        self.change(version, Change::Left { node, who, kicked_by });
    }

    fn terms(&self) -> Option<RoomTerms> {
        let (owner, max_size) = (self.key('o'), 9);
        Some(RoomTerms { owner, max_size })
    }

    fn member(&self, peer: char, node: Option<u16>) -> Member {
        Member {
            node: node.and_then(NodeNo::new),
            session: self.who(peer).session,
            info: self.info(peer),
        }
    }

    fn roster(&self, version: u64, members: &[(char, Option<u16>)]) -> Box<Roster> {
        Box::new(Roster {
            version,
            room: None,
            members: members.iter().map(|(peer, node)| self.member(*peer, *node)).collect(),
        })
    }

    fn room_roster(&self, version: u64, members: &[(char, Option<u16>)]) -> Box<Roster> {
        let room = self.terms();
        Box::new(Roster {
            room,
            ..*self.roster(version, members)
        })
    }

    fn matched(&mut self, members: &[(char, CommandId)], peers: &str) {
        let matched = Arc::new(Matched {
            namespace: self.name.clone(),
            session: [7; 16],
            peers: peers.chars().map(|peer| self.info(peer)).collect(),
        });
        let members = members
            .iter()
            .map(|(peer, number)| (self.who(*peer), *number))
            .collect();
        let namespace = self.space;
        self.tell(Event::Matched {
            namespace,
            members,
            matched,
        });
    }

    fn take_outputs(&mut self) {
        while let Some(output) = self.shard.poll_output() {
            match output {
                Output::Command(command) => self.commands.push(*command),
                Output::Mail { mail, .. } => {
                    let text = self.text(mail);
                    self.unheard.push(text);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// What was said to loop 1 since it was asked last.
    fn said(&mut self) -> Vec<String> {
        self.take_outputs();
        std::mem::take(&mut self.unheard)
    }

    /// The kinds of the commands that wait for a reply.
    fn asked(&mut self) -> Vec<&'static str> {
        self.take_outputs();
        let kind = |command: &Command| match command.what {
            What::Join { roster: true, .. } => "join and roster",
            What::Join { .. } => "join",
            What::Rejoin { .. } => "rejoin",
            What::CreateRoom { .. } => "create",
            What::Leave { .. } => "leave",
            What::Kick { .. } => "kick",
            What::Show { .. } => "show",
            What::Match { resumed: true, .. } => "match again",
            What::Match { .. } => "match",
            What::List { .. } => "list",
            What::Describe { .. } => "describe",
            What::Roster { .. } => "roster",
            _ => "other",
        };
        self.commands.iter().map(kind).collect()
    }

    fn ticket(&mut self) -> CommandId {
        self.take_outputs();
        let last = self.commands.last().unwrap();
        let What::Match { ticket, .. } = &last.what else {
            panic!("{last:?}")
        };
        *ticket
    }

    fn letters(&self, peers: &[Arc<PeerInfo>]) -> String {
        peers.iter().map(|info| self.letter(&info.fingerprint)).collect()
    }

    fn text(&self, mail: Mail) -> String {
        let place = |loop_id: LoopId| match loop_id.node() {
            Some(node) => format!("node {}", node.index()),
            None => format!("loop {}", loop_id.index()),
        };
        match mail {
            Mail::Answer { asker, answer, .. } => {
                let asker = self.letter(&asker.fingerprint);
                match answer {
                    Answer::Joined { peers, total, loops } => {
                        assert_eq!(total as usize, peers.len());
                        let loops = loops.iter().map(|(at, members)| format!(", {} {members}", place(*at)));
                        format!("{asker} in {}{}", self.letters(&peers), loops.collect::<String>())
                    }
                    Answer::Created { peers, .. } if peers.is_empty() => format!("{asker} created"),
                    Answer::Created { peers, .. } => format!("{asker} created before {}", self.letters(&peers)),
                    Answer::Listed { peers, .. } => format!("{asker} listed {}", self.letters(&peers)),
                    Answer::Described { peer_count, .. } => format!("{asker} described {peer_count}"),
                    Answer::Waiting => format!("{asker} waits"),
                    Answer::Done => format!("{asker} done"),
                    Answer::Refused(refusal) => format!("{asker} {}", refusal.text()),
                }
            }
            Mail::Presence { change, count, .. } => {
                let who = match &change {
                    Presence::Joined(info) => format!("+{}", self.letter(&info.fingerprint)),
                    Presence::Left(key) => format!("-{}", self.letter(key)),
                    Presence::Counted => "=".to_owned(),
                };
                format!("{who} {} {}", place(count.0), count.1)
            }
            Mail::Kicked { target, .. } => format!("{} kicked", self.letter(&target)),
            Mail::Matched {
                namespace,
                members,
                matched,
            } => {
                let told = members.iter().map(|(peer, session)| {
                    assert_eq!(peer.unwrap().0 as u64, session.as_u64());
                    char::from(session.as_u64() as u8)
                });
                let told: String = told.collect();
                let more = if namespace.is_none() { ", waiting on" } else { "" };
                format!("{told} matched {}{more}", self.letters(&matched.peers))
            }
            Mail::GoneDone { fingerprint } => format!("{} gone", self.letter(&fingerprint)),
            Mail::RouteChanged { fingerprint } => format!("{} moved", self.letter(&fingerprint)),
            Mail::RoutesChanged { fingerprints } => {
                let letters = fingerprints.iter().map(|fingerprint| self.letter(fingerprint));
                format!("{} moved", letters.collect::<String>())
            }
            Mail::Rejoined { who, lost } => {
                let came = if lost { "not told" } else { "rejoined" };
                format!("{} {came}", self.letter(&who.fingerprint))
            }
            Mail::Evicted { who, .. } => format!("{} evicted", self.letter(&who.fingerprint)),
            other => panic!("{other:?}"),
        }
    }

    /// A home with a copy of a namespace: a is a member here, b on node 1; version 5.
    fn with_two() -> Self {
        let mut home = Self::new();
        home.ask_join('a');
        let roster = home.roster(5, &[('b', Some(1)), ('a', None)]);
        home.joined(5, Some(roster));
        assert_eq!(home.said(), ["b moved", "a in ba, loop 1 1, node 1 1"]);
        home.comes(5, 'a', None);
        assert_eq!(home.said(), [""; 0], "it is in the roster");
        home
    }

    /// The same as a room that somebody on node 1 owns.
    fn with_room() -> Self {
        let mut home = Self::new();
        home.ask_to_enter('a', true);
        let roster = home.room_roster(5, &[('o', Some(1)), ('a', None)]);
        home.joined(5, Some(roster));
        assert_eq!(home.said(), ["o moved", "a in oa, loop 1 1, node 1 1"]);
        home
    }

    fn is_empty(&self) -> bool {
        let spaces = self.shard.spaces().unwrap();
        let nothing = spaces.known.is_empty() && spaces.tickets.is_empty() && self.shard.namespaces.is_empty();
        nothing && self.permits.rooms.now() == 0 && self.permits.match_waiting.now() == 0
    }
}
