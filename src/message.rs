//! The domain's vocabulary: what peers ask, what they are told, and how they are refused.
//!
//! Owns: the types in which dialects and shards speak to each other.
//! Never: knows a wire format, a connection or a loop.

pub mod cluster;
pub mod game_server;
pub mod matchmaker;
pub mod natpunch;
pub mod punch;
pub mod simple;

use std::sync::Arc;

use compact_str::CompactString;

use crate::ids::Fingerprint;

/// A close code of ours: the same key registered again (peer protocol, section 5).
pub const CLOSE_REPLACED: u16 = 4001;
/// IANA registry: the service restarts. The peer's place in the cluster was lost; it may connect again at once.
pub const CLOSE_RESTART: u16 = 1012;
/// RFC 6455 section 7.4.1: the server is going away.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// RFC 6455 section 7.4.1: policy violation.
pub const CLOSE_POLICY: u16 = 1008;
/// IANA registry: try again later.
pub const CLOSE_TRY_AGAIN: u16 = 1013;

/// Longest alias, in bytes.
pub const ALIAS_MAX: usize = 128;
/// Longest public key string, in bytes.
pub const PUBLIC_KEY_MAX: usize = 8192;
/// Longest namespace name or room id, in bytes.
pub const NAME_MAX: usize = 256;
/// Longest `app_type`, in bytes.
pub const APP_TYPE_MAX: usize = 256;
/// Largest metadata of a peer or of a join, in bytes of compact JSON.
pub const META_MAX: usize = 8192;
/// Largest group of a match.
pub const GROUP_MAX: u32 = 1000;
/// How many peers a peer list holds when nothing was asked for.
pub const LIST_DEFAULT: u32 = 50;
/// How many peers a peer list holds at most.
pub const LIST_MAX: u32 = 1000;
/// Members of a room when nothing was asked for.
pub const ROOM_DEFAULT: u32 = 20;
/// Members of a room at most.
pub const ROOM_MAX: u32 = 30;

/// Metadata: a JSON object that keeps its members' spelling.
///
/// Names are canonical JSON strings with their quotes (equal names have equal bytes), values are compact JSON. Clones and
/// whatever is laid over the same metadata share it: a peer's own is kept once, in however many namespaces it is shown.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    base: Option<Arc<Members>>,
    /// Laid over the base when read.
    over: Option<Arc<Members>>,
}

impl Meta {
    /// Sets one member; the last one of a name wins and keeps the first one's place.
    pub fn set(&mut self, name: &str, value: &str) {
        let own = self.entries().map(|(name, value)| (name.into(), value.into()));
        *self = Self::from_entries(own.chain([(name.into(), value.into())]).collect());
    }

    /// From members in order, the last one of a name wins.
    pub fn from_entries(entries: Vec<(Box<str>, Box<str>)>) -> Self {
        let mut unique: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(entries.len());
        if entries.len() < INDEX_FROM {
            for (name, value) in entries {
                match unique.iter_mut().find(|(own, _)| *own == name) {
                    Some((_, own)) => *own = value,
                    None => unique.push((name, value)),
                }
            }
        } else {
            // Thousands of members in one message must not cost their square.
            let mut places = std::collections::HashMap::with_capacity(entries.len());
            for (name, value) in entries {
                let place = *places.entry(name.clone()).or_insert_with(|| {
                    unique.push((name, Box::default()));
                    unique.len() - 1
                });
                unique[place].1 = value;
            }
        }
        Self {
            base: Members::new(&unique),
            over: None,
        }
    }

    /// This metadata with the members of `over` laid over it (a shallow merge). Both are shared, not copied.
    pub fn overlaid(&self, over: &Self) -> Self {
        if over.is_empty() {
            return self.clone();
        }
        Self {
            base: self.flat().base,
            over: over.flat().base,
        }
    }

    /// The same members without layers.
    pub fn flat(&self) -> Self {
        if self.over.is_none() {
            return self.clone();
        }
        let entries = self.entries().map(|(name, value)| (name.into(), value.into()));
        Self::from_entries(entries.collect())
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.base.is_none() && self.over.is_none()
    }

