//! The rules that no history may break.
//!
//! Owns: what was noted of messages, presence and matches, and the violations found. Which rules hold depends on what was done
//! to the cluster: see [`Rules`].
//! Never: speaks to the server.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::WebSocket;

use super::crowd::{Crowd, Peer, View, short};

/// What the docs do not promise in every case.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The broker loses its data in this run: for a while a group may be told to a part of its members, and what a node
    /// believes is compared later.
    pub data_lost: bool,
}

/// A group as those who were told of it have it.
#[derive(Default)]
struct Group {
    arena: String,
    listed: BTreeSet<String>,
    told: BTreeSet<String>,
}

impl Group {
    fn text(&self, session: &str) -> String {
        let list = |who: &BTreeSet<String>| {
            who.iter()
                .map(|who| short(who).to_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        format!("{session} of {}, told {}", list(&self.listed), list(&self.told))
    }
}

/// Everything noted.
pub struct Checks {
    pub rules: Rules,
    began: Instant,
    pub violations: Vec<String>,
    /// A node may not reach the broker now: what it comes to know when it does again it learns bit by bit.
    pub shaken: bool,
    /// The last number of (sender, its session, receiver's session, receiver, namespace if a broadcast).
    last: BTreeMap<(usize, u64, u32, usize, Option<String>), u64>,
    groups: BTreeMap<String, Group>,
    /// How often each asked for a match in an arena.
    asked: BTreeMap<(String, String), usize>,
    open: Vec<(WebSocket<TcpStream>, Instant)>,
    pub messages_sent: u64,
    pub messages_heard: u64,
    pub presence_heard: u64,
    /// How often somebody was said to have left who had not: its node was taken for gone, or a broker had lost it. Or its
    /// client hears a moment later that it is out.
    false_goings: u64,
    /// By whom it was heard, where, of whom: they are not back yet.
    away: BTreeMap<(usize, String, String), Instant>,
    /// After how long the last one was back.
    back_within: Duration,
    pub closes: BTreeMap<u16, u64>,
    pub errors: BTreeMap<String, u64>,
    /// When a client was last told that the broker is not there.
    pub refused_at: Option<Instant>,
    /// When each node last did what needs the broker.
    pub served_at: BTreeMap<usize, Instant>,
    /// From the kill of a node to its last peer's end in anybody's eyes.
    pub ghosts: Vec<Duration>,
    /// From the end of each fault to the last refusal and to the first service of every node.
    pub recovered: Vec<Duration>,
}

impl Checks {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            began: Instant::now(),
            violations: Vec::new(),
            shaken: false,
            last: BTreeMap::new(),
            groups: BTreeMap::new(),
            asked: BTreeMap::new(),
            open: Vec::new(),
            messages_sent: 0,
            messages_heard: 0,
            presence_heard: 0,
            false_goings: 0,
            away: BTreeMap::new(),
            back_within: Duration::ZERO,
            closes: BTreeMap::new(),
            errors: BTreeMap::new(),
            refused_at: None,
            served_at: BTreeMap::new(),
            ghosts: Vec::new(),
            recovered: Vec::new(),
        }
    }

    pub fn violation(&mut self, text: String) {
        // The first ones tell the most.
        if self.violations.len() < 40 {
            self.violations.push(text);
        }
    }

    pub fn sent(&mut self, messages: u64) {
        self.messages_sent += messages;
    }

    pub fn closed(&mut self, code: u16, now: Instant) {
        if code == 1013 {
            self.refused_at = Some(now);
        }
        *self.closes.entry(code).or_default() += 1;
    }

    /// A node answered what needs the broker.
    pub fn served(&mut self, node: usize, now: Instant) {
        self.served_at.insert(node, now);
    }

    pub fn error(&mut self, payload: &Value, now: Instant) {
        if payload["code"] == 503 {
            self.refused_at = Some(now);
        }
        let text = format!(
            "{} {}",
            payload["code"],
            payload["message"].as_str().unwrap_or_default()
        );
        *self.errors.entry(text).or_default() += 1;
    }

    /// A connection that its client forgot and did not close.
    pub fn leave_open(&mut self, socket: WebSocket<TcpStream>) {
        self.open.push((socket, Instant::now()));
        self.open.retain(|(_, since)| since.elapsed() < Duration::from_secs(3));
    }

    /// Closes them.
    pub fn close_forgotten(&mut self) {
        self.open.clear();
    }

    pub fn direct(&mut self, receiver: &Peer, sender: Option<usize>, to: &str, payload: &Value) {
        self.messages_heard += 1;
        if to != receiver.fingerprint || payload["to"] != *receiver.fingerprint {
            self.violation(format!("{} was given a message for {to}: {payload}", receiver.index));
        }
        self.number(receiver, sender, None, payload);
    }

    pub fn broadcast(&mut self, receiver: &Peer, sender: Option<usize>, namespace: &str, data: &Value) {
        self.messages_heard += 1;
        if !receiver.views.contains_key(namespace) {
            self.violation(format!(
                "{} heard a broadcast in {namespace}, where it is not",
                receiver.index
            ));
        }
        self.number(receiver, sender, Some(namespace.to_owned()), data);
    }

