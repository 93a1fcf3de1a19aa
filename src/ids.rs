//! The names of things: peers, sessions, connections, loops, namespaces.
//!
//! Owns: every identifier as a type of its own, and the arithmetic that says which loop is the home of what.
//! Never: holds state about what an identifier names.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;

use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher13};

/// A peer's lasting name: the SHA-256 of its public key string (peer protocol, section 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// How many characters its written form has.
    pub const HEX_LEN: usize = 64;

    /// The fingerprint of a public key string.
    pub fn of_key(public_key: &str) -> Self {
        Self(Sha256::digest(public_key.as_bytes()).into())
    }

    /// From its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Reads exactly 64 lowercase hex digits; anything else is not a fingerprint.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; Self::HEX_LEN] = text.as_bytes().try_into().ok()?;
        // Both loops run to their end whatever they find: without a branch the compiler makes vectors of them.
        let mut nibbles = [0; Self::HEX_LEN];
        let mut strange = false;
        for (nibble, digit) in nibbles.iter_mut().zip(digits) {
            let (decimal, letter) = (digit.wrapping_sub(b'0'), digit.wrapping_sub(b'a'));
            strange |= (decimal > 9) & (letter > 5);
            *nibble = if decimal > 9 { letter.wrapping_add(10) } else { decimal };
        }
        if strange {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(nibbles.as_chunks::<2>().0) {
            *byte = high << 4 | low;
        }
        Some(Self(bytes))
    }

    /// The 64 lowercase hex digits.
    pub fn hex(&self) -> [u8; 64] {
        let mut text = [0; Self::HEX_LEN];
        for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(self.0) {
            *pair = [hex_digit(byte >> 4), hex_digit(byte & 15)];
        }
        text
    }
}

/// Arithmetic that cannot fail and not a table, so that a loop over it becomes vectors.
#[inline]
fn hex_digit(nibble: u8) -> u8 {
    nibble.wrapping_add(if nibble > 9 { b'a' - 10 } else { b'0' })
}

/// Eight hex digits: what logs may carry of a fingerprint.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// An event loop, and the shard that it runs: 0-based. Where it says by whom a peer is served it may also stand for another
/// node of the cluster, which the loops treat like one more loop: see [`LoopId::of_node`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopId(u16);

impl LoopId {
    /// Loops that a process may have.
    pub const LOOPS_MAX: usize = Self::FIRST_NODE as usize;
    const FIRST_NODE: u16 = 1 << 15;

    /// The loop with this index, below [`LoopId::LOOPS_MAX`].
    pub const fn new(index: u16) -> Self {
        Self(index)
    }

    /// What stands for another node.
    pub const fn of_node(node: NodeNo) -> Self {
        Self(Self::FIRST_NODE | node.0)
    }

    /// The node that it stands for; None: it is a loop of this process.
    pub const fn node(self) -> Option<NodeNo> {
        match self.0 >= Self::FIRST_NODE {
            true => Some(NodeNo(self.0 & !Self::FIRST_NODE)),
            false => None,
        }
    }

    /// Its index.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Another node of the cluster in one of its epochs, by a number of this process. Never used twice: a node that lost its
/// lease and came back, or was started again, has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeNo(u16);

impl NodeNo {
    /// Numbers that there are.
    pub const COUNT: u16 = LoopId::FIRST_NODE;

