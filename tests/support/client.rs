//! A WebSocket client that does as it is told, right or wrong.
//!
//! Owns: the upgrade, a thread that reads (and answers pings and the closing handshake unless told not to), and the
//! order in which things arrived.
//! Never: hides anything: what the server breaks ends the connection as `Event::Broken`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ANSWER_WITHIN;
use super::frame::{Decoder, Event, Frame, Opcode};
use super::http::{Response, read_response, request_head};
use super::matching::Matcher;
use super::wire::{Wire, WireOptions};

/// How to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// The request target.
    pub path: String,
    /// Headers besides those of the upgrade; a name of the upgrade's own replaces that one.
    pub headers: Vec<(String, String)>,
    /// The `Sec-WebSocket-Extensions` to offer.
    pub extensions: Option<String>,
    /// Answer pings at once, in the background.
    pub auto_pong: bool,
    /// Answer a close frame at once with the same code, and the end of the TCP connection with ours, in the background.
    pub auto_close: bool,
    /// TLS, socket options.
    pub wire: WireOptions,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            path: "/ws".to_owned(),
            headers: Vec::new(),
            extensions: None,
            auto_pong: true,
            auto_close: true,
            wire: WireOptions::default(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// The server answered, but with no upgrade.
    Refused(Response),
    /// It did not answer, or its upgrade was wrong.
    Failed(io::Error),
}

/// How a closing handshake ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The server's code; absent in an empty close frame.
    pub code: Option<u16>,
    /// The server's reason.
    pub reason: String,
}

/// An open WebSocket. Dropping it closes the TCP connection without a closing handshake.
pub struct Client {
    wire: Arc<Wire>,
    shared: Arc<Shared>,
    upgrade: Response,
    events: Receiver<Event>,
    // What was received and not yet taken, in order.
    arrived: VecDeque<Event>,
    reader: Option<JoinHandle<()>>,
}

struct Shared {
    close_sent: AtomicBool,
    // The end that the reader sees is of our own making, and the server must not hear of it in order.
    resetting: AtomicBool,
    paused: Mutex<bool>,
    pause_changed: Condvar,
}

impl Client {
    /// Connects, and panics when that fails.
    pub fn connect(addr: SocketAddr, options: ConnectOptions) -> Self {
        Self::try_connect(addr, options).unwrap_or_else(|error| panic!("no WebSocket to {addr}: {error:?}"))
    }

    /// Connects.
    pub fn try_connect(addr: SocketAddr, options: ConnectOptions) -> Result<Self, ConnectError> {
        let wire = Wire::open(addr, &options.wire).map_err(ConnectError::Failed)?;
        let mut first = Vec::new();
        let upgrade = upgrade(&wire, &options, &mut first)?;
        let decoder = Decoder::new(upgrade.header("sec-websocket-extensions").as_deref(), first);

        let wire = Arc::new(wire);
        let shared = Arc::new(Shared {
            close_sent: AtomicBool::new(false),
            resetting: AtomicBool::new(false),
            paused: Mutex::new(false),
            pause_changed: Condvar::new(),
        });
        let (events_in, events) = mpsc::channel();
        let reader = Reader {
            wire: wire.clone(),
            shared: shared.clone(),
            decoder,
            events: events_in,
            options,
        };
        let reader = Some(thread::spawn(move || reader.run()));
        Ok(Self {
            wire,
            shared,
            upgrade,
            events,
            arrived: VecDeque::new(),
            reader,
        })
    }

    /// The server's answer to the upgrade.
    pub fn upgrade(&self) -> &Response {
        &self.upgrade
    }

    /// The extension that the server accepted.
    pub fn extension(&self) -> Option<String> {
        self.upgrade.header("sec-websocket-extensions")
    }

    /// The connection below, for its TLS facts and addresses.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Sends a JSON value as one text message.
    pub fn send_json(&self, value: &Value) {
        self.send_text(&value.to_string());
    }

    /// Sends a text message.
    pub fn send_text(&self, text: &str) {
        self.send_frame(Frame::text(text));
    }

    /// Sends a frame as it is.
    pub fn send_frame(&self, frame: Frame) {
        self.try_send_frames(&[frame]).expect("the frame is sent");
    }

    /// Sends frames in one write; an error when the connection is gone.
    pub fn try_send_frames(&self, frames: &[Frame]) -> io::Result<()> {
        if frames.iter().any(|frame| frame.opcode == Opcode::CLOSE) {
            self.shared.close_sent.store(true, Ordering::SeqCst);
        }
        self.wire
            .write_all(&frames.iter().flat_map(Frame::encode).collect::<Vec<u8>>())
    }

