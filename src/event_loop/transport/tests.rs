//! Real sockets on the loopback, the server's end driven by edge-triggered readiness as a loop would do it.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::event_loop::listener::{Accept, accept, bind_alone, tune};
use crate::event_loop::tls::testing::Identity;
use mio::{Events, Interest, Poll, Token};
use rustls::{ClientConnection, StreamOwned, version};
use std::net::{Ipv4Addr, TcpStream as StdStream};
use std::thread;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(5);

type Client = StreamOwned<ClientConnection, StdStream>;

/// The server's end with its poll. `ready` keeps the rule of edges: cleared by WouldBlock, or by a short read unless an
/// event has told of the end, which is not told twice.
struct Server {
    transport: Transport,
    poll: Poll,
    ready: bool,
    read_closed: bool,
    handshakes: usize,
    buffer: Vec<u8>,
    cipher: Vec<u8>,
}

impl Server {
    fn new(mut transport: Transport, buffer_bytes: usize) -> Self {
        let poll = Poll::new().unwrap();
        poll.registry()
            .register(transport.source(), Token(0), Interest::READABLE | Interest::WRITABLE)
            .unwrap();
        let buffer = vec![0; buffer_bytes];
        Self {
            transport,
            poll,
            ready: false,
            read_closed: false,
            handshakes: 0,
            cipher: buffer.clone(),
            buffer,
        }
    }

    /// Waits for readiness; false when none came in time.
    fn wait(&mut self) -> bool {
        let mut events = Events::with_capacity(4);
        self.poll.poll(&mut events, Some(DEADLINE)).unwrap();
        self.ready |= !events.is_empty();
        self.read_closed |= events.iter().any(|event| event.is_read_closed() || event.is_error());
        !events.is_empty()
    }

    /// One read, answering the handshake; waits first if the last one found the socket empty.
    fn read(&mut self) -> Read {
        loop {
            if !self.ready && !self.transport.has_plaintext() {
                assert!(self.wait(), "no readiness in time");
            }
            let ReadResult {
                outcome,
                short,
                handshake_done_now,
            } = self.transport.read(&mut self.buffer, &mut self.cipher);
            self.handshakes += usize::from(handshake_done_now);
            if outcome == Read::WouldBlock || (short && !self.read_closed) {
                self.ready = false;
            }
            if self.transport.wants_flush() {
                self.transport.write(&[]);
            }
            if outcome != Read::WouldBlock && outcome != Read::Data(0) {
                return outcome;
            }
        }
    }

    /// One read without waiting.
    fn read_again(&mut self) -> Read {
        self.transport.read(&mut self.buffer, &mut self.cipher).outcome
    }

    fn read_exactly(&mut self, wanted: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < wanted {
            match self.read() {
                Read::Data(bytes) => got.extend_from_slice(&self.buffer[..bytes]),
                end => panic!("{end:?} after {} of {wanted} bytes", got.len()),
            }
        }
        assert_eq!(got.len(), wanted);
        got
    }

    fn write_all(&mut self, bytes: &[u8]) {
        let mut sent = 0;
        loop {
            match self.transport.write(&bytes[sent..]) {
                Write::Wrote(count) => return assert_eq!(sent + count, bytes.len()),
                Write::WouldBlock(count) => sent += count,
                Write::Failed => panic!("write failed after {sent} bytes"),
            }
            assert!(self.wait(), "no readiness in time");
        }
    }
}

fn pair() -> (TcpStream, StdStream) {
    let listener = bind_alone((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let client = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.set_write_timeout(Some(DEADLINE)).unwrap();
    client.set_nodelay(true).unwrap();
    loop {
        if let Accept::Stream(stream, _) = accept(&listener) {
            tune(&stream, 64 * 1024, DEADLINE);
            return (stream, client);
        }
    }
}

fn tls_pair(version: &'static rustls::SupportedProtocolVersion, buffer_bytes: usize) -> (Server, Client) {
    let identity = Identity::new();
    let (stream, socket) = pair();
    let server = Server::new(Transport::tls(stream, identity.server()).unwrap(), buffer_bytes);
    let config = identity.client(version, &[b"http/1.1"]);
    let session = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    (server, StreamOwned::new(session, socket))
}

/// A pair that has shaken hands and said one word.
fn open_tls_pair(buffer_bytes: usize) -> (Server, Client) {
    let (mut server, mut client) = tls_pair(&version::TLS13, buffer_bytes);
    let shaken = thread::spawn(move || {
        client.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"world");
        client
    });
    assert!(server.transport.is_handshaking());
    assert_eq!(server.transport.write(b"too early"), Write::WouldBlock(0));
    assert_eq!(server.read_exactly(5), b"hello");
    assert!(!server.transport.is_handshaking());
    assert_eq!(server.handshakes, 1);
    server.write_all(b"world");
    (server, shaken.join().unwrap())
}

/// The ciphertext of `plaintext`, not yet sent.
fn sealed(client: &mut Client, plaintext: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in plaintext.chunks(CHUNK_BYTES) {
        client.conn.writer().write_all(chunk).unwrap();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut wire).unwrap();
        }
    }
    wire
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index * 31 / 7) as u8).collect()
}

