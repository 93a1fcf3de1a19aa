//! Traffic between the nodes of a cluster: signals, relays, broadcasts and refusals, many in one message.
//!
//! A message is a [`Head`] and then frames. A frame is the length of what follows in four bytes, a kind in one, and the rest;
//! numbers have their lowest byte first. A kind that is not known is passed over, so nodes of two versions can talk.
//!
//! ```text
//! 1 signal, 2 relay   to 32, from 32, session 8, parts 1, shares 2, name 4, [about 16], shares × 16, name, payload
//! 3 broadcast         namespace 16, from 32, session 8, name 4, name, payload
//! 4 refused           to 32, session 8, target 32, reason 1, members 4
//! ```
//!
//! Owns: these bytes. What is text is checked to be text: it is written to clients.
//! Never: allocates but to grow the caller's buffer, or knows what a fingerprint or namespace is.

/// Who sent a message, and the how-manieth to this node it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The sender's node id.
    pub node: [u8; 16],
    /// In which of its epochs it was sent.
    pub epoch: u64,
    /// Rises by one with each message from that node in that epoch to the receiver.
    pub number: u64,
}

impl Head {
    /// Bytes of a head.
    pub const LEN: usize = 32;

    /// As bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (node, numbers) = bytes.split_at_mut(16);
        let (epoch, number) = numbers.split_at_mut(8);
        node.copy_from_slice(&self.node);
        epoch.copy_from_slice(&self.epoch.to_le_bytes());
        number.copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// The head of a message and its frames; None: it is too short.
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = Reader(message);
        let head = Self {
            node: *rest.array()?,
            epoch: rest.u64()?,
            number: rest.u64()?,
        };
        Some((head, rest.0))
    }
}

/// Which of the two direct messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// WebRTC signalling.
    Signal,
    /// Anything else between two peers.
    Relay,
}

/// A signal or relay, but for the namespaces that its sender is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direct<'a> {
    /// Signal or relay.
    pub kind: Kind,
    /// The target's key.
    pub to: &'a [u8; 32],
    /// The sender's key.
    pub from: &'a [u8; 32],
    /// Which session of it.
    pub session: u64,
    /// The namespace that the message names, if its sender is in it, and that name as sent between its quotes.
    pub about: Option<([u8; 16], &'a str)>,
    /// The payload as sent.
    pub payload: Option<&'a str>,
}

/// A broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broadcast<'a> {
    /// Where.
    pub namespace: [u8; 16],
    /// The sender's key.
    pub from: &'a [u8; 32],
    /// Which session of it.
    pub session: u64,
    /// The name as sent, between its quotes.
    pub name: &'a str,
    /// The payload as sent, with whom it leaves out.
    pub payload: &'a str,
}

/// A message was not delivered, or not to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The key of the sender, who is to be told.
    pub to: &'a [u8; 32],
    /// Which session of it.
    pub session: u64,
    /// The key of the peer whom the message was for; of a broadcast zeros.
    pub target: &'a [u8; 32],
    /// Why.
    pub reason: Reason,
}

/// Why a message was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The target is not on this node.
    NotHere,
    /// The two share no namespace.
    Forbidden,
    /// The target's buffer is full.
    Full,
    /// So many members could not take a broadcast.
    FullFor(u32),
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A signal or relay, and the namespaces that its sender is in.
    Direct(Direct<'a>, &'a [[u8; 16]]),
    /// A broadcast.
    Broadcast(Broadcast<'a>),
    /// A message of this node's was refused.
    Refused(Refused<'a>),
}

/// Which loop a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home<'a> {
    /// The one that is the home of this key.
    Key(&'a [u8; 32]),
    /// Every one.
    Everyone,
}

/// What came is no frame that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A kind, or a reason, that is not known.
    Unknown,
    /// It is cut off, or what should be text is none.
    Malformed,
}

const SIGNAL: u8 = 1;
const RELAY: u8 = 2;
const BROADCAST: u8 = 3;
const REFUSED: u8 = 4;

/// Parts of a direct message.
const HAS_ABOUT: u8 = 1;
const HAS_PAYLOAD: u8 = 2;

const NOT_HERE: u8 = 1;
const FORBIDDEN: u8 = 2;
const FULL: u8 = 3;
const FULL_FOR: u8 = 4;

/// The length of what follows, and a kind.
const PREFIX: usize = 5;