    /// Sends bytes that need not be a frame.
    pub fn try_send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes)
    }

    /// Whatever comes next, pings and pongs too; none when nothing comes in time. An end is given again and again.
    pub fn recv(&mut self, within: Duration) -> Option<Event> {
        self.take(within, |_| true)
    }

    /// The next data message, close or end. Pings and pongs before it remain to be taken.
    pub fn recv_content(&mut self, within: Duration) -> Option<Event> {
        self.take(within, Event::is_content)
    }

    /// The data of the next ping. Everything before it remains to be taken.
    pub fn recv_ping(&mut self, within: Duration) -> Option<Vec<u8>> {
        match self.take(within, |event| matches!(event, Event::Ping(_)))? {
            Event::Ping(data) => Some(data),
            _ => None,
        }
    }

    /// The data of the next pong. Everything before it remains to be taken.
    pub fn recv_pong(&mut self, within: Duration) -> Option<Vec<u8>> {
        match self.take(within, |event| matches!(event, Event::Pong(_)))? {
            Event::Pong(data) => Some(data),
            _ => None,
        }
    }

    /// What has arrived and was not taken, for a report.
    pub fn pending(&mut self) -> Vec<String> {
        self.arrived.extend(self.events.try_iter());
        self.arrived.iter().map(Event::describe).collect()
    }

    /// The next message, which must be JSON in one text frame.
    pub fn recv_json(&mut self) -> Value {
        match self.recv_content(ANSWER_WITHIN) {
            Some(Event::Message {
                text: true,
                payload,
                frames: 1,
                ..
            }) => serde_json::from_slice(&payload)
                .unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&payload))),
            other => panic!("expected JSON in one text frame, got {}", described(other)),
        }
    }

    /// The next message, which must match (see [`Matcher`]); it is returned.
    pub fn expect_json(&mut self, expected: &Value) -> Value {
        let actual = self.recv_json();
        if let Err(difference) = Matcher::default().matches(expected, &actual) {
            panic!("expected {expected}\n     got {actual}\n     {difference}");
        }
        actual
    }

    /// No data message, no close and no end for that long.
    pub fn expect_none(&mut self, for_that_long: Duration) {
        if let Some(event) = self.recv_content(for_that_long) {
            panic!("expected nothing, got {}", event.describe());
        }
    }

    /// A close frame must come next; `code` 1005 is an empty one and 1006 an end without one, `reason` none is any.
    pub fn expect_close(&mut self, code: u16, reason: Option<&str>) {
        let event = self.recv_content(ANSWER_WITHIN);
        let reason_fits = match &event {
            Some(Event::Close { reason: given, .. }) => reason.is_none_or(|reason| reason == given),
            _ => true,
        };
        if event.as_ref().and_then(Event::close_code) != Some(code) || !reason_fits {
            panic!("expected close {code} {reason:?}, got {}", described(event));
        }
    }

    /// The TCP connection must end in order.
    pub fn expect_eof(&mut self) {
        match self.recv_content(ANSWER_WITHIN) {
            Some(Event::Eof) => {}
            other => panic!("expected the end, got {}", described(other)),
        }
    }

    /// The closing handshake: sends a close frame, passes over what was on its way, waits for the server's close
    /// frame and then for it to end the TCP connection. `code` 1005 sends an empty close frame.
    pub fn close(mut self, code: u16, reason: &str) -> Result<Closed, String> {
        let code = (code != 1005).then_some(code);
        self.try_send_frames(&[Frame::close(code, reason)])
            .map_err(|error| format!("close not sent: {error}"))?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut closed = None;
        loop {
            match self.recv_content(deadline.saturating_duration_since(Instant::now())) {
                Some(Event::Close { code, reason }) => closed = Some(Closed { code, reason }),
                Some(Event::Message { .. }) => {}
                Some(Event::Eof) => return closed.ok_or_else(|| "TCP ended without a close frame".to_owned()),
                other => {
                    return Err(format!(
                        "the close frame was answered by {closed:?}, then {}",
                        described(other)
                    ));
                }
            }
        }
    }

    /// Ends the TCP connection in order, without a closing handshake.
    pub fn drop_tcp(self) {
        drop(self);
    }

    /// Ends the TCP connection with a reset.
    pub fn reset_tcp(mut self) {
        self.shared.resetting.store(true, Ordering::SeqCst);
        self.wire.reset_on_close();
        self.resume_reading();
        self.join_reader();
        // The last owner of the socket is gone with `self.wire`, which `drop` must not shut down in order before.
    }

    /// Stops taking bytes from the socket, soon: one more read may be under way.
    pub fn pause_reading(&self) {
        self.set_paused(true);
    }

    /// Takes bytes again.
    pub fn resume_reading(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        *self.shared.paused.lock().unwrap_or_else(PoisonError::into_inner) = paused;
        self.shared.pause_changed.notify_all();
    }

    /// The first event that is `wanted`, arrived or to come.
    fn take(&mut self, within: Duration, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let deadline = Instant::now() + within;
        let mut seen = 0;
        loop {
            while let Some(event) = self.arrived.get(seen) {
                if wanted(event) {
                    return if event.is_end() {
                        Some(event.clone())
                    } else {
                        self.arrived.remove(seen)
                    };
                }
                if event.is_end() {
                    return None;
                }
                seen += 1;
            }
            let event = self
                .events
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
                .ok()?;
            self.arrived.push_back(event);
        }
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.wire.shutdown();
            self.resume_reading();
            self.join_reader();
        }
    }
}