#[test]
fn a_plain_stream_reads_writes_and_ends() {
    let (stream, mut client) = pair();
    let mut server = Server::new(Transport::plain(stream), 1000);
    assert_eq!(server.transport.read(&mut [0; 8], &mut []).outcome, Read::WouldBlock);
    client.write_all(&pattern(2500)).unwrap();
    assert_eq!(server.read_exactly(2500), pattern(2500));
    server.write_all(b"answer");
    server.transport.shutdown_write();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
    client.shutdown(Shutdown::Write).unwrap();
    server.ready = true;
    assert_eq!(server.read(), Read::End);
    assert!(!server.transport.has_plaintext() && !server.transport.wants_flush());
    assert_eq!(server.transport.write(b"late"), Write::Failed);
}

#[test]
fn sixty_four_kibibytes_go_both_ways_under_both_versions() {
    for version in [&version::TLS13, &version::TLS12] {
        let (mut server, mut client) = tls_pair(version, 64 * 1024);
        let sent = pattern(64 * 1024);
        let client = thread::spawn(move || {
            client.write_all(&pattern(64 * 1024)).unwrap();
            let mut back = vec![0; 64 * 1024];
            client.read_exact(&mut back).unwrap();
            back
        });
        assert_eq!(server.read_exactly(64 * 1024), sent);
        assert_eq!(server.handshakes, 1);
        server.write_all(&sent);
        assert_eq!(client.join().unwrap(), sent);
        assert!(server.transport.take_sent() && !server.transport.take_sent());
    }
}

#[test]
fn plaintext_that_does_not_fit_the_buffer_waits_in_the_session() {
    const BUFFER_BYTES: usize = 1024;
    let (mut server, mut client) = open_tls_pair(BUFFER_BYTES);
    let wire = sealed(&mut client, &pattern(3 * CHUNK_BYTES));
    // All but the last byte of the first record: nothing can be decrypted.
    let record_bytes = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
    client.sock.write_all(&wire[..record_bytes - 1]).unwrap();
    let mut fed = 0;
    while fed < record_bytes - 1 {
        let ReadResult { outcome, .. } = server.transport.read(&mut server.buffer, &mut server.cipher);
        match outcome {
            Read::Data(0) => fed += BUFFER_BYTES.min(record_bytes - 1 - fed),
            Read::WouldBlock => assert!(server.wait()),
            other => panic!("{other:?}"),
        }
    }
    assert!(!server.transport.has_plaintext());
    // One kilobyte of ciphertext yields sixteen of plaintext.
    client.sock.write_all(&wire[record_bytes - 1..]).unwrap();
    server.ready = true;
    let Read::Data(BUFFER_BYTES) = server.read() else {
        panic!("a full buffer")
    };
    let mut got = server.buffer.clone();
    assert_eq!(server.transport.held_bytes(), CHUNK_BYTES - BUFFER_BYTES);
    while server.transport.has_plaintext() {
        let ReadResult {
            outcome: Read::Data(bytes),
            short: false,
            ..
        } = server.transport.read(&mut server.buffer, &mut [])
        else {
            panic!("data that waits, with no ciphertext read")
        };
        got.extend_from_slice(&server.buffer[..bytes]);
    }
    let rest = 3 * CHUNK_BYTES - got.len();
    got.extend(server.read_exactly(rest));
    assert_eq!(got, pattern(3 * CHUNK_BYTES));
}

#[test]
fn a_buffer_that_is_just_as_long_as_the_ciphertext_never_overflows_the_session() {
    // Odd sizes, so that reads end everywhere within records of every size.
    for buffer_bytes in [997, 4099, 16 * 1024 + 1, 64 * 1024] {
        let (mut server, mut client) = open_tls_pair(buffer_bytes);
        let sent = pattern(600_000);
        let copy = sent.clone();
        let client = thread::spawn(move || {
            for chunk in copy.chunks(23_456) {
                client.write_all(chunk).unwrap();
            }
            client
        });
        assert_eq!(server.read_exactly(sent.len()), sent, "{buffer_bytes}");
        drop(client.join().unwrap());
    }
}

#[test]
fn a_peer_that_does_not_read_blocks_the_writer_and_then_resumes_it() {
    let total = 8 * 1024 * 1024;
    for tls in [false, true] {
        let (mut server, client): (Server, Box<dyn std::io::Read + Send>) = if tls {
            let (server, client) = open_tls_pair(4096);
            (server, Box::new(client))
        } else {
            let (stream, client) = pair();
            (Server::new(Transport::plain(stream), 4096), Box::new(client))
        };
        let sent = pattern(total);
        let Write::WouldBlock(first) = server.transport.write(&sent) else {
            panic!("the kernel took all")
        };
        assert!(first > 0 && first < total);
        assert_eq!(server.transport.wants_flush(), tls);
        assert!(server.transport.held_bytes() <= CHUNK_BYTES, "bounded while blocked");
        assert_eq!(
            server.transport.write(&sent[first..]),
            Write::WouldBlock(0),
            "takes nothing more"
        );
        let reader = thread::spawn(move || {
            let mut got = Vec::new();
            let mut client = client;
            client.by_ref().take(total as u64).read_to_end(&mut got).unwrap();
            got
        });
        server.write_all(&sent[first..]);
        assert!(!server.transport.wants_flush() && server.transport.held_bytes() == 0);
        assert!(reader.join().unwrap() == sent, "tls: {tls}");
    }
}

