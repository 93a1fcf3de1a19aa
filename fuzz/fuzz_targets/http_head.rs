//! Request heads, and what is read from their fields.
//!
//! Input: the bytes of a connection.
//! Property: a head is found, refused or awaited alike whether it comes at once or byte by byte, and takes nothing beyond itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use peer_server::codec::deflate::negotiate;
use peer_server::codec::http::{Head, ParseError, check_upgrade, parse_head, push_response, push_switching_protocols};

fuzz_target!(|data: &[u8]| {
    let whole = summary(parse_head(data, &mut 0));
    let (mut searched, mut in_pieces) = (0, Ok(None));
    for end in 0..=data.len() {
        in_pieces = summary(parse_head(&data[..end], &mut searched));
        if in_pieces != Ok(None) {
            assert_eq!(searched, 0, "the next head is searched from its start");
            break;
        }
    }
    assert_eq!(in_pieces, whole);

    let Ok(Some(head)) = parse_head(data, &mut 0) else {
        return;
    };
    assert!(head.len <= data.len() && data[..head.len].ends_with(b"\r\n\r\n"));
    assert!(head.path.starts_with('/') && !head.path.contains(['?', '#', ' ']));
    let mut alone = 0;
    assert_eq!(
        summary(parse_head(&data[..head.len], &mut alone)),
        whole,
        "what follows a head changes nothing in it"
    );

    let extensions = negotiate(head.headers.all("Sec-WebSocket-Extensions"));
    let _ = (
        head.has_body(),
        head.keep_alive(),
        head.headers.single("Host"),
        head.headers.single("Origin"),
    );
    let mut out = Vec::new();
    match check_upgrade(&head) {
        Ok(key) => {
            assert_eq!(key.as_bytes().len(), 24);
            push_switching_protocols(&mut out, key, extensions, &[]);
        }
        Err(error) => push_response(&mut out, error.status(), error.headers(), b"", false, true),
    }
    assert!(
        out.windows(4).filter(|end| end == b"\r\n\r\n").count() == 1,
        "an answer of ours has one head"
    );
});

/// Method, path and version of a head, and its length.
type Summary = (String, String, u8, usize);

fn summary(result: Result<Option<Head<'_>>, ParseError>) -> Result<Option<Summary>, ParseError> {
    Ok(result?.map(|head| (head.method.to_owned(), head.path.to_owned(), head.version, head.len)))
}
