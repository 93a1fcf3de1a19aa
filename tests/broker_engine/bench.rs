//! A bench: a broker, nodes on it, and words that are short enough for a scenario.
//!
//! Owns: the trait that a kind of broker fills in, and the writing of events as texts.
//! Never: sleeps; what was caused is waited for by a change of the node's own that comes after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use peer_server::broker::{Commands, Engine, Epoch, Inbox, Lease, News, NodeId, Nodes, Taken, Trouble};
use peer_server::ids::{CommandId, Fingerprint, Homes, LoopId, NamespaceId, NodeNo, SessionId};
use peer_server::message::cluster::{Change, Command, Event, Member, Reply, RoomTerms, Roster, What, Who};
use peer_server::message::{CriteriaKey, Meta, PeerInfo, Refusal};

/// How long what must come may take.
const WITHIN: Duration = Duration::from_secs(10);

/// A kind of broker.
pub trait Bench {
    /// The engine of a node.
    fn engine(&self, nodes: Arc<Nodes>) -> Arc<dyn Engine>;
    /// The broker forgets everything.
    fn flush(&self);
    /// The lease of that node lasts as long as the scenario, unless it is renewed: a machine may be slow.
    fn hold(&self, node: NodeId, epoch: Epoch);
    /// The lease of that node has run out, and nobody has noticed.
    fn lapse(&self, node: NodeId, epoch: Epoch);
    /// Whatever happens next takes out all that a dead node had. Otherwise it is there until somebody declares that one dead.
    fn buries_at_once(&self) -> bool {
        false
    }
}

/// A node, spoken to as its threads would.
pub struct Node {
    pub engine: Arc<dyn Engine>,
    pub nodes: Arc<Nodes>,
    pub number: u8,
    pub epoch: Epoch,
    pub lease: Box<dyn Lease>,
    pub commands: Box<dyn Commands>,
    pub inbox: Box<dyn Inbox>,
    versions: HashMap<NamespaceId, u64>,
    count: u64,
}

impl Node {
    /// A new node that is up.
    pub fn new(bench: &dyn Bench, number: u8) -> Self {
        let nodes = Arc::new(Nodes::new(NodeId::from_bytes([number; 16])));
        let engine = bench.engine(nodes.clone());
        let mut lease = engine.lease().unwrap();
        let taken = lease.take().unwrap();
        nodes.set_epoch(taken.epoch);
        bench.hold(nodes.own(), taken.epoch);
        Self {
            commands: engine.commands().unwrap(),
            inbox: engine.inbox(taken.epoch, None).unwrap(),
            engine,
            nodes,
            number,
            epoch: taken.epoch,
            lease,
            versions: HashMap::new(),
            count: 0,
        }
    }

    /// It comes back after its connections were lost.
    pub fn come_back(&mut self) -> Taken {
        self.lease = self.engine.lease().unwrap();
        let taken = self.lease.take_up(self.epoch).unwrap();
        let after = self.inbox.place().filter(|_| taken.epoch == self.epoch);
        self.epoch = taken.epoch;
        self.nodes.set_epoch(taken.epoch);
        self.commands = self.engine.commands().unwrap();
        self.inbox = self.engine.inbox(taken.epoch, after.as_deref()).unwrap();
        taken
    }

    pub fn try_batch(&mut self, batch: Vec<What>) -> (Vec<Reply>, Result<(), Trouble>) {
        let id = |count| CommandId::new(LoopId::new(0), count);
        let first = self.count;
        self.count += batch.len() as u64;
        let commands = batch.into_iter().zip(first..);
        let commands: Vec<_> = commands.map(|(what, count)| Command { id: id(count), what }).collect();
        let mut replies = Vec::new();
        let done = self.commands.run(self.epoch, &commands, &mut |told, reply| {
            assert_eq!(told, id(first + replies.len() as u64), "in order");
            replies.push(reply);
        });
        (replies, done)
    }

    pub fn batch(&mut self, batch: Vec<What>) -> Vec<Reply> {
        let count = batch.len();
        let (replies, done) = self.try_batch(batch);
        done.unwrap();
        assert_eq!(replies.len(), count);
        replies
    }

    pub fn run(&mut self, what: What) -> Reply {
        self.batch(vec![what]).remove(0)
    }

    /// The reply as a text.
    pub fn ask(&mut self, what: What) -> String {
        let reply = self.run(what);
        self.written(&reply)
    }

    pub fn register(&mut self, peer: char, session: u64) -> Who {
        let who = who(peer, session);
        let aliases = vec![format!("alias-{peer}").into()];
        assert_eq!(self.ask(What::Register { who, aliases }), "registered 0");
        who
    }

