//! How dialect 002 writes addresses.
//!
//! Owns: the letters.
//! Never: reads them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An IPv4 address and a port: two letters for each byte.
pub type Key = [u8; 12];

/// The key of an address; IPv6 has none.
pub fn key(address: SocketAddr) -> Key {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let mut key = [0; 12];
    let bytes = ip.octets().into_iter().chain(address.port().to_be_bytes());
    for (pair, byte) in key.chunks_exact_mut(2).zip(bytes) {
        let at = 2 * usize::from(byte);
        pair.copy_from_slice(&CODES[at..at + 2]);
    }
    key
}

/// The pairs of the dialect, by byte.
const CODES: &[u8; 512] = b"\
    cyahjcdumwwhrvyqyysrsstgcvgxiabawabxsmcomseatorbxrvxuafwridsjibk\
    bbspccgcbuowdeiogmhskqasfadxwfhypgugdbjvwqirlmlthmonizisfxmyphfd\
    vlzwsvsidpjpoacmwsjmdootgdlrkoseqnrzxhmzsnafworfjenjyntqzuxpxvnk\
    wrtkdqgatzbloruidteoldhruvswgghdbsnxjzauojtubrrcvztwnbaydvtbkcqu\
    qmmiitvasadibewyghkislpqediveryiiqlsurkvlnhhvjenimvmhibmwefzxbne\
    aghcmagtyxplcrohgjwxgqtifihfxmkmullvnhkreflyusgejufsqzfnnpcjvnft\
    wzjrtfwwabzaoglqmmxwuksombrpztxcadhggwpukxcfybgsgrkboqxqdntvrlvo\
    xzjkygqyfrnliiycdzwuodngpdfgfjfhinnarthzeswthegioobccwyvkypzwmwi";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_are_those_of_the_original_clients() {
        assert_eq!(&key("127.0.0.1:18070".parse().unwrap()), b"qucycyahoavj");
        let pairs: HashSet<&[u8]> = CODES.chunks_exact(2).collect();
        assert_eq!(pairs.len(), 256);
    }
}