    /// Numbers of one sender rise at one receiver: nothing twice, nothing out of order.
    fn number(&mut self, receiver: &Peer, sender: Option<usize>, namespace: Option<String>, stamp: &Value) {
        let from = stamp["from"].as_u64().map(|index| index as usize);
        if from.is_none() || from != sender {
            return self.violation(format!("{} heard of {sender:?} what {from:?} had sent", receiver.index));
        }
        let (session, number) = (
            stamp["session"].as_u64().unwrap_or(0),
            stamp["number"].as_u64().unwrap_or(0),
        );
        let key = (from.unwrap_or(0), session, receiver.session, receiver.index, namespace);
        let last = self.last.insert(key.clone(), number).unwrap_or(0);
        if number <= last {
            self.violation(format!(
                "after number {last} came {number}: (sender, session, receiver's session, receiver, namespace) {key:?}"
            ));
        }
    }

    pub fn listed(&mut self, peer: &Peer, namespace: &str, view: &View) {
        if view.complete && !view.members.contains_key(&peer.fingerprint) {
            self.violation(format!(
                "{} is not on the list of {namespace} that it joined",
                peer.index
            ));
        }
        self.crowded(peer.index, namespace, view);
    }

    /// Somebody was said to have left who has not.
    pub fn left_and_stays(&mut self, index: usize, namespace: &str, who: &str, now: Instant) {
        self.false_goings += 1;
        self.away.insert((index, namespace.to_owned(), who.to_owned()), now);
    }

    pub fn joined(&mut self, peer: &Peer, namespace: &str, who: &str, now: Instant) {
        self.presence_heard += 1;
        let away = self.away.remove(&(peer.index, namespace.to_owned(), who.to_owned()));
        // Whoever is back later came again of itself.
        if let Some(away) = away
            .map(|left| now - left)
            .filter(|away| *away < Duration::from_secs(8))
        {
            self.back_within = self.back_within.max(away);
        }
        let Some(view) = peer.views.get(namespace) else {
            return self.violation(format!(
                "{} heard that somebody joined {namespace}, where it is not",
                peer.index
            ));
        };
        if view.complete && view.members.contains_key(who) {
            self.violation(format!(
                "{} heard twice that {} joined {namespace}{}",
                peer.index,
                short(who),
                peer.story(self.began, namespace, short(who))
            ));
        }
    }

    pub fn left(&mut self, peer: &Peer, namespace: &str, who: &str, _now: Instant) {
        self.presence_heard += 1;
        let Some(view) = peer.views.get(namespace) else {
            return self.violation(format!(
                "{} heard that somebody left {namespace}, where it is not",
                peer.index
            ));
        };
        if view.complete && !view.members.contains_key(who) {
            self.violation(format!(
                "{} heard that {} left {namespace}, where it was not{}",
                peer.index,
                short(who),
                peer.story(self.began, namespace, short(who))
            ));
        }
    }

    /// A room's members in one client's eyes. A node that was cut off hears of who came meanwhile before it knows which of its
    /// own have lost their places.
    pub fn crowded(&mut self, index: usize, namespace: &str, view: &View) {
        let most = view.room_max.unwrap_or(4) as usize;
        if namespace.starts_with('r') && view.members.len() > most && !self.rules.data_lost && !self.shaken {
            self.violation(format!(
                "{index} sees {} members in {namespace} for {most}",
                view.members.len()
            ));
        }
    }

    pub fn asks_match(&mut self, fingerprint: &str, arena: &str) {
        *self
            .asked
            .entry((fingerprint.to_owned(), arena.to_owned()))
            .or_default() += 1;
    }

