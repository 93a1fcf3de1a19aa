//! The fields of a connect token, one after the other.
//!
//! Owns: how a number or an address stands in each layout.
//! Never: knows which field comes when.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{ADDRESSES_MAX, Fault, Layout};

/// Fills a buffer from its front. Every step is None when it does not fit.
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
    layout: Layout,
}

impl<'a> Writer<'a> {
    pub(super) fn new(buffer: &'a mut [u8], layout: Layout) -> Self {
        Self { rest: buffer, layout }
    }

    /// Leaves room, to be filled later.
    pub(super) fn room<const N: usize>(&mut self) -> Option<&'a mut [u8; N]> {
        let (room, rest) = std::mem::take(&mut self.rest).split_first_chunk_mut()?;
        self.rest = rest;
        Some(room)
    }

    pub(super) fn bytes<const N: usize>(&mut self, bytes: &[u8; N]) -> Option<()> {
        *self.room()? = *bytes;
        Some(())
    }

    pub(super) fn u64(&mut self, number: u64) -> Option<()> {
        self.number(number.to_le_bytes())
    }

    pub(super) fn i32(&mut self, number: i32) -> Option<()> {
        self.number(number.to_le_bytes())
    }

    /// Their number, 1 to 32, and each of them.
    pub(super) fn addresses(&mut self, addresses: &[SocketAddr]) -> Option<()> {
        let count = u32::try_from(addresses.len()).ok()?;
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) {
            return None;
        }
        self.number(count.to_le_bytes())?;
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    self.bytes(&[IPV4])?;
                    self.bytes(&ip.octets())?;
                }
                IpAddr::V6(ip) => {
                    self.bytes(&[IPV6])?;
                    self.bytes(&swapped(ip.octets(), self.layout))?;
                }
            }
            self.number(address.port().to_le_bytes())?;
        }
        Some(())
    }

    fn number<const N: usize>(&mut self, little_endian: [u8; N]) -> Option<()> {
        self.bytes(&ordered(little_endian, self.layout))
    }
}

/// Takes fields from the front of a buffer. Every step is [`Fault::Length`] when nothing is left.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    layout: Layout,
}

impl<'a> Reader<'a> {
    pub(super) fn new(buffer: &'a [u8], layout: Layout) -> Self {
        Self { rest: buffer, layout }
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<&'a [u8; N], Fault> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(Fault::Length)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.number().map(u64::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        self.number().map(i32::from_le_bytes)
    }

    /// Their number, 1 to 32, and each of them; otherwise [`Fault::Addresses`].
    pub(super) fn addresses(&mut self) -> Result<Vec<SocketAddr>, Fault> {
        let count = usize::try_from(self.number().map(u32::from_le_bytes)?).unwrap_or(usize::MAX);
        if !(1..=ADDRESSES_MAX).contains(&count) {
            return Err(Fault::Addresses);
        }
        let mut addresses = Vec::with_capacity(count);
        for _ in 0..count {
            let ip = match self.bytes()? {
                [IPV4] => IpAddr::from(*self.bytes::<4>()?),
                [IPV6] => IpAddr::V6(Ipv6Addr::from(swapped(*self.bytes()?, self.layout))),
                [_] => return Err(Fault::Addresses),
            };
            addresses.push(SocketAddr::new(ip, self.number().map(u16::from_le_bytes)?));
        }
        Ok(addresses)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.bytes().map(|bytes| ordered(*bytes, self.layout))
    }
}

/// From little endian to the order of the layout, or back.
pub(super) fn ordered<const N: usize>(mut bytes: [u8; N], layout: Layout) -> [u8; N] {
    match layout {
        Layout::Netcode | Layout::LightyearLe => {}
        Layout::LightyearBe => bytes.reverse(),
    }
    bytes
}

/// From an IPv6 address's network order to that of the layout, or back.
fn swapped(mut octets: [u8; 16], layout: Layout) -> [u8; 16] {
    match layout {
        Layout::Netcode => octets.chunks_exact_mut(2).for_each(<[u8]>::reverse),
        Layout::LightyearLe | Layout::LightyearBe => {}
    }
    octets
}

const IPV4: u8 = 1;
const IPV6: u8 = 2;