#[test]
fn close_notify_that_comes_with_data_is_told_after_the_data_without_another_event() {
    let (mut server, mut client) = open_tls_pair(4096);
    let mut wire = sealed(&mut client, b"last words");
    client.conn.send_close_notify();
    client.conn.write_tls(&mut wire).unwrap();
    client.sock.write_all(&wire).unwrap();
    assert!(server.wait());
    // One short read(2), but not a short result: the end is in the session, and no event will tell of it.
    let words = server.transport.read(&mut server.buffer, &mut server.cipher);
    assert_eq!(
        words,
        ReadResult {
            outcome: Read::Data(10),
            short: false,
            handshake_done_now: false
        }
    );
    assert_eq!(&server.buffer[..10], b"last words");
    assert!(server.transport.has_plaintext());
    assert_eq!(
        server.transport.read(&mut server.buffer, &mut server.cipher).outcome,
        Read::End
    );
    assert!(!server.transport.has_plaintext(), "told once");
    // The other direction is still open, and ends cleanly with data, close_notify and FIN.
    server.write_all(b"and mine");
    server.transport.shutdown_write();
    assert_eq!(server.transport.write(b"late"), Write::Failed);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"and mine");
    assert_eq!(client.sock.read(&mut [0; 8]).unwrap(), 0, "FIN follows");
}

#[test]
fn close_notify_waits_for_a_blocked_kernel() {
    let (mut server, mut client) = open_tls_pair(4096);
    let sent = pattern(8 * 1024 * 1024);
    let Write::WouldBlock(taken) = server.transport.write(&sent) else {
        panic!("the kernel took all")
    };
    server.transport.shutdown_write();
    assert!(server.transport.wants_flush());
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    server.write_all(&[]);
    assert!(
        reader.join().unwrap() == sent[..taken],
        "all that was taken, then a clean end"
    );
}

#[test]
fn a_fin_without_close_notify_is_an_end_too() {
    let (mut server, mut client) = open_tls_pair(4096);
    client.sock.write_all(&[23, 3, 3]).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.read(), Read::End);
    server.write_all(b"still heard");
    let mut word = [0; 11];
    client.read_exact(&mut word).unwrap();
}

#[test]
fn garbage_in_place_of_a_client_hello_fails_and_is_answered_with_an_alert() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &[0; 64],
        &[0xff; 20_000],
    ] {
        let (stream, mut client) = pair();
        let mut server = Server::new(Transport::tls(stream, Identity::new().server()).unwrap(), 4096);
        client.write_all(garbage).unwrap();
        assert!(server.wait());
        while server.read_again() != Read::Failed(ErrorKind::InvalidData) {
            assert!(server.wait());
        }
        assert!(!server.transport.wants_flush(), "the alert has been sent by the read");
        assert_eq!(server.read_again(), Read::Failed(ErrorKind::InvalidData));
        assert_eq!(server.transport.write(b"x"), Write::Failed);
        server.transport.shutdown_write();
        while matches!(server.transport.discard(&mut server.buffer), Read::Data(_)) {}
        let mut alert = [0; 7];
        client.read_exact(&mut alert).unwrap();
        assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert: {alert:?}");
    }
}

#[test]
fn data_before_a_broken_record_is_handed_out_before_the_failure() {
    let (mut server, mut client) = open_tls_pair(4096);
    let mut wire = sealed(&mut client, b"good");
    let start = wire.len();
    wire.extend(sealed(&mut client, b"bad"));
    wire[start + 6] ^= 1;
    client.sock.write_all(&wire).unwrap();
    assert_eq!(server.read_exactly(4), b"good");
    assert_eq!(server.read(), Read::Failed(ErrorKind::InvalidData));
    let error = client.read(&mut [0; 8]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[test]
fn a_session_moves_to_another_thread_with_what_it_holds() {
    const BUFFER_BYTES: usize = 512;
    let (mut server, mut client) = open_tls_pair(BUFFER_BYTES);
    let sent = pattern(10_000);
    let wire = sealed(&mut client, &sent);
    client.sock.write_all(&wire).unwrap();
    let mut got = Vec::new();
    while !server.transport.has_plaintext() {
        if let Read::Data(bytes) = server.read() {
            got.extend_from_slice(&server.buffer[..bytes]);
        }
    }
    let Server {
        mut transport, poll, ..
    } = server;
    poll.registry().deregister(transport.source()).unwrap();
    let moved = thread::spawn(move || {
        let mut server = Server::new(transport, BUFFER_BYTES);
        got.extend(server.read_exactly(10_000 - got.len()));
        server.write_all(b"moved");
        got
    });
    let mut word = [0; 5];
    client.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"moved");
    assert_eq!(moved.join().unwrap(), sent);
}