    pub fn matched(&mut self, peer: &Peer, arena: &str, payload: &Value, waited: bool) {
        if !waited {
            self.violation(format!("{} was matched in {arena} without waiting there", peer.index));
        }
        let listed: BTreeSet<String> = payload["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|info| info["fingerprint"].as_str().unwrap_or_default().to_owned())
            .collect();
        let size = if arena.ends_with(['0', '1']) { 3 } else { 2 };
        if listed.len() != size || !listed.contains(&peer.fingerprint) {
            self.violation(format!("{} was matched in {arena} with {listed:?}", peer.index));
        }
        let session = payload["session_id"].as_str().unwrap_or_default().to_owned();
        let group = self.groups.entry(session.clone()).or_insert_with(|| Group {
            arena: arena.to_owned(),
            listed: listed.clone(),
            told: BTreeSet::new(),
        });
        let agrees = group.listed == listed && group.arena == arena;
        if !group.told.insert(peer.fingerprint.clone()) || !agrees {
            self.violation(format!(
                "{} was told of group {session} twice, or otherwise than others",
                peer.index
            ));
        }
    }

    /// Nobody is still seen who was served by a node that is gone since `gone`: `served` are their fingerprints.
    pub fn no_ghosts(&mut self, crowd: &Crowd, served: &BTreeSet<String>, gone: Instant) {
        let mut ghosts = Vec::new();
        for peer in crowd.peers.iter().filter(|peer| peer.is_open()) {
            for (namespace, view) in &peer.views {
                let seen = view
                    .members
                    .iter()
                    .filter(|(who, since)| served.contains(*who) && **since < gone);
                ghosts.extend(seen.map(|(who, _)| format!("{} still sees {} in {namespace}", peer.index, short(who))));
            }
        }
        for ghost in ghosts {
            self.violation(format!("a ghost {:?} after its node was gone: {ghost}", gone.elapsed()));
        }
    }

    /// How many are still seen who were served by a node that is gone since `gone`.
    pub fn count_ghosts(crowd: &Crowd, served: &BTreeSet<String>, gone: Instant) -> usize {
        let open = crowd.peers.iter().filter(|peer| peer.is_open());
        open.flat_map(|peer| peer.views.values())
            .flat_map(|view| &view.members)
            .filter(|(who, since)| served.contains(*who) && **since < gone)
            .count()
    }

    /// Everything is quiet and whole: what each believes is what is.
    pub fn at_the_end(&mut self, crowd: &Crowd) {
        for (peer, name, view) in crowd.views() {
            self.crowded(peer.index, name, view);
        }
        for text in Self::unlike(crowd, Some(self.began)) {
            self.violation(format!("at the end {text}"));
        }
        self.groups_at_the_end(crowd);
    }

    /// Where what clients believe is not what is; with their stories since `began`.
    pub fn unlike(crowd: &Crowd, began: Option<Instant>) -> Vec<String> {
        let stories = |index, other: &str, namespace: &str| {
            began.map_or_else(String::new, |began| crowd.stories_of(began, index, other, namespace))
        };
        let mut found = Vec::new();
        let mut truth: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for peer in crowd.peers.iter().filter(|peer| peer.is_open()) {
            for namespace in peer.views.keys() {
                truth.entry(namespace).or_default().insert(&peer.fingerprint);
            }
        }
        for peer in &crowd.peers {
            if !peer.is_open() {
                found.push(format!("{} has no connection", peer.index));
            }
            if let Some((asked, _)) = peer.unanswered() {
                found.push(format!("{} is not answered: {asked:?}", peer.index));
            }
            for (namespace, view) in peer.views.iter().filter(|(_, view)| view.complete) {
                let believed: BTreeSet<&str> = view.members.keys().map(String::as_str).collect();
                let there = &truth[namespace.as_str()];
                for ghost in believed.difference(there) {
                    found.push(format!(
                        "{} on node {} sees {} in {namespace}, who is not there{}",
                        peer.index,
                        peer.node,
                        crowd.name(ghost),
                        stories(peer.index, ghost, namespace)
                    ));
                }
                for missing in there.difference(&believed) {
                    found.push(format!(
                        "{} on node {} does not see {} in {namespace}{}",
                        peer.index,
                        peer.node,
                        crowd.name(missing),
                        stories(peer.index, missing, namespace)
                    ));
                }
            }
        }
        found
    }

    fn groups_at_the_end(&mut self, crowd: &Crowd) {
        let mut found = Vec::new();
        let mut listed: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        let story = |who: &str, arena: &str| {
            let peer = crowd.index_of(who).map(|index| &crowd.peers[index]);
            peer.map_or_else(String::new, |peer| peer.story(self.began, arena, "?"))
        };
        let asked = |who: &str, arena: &str| self.asked.get(&(who.to_owned(), arena.to_owned())).copied();
        for (session, group) in &self.groups {
            for who in &group.listed {
                listed.entry((who, &group.arena)).or_default().push(session);
                let peer = crowd.index_of(who).map(|index| &crowd.peers[index]);
                let waits = peer.is_some_and(|peer| peer.waiting.get(&group.arena) == Some(&true));
                // It may have asked again since; whether it is the same request only shows where it is listed once.
                let once = asked(who, &group.arena) == Some(1);
                if waits && once && !group.told.contains(who) && !self.rules.data_lost {
                    found.push(format!(
                        "{} waits in {} and is listed in group {session}{}",
                        short(who),
                        group.arena,
                        story(who, &group.arena)
                    ));
                }
            }
        }
        for ((who, arena), groups) in listed {
            let asked = asked(who, arena).unwrap_or(0);
            if groups.len() > asked && !self.rules.data_lost {
                let groups: Vec<String> = groups
                    .iter()
                    .map(|session| self.groups[*session].text(session))
                    .collect();
                found.push(format!(
                    "{} asked {asked} times in {arena} and is in {} groups: {}{}",
                    short(who),
                    groups.len(),
                    groups.join("; "),
                    story(who, arena)
                ));
            }
        }
        for text in found {
            self.violation(text);
        }
    }

    /// What happened, in a line.
    pub fn summary(&self) -> String {
        format!(
            "{} messages sent, {} heard, {} joins and leaves ({} of who stayed, back within {:?}), {} groups, closes {:?}, errors {:?}, \
             ghosts gone after {:?}, recovered after {:?}",
            self.messages_sent,
            self.messages_heard,
            self.presence_heard,
            self.false_goings,
            self.back_within,
            self.groups.len(),
            self.closes,
            self.errors,
            self.ghosts,
            self.recovered,
        )
    }
}
