//! Connect tokens of netcode 1.02: what a game server needs to know of a player, sealed for it (netcode standard 1.02).
//!
//! Owns: the 2048 bytes in the three layouts that all call themselves `NETCODE 1.02`, sealing and opening.
//! Never: draws a random number, reads a clock, or shows a key.

mod fields;

use std::fmt;
use std::net::SocketAddr;

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use fields::{Reader, Writer, ordered};

/// Bytes of a token.
pub const TOKEN_BYTES: usize = 2048;
/// Server addresses that a token holds at most.
pub const ADDRESSES_MAX: usize = 32;

/// How integers and IPv6 addresses stand in a token. A reader cannot tell; it must be agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The standard: little endian, IPv6 as eight little-endian numbers of 16 bits.
    Netcode,
    /// Lightyear 0.17 to 0.19: little endian, IPv6 as sixteen octets.
    LightyearLe,
    /// Lightyear from 0.21: big endian throughout, IPv6 as sixteen octets.
    LightyearBe,
}

/// The key that the game servers share with us. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// A key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(***)")
    }
}

/// What a token says. `{:?}` shows neither its keys nor what the game put into it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which protocol the game speaks.
    pub protocol_id: u64,
    /// When it was made, in Unix seconds.
    pub created_s: u64,
    /// When it ends; the largest number: never.
    pub expires_s: u64,
    /// Must never be the same for two tokens under one key.
    pub nonce: [u8; 24],
    /// Seconds without a packet after which the connection is over; negative: never.
    pub timeout_s: i32,
    /// Where the client connects, 1 to 32.
    pub public: Vec<SocketAddr>,
    /// What the server compares its own address with, 1 to 32.
    pub internal: Vec<SocketAddr>,
    /// The player's id on the game server.
    pub client_id: u64,
    /// Seals what the client sends.
    pub client_to_server: [u8; 32],
    /// Seals what the server sends.
    pub server_to_client: [u8; 32],
    /// For the game.
    pub user_data: [u8; 256],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("protocol_id", &self.protocol_id)
            .field("created_s", &self.created_s)
            .field("expires_s", &self.expires_s)
            .field("timeout_s", &self.timeout_s)
            .field("public", &self.public)
            .field("internal", &self.internal)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not 2048 bytes.
    Length,
    /// It does not begin with `NETCODE 1.02`.
    Version,
    /// It ends before it was made.
    Times,
    /// No address, more than 32, or one that is neither IPv4 nor IPv6.
    Addresses,
    /// Another key sealed it, or it was changed.
    Seal,
    /// It is for another protocol.
    Protocol,
    /// It is over.
    Expired,
    /// It is for other servers.
    OtherServer,
    /// The client was told another session key or timeout than the server.
    Disagreement,
}

/// Seals a token. None: it ends before it was made, or a list has no address or more than 32.
#[must_use]
pub fn seal(token: &Token, key: &PrivateKey, layout: Layout) -> Option<Box<[u8; TOKEN_BYTES]>> {
    if token.created_s > token.expires_s {
        return None;
    }
    let mut sealed = Box::new([0; TOKEN_BYTES]);
    let mut writer = Writer::new(&mut *sealed, layout);
    writer.bytes(VERSION)?;
    for number in [token.protocol_id, token.created_s, token.expires_s] {
        writer.u64(number)?;
    }
    writer.bytes(&token.nonce)?;
    let message: &mut [u8; MESSAGE_BYTES] = writer.room()?;
    let tag: &mut [u8; 16] = writer.room()?;
    push_shared(&mut writer, token, &token.public)?;

    let mut writer = Writer::new(&mut message[..], layout);
    writer.u64(token.client_id)?;
    push_shared(&mut writer, token, &token.internal)?;
    writer.bytes(&token.user_data)?;
    let data = associated_data(token.protocol_id, token.expires_s, layout);
    let sealing = XChaCha20Poly1305::new(&key.0.into()).encrypt_inout_detached(
        &token.nonce.into(),
        &data,
        InOutBuf::from(&mut message[..]),
    );
    *tag = sealing.ok()?.into();
    Some(sealed)
}