/// The opening handshake of RFC 6455 section 4.1; `rest` gets what the server sent after it.
fn upgrade(wire: &Wire, options: &ConnectOptions, rest: &mut Vec<u8>) -> Result<Response, ConnectError> {
    let key = tungstenite::handshake::client::generate_key();
    let mut headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", key.as_str()),
    ];
    headers.extend(
        options
            .extensions
            .as_deref()
            .map(|offer| ("Sec-WebSocket-Extensions", offer)),
    );
    headers.retain(|(name, _)| !options.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name)));
    headers.extend(
        options
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    );

    let head = request_head("GET", &options.path, &headers);
    wire.write_all(head.as_bytes()).map_err(ConnectError::Failed)?;
    let response = read_response(wire, rest, false, ANSWER_WITHIN).map_err(ConnectError::Failed)?;
    if response.status != 101 {
        return Err(ConnectError::Refused(response));
    }
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let is = |name: &str, value: &str| {
        response
            .header(name)
            .is_some_and(|given| given.eq_ignore_ascii_case(value))
    };
    let right = is("connection", "upgrade")
        && is("upgrade", "websocket")
        && response.header("sec-websocket-accept").as_ref() == Some(&accept)
        && response.header("sec-websocket-protocol").is_none()
        && response.header("content-length").is_none()
        && response
            .header("sec-websocket-extensions")
            .is_none_or(|_| options.extensions.is_some());
    if right {
        Ok(response)
    } else {
        Err(ConnectError::Failed(io::Error::other(format!(
            "a wrong upgrade: {response:?}"
        ))))
    }
}

/// Reads until the end, in a thread of its own.
struct Reader {
    wire: Arc<Wire>,
    shared: Arc<Shared>,
    decoder: Decoder,
    events: Sender<Event>,
    options: ConnectOptions,
}

impl Reader {
    fn run(mut self) {
        let end = self.read_to_the_end();
        if self.options.auto_close && !self.shared.resetting.load(Ordering::SeqCst) {
            // A server may end only its own direction and wait for ours.
            self.wire.shutdown_write();
        }
        // Nobody may listen any more.
        let _ = self.events.send(end);
    }

    fn read_to_the_end(&mut self) -> Event {
        loop {
            loop {
                match self.decoder.next() {
                    Ok(Some(event)) => self.on_event(event),
                    Ok(None) => break,
                    Err(why) => return Event::Broken(why),
                }
            }
            self.wait_while_paused();
            match self.wire.read(self.decoder.buffer()) {
                Ok(0) if self.decoder.is_between_messages() => return Event::Eof,
                Ok(0) => return Event::Broken("the end inside a message".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Event::Reset,
                Err(error) => return Event::Broken(error.to_string()),
            }
        }
    }

    /// Answers first: when the test sees the event, the answer is on its way. A failed answer shows in the next read.
    fn on_event(&self, event: Event) {
        match &event {
            Event::Ping(data) if self.options.auto_pong => {
                let _ = self.wire.write_all(&Frame::new(Opcode::PONG, data.clone()).encode());
            }
            Event::Close { code, .. }
                if self.options.auto_close && !self.shared.close_sent.swap(true, Ordering::SeqCst) =>
            {
                let _ = self.wire.write_all(&Frame::close(*code, "").encode());
            }
            _ => {}
        }
        let _ = self.events.send(event);
    }

    fn wait_while_paused(&self) {
        let paused = self.shared.paused.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.shared
                .pause_changed
                .wait_while(paused, |paused| *paused)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

fn described(event: Option<Event>) -> String {
    event.map_or_else(|| "nothing in time".to_owned(), |event| event.describe())
}
