//! Where a client is, in few bytes.
//!
//! Owns: the short form of a datagram's way.
//! Never: holds an IPv6 address: this dialect cannot write it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use crate::message::punch::Path;
use crate::message::simple::Endpoint;

/// The way to a client, as [`Path`], in 12 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub remote: Endpoint,
    socket: u8,
    local: Option<[u8; 4]>,
}

impl Place {
    /// None: it is an IPv6 address.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let IpAddr::V4(remote) = path.remote.ip().to_canonical() else {
            return None;
        };
        let local = match path.local.map(|local| local.to_canonical()) {
            Some(IpAddr::V4(local)) => Some(local.octets()),
            Some(IpAddr::V6(_)) => return None,
            None => None,
        };
        Some(Self {
            remote: SocketAddrV4::new(remote, path.remote.port()).into(),
            socket: path.socket,
            local,
        })
    }

    pub(super) fn path(self) -> Path {
        Path {
            socket: self.socket,
            local: self.local.map(IpAddr::from),
            remote: self.address(),
        }
    }

    pub(super) fn address(self) -> SocketAddr {
        SocketAddrV4::from(self.remote).into()
    }

    /// A place of the first socket.
    #[cfg(test)]
    pub(super) fn at(remote: Endpoint) -> Self {
        Self {
            remote,
            socket: 0,
            local: None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_place_is_the_way_that_it_was_made_of() {
        assert_eq!(size_of::<Place>(), 12);
        let mut path = Path {
            socket: 3,
            local: Some("192.0.2.1".parse().unwrap()),
            remote: "198.51.100.7:40000".parse().unwrap(),
        };
        assert_eq!(Place::of(&path).unwrap().path(), path);
        path.local = None;
        assert_eq!(Place::of(&path).unwrap().path(), path);
        path.remote = "[2001:db8::1]:40000".parse().unwrap();
        assert_eq!(Place::of(&path), None);
        path.remote = "[::ffff:198.51.100.7]:40000".parse().unwrap();
        assert_eq!(Place::of(&path).unwrap().address().to_string(), "198.51.100.7:40000");
    }
}
