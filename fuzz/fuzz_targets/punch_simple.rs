//! Datagrams of the ASCII dialect, beside the client's reading of them.
//!
//! Input: a datagram.
//! Property: what is understood, the client's code reads as the same message and writes as the same bytes; a session id comes
//! back as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::dialect::simple::{parse, push};
use peer_server::message::simple::{Asked, Endpoint, Event, NoSession, Request};
use peer_server_client::simple::key;
use peer_server_client::simple::message::Message;

fuzz_target!(|data: &[u8]| {
    let server = "203.0.113.77:8070".parse().ok();
    assert_eq!(
        parse(data, None).is_ok(),
        parse(data, server).is_ok() && !data.starts_with(b"HS") && !data.starts_with(b"RS"),
        "without an address of our own nobody hosts"
    );
    let Ok(request) = parse(data, server) else { return };
    let Some(read) = Message::parse(data) else {
        // No client joins by an id with blanks, by none, or by such a long one.
        let odd = |text: &str| text.contains(' ') || text.is_empty() || text.len() > 64;
        let odd = matches!(request, Request::Join { asked: Asked::Odd(text), .. } if odd(text));
        return assert!(odd, "{request:?}");
    };
    assert_eq!(read.to_string().as_bytes(), data);
    let same_key = |own: Option<Endpoint>, text: &str| {
        assert_eq!(own.map(Into::into), key::decode(text));
    };
    match (request, read) {
        (Request::Host { local, .. }, Message::HostSession { local: text })
        | (Request::Random { local, .. }, Message::RandomSession { local: text }) => same_key(local, text),
        (Request::Join { local, asked }, Message::JoinSession { local: text, session }) => {
            same_key(local, text);
            let event = Event::NoSession(NoSession::from(asked));
            assert_eq!(told(&event), format!("BK:{session}"), "as it was asked for");
            if let Asked::Id(id) = asked {
                same_key(Some(id.server), &session[..12]);
            }
        }
        (Request::KeepAlive { id }, Message::KeepAlive { session })
        | (Request::Complete { id }, Message::CloseSession { session }) => {
            same_key(Some(id.server), &session[..12]);
            let remote = Endpoint::from_bytes([192, 0, 2, 1, 0, 1]);
            let line = told(&Event::Registered { remote, id });
            let read = Message::parse(line.as_bytes());
            assert!(matches!(read, Some(Message::HostRegistered { session: told, .. }) if told == session));
        }
        (request, read) => panic!("{request:?} and {read:?}"),
    }
});

fn told(event: &Event) -> String {
    let mut bytes = Vec::new();
    push(&mut bytes, event);
    String::from_utf8(bytes).expect("ASCII")
}
