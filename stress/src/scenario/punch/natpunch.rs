//! Clients of dialect 001: `RegisterRequest` until `RegisterResponse`, then `KeepAlive` with the id. The next registration from
//! the same address is a new client's, and the end of the old one.
//!
//! Owns: the proof that a response names the address that it went to, comes once, and brings an id that nobody else has.
//! Never: shares code with the server, whose mistakes it is to find.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::repeats::Repeats;
use super::{Clients, Step};
use crate::worker::io::Io;

/// A worker's clients.
pub struct Registrants {
    registrants: Vec<Registrant>,
    /// Ids in use.
    ids: HashSet<Vec<u8>>,
    datagram: Vec<u8>,
}

#[derive(Clone, Default)]
struct Registrant {
    registering: bool,
    id: Vec<u8>,
    repeats: Repeats,
}

impl Registrants {
    /// So many clients.
    pub fn new(registrants: usize) -> Self {
        Self {
            registrants: vec![Registrant::default(); registrants],
            ids: HashSet::new(),
            datagram: Vec::new(),
        }
    }

    fn register(&mut self, io: &mut Io, client: usize) {
        // As the original: the socket is bound to the wildcard, and so is what the client says of it.
        let mut endpoint = Vec::with_capacity(16);
        push_bytes(&mut endpoint, 1, b"::");
        push_number(&mut endpoint, 2, io.datagrams.address(client).port());
        let mut request = Vec::with_capacity(16);
        push_bytes(&mut request, 1, &endpoint);
        self.say(io, client, REGISTER_REQUEST, &request);
    }

    fn keep_alive(&mut self, io: &mut Io, client: usize) {
        let mut message = Vec::with_capacity(40);
        push_bytes(&mut message, 1, &self.registrants[client].id);
        self.say(io, client, KEEP_ALIVE, &message);
    }

    fn say(&mut self, io: &mut Io, client: usize, field: u8, message: &[u8]) {
        self.datagram.clear();
        push_bytes(&mut self.datagram, field, message);
        io.send_datagram(client, &self.datagram);
    }
}

impl Clients for Registrants {
    fn begin(&mut self, io: &mut Io, client: usize) {
        self.registrants[client].registering = true;
        self.register(io, client);
    }

    fn ask_again(&mut self, io: &mut Io, client: usize) {
        self.registrants[client].repeats.on_silence();
        // Without it the same client asks again; to one that is new it says nothing.
        if !self.registrants[client].id.is_empty() {
            self.keep_alive(io, client);
        }
        self.register(io, client);
    }

    fn on_datagram(&mut self, io: &mut Io, client: usize, socket: usize, bytes: &[u8]) -> Result<Step, &'static str> {
        let id = check(bytes, io.datagrams.address(socket))?;
        let registrant = &mut self.registrants[client];
        if registrant.id == id {
            registrant.repeats.on_old()?;
            return Ok(Step::Waiting);
        }
        if !registrant.registering {
            return Err("it was not asked for");
        }
        registrant.repeats.on_new()?;
        self.ids.remove(&registrant.id);
        if !self.ids.insert(id.to_vec()) {
            return Err("another client has this id");
        }
        registrant.id = id.to_vec();
        registrant.registering = false;
        self.keep_alive(io, client);
        Ok(Step::Done)
    }
}

/// The id in a `RegisterResponse`.
fn check(datagram: &[u8], address: SocketAddr) -> Result<&[u8], &'static str> {
    let mut message = Fields(datagram);
    let Some((REGISTER_RESPONSE, Value::Bytes(response))) = message.next() else {
        return Err("it is no RegisterResponse");
    };
    if !message.0.is_empty() {
        return Err("more follows the RegisterResponse");
    }
    let (mut success, mut id, mut ip, mut port) = (false, None, None, None);
    let mut response = Fields(response);
    for field in response.by_ref() {
        match field {
            (1, Value::Number(1)) => success = true,
            (2, Value::Bytes(endpoint)) => {
                for field in Fields(endpoint) {
                    match field {
                        (1, Value::Bytes(text)) => ip = std::str::from_utf8(text).ok(),
                        (2, Value::Number(number)) => port = Some(number),
                        _ => return Err("an endpoint of another form"),
                    }
                }
            }
            (3, Value::Bytes(text)) => id = Some(text),
            (4, Value::Bytes(_)) => {}
            _ => return Err("a field that no RegisterResponse has"),
        }
    }
    if !response.0.is_empty() || !success {
        return Err("it does not say that it succeeded");
    }
    let ip: Option<IpAddr> = ip.and_then(|text| text.parse().ok());
    if ip != Some(address.ip().to_canonical()) || port != Some(u64::from(address.port())) {
        return Err("it is not the address that it was sent from");
    }
    let is_uuid = |text: &[u8]| {
        let is_right = |(at, byte): (usize, &u8)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'4',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
        };
        text.len() == 36 && text.iter().enumerate().all(is_right)
    };
    id.filter(|id| is_uuid(id)).ok_or("it has no id")
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message; what is left is no field.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (&key, rest) = self.0.split_first()?;
        let (number, rest) = varint(rest)?;
        let value = match key & 7 {
            0 => {
                self.0 = rest;
                Value::Number(number)
            }
            2 => {
                let (bytes, rest) = rest.split_at_checked(usize::try_from(number).ok()?)?;
                self.0 = rest;
                Value::Bytes(bytes)
            }
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

fn varint(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value, bytes));
        }
    }
    None
}

/// Fewer than 128 bytes.
fn push_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.extend([field << 3 | 2, bytes.len() as u8]);
    out.extend_from_slice(bytes);
}

fn push_number(out: &mut Vec<u8>, field: u8, mut number: u16) {
    out.push(field << 3);
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

const REGISTER_REQUEST: u8 = 1;
const REGISTER_RESPONSE: u8 = 2;
const KEEP_ALIVE: u8 = 9;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What the original server answered to 127.0.0.1:42385.
    const RESPONSE: &[u8] = b"\x12\x39\x08\x01\x12\x0f\x0a\x09127.0.0.1\x10\x91\xcb\x02\
        \x1a\x246d92cce4-b926-4304-aa69-3753f5b9f63a";

    #[test]
    fn a_response_is_right_or_says_what_is_wrong() {
        let address = "127.0.0.1:42385".parse().unwrap();
        let id = b"6d92cce4-b926-4304-aa69-3753f5b9f63a";
        assert_eq!(check(RESPONSE, address), Ok(&id[..]));
        assert!(check(RESPONSE, "127.0.0.1:42386".parse().unwrap()).is_err());
        assert!(check(RESPONSE, "127.0.0.2:42385".parse().unwrap()).is_err());
        for at in 0..RESPONSE.len() {
            assert!(check(&RESPONSE[..at], address).is_err(), "{at} bytes");
        }
        let mut failed = RESPONSE.to_vec();
        failed[3] = 0;
        assert!(check(&failed, address).is_err());
        let mut twice = RESPONSE.to_vec();
        twice.extend_from_slice(RESPONSE);
        assert!(check(&twice, address).is_err());
    }

    #[test]
    fn a_request_is_written_as_by_the_original_clients() {
        let mut endpoint = Vec::new();
        push_bytes(&mut endpoint, 1, b"192.168.1.20");
        push_number(&mut endpoint, 2, 40000);
        let mut request = Vec::new();
        push_bytes(&mut request, 1, &endpoint);
        let mut message = Vec::new();
        push_bytes(&mut message, REGISTER_REQUEST, &request);
        assert_eq!(message, b"\x0a\x14\x0a\x12\x0a\x0c192.168.1.20\x10\xc0\xb8\x02");
    }
}
