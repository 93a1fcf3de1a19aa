//! A connection's byte stream, plain or under TLS, behind one non-blocking interface.
//!
//! Owns: the socket, the TLS session, and what the session still holds.
//! Never: polls, keeps a read buffer of its own, or knows what the bytes mean.

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;

/// An accepted stream. It may move to another loop at any time between two calls.
pub(super) struct Transport {
    stream: TcpStream,
    /// Without one, bytes go as they are.
    tls: Option<Box<TlsSession>>,
}

/// A TLS session, the server's end, and what it owes the stream below it.
pub(super) struct TlsSession {
    session: ServerConnection,
    /// Plaintext that is decrypted and not handed out, in bytes.
    waiting_bytes: usize,
    /// Output that the session has taken and the kernel has not, about, in bytes.
    unsent_bytes: usize,
    sent: bool,
    closing: Closing,
    /// What every read comes to once the waiting plaintext is handed out.
    end: Option<Read>,
    end_told: bool,
}

/// What one read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// So many bytes are in the buffer. None is possible under TLS: the peer sent something that was not data.
    Data(usize),
    /// The kernel has nothing.
    WouldBlock,
    /// The peer sends no more: FIN or close_notify. It may still read.
    End,
    /// The stream is of no more use. `InvalidData`: the peer broke TLS; the alert has been sent if it could be.
    Failed(ErrorKind),
}

/// A read and what it tells besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadResult {
    /// What the read came to.
    pub outcome: Read,
    /// The kernel gave less than was asked for and the session holds nothing: another read would find nothing, unless
    /// the stream has ended (which the readiness event tells).
    pub short: bool,
    /// This read completed the TLS handshake: bytes can be written.
    pub handshake_done_now: bool,
}

/// What a write came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// All bytes, so many, are with the kernel, and nothing is left to flush.
    Wrote(usize),
    /// So many bytes were taken, and must not be given again; then the kernel, or a handshake, was in the way.
    WouldBlock(usize),
    /// The stream is of no more use.
    Failed,
}

