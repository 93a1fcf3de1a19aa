//! Wire messages of the ASCII dialect (simple-hole-punch).
//!
//! Owns: its datagrams, to and from `message::simple`.
//! Never: keeps a client's state.

use std::net::SocketAddrV4;

use super::demultiplexer::SIMPLE_MAX;
use crate::message::punch::Dropped;
use crate::message::simple::{Asked, Code, Endpoint, Event, NoSession, Request, SessionId};

/// Reads one datagram. `server` is our public address for whoever sent it: without one nobody can host.
pub fn parse(datagram: &[u8], server: Option<SocketAddrV4>) -> Result<Request<'_>, Dropped> {
    if datagram.len() > SIMPLE_MAX {
        return Err(Dropped::Malformed);
    }
    let (verb, rest) = datagram.split_at_checked(3).ok_or(Dropped::Malformed)?;
    let mut fields = rest.split(|byte| *byte == b':');
    let (first, second) = (fields.next().unwrap_or_default(), fields.next());
    let only = || match second {
        None => Ok(first),
        Some(_) => Err(Dropped::Malformed),
    };
    let server = || server.map(Endpoint::from).ok_or(Dropped::NotAllowed);
    match verb {
        b"HS:" => Ok(Request::Host {
            local: local(only()?)?,
            server: server()?,
        }),
        b"RS:" => Ok(Request::Random {
            local: local(only()?)?,
            server: server()?,
        }),
        b"JS:" => {
            let (Some(text), None) = (second, fields.next()) else {
                return Err(Dropped::Malformed);
            };
            let local = local(first)?;
            let asked = match session_id(text) {
                Some(id) => Asked::Id(id),
                None if text.iter().all(|byte| (b' '..=b'~').contains(byte)) => {
                    Asked::Odd(std::str::from_utf8(text).map_err(|_| Dropped::Malformed)?)
                }
                None => return Err(Dropped::Malformed),
            };
            Ok(Request::Join { local, asked })
        }
        b"KA:" => Ok(Request::KeepAlive { id: own_id(only()?)? }),
        b"CS:" => Ok(Request::Complete { id: own_id(only()?)? }),
        _ => Err(Dropped::Malformed),
    }
}

/// Reads a local key. Twelve letters that are no address, and the six of a machine without a network, are no error: their
/// sender is told nothing about, its peers get its remote key.
fn local(key: &[u8]) -> Result<Option<Endpoint>, Dropped> {
    let letters = key.iter().all(u8::is_ascii_lowercase);
    match key.len() {
        KEY_LEN if letters => Ok(endpoint(key)),
        SHORT_KEY_LEN if letters => Ok(None),
        _ => Err(Dropped::Malformed),
    }
}

/// Reads the id of a host's own session: one that cannot be ours is not its sender's either.
fn own_id(text: &[u8]) -> Result<SessionId, Dropped> {
    session_id(text).ok_or(Dropped::NotAllowed)
}

/// Reads a session id: a server key and 2 to 8 codes.
fn session_id(text: &[u8]) -> Option<SessionId> {
    let (server, codes) = text.split_at_checked(KEY_LEN)?;
    let mut bytes = [0; Code::LEN_MAX];
    let bytes = bytes.get_mut(..codes.len() / 2)?;
    decode(codes, bytes)?;
    Some(SessionId {
        server: endpoint(server)?,
        code: Code::new(bytes)?,
    })
}

/// Reads a key; None: it is none.
fn endpoint(key: &[u8]) -> Option<Endpoint> {
    let mut bytes = [0; 6];
    decode(key, &mut bytes)?;
    Some(Endpoint::from_bytes(bytes))
}

/// Reads as many codes as there is room for; None: there are more or fewer, or one is no code.
fn decode(codes: &[u8], bytes: &mut [u8]) -> Option<()> {
    let (pairs, []) = codes.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != bytes.len() {
        return None;
    }
    for (byte, [first, second]) in bytes.iter_mut().zip(pairs) {
        let row = usize::from(first.wrapping_sub(b'a'));
        let column = usize::from(second.wrapping_sub(b'a'));
        let value = *VALUES.get(row)?.get(column)?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(())
}

/// Appends one datagram.
pub fn push(out: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Registered { remote, id } => {
            out.extend_from_slice(b"HR:");
            push_key(out, *remote);
            out.push(b':');
            push_id(out, id);
        }
        Event::Joined {
            remote,
            host,
            host_local,
        } => {
            out.extend_from_slice(b"JR:");
            push_key(out, *remote);
            out.push(b':');
            push_key(out, *host);
            out.push(b':');
            push_key(out, *host_local);
        }
        Event::NewJoiner { joiner, joiner_local } => {
            out.extend_from_slice(b"NJ:");
            push_key(out, *joiner);
            out.push(b':');
            push_key(out, *joiner_local);
        }
        Event::NoSession(asked) => {
            out.extend_from_slice(b"BK:");
            match asked {
                NoSession::Id(id) => push_id(out, id),
                NoSession::Odd(text) => out.extend_from_slice(text.as_bytes()),
            }
        }
    }
}