/// Opens a token as a game server of this protocol does, at this time. `own` is where it listens, if that is to be looked for
/// among the internal addresses.
///
/// Of the part that the client reads only the version, the protocol and the end are sealed: who holds a token may change when
/// it was made and where it says that the server is, and what fills it up to its length is never looked at.
///
/// # Errors
/// The first [`Fault`] in their order.
pub fn open(
    bytes: &[u8],
    key: &PrivateKey,
    layout: Layout,
    protocol_id: u64,
    now_s: u64,
    own: Option<SocketAddr>,
) -> Result<Token, Fault> {
    if bytes.len() != TOKEN_BYTES {
        return Err(Fault::Length);
    }
    let mut reader = Reader::new(bytes, layout);
    if reader.bytes()? != VERSION {
        return Err(Fault::Version);
    }
    let (bound_to, created_s, expires_s) = (reader.u64()?, reader.u64()?, reader.u64()?);
    if created_s > expires_s {
        return Err(Fault::Times);
    }
    let nonce: [u8; 24] = *reader.bytes()?;
    let mut message: [u8; MESSAGE_BYTES] = *reader.bytes()?;
    let tag: [u8; 16] = *reader.bytes()?;
    let public = Shared::read(&mut reader)?;

    let data = associated_data(bound_to, expires_s, layout);
    let opened = XChaCha20Poly1305::new(&key.0.into()).decrypt_inout_detached(
        &nonce.into(),
        &data,
        InOutBuf::from(&mut message[..]),
        &tag.into(),
    );
    opened.map_err(|_| Fault::Seal)?;
    if bound_to != protocol_id {
        return Err(Fault::Protocol);
    }
    if expires_s <= now_s {
        return Err(Fault::Expired);
    }
    let mut reader = Reader::new(&message, layout);
    let client_id = reader.u64()?;
    let private = Shared::read(&mut reader)?;
    let user_data = *reader.bytes()?;
    if own.is_some_and(|own| !private.addresses.contains(&own)) {
        return Err(Fault::OtherServer);
    }
    if !private.agrees_with(&public) {
        return Err(Fault::Disagreement);
    }
    Ok(Token {
        protocol_id,
        created_s,
        expires_s,
        nonce,
        timeout_s: private.timeout_s,
        public: public.addresses,
        internal: private.addresses,
        client_id,
        client_to_server: private.client_to_server,
        server_to_client: private.server_to_client,
        user_data,
    })
}

/// What stands in both parts of a token, with addresses of its own in each.
struct Shared {
    timeout_s: i32,
    addresses: Vec<SocketAddr>,
    client_to_server: [u8; 32],
    server_to_client: [u8; 32],
}

impl Shared {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(Self {
            timeout_s: reader.i32()?,
            addresses: reader.addresses()?,
            client_to_server: *reader.bytes()?,
            server_to_client: *reader.bytes()?,
        })
    }

    fn agrees_with(&self, other: &Self) -> bool {
        self.timeout_s == other.timeout_s
            && self.client_to_server == other.client_to_server
            && self.server_to_client == other.server_to_client
    }
}

fn push_shared(writer: &mut Writer<'_>, token: &Token, addresses: &[SocketAddr]) -> Option<()> {
    writer.i32(token.timeout_s)?;
    writer.addresses(addresses)?;
    writer.bytes(&token.client_to_server)?;
    writer.bytes(&token.server_to_client)
}

/// What the seal covers besides the message.
fn associated_data(protocol_id: u64, expires_s: u64, layout: Layout) -> [u8; 29] {
    let mut data = [0; 29];
    let (version, numbers) = data.split_at_mut(VERSION.len());
    version.copy_from_slice(VERSION);
    for (place, number) in numbers.chunks_exact_mut(8).zip([protocol_id, expires_s]) {
        place.copy_from_slice(&ordered(number.to_le_bytes(), layout));
    }
    data
}

const VERSION: &[u8; 13] = b"NETCODE 1.02\0";
/// The sealed part without its tag.
const MESSAGE_BYTES: usize = 1008;