/// Appends a signal or relay. Of its sender's namespaces the first 65535 are told, of texts the first four gigabytes:
/// nobody has so many, and no message is so long.
pub fn push_direct(out: &mut Vec<u8>, direct: &Direct<'_>, shares: impl Iterator<Item = [u8; 16]>) {
    let kind = match direct.kind {
        Kind::Signal => SIGNAL,
        Kind::Relay => RELAY,
    };
    let (about, name) = direct.about.map_or((None, ""), |(about, name)| (Some(about), name));
    push_frame(out, kind, |out| {
        out.extend_from_slice(direct.to);
        out.extend_from_slice(direct.from);
        out.extend_from_slice(&direct.session.to_le_bytes());
        let payload = if direct.payload.is_some() { HAS_PAYLOAD } else { 0 };
        out.push(payload | if about.is_some() { HAS_ABOUT } else { 0 });
        let count_at = out.len();
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(about.as_ref().map_or(&[], |about| about.as_slice()));
        let mut count: u16 = 0;
        for share in shares.take(usize::from(u16::MAX)) {
            out.extend_from_slice(&share);
            count += 1;
        }
        out[count_at..count_at + 2].copy_from_slice(&count.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(direct.payload.unwrap_or_default().as_bytes());
    });
}

/// Appends a broadcast.
pub fn push_broadcast(out: &mut Vec<u8>, broadcast: &Broadcast<'_>) {
    push_frame(out, BROADCAST, |out| {
        out.extend_from_slice(&broadcast.namespace);
        out.extend_from_slice(broadcast.from);
        out.extend_from_slice(&broadcast.session.to_le_bytes());
        out.extend_from_slice(&(broadcast.name.len() as u32).to_le_bytes());
        out.extend_from_slice(broadcast.name.as_bytes());
        out.extend_from_slice(broadcast.payload.as_bytes());
    });
}

/// Appends a refusal.
pub fn push_refused(out: &mut Vec<u8>, refused: &Refused<'_>) {
    let (reason, members) = match refused.reason {
        Reason::NotHere => (NOT_HERE, 0),
        Reason::Forbidden => (FORBIDDEN, 0),
        Reason::Full => (FULL, 0),
        Reason::FullFor(members) => (FULL_FOR, members),
    };
    push_frame(out, REFUSED, |out| {
        out.extend_from_slice(refused.to);
        out.extend_from_slice(&refused.session.to_le_bytes());
        out.extend_from_slice(refused.target);
        out.push(reason);
        out.extend_from_slice(&members.to_le_bytes());
    });
}

fn push_frame(out: &mut Vec<u8>, kind: u8, push: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind]);
    push(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Each frame with the loop that it is for, uncut: as many as are whole and of a known kind.
pub fn split(frames: &[u8]) -> impl Iterator<Item = (Home<'_>, &[u8])> {
    let mut rest = frames;
    let uncut = std::iter::from_fn(move || cut(&mut rest));
    uncut.filter_map(|frame| {
        let (prefix, body) = frame.split_first_chunk::<PREFIX>()?;
        let home = match prefix[4] {
            SIGNAL | RELAY | REFUSED => Home::Key(body.first_chunk()?),
            BROADCAST => Home::Everyone,
            _ => return None,
        };
        Some((home, frame))
    })
}

/// Each frame, read; ends with a fault where the last one is cut off.
pub fn read(frames: &[u8]) -> impl Iterator<Item = Result<Frame<'_>, Fault>> {
    let mut rest = frames;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(frame) = cut(&mut rest) else {
            rest = &[];
            return Some(Err(Fault::Malformed));
        };
        Some(read_one(frame))
    })
}

/// Takes the first frame, its length and kind included.
fn cut<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    let (frame, next) = rest.split_at_checked(len.checked_add(4)?)?;
    *rest = next;
    Some(frame)
}

fn read_one(frame: &[u8]) -> Result<Frame<'_>, Fault> {
    let (prefix, body) = frame.split_first_chunk::<PREFIX>().ok_or(Fault::Malformed)?;
    let body = Reader(body);
    match prefix[4] {
        SIGNAL => direct(Kind::Signal, body),
        RELAY => direct(Kind::Relay, body),
        BROADCAST => broadcast(body),
        REFUSED => return refused(body),
        _ => return Err(Fault::Unknown),
    }
    .ok_or(Fault::Malformed)
}