    /// The node with this number, below [`NodeNo::COUNT`]; None: the numbers are used up.
    pub const fn new(number: u16) -> Option<Self> {
        match number < Self::COUNT {
            true => Some(Self(number)),
            false => None,
        }
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A command to the broker: the loop that waits for its reply, and a number of that loop's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(u64);

impl CommandId {
    /// The `count`th command of a loop.
    pub const fn new(loop_id: LoopId, count: u64) -> Self {
        Self((loop_id.0 as u64) << 48 | (count & (u64::MAX >> 16)))
    }

    /// The loop that waits for the reply.
    pub const fn loop_id(self) -> LoopId {
        LoopId((self.0 >> 48) as u16)
    }

    /// As a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From a number made by [`CommandId::as_u64`].
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// A connection of one loop: a slab position and the generation that tells it from earlier ones in the same position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    slot: u32,
    generation: u32,
}

impl ConnId {
    /// A connection in `slot`, the `generation`th one there.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// Its position in the loop's slab.
    pub const fn slot(self) -> usize {
        self.slot as usize
    }

    /// Its generation.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// One registration of one connection. Never used twice in the life of a process; in a cluster no other node has the
/// number, but by a chance of one in 2^47 for two sessions of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u64);

impl SessionId {
    /// The `count`th session made by `maker`.
    pub const fn new(maker: LoopId, count: u64) -> Self {
        Self((maker.0 as u64) << 48 | count)
    }

    /// As a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// From a number made by [`SessionId::as_u64`], here or on another node.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }
}

/// A namespace or room: a 128-bit hash of its name, so any loop can compute it (keyed, but in a cluster: see
/// [`Homes::in_cluster`]).
///
/// Two halves and not a `u128`, whose alignment would cost every membership eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId {
    /// Says which loop is its home, but in a cluster.
    high: u64,
    low: u64,
}

impl NamespaceId {
    /// As 16 bytes, for mail between loops.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.as_u128().to_le_bytes()
    }

    const fn as_u128(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    const fn from_u128(id: u128) -> Self {
        Self {
            high: (id >> 64) as u64,
            low: id as u64,
        }
    }

    /// From 16 bytes made by [`NamespaceId::to_bytes`].
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_u128(u128::from_le_bytes(bytes))
    }
}

impl fmt::Debug for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamespaceId({:08x})", self.low as u32)
    }
}

/// What is counted as one client address: an IPv4 address, an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(u128);

impl Prefix {
    /// The prefix of an address; one that maps an IPv4 address is that address.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(u128::from(v4.to_bits())),
            // The lowest bit set keeps it apart from every IPv4 address.
            IpAddr::V6(v6) => Self(v6.to_bits() >> 64 << 64 | 1 << 63),
        }
    }
}

/// Where everything lives: the process's secret hash keys and its number of loops.
///
/// The keys are random in each process, so nobody outside can aim names at one core or make two names collide.
#[derive(Clone)]
pub struct Homes {
    loops: u16,
    keys: [u64; 4],
    hasher: ahash::RandomState,
    /// Every node computes the same id for a name.
    shared_names: bool,
}

impl Homes {
    /// Homes over `loops` loops (at least one), from four secret keys.
    pub fn new(loops: u16, keys: [u64; 4]) -> Self {
        let [a, b, c, d] = keys;
        Self {
            loops: loops.max(1),
            keys,
            hasher: ahash::RandomState::with_seeds(a, b, c, d),
            shared_names: false,
        }
    }

    /// The same homes with ids of namespaces on which all nodes of a cluster agree, so that traffic between nodes carries
    /// ids and no names. Which loop is a namespace's home stays this process's secret.
    pub fn in_cluster(self) -> Self {
        Self {
            shared_names: true,
            ..self
        }
    }

    /// How many loops there are.
    pub const fn loops(&self) -> usize {
        self.loops as usize
    }

    /// How many sessions a loop shall count as made before its first. In a cluster nodes begin far from each other, so that a
    /// session is known by its number also where its node has another epoch.
    pub fn sessions_before(&self) -> u64 {
        match self.shared_names {
            true => self.hasher.hash_one("sessions") >> 17,
            false => 0,
        }
    }

    /// The hasher for maps whose keys a stranger can choose.
    pub fn hasher(&self) -> ahash::RandomState {
        self.hasher.clone()
    }

    /// The loop where a peer with this fingerprint is served.
    pub fn of_fingerprint(&self, fingerprint: &Fingerprint) -> LoopId {
        self.spread(self.hasher.hash_one(fingerprint.0))
    }

    /// The loop that knows who holds an alias.
    pub fn of_alias(&self, alias: &str) -> LoopId {
        self.spread(self.hasher.hash_one(alias))
    }

    /// The loop that keeps a namespace's or room's roster and match queues.
    pub fn of_namespace(&self, namespace: NamespaceId) -> LoopId {
        match self.shared_names {
            // Anybody can compute such an id: without a key one could aim names at one core.
            true => self.of_key(&namespace),
            false => self.spread(namespace.high),
        }
    }

    /// The loop that counts what a client address does.
    pub fn of_prefix(&self, prefix: Prefix) -> LoopId {
        self.of_key(&prefix)
    }