    /// Its members: canonical JSON names with quotes, compact JSON values.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        let (base, over) = (self.base.as_deref(), self.over.as_deref());
        let below = base.into_iter().flat_map(Members::iter).map(move |(name, value)| {
            let over = over.and_then(|over| over.get(name));
            (name, over.unwrap_or(value))
        });
        let above = over.into_iter().flat_map(Members::iter);
        below.chain(above.filter(move |(name, _)| base.is_none_or(|base| base.get(name).is_none())))
    }

    /// Bytes of its compact JSON text.
    pub fn json_len(&self) -> usize {
        let (count, text) = match (&self.base, &self.over) {
            (Some(members), None) => (members.places.len(), members.text.len()),
            _ => self.entries().fold((0, 0), |(count, text), (name, value)| {
                (count + 1, text + name.len() + value.len())
            }),
        };
        // Besides the texts: the braces, a colon each, a comma between two.
        2 + text + count + usize::saturating_sub(count, 1)
    }
}

impl PartialEq for Meta {
    fn eq(&self, other: &Self) -> bool {
        self.entries().eq(other.entries())
    }
}

impl Eq for Meta {}

/// So many members are looked up in order; more have an index.
const INDEX_FROM: usize = 16;

/// One layer of metadata: at least one member, each name once. Thousands of members of a few bytes each cost little more
/// than their text.
#[derive(Debug)]
struct Members {
    /// Names and values in turn.
    text: Box<str>,
    places: Box<[Place]>,
    /// The members in the order of their names, if they are many.
    by_name: Box<[u32]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    name: u32,
    value: u32,
    end: u32,
}

impl Members {
    fn new(entries: &[(Box<str>, Box<str>)]) -> Option<Arc<Self>> {
        if entries.is_empty() {
            return None;
        }
        let bytes = entries.iter().map(|(name, value)| name.len() + value.len()).sum();
        let mut text = String::with_capacity(bytes);
        let mut places = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            let start = text.len();
            text.push_str(name);
            text.push_str(value);
            places.push(Place {
                name: start as u32,
                value: (start + name.len()) as u32,
                end: text.len() as u32,
            });
        }
        let mut by_name = Vec::new();
        if entries.len() >= INDEX_FROM {
            by_name = (0..entries.len() as u32).collect();
            by_name.sort_unstable_by_key(|at| &entries[*at as usize].0);
        }
        Some(Arc::new(Self {
            text: text.into(),
            places: places.into(),
            by_name: by_name.into(),
        }))
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.places.iter().map(|place| self.at(*place))
    }

    fn at(&self, place: Place) -> (&str, &str) {
        let text = |from: u32, to: u32| self.text.get(from as usize..to as usize).unwrap_or_default();
        (text(place.name, place.value), text(place.value, place.end))
    }

    fn get(&self, name: &str) -> Option<&str> {
        if self.by_name.is_empty() {
            return self.iter().find(|(own, _)| *own == name).map(|(_, value)| value);
        }
        let own = |at: &u32| self.at(self.places[*at as usize]);
        let found = self.by_name.binary_search_by(|at| own(at).0.cmp(name)).ok()?;
        self.by_name.get(found).map(|at| own(at).1)
    }
}

/// What others are shown of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Who it is.
    pub fingerprint: Fingerprint,
    /// The alias that is shown; whether it resolves is another matter.
    pub alias: CompactString,
    /// What it joined as; empty: not shown.
    pub app_type: Box<str>,
    /// Its metadata, the join's laid over the peer's; empty: not shown.
    pub meta: Meta,
}

impl PeerInfo {
    const JSON_LEN_BARE: usize = r#"{"fingerprint":"","alias":"","app_type":"","meta":},"#.len() + Fingerprint::HEX_LEN;
    /// The most that [`PeerInfo::json_len`] can be: a join's metadata over the peer's, both of the largest.
    pub const JSON_LEN_MAX: usize = Self::JSON_LEN_BARE + ALIAS_MAX + APP_TYPE_MAX + 2 * META_MAX;

    /// Roughly the bytes of its JSON text.
    pub fn json_len(&self) -> usize {
        Self::JSON_LEN_BARE + self.alias.len() + self.app_type.len() + self.meta.json_len()
    }
}

/// Which of the two direct messages: alike but for the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectKind {
    /// WebRTC signalling.
    Signal,
    /// Anything else between two peers.
    Relay,
}

impl DirectKind {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Relay => "relay",
        }
    }
}

/// A checked registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Made from the public key.
    pub fingerprint: Fingerprint,
    /// The wanted alias; empty: the server makes one.
    pub alias: CompactString,
    /// The peer's metadata.
    pub meta: Meta,
}