    pub fn written(&self, reply: &Reply) -> String {
        match reply {
            Reply::Registered { alias: Some(alias) } => format!("registered {alias}"),
            Reply::Registered { alias: None } => "registered".to_owned(),
            Reply::Taken => "taken".to_owned(),
            Reply::Done => "done".to_owned(),
            Reply::Found(None) => "nowhere else".to_owned(),
            Reply::Found(Some(node)) => format!("at {}", self.at(Some(*node))),
            Reply::Resolved(fingerprint) => format!("resolved {}", fingerprint.map_or('-', letter)),
            Reply::Joined { roster: None, .. } => "joined".to_owned(),
            Reply::Joined {
                roster: Some(roster),
                version,
            } => {
                assert_eq!(roster.version, *version);
                format!("joined {}", self.roster(roster))
            }
            Reply::Created { .. } => "created".to_owned(),
            Reply::Listed { peers, total } => {
                format!("{total}: {}", peers.iter().map(shown).collect::<String>())
            }
            Reply::Described { peer_count, terms } => {
                format!("{peer_count} of {} of {}", terms.max_size, letter(terms.owner))
            }
            Reply::Waiting => "waiting".to_owned(),
            Reply::Roster(roster) => self.roster(roster),
            Reply::Refused(refusal) => refusal.text().to_owned(),
            Reply::Stale => "stale".to_owned(),
            Reply::Lost => "lost".to_owned(),
        }
    }

    fn roster(&self, roster: &Roster) -> String {
        let members = roster
            .members
            .iter()
            .map(|member| self.member(member))
            .collect::<Vec<_>>();
        format!("[{}]{}", members.join(" "), terms(roster.room))
    }

    fn member(&self, member: &Member) -> String {
        format!(
            "{}{}@{}",
            shown(&member.info),
            member.session.as_u64(),
            self.at(member.node)
        )
    }

    fn at(&self, node: Option<NodeNo>) -> u8 {
        node.map_or(self.number, |node| self.nodes.name(node).unwrap().0.as_bytes()[0])
    }

    /// What has happened so far, as texts. Versions must rise.
    pub fn events(&mut self) -> Vec<String> {
        let mark = who(char::from(b'0' + self.number), 1);
        let space = named("mark");
        self.run(What::Register {
            who: mark,
            aliases: Vec::new(),
        });
        self.run(join(mark, "mark"));
        self.run(What::Leave {
            who: mark,
            namespace: space,
        });
        self.run(What::End { who: mark });
        let deadline = Instant::now() + WITHIN;
        let mut written = Vec::new();
        let mut is_marked = false;
        while !is_marked {
            let mut told = Vec::new();
            self.inbox
                .read(Duration::from_millis(100), &mut |news| told.push(news))
                .unwrap();
            for news in told {
                match &news {
                    News::Happened(Event::Changed { namespace, change, .. }) if *namespace == space => {
                        is_marked |= matches!(change, Change::Left { node: None, .. });
                    }
                    _ => written.push(self.news(&news)),
                }
            }
            assert!(Instant::now() < deadline, "the mark does not come, only {written:?}");
        }
        written
    }

    fn news(&mut self, news: &News) -> String {
        let event = match news {
            News::Gap => return "gap".to_owned(),
            News::Happened(event) => event,
        };
        match event {
            Event::Changed {
                namespace,
                version,
                change,
            } => {
                let last = self.versions.insert(*namespace, *version);
                assert!(last.is_none_or(|last| last < *version), "versions rise");
                let change = match change {
                    Change::Joined { member, room } => format!("+{}{}", self.member(member), terms(*room)),
                    Change::Shown(member) => format!("~{}", self.member(member)),
                    Change::Left { node, who, kicked_by } => {
                        let by = kicked_by.map_or_else(String::new, |owner| format!(" by {}", letter(owner)));
                        let (key, session) = (letter(who.fingerprint), who.session.as_u64());
                        format!("-{key}{session}@{}{by}", self.at(*node))
                    }
                };
                format!("{}{change}", name_of(*namespace))
            }
            Event::Matched {
                namespace,
                members,
                matched,
            } => {
                assert_eq!(named(&matched.namespace), *namespace);
                let infos: String = matched.peers.iter().map(shown).collect();
                let own = members.iter().map(|(who, ticket)| {
                    format!(
                        " {}{}#{}",
                        letter(who.fingerprint),
                        who.session.as_u64(),
                        ticket.as_u64()
                    )
                });
                format!("{}={infos} for{}", matched.namespace, own.collect::<String>())
            }
            Event::Replaced(who) => format!("replaced {}{}", letter(who.fingerprint), who.session.as_u64()),
            Event::NodeGone(node) => format!("gone {}", self.at(Some(*node))),
            other => panic!("{other:?}"),
        }
    }
}

pub fn who(peer: char, session: u64) -> Who {
    Who {
        fingerprint: Fingerprint::of_key(&peer.to_string()),
        session: SessionId::from_u64(session),
    }
}