    /// The loop that keeps what this key names: a punch session, a lobby.
    pub fn of_key(&self, key: &impl Hash) -> LoopId {
        self.spread(self.hasher.hash_one(key))
    }

    /// The id of the namespace or room of this name.
    pub fn namespace(&self, name: &str) -> NamespaceId {
        if self.shared_names {
            // No secret is shared by the nodes, so it takes a hash that is hard to collide without one.
            let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
            let (half, _) = digest.split_at(16);
            let half = half.try_into().expect("half of 32 bytes");
            return NamespaceId::from_u128(u128::from_be_bytes(half));
        }
        // SipHash and not ahash: two names with one id would share their members, so this must be a pseudo-random function.
        let mut hasher = SipHasher13::new_with_keys(self.keys[0] ^ self.keys[2], self.keys[1] ^ self.keys[3]);
        std::hash::Hasher::write(&mut hasher, name.as_bytes());
        NamespaceId::from_u128(hasher.finish128().as_u128())
    }

    /// A keyed hash of a fingerprint, to compare it with the entries of an exclusion list.
    pub fn fingerprint_hash(&self, fingerprint: &Fingerprint) -> u64 {
        self.hasher.hash_one(fingerprint.0)
    }

    /// A keyed hash of an alias, to compare it with the entries of an exclusion list.
    pub fn alias_hash(&self, alias: &str) -> u64 {
        self.hasher.hash_one(alias)
    }

    /// Multiply-shift: spreads a 64-bit hash evenly over the loops.
    fn spread(&self, hash: u64) -> LoopId {
        LoopId(((u128::from(hash) * u128::from(self.loops)) >> 64) as u16)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_fingerprint_is_the_sha256_of_the_key() {
        let fingerprint = Fingerprint::of_key("abc");
        assert_eq!(
            &fingerprint.hex(),
            b"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            Fingerprint::parse(std::str::from_utf8(&fingerprint.hex()).unwrap()),
            Some(fingerprint)
        );
    }

    #[test]
    fn only_64_lowercase_hex_digits_are_a_fingerprint() {
        assert!(Fingerprint::parse(&"a".repeat(64)).is_some());
        assert!(Fingerprint::parse(&"A".repeat(64)).is_none());
        assert!(Fingerprint::parse(&"a".repeat(63)).is_none());
        assert!(Fingerprint::parse(&"g".repeat(64)).is_none());
        for other in (0..=0x7f).map(char::from) {
            let digit = other.is_ascii_digit() || ('a'..='f').contains(&other);
            for place in [0, 31, 63] {
                let mut text = "0".repeat(64);
                text.replace_range(place..=place, &other.to_string());
                assert_eq!(Fingerprint::parse(&text).is_some(), digit, "{other:?} at {place}");
            }
        }
    }

    #[test]
    fn a_fingerprint_is_read_as_it_was_written() {
        for first in 0..=u8::MAX {
            let bytes = std::array::from_fn(|place| first.wrapping_add(place as u8 * 7));
            let fingerprint = Fingerprint::from_bytes(bytes);
            let text = String::from_utf8(fingerprint.hex().to_vec()).unwrap();
            let spelled: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, spelled);
            assert_eq!(Fingerprint::parse(&text), Some(fingerprint));
        }
    }

    #[test]
    fn homes_are_spread_evenly_and_stable() {
        let homes = Homes::new(4, [1, 2, 3, 4]);
        let mut counts = [0; 4];
        for i in 0..4000 {
            let fingerprint = Fingerprint::of_key(&i.to_string());
            assert_eq!(
                homes.of_fingerprint(&fingerprint),
                homes.clone().of_fingerprint(&fingerprint)
            );
            counts[homes.of_fingerprint(&fingerprint).index()] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn namespace_ids_differ_by_name_and_by_key() {
        let homes = Homes::new(2, [1, 2, 3, 4]);
        assert_ne!(homes.namespace("a"), homes.namespace("b"));
        assert_ne!(homes.namespace("a"), Homes::new(2, [1, 2, 3, 5]).namespace("a"));
        let id = homes.namespace("lobby");
        assert_eq!(NamespaceId::from_bytes(id.to_bytes()), id);
    }
}