fn push_key(out: &mut Vec<u8>, endpoint: Endpoint) {
    push_codes(out, &endpoint.to_bytes());
}

fn push_id(out: &mut Vec<u8>, id: &SessionId) {
    push_key(out, id.server);
    push_codes(out, id.code.as_bytes());
}

fn push_codes(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&PAIRS[usize::from(*byte)]);
    }
}

/// Letters of an address.
const KEY_LEN: usize = 12;
/// Letters that a client without a network sends: a first byte and a port.
const SHORT_KEY_LEN: usize = 6;

/// The code of each byte value, in order.
const CODES: &[u8; 512] = b"\
    cyahjcdumwwhrvyqyysrsstgcvgxiabawabxsmcomseatorbxrvxuafwridsjibk\
    bbspccgcbuowdeiogmhskqasfadxwfhypgugdbjvwqirlmlthmonizisfxmyphfd\
    vlzwsvsidpjpoacmwsjmdootgdlrkoseqnrzxhmzsnafworfjenjyntqzuxpxvnk\
    wrtkdqgatzbloruidteoldhruvswgghdbsnxjzauojtubrrcvztwnbaydvtbkcqu\
    qmmiitvasadibewyghkislpqediveryiiqlsurkvlnhhvjenimvmhibmwefzxbne\
    aghcmagtyxplcrohgjwxgqtifihfxmkmullvnhkreflyusgejufsqzfnnpcjvnft\
    wzjrtfwwabzaoglqmmxwuksombrpztxcadhggwpukxcfybgsgrkboqxqdntvrlvo\
    xzjkygqyfrnliiycdzwuodngpdfgfjfhinnarthzeswthegioobccwyvkypzwmwi\
";

const PAIRS: &[[u8; 2]] = CODES.as_chunks().0;