impl Transport {
    /// A stream without TLS.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream, tls: None }
    }

    /// A stream that awaits a TLS handshake.
    #[cfg(test)]
    fn tls(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut transport = Self::plain(stream);
        transport.begin_tls(config)?;
        Ok(transport)
    }

    /// Awaits a TLS handshake from here on, of which no byte was read.
    ///
    /// # Errors
    /// The configuration cannot make a session.
    pub(super) fn begin_tls(&mut self, config: Arc<ServerConfig>) -> Result<(), rustls::Error> {
        let mut session = ServerConnection::new(config)?;
        session.set_buffer_limit(Some(CHUNK_BYTES));
        let tls = TlsSession {
            session,
            waiting_bytes: 0,
            unsent_bytes: 0,
            sent: false,
            closing: Closing::Open,
            end: None,
            end_told: false,
        };
        self.tls = Some(Box::new(tls));
        Ok(())
    }

    /// The next byte, which stays where it is; or what a read would come to. Only before a TLS session.
    pub(super) fn peek(&self) -> Result<u8, Read> {
        let mut byte = [0];
        loop {
            return match self.stream.peek(&mut byte) {
                Ok(0) => Err(Read::End),
                Ok(_) => Ok(byte[0]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => Err(Read::WouldBlock),
                    ErrorKind::Interrupted => continue,
                    kind => Err(Read::Failed(kind)),
                },
            };
        }
    }

    /// The socket and the session apart, for a socket that travels by another way; [`Self::join`] undoes it.
    pub(super) fn split(self) -> (TcpStream, Option<Box<TlsSession>>) {
        (self.stream, self.tls)
    }

    /// What [`Self::split`] took apart.
    pub(super) fn join(stream: TcpStream, tls: Option<Box<TlsSession>>) -> Self {
        Self { stream, tls }
    }

    /// Reads into `buffer`, which must not be empty, with at most one successful read(2).
    ///
    /// Under TLS, plaintext that the session still holds is handed out first, without a system call. Otherwise
    /// ciphertext is read into `cipher`, not more than `buffer` could hold, and all of it is given to the session. What
    /// does not fit `buffer` waits in the session for the next read (`short` is false then). Call [`Self::write`] when
    /// [`Self::wants_flush`] says so afterwards: a handshake needs answers.
    pub(super) fn read(&mut self, buffer: &mut [u8], cipher: &mut [u8]) -> ReadResult {
        debug_assert!(!buffer.is_empty(), "an empty read looks like the end of the stream");
        match &mut self.tls {
            None => {
                let outcome = receive(&mut self.stream, buffer);
                let short = matches!(outcome, Read::Data(bytes) if bytes < buffer.len());
                ReadResult {
                    outcome,
                    short,
                    handshake_done_now: false,
                }
            }
            Some(tls) => {
                let was_handshaking = tls.session.is_handshaking();
                let (outcome, short) = tls.read(&mut self.stream, buffer, cipher);
                let handshake_done_now = was_handshaking && !tls.session.is_handshaking();
                ReadResult {
                    outcome,
                    short,
                    handshake_done_now,
                }
            }
        }
    }

    /// Writes until all is with the kernel or the kernel takes no more.
    ///
    /// Under TLS the session takes at most 16 KiB at a time and what it took is flushed before it takes more;
    /// `write(&[])` flushes what is left, handshakes included. During a handshake no bytes are taken.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Write {
        match &mut self.tls {
            None => send(&mut self.stream, bytes),
            Some(tls) => tls.write(&mut self.stream, bytes),
        }
    }

    /// Says that no more will be written; TLS sends close_notify first.
    ///
    /// If the kernel takes no more, [`Self::wants_flush`] is true and the flush that succeeds closes this direction.
    /// A failure needs no answer here: reading tells of it.
    pub(super) fn shutdown_write(&mut self) {
        match &mut self.tls {
            None => drop(self.stream.shutdown(Shutdown::Write)),
            Some(tls) => tls.shutdown_write(&mut self.stream),
        }
    }

    /// One read(2) past the TLS session, for a closing stream whose input is thrown away.
    ///
    /// A close with unread input makes the kernel send RST, which may destroy the last words. No [`Self::read`] may
    /// follow.
    pub(super) fn discard(&mut self, scratch: &mut [u8]) -> Read {
        receive(&mut self.stream, scratch)
    }

    /// Whether ciphertext waits to be sent. Without TLS, never.
    pub(super) fn wants_flush(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.wants_write())
    }

    /// Whether a read would yield something without touching the socket: plaintext, or the end that follows it.
    ///
    /// No readiness event will tell of it. True for a session that was paused, or moved, with plaintext in it; false
    /// once a read has told the end.
    pub(super) fn has_plaintext(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.waiting_bytes > 0 || (tls.end.is_some() && !tls.end_told))
    }

    /// Whether the kernel took ciphertext since the last call: a flush can make progress that no count tells of.
    ///
    /// Without TLS always false; there the counts of [`Self::write`] tell.
    pub(super) fn take_sent(&mut self) -> bool {
        self.tls.as_mut().is_some_and(|tls| std::mem::take(&mut tls.sent))
    }

    /// Whether a TLS handshake is under way.
    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.session.is_handshaking())
    }

    /// About how many bytes wait inside the session, in both directions.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        self.tls.as_ref().map_or(0, |tls| tls.waiting_bytes + tls.unsent_bytes)
    }

    /// The socket, to be registered with a poll; nobody else may read or write it.
    pub(super) fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