/// Whose key it is.
fn letter(fingerprint: Fingerprint) -> char {
    ('a'..='z')
        .chain('A'..='Z')
        .chain('0'..='9')
        .find(|peer| who(*peer, 0).fingerprint == fingerprint)
        .unwrap()
}

pub fn named(name: &str) -> NamespaceId {
    Homes::new(1, [0; 4]).in_cluster().namespace(name)
}

fn name_of(namespace: NamespaceId) -> &'static str {
    ["lobby", "room", "hall", "other"]
        .into_iter()
        .find(|name| named(name) == namespace)
        .unwrap()
}

/// How a peer is shown: its letter, and what it shows of itself.
pub fn info(peer: char, app_type: &str) -> Arc<PeerInfo> {
    let mut meta = Meta::default();
    meta.set("\"ä\\n\"", "[1,{\"x\":null}]");
    Arc::new(PeerInfo {
        fingerprint: who(peer, 0).fingerprint,
        alias: format!("alias \"{peer}\"").into(),
        app_type: app_type.into(),
        meta: if app_type.is_empty() { Meta::default() } else { meta },
    })
}

fn shown(info: &Arc<PeerInfo>) -> String {
    let peer = letter(info.fingerprint);
    assert_eq!(
        **info,
        *self::info(peer, &info.app_type),
        "an info comes back as it was"
    );
    match &*info.app_type {
        "" => peer.to_string(),
        app_type => format!("{peer}({app_type})"),
    }
}

fn terms(room: Option<RoomTerms>) -> String {
    room.map_or_else(String::new, |room| {
        format!(" of {} for {}", letter(room.owner), room.max_size)
    })
}

fn peer_of(who: Who) -> char {
    letter(who.fingerprint)
}

pub fn join(who: Who, name: &str) -> What {
    join_as(who, name, false, 1000, None, "")
}

pub fn join_room(who: Who, name: &str) -> What {
    join_as(who, name, true, 1000, None, "")
}

pub fn join_as(who: Who, name: &str, room: bool, members_max: u32, refuse: Option<Refusal>, app_type: &str) -> What {
    What::Join {
        who,
        namespace: named(name),
        name: name.into(),
        info: info(peer_of(who), app_type),
        room,
        members_max,
        refuse,
        roster: true,
    }
}

pub fn rejoin(who: Who, name: &str, room: Option<RoomTerms>, app_type: &str) -> What {
    What::Rejoin {
        who,
        namespace: named(name),
        name: name.into(),
        info: info(peer_of(who), app_type),
        room,
        members_max: 3,
    }
}

pub fn create(who: Who, name: &str, max_size: u32) -> What {
    What::CreateRoom {
        who,
        namespace: named(name),
        name: name.into(),
        info: info(peer_of(who), ""),
        max_size,
        refuse: None,
    }
}

pub fn leave(who: Who, name: &str) -> What {
    What::Leave {
        who,
        namespace: named(name),
    }
}

pub fn kick(who: Who, name: &str, target: char) -> What {
    let target = Some(self::who(target, 0).fingerprint);
    What::Kick {
        who,
        namespace: named(name),
        target,
    }
}

pub fn show(who: Who, name: &str, app_type: &str) -> What {
    What::Show {
        who,
        namespace: named(name),
        info: info(peer_of(who), app_type),
    }
}

/// It is a member of these, and waits for nothing.
pub fn resume(who: Who, alias: Option<&str>, names: &[&str]) -> What {
    resume_waiting(who, alias, names, &[])
}

pub fn resume_waiting(who: Who, alias: Option<&str>, member_of: &[&str], waits_in: &[&str]) -> What {
    let ids = |names: &[&str]| names.iter().map(|name| named(name)).collect();
    What::Resume {
        who,
        alias: alias.map(Into::into),
        member_of: ids(member_of),
        waits_in: ids(waits_in),
    }
}

/// A request for a match in the lobby.
pub fn seek(who: Who, group_size: u32, ticket: u64) -> What {
    seek_as(who, group_size, ticket, false, None)
}

pub fn seek_as(who: Who, group_size: u32, ticket: u64, resumed: bool, refuse: Option<Refusal>) -> What {
    What::Match {
        who,
        namespace: named("lobby"),
        name: "lobby".into(),
        info: info(peer_of(who), ""),
        group_size,
        criteria: CriteriaKey([7; 32]),
        ticket: CommandId::from_u64(ticket),
        refuse,
        resumed,
    }
}

pub fn roster(name: &str) -> What {
    What::Roster { namespace: named(name) }
}

pub fn list(name: &str, limit: u32) -> What {
    What::List {
        namespace: named(name),
        limit,
    }
}

pub fn describe(name: &str) -> What {
    What::Describe { namespace: named(name) }
}

pub fn find(peer: char) -> What {
    What::Find {
        fingerprint: who(peer, 0).fingerprint,
    }
}

pub fn resolve(alias: &str) -> What {
    What::Resolve { alias: alias.into() }
}