/// Match criteria: a digest of their canonical form, so equal JSON values have equal keys and any size costs 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CriteriaKey(pub [u8; 32]);

/// What a registered peer may ask of namespaces, rooms and itself. Lengths and ranges are already checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Enter a namespace, or a room by its id.
    Join {
        /// Its name.
        namespace: &'a str,
        /// What to be shown as there.
        app_type: &'a str,
        /// Metadata shown there only.
        meta: Meta,
    },
    /// Leave a namespace or room.
    Leave {
        /// Its name.
        namespace: &'a str,
    },
    /// List the members of a namespace.
    Discover {
        /// Its name.
        namespace: &'a str,
        /// At most so many, 1 to [`LIST_MAX`].
        limit: u32,
    },
    /// Find others who ask for the same.
    Match {
        /// Where to look.
        namespace: &'a str,
        /// How many make a group, 2 to [`GROUP_MAX`].
        group_size: u32,
        /// What must be equal.
        criteria: CriteriaKey,
    },
    /// Make a room and own it.
    CreateRoom {
        /// Its id.
        room: &'a str,
        /// How many may be in it, 1 to [`ROOM_MAX`].
        max_size: u32,
    },
    /// Enter a room.
    JoinRoom {
        /// Its id.
        room: &'a str,
    },
    /// Describe a room.
    RoomInfo {
        /// Its id.
        room: &'a str,
    },
    /// Put a member out of a room that one owns.
    Kick {
        /// Its id.
        room: &'a str,
        /// Who; None: a string that is nobody's fingerprint.
        target: Option<Fingerprint>,
    },
    /// Change the metadata of oneself.
    Metadata {
        /// Members to set.
        update: Meta,
    },
}

/// What a peer is told by the server itself (forwards of peers' messages are not events).
#[derive(Clone, Debug)]
pub enum Event {
    /// Registration is complete.
    Registered {
        /// The new peer.
        fingerprint: Fingerprint,
        /// The alias shown for it.
        alias: CompactString,
    },
    /// Members of a namespace.
    PeerList {
        /// Its name.
        namespace: Arc<str>,
        /// Those listed, in join order.
        peers: Vec<Arc<PeerInfo>>,
        /// How many there are.
        total: u32,
    },
    /// Somebody entered.
    PeerJoined {
        /// What was entered.
        namespace: Arc<str>,
        /// Who.
        peer: Arc<PeerInfo>,
    },
    /// Somebody left.
    PeerLeft {
        /// What was left.
        namespace: Arc<str>,
        /// Who.
        fingerprint: Fingerprint,
    },
    /// The match request waits for others.
    MatchWaiting,
    /// A group is complete.
    Matched(Arc<Matched>),
    /// The room exists.
    RoomCreated {
        /// Its id.
        room: Arc<str>,
        /// How many may be in it.
        max_size: u32,
        /// Its owner.
        owner: Fingerprint,
    },
    /// What a room is.
    RoomInfo {
        /// Its id.
        room: Arc<str>,
        /// How many are in it.
        peer_count: u32,
        /// How many may be in it.
        max_size: u32,
        /// Its owner.
        owner: Fingerprint,
    },
    /// The receiver was put out of a room.
    Kicked {
        /// The room.
        room: Arc<str>,
        /// Its owner.
        owner: Fingerprint,
        /// The receiver.
        target: Fingerprint,
    },
    /// A request or message was refused.
    Error(Refusal),
}

/// A complete group.
#[derive(Debug)]
pub struct Matched {
    /// Where it was looked for.
    pub namespace: Arc<str>,
    /// The group's name: random, shown as 32 hex digits.
    pub session: [u8; 16],
    /// Its members in queue order, the completing one last.
    pub peers: Vec<Arc<PeerInfo>>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal $text:literal,)*) => {
        /// Why something was refused: the error's code and its text (peer protocol, section 4).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Refusal {
            $($(#[$doc])* #[doc = $text] $name,)*
            /// A broadcast that so many members could not take.
            SendBufferFullFor(u32),
        }

        impl Refusal {
            /// Every reason, for those who must know all of them; of the last one only the kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)* Self::SendBufferFullFor(0)];

            /// The code, in the manner of HTTP.
            pub const fn code(self) -> u16 {
                match self {
                    $(Self::$name => $code,)*
                    Self::SendBufferFullFor(_) => 429,
                }
            }

            /// The text, without the number of [`Refusal::SendBufferFullFor`].
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::SendBufferFullFor(_) => "send buffer full for N peers",
                }
            }
        }
    };
}