/// The byte value of each pair of letters; -1: none.
const VALUES: [[i16; 26]; 26] = {
    let mut values = [[-1; 26]; 26];
    let mut value = 0;
    while value < 256 {
        let [first, second] = PAIRS[value];
        values[(first - b'a') as usize][(second - b'a') as usize] = value as i16;
        value += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dialect::demultiplexer::{self, classify};
    use crate::message::punch::Dialect;

    const SERVER: &str = "127.0.0.1:18070";
    const KEY: &str = "wzgjahmswevl";

    fn server() -> Option<SocketAddrV4> {
        Some(SERVER.parse().unwrap())
    }

    fn read(datagram: &str) -> Result<Request<'_>, Dropped> {
        parse(datagram.as_bytes(), server())
    }

    fn text(event: Event) -> String {
        let mut out = Vec::new();
        push(&mut out, &event);
        String::from_utf8(out).unwrap()
    }

    fn key(address: &str) -> Endpoint {
        Endpoint::from(address.parse::<SocketAddrV4>().unwrap())
    }

    #[test]
    fn keys_are_those_of_the_vectors() {
        let vectors = include_str!("../../tests/vectors/simple/keys.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let table = vectors["table"].as_array().unwrap();
        assert_eq!(table.len(), 256);
        for (value, code) in table.iter().enumerate() {
            assert_eq!(PAIRS[value], code.as_str().unwrap().as_bytes());
        }
        let pairs = vectors["items"].as_array().unwrap();
        assert!(pairs.len() >= 7);
        for pair in pairs {
            let (address, written) = (pair["address"].as_str().unwrap(), pair["key"].as_str().unwrap());
            assert_eq!(endpoint(written.as_bytes()), Some(key(address)), "{address}");
            let mut out = Vec::new();
            push_key(&mut out, key(address));
            assert_eq!(out, written.as_bytes(), "{address}");
        }
        for refused in vectors["invalid"].as_array().unwrap() {
            assert_eq!(endpoint(refused.as_str().unwrap().as_bytes()), None, "{refused}");
        }
    }

    #[test]
    fn every_byte_has_a_code_of_its_own() {
        for value in 0..=u8::MAX {
            let mut back = [0];
            decode(&PAIRS[usize::from(value)], &mut back).unwrap();
            assert_eq!(back, [value]);
        }
        assert_eq!(VALUES.iter().flatten().filter(|value| **value >= 0).count(), 256);
    }

    #[test]
    fn each_verb_is_read() {
        let local = Some(key("192.168.1.20:40000"));
        let (at, id) = (key(SERVER), "qucycyahoavjbaulcyah");
        let session = session_id(id.as_bytes()).unwrap();
        assert_eq!(session.server, at);
        assert_eq!(session.code.as_bytes(), [15, 176, 0, 1]);
        let host = Request::Host { local, server: at };
        let random = Request::Random { local, server: at };
        assert_eq!(read(&format!("HS:{KEY}")), Ok(host));
        assert_eq!(read(&format!("RS:{KEY}")), Ok(random));
        let asked = Asked::Id(session);
        assert_eq!(read(&format!("JS:{KEY}:{id}")), Ok(Request::Join { local, asked }));
        assert_eq!(read(&format!("KA:{id}")), Ok(Request::KeepAlive { id: session }));
        assert_eq!(read(&format!("CS:{id}")), Ok(Request::Complete { id: session }));
    }

    #[test]
    fn a_local_key_that_is_no_address_is_none() {
        for key in ["zzzzzzzzzzzz", "cyahoa"] {
            let asked = Asked::Odd("x");
            assert_eq!(read(&format!("JS:{key}:x")), Ok(Request::Join { local: None, asked }));
        }
    }

    #[test]
    fn ids_that_cannot_be_a_sessions_are_told_back() {
        for odd in [
            "",
            "a",
            "qucycyahoavjba",
            "qucycyahoavjbau",
            "zzzzzzzzzzzzbaul",
            "~ !",
            "QUCYCYAHOAVJBAUL",
        ] {
            let datagram = format!("JS:{KEY}:{odd}");
            let Ok(Request::Join { asked, .. }) = read(&datagram) else {
                panic!("{datagram}");
            };
            assert_eq!(asked, Asked::Odd(odd));
            let answer = text(Event::NoSession(asked.into()));
            assert_eq!(answer, format!("BK:{odd}"));
            assert!(answer.len() < datagram.len());
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        let id = "qucycyahoavjbaul";
        let long = format!("JS:{KEY}:{}", "a".repeat(81));
        assert_eq!(long.len(), SIMPLE_MAX + 1);
        let refused = [
            "",
            "HS",
            "HS:",
            "HSx",
            &format!("HS{KEY}x"),
            &format!("hs:{KEY}"),
            &format!("HR:{KEY}"),
            &format!("HS:{KEY}:"),
            &format!("HS:{KEY}:{id}"),
            &format!("HS:{KEY}x"),
            "HS:wzgjahmswe",
            "HS:wzgjahmswe01",
            "HS:WZGJAHMSWEVL",
            &format!("JS:{KEY}"),
            &format!("JS:{KEY}:{id}:"),
            &format!("JS:{KEY}:\u{7f}"),
            &format!("JS:{KEY}:\u{e9}"),
            &format!("KA:{id}:"),
            &format!("CS:{id}:{id}"),
            &long,
        ];
        for datagram in refused {
            assert_eq!(read(datagram), Err(Dropped::Malformed), "{datagram}");
        }
        for datagram in ["KA:abcdef", "CS:zzzzzzzzzzzzbaul"] {
            assert_eq!(read(datagram), Err(Dropped::NotAllowed), "{datagram}");
        }
    }

    #[test]
    fn without_an_address_of_ours_nobody_hosts_and_anybody_joins() {
        for verb in ["HS", "RS"] {
            let datagram = format!("{verb}:{KEY}");
            assert_eq!(parse(datagram.as_bytes(), None), Err(Dropped::NotAllowed));
        }
        assert!(parse(format!("JS:{KEY}:qucycyahoavjbaul").as_bytes(), None).is_ok());
    }

    #[test]
    fn answers_are_written_as_specified() {
        let (remote, host, host_local) = (key(SERVER), key("192.168.1.20:40000"), key("10.0.0.1:30000"));
        let id = session_id(b"qucycyahoavjbaulcyah").unwrap();
        let registered = text(Event::Registered { remote, id });
        assert_eq!(registered, "HR:qucycyahoavj:qucycyahoavjbaulcyah");
        assert_eq!(registered.len(), 36);
        let joined = Event::Joined {
            remote,
            host,
            host_local,
        };
        assert_eq!(text(joined), "JR:qucycyahoavj:wzgjahmswevl:sscycyahtupg");
        let joiner = Event::NewJoiner {
            joiner: host,
            joiner_local: host_local,
        };
        assert_eq!(text(joiner), "NJ:wzgjahmswevl:sscycyahtupg");
    }

    proptest::proptest! {
        #[test]
        fn any_datagram_is_read_or_refused_and_ids_are_told_back_as_sent(
            verb in 0..6usize, rest in "[a-z:]{0,40}", junk in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
        ) {
            let verb = ["HS:", "JS:", "RS:", "CS:", "KA:", "JS:qucycyahoavj:"][verb];
            let datagram = format!("{verb}{rest}");
            if let Ok(Request::Join { asked, .. }) = read(&datagram) {
                let id = datagram.rsplit(':').next().unwrap();
                proptest::prop_assert_eq!(text(Event::NoSession(asked.into())), format!("BK:{id}"));
            }
            // The demultiplexer refuses nothing that is understood here, but keys and ids of under six letters.
            if read(&datagram).is_ok() && datagram.len() >= 9 {
                proptest::prop_assert_eq!(classify(datagram.as_bytes()), Some(Dialect::Simple));
            }
            let _ = parse(&junk, server());
            proptest::prop_assert!(demultiplexer::SIMPLE_MAX == SIMPLE_MAX);
        }
    }
}