impl TlsSession {
    fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8], cipher: &mut [u8]) -> (Read, bool) {
        let waiting = self.hand_out(buffer);
        if waiting > 0 {
            return (Read::Data(waiting), false);
        }
        if let Some(end) = self.end {
            return self.tell(end);
        }
        let asked = cipher.len().min(buffer.len());
        let received = match receive(stream, &mut cipher[..asked]) {
            Read::Data(received) => received,
            Read::WouldBlock => return (Read::WouldBlock, false),
            end => return self.tell(end),
        };
        let filled = self.feed(stream, &cipher[..received], buffer);
        match self.end {
            Some(end) if filled == 0 => self.tell(end),
            end => (
                Read::Data(filled),
                received < asked && self.waiting_bytes == 0 && end.is_none(),
            ),
        }
    }

    fn tell(&mut self, end: Read) -> (Read, bool) {
        self.end = Some(end);
        self.end_told = true;
        (end, false)
    }

    /// Gives ciphertext to the session and returns how much plaintext is in `buffer`.
    ///
    /// The session refuses ciphertext while it holds more than 16 KiB of plaintext. It never does here: `buffer` is at
    /// least as long as `ciphertext`, so what does not fit is less than the one record (at most 16 KiB of plaintext,
    /// RFC 8446 section 5.1) of which the session may have held a part before.
    fn feed(&mut self, stream: &mut TcpStream, ciphertext: &[u8], buffer: &mut [u8]) -> usize {
        let mut rest = ciphertext;
        let mut filled = 0;
        while !rest.is_empty() && self.end.is_none() {
            match self.session.read_tls(&mut rest) {
                Ok(0) | Err(_) => {
                    // A handshake message beyond the session's bound, which has no alert of its own.
                    self.end = Some(Read::Failed(ErrorKind::InvalidData));
                    break;
                }
                Ok(_) => {}
            }
            match self.session.process_new_packets() {
                Ok(state) => {
                    self.waiting_bytes = state.plaintext_bytes_to_read();
                    if state.peer_has_closed() {
                        self.end = Some(Read::End);
                    }
                }
                Err(_) => {
                    self.end = Some(Read::Failed(ErrorKind::InvalidData));
                    self.flush(stream);
                }
            }
            filled += self.hand_out(&mut buffer[filled..]);
        }
        filled
    }

    fn hand_out(&mut self, buffer: &mut [u8]) -> usize {
        // Its errors and its zero say only that nothing waits, and whether the stream has ended, which `end` knows.
        let bytes = self.session.reader().read(buffer).unwrap_or(0);
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        bytes
    }

    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> Write {
        let mut taken = 0;
        loop {
            match self.flush(stream) {
                Write::Wrote(_) => {}
                Write::WouldBlock(_) => return Write::WouldBlock(taken),
                Write::Failed => return Write::Failed,
            }
            if taken == bytes.len() {
                return Write::Wrote(taken);
            }
            if self.closing != Closing::Open || matches!(self.end, Some(Read::Failed(_))) {
                return Write::Failed;
            }
            if self.session.is_handshaking() {
                return Write::WouldBlock(taken);
            }
            let chunk = &bytes[taken..bytes.len().min(taken + CHUNK_BYTES)];
            match self.session.writer().write(chunk) {
                // Nothing is left to flush, so a refusal means that the session will never take more.
                Ok(0) | Err(_) => return Write::Failed,
                Ok(count) => {
                    taken += count;
                    self.unsent_bytes += count;
                }
            }
        }
    }

    /// Sends what the session has encrypted; the counts are always zero.
    fn flush(&mut self, stream: &mut TcpStream) -> Write {
        while self.session.wants_write() {
            match self.session.write_tls(stream) {
                Ok(0) => return Write::Failed,
                Ok(count) => {
                    self.sent = true;
                    self.unsent_bytes = self.unsent_bytes.saturating_sub(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Write::WouldBlock(0),
                    ErrorKind::Interrupted => {}
                    _ => return Write::Failed,
                },
            }
        }
        self.unsent_bytes = 0;
        if self.closing == Closing::Notifying {
            self.closing = Closing::Closed;
            drop(stream.shutdown(Shutdown::Write));
        }
        Write::Wrote(0)
    }

    fn shutdown_write(&mut self, stream: &mut TcpStream) {
        if self.closing == Closing::Open {
            self.session.send_close_notify();
            self.closing = Closing::Notifying;
        }
        self.flush(stream);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    Open,
    /// close_notify is with the session; FIN follows when it has been flushed.
    Notifying,
    Closed,
}

/// One read(2).
fn receive(stream: &mut TcpStream, buffer: &mut [u8]) -> Read {
    loop {
        return match stream.read(buffer) {
            Ok(0) if !buffer.is_empty() => Read::End,
            Ok(bytes) => Read::Data(bytes),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => Read::WouldBlock,
                ErrorKind::Interrupted => continue,
                kind => Read::Failed(kind),
            },
        };
    }
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> Write {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Write::Failed,
            Ok(count) => sent += count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Write::WouldBlock(sent),
                ErrorKind::Interrupted => {}
                _ => return Write::Failed,
            },
        }
    }
    Write::Wrote(sent)
}

/// How much the session takes before it is flushed: one record of the largest size (RFC 8446 section 5.1).
const CHUNK_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests;