refusals! {
    InvalidMessage = 400 "invalid message",
    UnknownType = 400 "unknown message type",
    NotRegister = 400 "first message must be register",
    PublicKeyRequired = 400 "public_key required",
    PublicKeyTooLong = 400 "public_key too long",
    AliasTooLong = 400 "alias too long",
    MetadataTooLarge = 400 "metadata too large",
    ServerFull = 503 "server full",
    RateLimited = 429 "rate limited",
    InvalidJoin = 400 "invalid join payload",
    NamespaceRequired = 400 "namespace required",
    NamespaceTooLong = 400 "namespace too long",
    NamespaceFull = 429 "namespace full",
    TooManyNamespaces = 429 "too many namespaces",
    InvalidDiscover = 400 "invalid discover payload",
    RoomNotDiscoverable = 403 "cannot discover room peers",
    TargetRequired = 400 "target peer required",
    NoSharedNamespace = 403 "no shared namespace",
    PeerNotFound = 404 "peer not found",
    PeerBufferFull = 429 "peer send buffer full",
    InvalidBroadcast = 400 "invalid broadcast payload",
    NotInNamespace = 403 "not in namespace",
    InvalidMatch = 400 "invalid match payload",
    GroupTooLarge = 400 "group_size too large",
    InvalidCreateRoom = 400 "invalid create_room payload",
    RoomIdRequired = 400 "room_id required",
    RoomIdTooLong = 400 "room_id too long",
    RoomExists = 409 "room already exists",
    InvalidJoinRoom = 400 "invalid join_room payload",
    RoomNotFound = 404 "room not found",
    RoomFull = 429 "room full",
    InvalidKick = 400 "invalid kick payload",
    KickFieldsRequired = 400 "room_id and fingerprint required",
    NotRoomOwner = 403 "only room owner can kick",
    InvalidMetadata = 400 "invalid metadata payload",
    BrokerUnavailable = 503 "broker unavailable",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_merges_shallowly_and_the_last_of_a_name_wins() {
        let mut meta = Meta::default();
        meta.set("\"a\"", "1");
        meta.set("\"b\"", "{\"x\":1}");
        let mut update = Meta::default();
        update.set("\"b\"", "2");
        update.set("\"c\"", "null");
        let merged = meta.overlaid(&update);
        let entries: Vec<_> = merged.entries().collect();
        assert_eq!(entries, [("\"a\"", "1"), ("\"b\"", "2"), ("\"c\"", "null")]);
        assert_eq!(merged.json_len(), r#"{"a":1,"b":2,"c":null}"#.len());
        assert_eq!(Meta::default().json_len(), 2);
    }

    #[test]
    fn what_is_laid_over_shares_the_base_and_reads_as_if_it_did_not() {
        let meta = |range: std::ops::Range<u32>, value: &str| {
            Meta::from_entries(range.map(|i| (format!("\"{i}\"").into(), value.into())).collect())
        };
        for (base, over) in [
            (0..4, 2..6),
            (0..100, 50..150),
            (0..4, 2..100),
            (0..100, 3..4),
            (0..0, 0..3),
        ] {
            let (own, join) = (meta(base.clone(), "1"), meta(over.clone(), "22"));
            let shown = own.overlaid(&join);
            let flat = shown.flat();
            assert!(flat.over.is_none());
            assert_eq!(shown, flat);
            assert_eq!(shown.json_len(), flat.json_len());
            assert_eq!(shown.entries().count(), base.end.max(over.end) as usize);
            for (name, value) in shown.entries() {
                let number: u32 = name.trim_matches('"').parse().unwrap_or(u32::MAX);
                assert_eq!(value, if over.contains(&number) { "22" } else { "1" });
            }
            if let (Some(own), Some(shown)) = (&own.base, &shown.base) {
                assert!(Arc::ptr_eq(own, shown));
            }
            assert_eq!(shown.overlaid(&meta(0..1, "3")).entries().next(), Some(("\"0\"", "3")));
        }
    }

    #[test]
    fn many_members_keep_order_and_the_last_value() {
        let entries = (0..100)
            .map(|i| (format!("\"{}\"", i % 50).into(), format!("{i}").into()))
            .collect();
        let meta = Meta::from_entries(entries);
        assert_eq!(meta.entries().count(), 50);
        assert_eq!(meta.entries().next(), Some(("\"0\"", "50")));
    }
}