fn direct(kind: Kind, mut body: Reader<'_>) -> Option<Frame<'_>> {
    let (to, from, session) = (body.array()?, body.array()?, body.u64()?);
    let [parts] = *body.array()?;
    let (shares, name_len) = (u16::from_le_bytes(*body.array()?), body.u32()?);
    let about = match parts & HAS_ABOUT {
        0 => None,
        _ => Some(*body.array()?),
    };
    let (shares, _) = body.take(usize::from(shares) * 16)?.as_chunks();
    let name = text(body.take(name_len as usize)?)?;
    let payload = text(body.0)?;
    let direct = Direct {
        kind,
        to,
        from,
        session,
        about: about.map(|about| (about, name)),
        payload: (parts & HAS_PAYLOAD != 0).then_some(payload),
    };
    Some(Frame::Direct(direct, shares))
}

fn broadcast(mut body: Reader<'_>) -> Option<Frame<'_>> {
    let (namespace, from, session, name_len) = (*body.array()?, body.array()?, body.u64()?, body.u32()?);
    Some(Frame::Broadcast(Broadcast {
        namespace,
        from,
        session,
        name: text(body.take(name_len as usize)?)?,
        payload: text(body.0)?,
    }))
}

fn refused(mut body: Reader<'_>) -> Result<Frame<'_>, Fault> {
    let mut read = || Some((body.array()?, body.u64()?, body.array()?, *body.array()?, body.u32()?));
    let (to, session, target, [reason], members) = read().ok_or(Fault::Malformed)?;
    let reason = match reason {
        NOT_HERE => Reason::NotHere,
        FORBIDDEN => Reason::Forbidden,
        FULL => Reason::Full,
        FULL_FOR => Reason::FullFor(members),
        _ => return Err(Fault::Unknown),
    };
    Ok(Frame::Refused(Refused {
        to,
        session,
        target,
        reason,
    }))
}

fn text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(array)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    /// A frame that owns what it is made from.
    #[derive(Clone, Debug)]
    enum Owned {
        Direct {
            relay: bool,
            keys: [[u8; 32]; 2],
            session: u64,
            about: Option<([u8; 16], String)>,
            payload: Option<String>,
            shares: Vec<[u8; 16]>,
        },
        Broadcast([u8; 16], [u8; 32], u64, String, String),
        Refused([[u8; 32]; 2], u64, u8, u32),
        Unknown(Vec<u8>),
    }

    impl Owned {
        fn frame(&self) -> Option<Frame<'_>> {
            Some(match self {
                Self::Direct {
                    relay,
                    keys: [to, from],
                    session,
                    about,
                    payload,
                    shares,
                } => {
                    let direct = Direct {
                        kind: if *relay { Kind::Relay } else { Kind::Signal },
                        to,
                        from,
                        session: *session,
                        about: about.as_ref().map(|(about, name)| (*about, &**name)),
                        payload: payload.as_deref(),
                    };
                    Frame::Direct(direct, shares)
                }
                Self::Broadcast(namespace, from, session, name, payload) => Frame::Broadcast(Broadcast {
                    namespace: *namespace,
                    from,
                    session: *session,
                    name,
                    payload,
                }),
                Self::Refused([to, target], session, reason, members) => Frame::Refused(Refused {
                    to,
                    session: *session,
                    target,
                    reason: match reason {
                        0 => Reason::NotHere,
                        1 => Reason::Forbidden,
                        2 => Reason::Full,
                        _ => Reason::FullFor(*members),
                    },
                }),
                Self::Unknown(_) => return None,
            })
        }

        fn push(&self, out: &mut Vec<u8>) {
            match (self, self.frame()) {
                (_, Some(Frame::Direct(direct, shares))) => push_direct(out, &direct, shares.iter().copied()),
                (_, Some(Frame::Broadcast(broadcast))) => push_broadcast(out, &broadcast),
                (_, Some(Frame::Refused(refused))) => push_refused(out, &refused),
                (Self::Unknown(body), None) => push_frame(out, 77, |out| out.extend_from_slice(body)),
                (_, None) => unreachable!(),
            }
        }

        fn home(&self) -> Option<Home<'_>> {
            match self {
                Self::Direct { keys: [key, _], .. } | Self::Refused([key, _], ..) => Some(Home::Key(key)),
                Self::Broadcast(..) => Some(Home::Everyone),
                Self::Unknown(_) => None,
            }
        }
    }

    fn owned() -> impl Strategy<Value = Owned> {
        let about = option::of((any::<[u8; 16]>(), ".{0,40}"));
        let shares = vec(any::<[u8; 16]>(), 0..5);
        let direct = (
            any::<bool>(),
            any::<[[u8; 32]; 2]>(),
            any::<u64>(),
            about,
            option::of(".{0,90}"),
            shares,
        );
        prop_oneof![
            direct.prop_map(|(relay, keys, session, about, payload, shares)| Owned::Direct {
                relay,
                keys,
                session,
                about,
                payload,
                shares,
            }),
            (any::<[u8; 16]>(), any::<[u8; 32]>(), any::<u64>(), ".{0,40}", ".{0,90}").prop_map(
                |(namespace, from, session, name, payload)| Owned::Broadcast(namespace, from, session, name, payload)
            ),
            (any::<[[u8; 32]; 2]>(), any::<u64>(), 0_u8..4, any::<u32>())
                .prop_map(|(keys, session, reason, members)| Owned::Refused(keys, session, reason, members)),
            vec(any::<u8>(), 0..40).prop_map(Owned::Unknown),
        ]
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written_and_split_by_their_homes(owned in vec(owned(), 0..8)) {
            let mut bytes = Vec::new();
            owned.iter().for_each(|frame| frame.push(&mut bytes));
            let read: Vec<_> = read(&bytes).collect();
            let wanted: Vec<_> = owned.iter().map(|owned| owned.frame().ok_or(Fault::Unknown)).collect();
            prop_assert_eq!(&read, &wanted);
            let parts: Vec<_> = split(&bytes).collect();
            let homes: Vec<_> = owned.iter().filter_map(Owned::home).collect();
            prop_assert_eq!(parts.iter().map(|(home, _)| *home).collect::<Vec<_>>(), homes);
            // Frames that went different ways are frames still.
            let again: Vec<u8> = parts.iter().flat_map(|(_, frame)| frame.iter().copied()).collect();
            let known: Vec<_> = wanted.into_iter().filter(Result::is_ok).collect();
            prop_assert_eq!(super::read(&again).collect::<Vec<_>>(), known);
        }

        #[test]
        fn what_is_cut_off_or_changed_ends_in_faults_and_never_in_a_panic(
            owned in vec(owned(), 1..5), keep in any::<prop::sample::Index>(), changed in vec((any::<prop::sample::Index>(), any::<u8>()), 0..9)
        ) {
            let mut bytes = Vec::new();
            owned.iter().for_each(|frame| frame.push(&mut bytes));
            let cut = &bytes[..keep.index(bytes.len())];
            let whole = read(&bytes).collect::<Vec<_>>();
            let of_cut: Vec<_> = read(cut).collect();
            let ends_well = of_cut.last() != Some(&Err(Fault::Malformed));
            let same = of_cut.len() - usize::from(!ends_well);
            prop_assert_eq!(&of_cut[..same], &whole[..same]);
            for (at, value) in changed {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(read(&bytes).count() <= bytes.len() / 4 + 1);
            prop_assert!(split(&bytes).count() <= bytes.len() / PREFIX);
        }

        #[test]
        fn anything_at_all_can_be_looked_at(bytes in vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).count() <= bytes.len() / 4 + 1);
            prop_assert!(split(&bytes).count() <= bytes.len() / PREFIX);
            if let Some((head, frames)) = Head::split(&bytes) {
                let again = [&head.to_bytes(), frames].concat();
                prop_assert_eq!(again, bytes);
            }
        }
    }

    #[test]
    fn what_is_no_text_reaches_no_client() {
        let direct = Direct {
            kind: Kind::Signal,
            to: &[1; 32],
            from: &[2; 32],
            session: 3,
            about: Some(([4; 16], "name")),
            payload: Some("{}"),
        };
        let mut bytes = Vec::new();
        push_direct(&mut bytes, &direct, std::iter::empty());
        for back in [1, 2, 3, 6] {
            let mut wrong = bytes.clone();
            let at = wrong.len() - back;
            wrong[at] = 0xff;
            let read: Vec<_> = read(&wrong).collect();
            assert_eq!(read, [Err(Fault::Malformed)], "{back} from the end");
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let head = Head {
            node: [7; 16],
            epoch: 8,
            number: u64::MAX,
        };
        let message = [&head.to_bytes()[..], b"frames"].concat();
        assert_eq!(Head::split(&message), Some((head, &b"frames"[..])));
        assert_eq!(Head::split(&message[..31]), None);
    }
}
