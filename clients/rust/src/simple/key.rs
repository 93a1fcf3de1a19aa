//! Keys: how an IPv4 address and a port travel as twelve letters.
//!
//! Owns: the table of codes.
//! Never: knows what a key is for.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Letters of a key.
pub const KEY_LETTERS: usize = 12;

/// The key of an address: a two-letter code for each byte of the IP address and of the port, high byte first.
pub fn encode(address: SocketAddrV4) -> String {
    let [a, b, c, d] = address.ip().octets();
    let [high, low] = address.port().to_be_bytes();
    [a, b, c, d, high, low]
        .map(|byte| {
            let at = 2 * usize::from(byte);
            &CODES[at..at + 2]
        })
        .concat()
}

/// The address of a key; None if it has not twelve letters or a pair that is no code.
pub fn decode(key: &str) -> Option<SocketAddrV4> {
    let key = key.as_bytes();
    if key.len() != KEY_LETTERS {
        return None;
    }
    let mut bytes = [0; KEY_LETTERS / 2];
    for (byte, pair) in bytes.iter_mut().zip(key.chunks_exact(2)) {
        *byte = byte_of(pair)?;
    }
    let [a, b, c, d, high, low] = bytes;
    Some(SocketAddrV4::new(
        Ipv4Addr::new(a, b, c, d),
        u16::from_be_bytes([high, low]),
    ))
}

fn byte_of(code: &[u8]) -> Option<u8> {
    let place = CODES.as_bytes().chunks_exact(2).position(|known| known == code)?;
    u8::try_from(place).ok()
}

/// The code of every byte in order, 32 to a line. The order has no rule; both sides of the protocol have this list.
const CODES: &str = "\
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
    use super::*;

    #[test]
    fn the_codes_and_the_keys_are_the_recorded_ones() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/simple/keys.json");
        let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let table = recorded["table"].as_array().unwrap();
        assert_eq!(table.len(), 256);
        assert_eq!(
            CODES,
            table.iter().map(|code| code.as_str().unwrap()).collect::<String>()
        );
        for item in recorded["items"].as_array().unwrap() {
            let (address, key) = (item["address"].as_str().unwrap(), item["key"].as_str().unwrap());
            assert_eq!(encode(address.parse().unwrap()), key);
            assert_eq!(decode(key), Some(address.parse().unwrap()));
        }
        for key in recorded["invalid"].as_array().unwrap() {
            assert_eq!(decode(key.as_str().unwrap()), None, "{key}");
        }
    }

    #[test]
    fn what_is_cut_in_the_middle_of_a_letter_is_no_key() {
        assert_eq!(decode("cycycycycycä"), None);
        assert_eq!(decode("ääääääääääääääääääääääää"), None);
    }
}
