//! Frames that a client sends, one step at a time.
//!
//! Owns: what a header may say, the gathering of a message that arrives in pieces, the size limit, close codes.
//! Never: copies a message that lies whole in one frame of the input, or holds a byte of one that is too long.

use super::encode::CONTROL_PAYLOAD_MAX;
use super::{Buffers, CloseCode, Settings, Step, mask};
use std::mem;
use std::ops::Range;

/// Takes the next step from `input[*at..]` and moves `at` past it.
///
/// Payloads are unmasked in place. A message that lies whole in one frame inside `input` is a slice of it; any other is
/// gathered in one contiguous buffer of `partial`, so a fragment costs only its bytes however the input is cut. A step
/// that borrows from `partial` is given back by the next call, or by [`settle`].
///
/// After [`Step::Close`] and [`Step::Fail`] the connection has nothing more to say: do not call again.
pub fn next<'b>(
    partial: &'b mut Option<Box<Partial>>,
    input: &'b mut [u8],
    at: &mut usize,
    settings: &Settings,
    buffers: &mut impl Buffers,
) -> Step<'b> {
    settle(partial, buffers);
    let found = match advance(partial, input, at, settings, buffers) {
        Ok(Some(found)) => found,
        Ok(None) => return Step::NeedMore,
        Err(failure) => {
            if let Some(partial) = partial.take() {
                partial.release(buffers);
            }
            return failure.into();
        }
    };
    let payload = match found.place {
        Place::Input(range) => input.get(range).unwrap_or_default(),
        Place::Held => partial.as_deref().map(Partial::handed_out).unwrap_or_default(),
    };
    found.what.step(payload).unwrap_or_else(Step::from)
}

/// Gives back what the last step borrowed from `partial`, and drops it if nothing is incomplete.
pub fn settle(partial: &mut Option<Box<Partial>>, buffers: &mut impl Buffers) {
    let Some(held) = partial else { return };
    if let Some(message) = held.message.take_if(|message| message.whole) {
        message.give_back(buffers);
    }
    if matches!(&held.pending, Pending::Control(control) if control.frame.remaining == 0) {
        held.pending = Pending::Boundary;
    }
    if held.message.is_none() && matches!(held.pending, Pending::Boundary) {
        *partial = None;
    }
}

/// What a connection holds while a frame or a message is incomplete, and only then.
#[derive(Debug)]
pub struct Partial {
    /// The message whose last frame has not arrived in full.
    message: Option<Message>,
    pending: Pending,
}

impl Partial {
    /// Gives the buffer back when the connection ends.
    pub fn release(self, buffers: &mut impl Buffers) {
        if let Some(message) = self.message {
            message.give_back(buffers);
        }
    }

    /// Bytes of memory that this takes.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        mem::size_of::<Self>() + self.message.as_ref().map_or(0, |message| message.payload.capacity())
    }

    fn new() -> Box<Self> {
        Box::new(Self {
            message: None,
            pending: Pending::Boundary,
        })
    }

    /// Waits for the payload of `frame`.
    fn expect(&mut self, frame: Frame) {
        self.pending = match frame.what {
            What::Control(_) => Pending::Control(ControlFrame {
                frame,
                payload: [0; CONTROL_PAYLOAD_MAX],
                payload_len: 0,
            }),
            What::Message(_) => Pending::Data(frame),
        };
    }

    /// Takes what `input` has of the payload that is being waited for.
    fn feed(&mut self, input: &mut [u8], at: &mut usize, buffers: &mut impl Buffers) -> Result<Fed, Failure> {
        match &mut self.pending {
            Pending::Boundary | Pending::Header(_) => Ok(Fed::Frame),
            Pending::Control(control) => {
                let chunk = control.frame.take(input, at);
                let end = control.payload_len + chunk.len();
                if let Some(free) = control.payload.get_mut(control.payload_len..end) {
                    free.copy_from_slice(chunk);
                    control.payload_len = end;
                }
                Ok(if control.frame.remaining == 0 {
                    Fed::Whole(control.frame.what)
                } else {
                    Fed::Short
                })
            }
            Pending::Data(frame) => {
                let What::Message(kind) = frame.what else {
                    return Ok(Fed::Frame);
                };
                let message = self.message.get_or_insert_with(|| Message::new(kind));
                message.append(frame.take(input, at), buffers);
                if frame.remaining > 0 {
                    message.prove_so_far()?;
                    return Ok(Fed::Short);
                }
                let last = frame.last;
                self.pending = Pending::Boundary;
                if !last {
                    message.prove_so_far()?;
                    return Ok(Fed::Frame);
                }
                message.whole = true;
                Ok(Fed::Whole(What::Message(message.kind)))
            }
        }
    }

    /// The payload that was just found whole.
    fn handed_out(&self) -> &[u8] {
        match (&self.pending, &self.message) {
            (Pending::Control(control), _) => control.payload.get(..control.payload_len).unwrap_or_default(),
            (_, Some(message)) => &message.payload,
            (_, None) => &[],
        }
    }
}

/// What the next byte of input belongs to.
#[derive(Debug)]
enum Pending {
    /// A new frame.
    Boundary,
    /// A header that has begun.
    Header(CarriedHeader),
    /// The payload of a data frame, which is gathered in the message.
    Data(Frame),
    /// The payload of a control frame, which may stand between the fragments of a message.
    Control(ControlFrame),
}

#[derive(Clone, Copy, Debug)]
struct CarriedHeader {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

#[derive(Debug)]
struct ControlFrame {
    frame: Frame,
    payload: [u8; CONTROL_PAYLOAD_MAX],
    payload_len: usize,
}

/// How a call to [`Partial::feed`] ended.
enum Fed {
    /// The input is used up.
    Short,
    /// The frame is whole, the message is not.
    Frame,
    /// A message or a control frame is whole.
    Whole(What),
}

/// A frame whose header was found good.
#[derive(Debug)]
struct Frame {
    what: What,
    /// The FIN bit.
    last: bool,
    /// Mask of the next payload byte and those after it.
    mask: [u8; 4],
    /// Payload bytes that have not arrived.
    remaining: usize,
}

impl Frame {
    /// Unmasks and takes what the input has of this frame's payload.
    fn take<'i>(&mut self, input: &'i mut [u8], at: &mut usize) -> &'i [u8] {
        let fresh = input.get_mut(*at..).unwrap_or_default();
        let len = self.remaining.min(fresh.len());
        let Some(chunk) = fresh.get_mut(..len) else { return &[] };
        mask::apply(chunk, self.mask);
        self.mask = mask::rotated(self.mask, len);
        self.remaining -= len;
        *at += len;
        chunk
    }
}

/// What a frame, or the message that it belongs to, is.
#[derive(Clone, Copy, Debug)]
enum What {
    Message(MessageKind),
    Control(ControlKind),
}

impl What {
    fn step(self, payload: &[u8]) -> Result<Step<'_>, Failure> {
        Ok(match self {
            Self::Message(MessageKind { compressed: true, text }) => Step::Compressed { text, data: payload },
            Self::Message(MessageKind { text: true, .. }) => {
                Step::Text(simdutf8::basic::from_utf8(payload).map_err(|_| NOT_UTF8)?)
            }
            Self::Message(MessageKind { text: false, .. }) => Step::Binary(payload),
            Self::Control(ControlKind::Ping) => Step::Ping(payload),
            Self::Control(ControlKind::Pong) => Step::Pong(payload),
            Self::Control(ControlKind::Close) => Step::Close(close_code(payload)?),
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct MessageKind {
    text: bool,
    compressed: bool,
}

#[derive(Clone, Copy, Debug)]
enum ControlKind {
    Close,
    Ping,
    Pong,
}

/// A message that is being gathered.
#[derive(Debug)]
struct Message {
    kind: MessageKind,
    /// Unmasked. Comes from the pool with the first byte, so that headers alone take no buffer.
    payload: Vec<u8>,
    /// Bytes of the payload that are proven UTF-8.
    proven: usize,
    /// Handed out.
    whole: bool,
}

impl Message {
    fn new(kind: MessageKind) -> Self {
        Self {
            kind,
            payload: Vec::new(),
            proven: 0,
            whole: false,
        }
    }

    fn append(&mut self, chunk: &[u8], buffers: &mut impl Buffers) {
        if chunk.is_empty() {
            return;
        }
        if self.payload.capacity() == 0 {
            self.payload = buffers.take();
            self.payload.clear();
        }
        self.payload.extend_from_slice(chunk);
    }

    /// Checks the bytes that are new, up to a character that may still be completed. The last frame's last bytes are
    /// left to the check of the whole text when it is handed out.
    fn prove_so_far(&mut self) -> Result<(), Failure> {
        if !self.kind.text || self.kind.compressed {
            return Ok(());
        }
        let fresh = self.payload.get(self.proven..).unwrap_or_default();
        match simdutf8::compat::from_utf8(fresh) {
            Ok(text) => self.proven += text.len(),
            Err(error) if error.error_len().is_none() => self.proven += error.valid_up_to(),
            Err(_) => return Err(NOT_UTF8),
        }
        Ok(())
    }

    fn give_back(self, buffers: &mut impl Buffers) {
        if self.payload.capacity() > 0 {
            buffers.put(self.payload);
        }
    }
}

/// Something to hand out.
struct Found {
    what: What,
    place: Place,
}

/// Where its payload lies.
enum Place {
    Input(Range<usize>),
    Held,
}

/// A violation of the protocol.
#[derive(Clone, Copy, Debug)]
struct Failure {
    code: u16,
    reason: &'static str,
}

impl From<Failure> for Step<'_> {
    fn from(failure: Failure) -> Self {
        Self::Fail {
            code: failure.code,
            reason: failure.reason,
        }
    }
}

/// Goes through the input until something is whole, without borrowing what it finds.
fn advance(
    partial: &mut Option<Box<Partial>>,
    input: &mut [u8],
    at: &mut usize,
    settings: &Settings,
    buffers: &mut impl Buffers,
) -> Result<Option<Found>, Failure> {
    loop {
        if let Some(held) = partial {
            match held.feed(input, at, buffers)? {
                Fed::Whole(what) => {
                    return Ok(Some(Found {
                        what,
                        place: Place::Held,
                    }));
                }
                Fed::Frame => {}
                Fed::Short => return Ok(None),
            }
        }
        let Some(mut frame) = read_header(partial, input, at, settings)? else {
            return Ok(None);
        };
        let alone = match frame.what {
            What::Control(_) => true,
            What::Message(_) => frame.last && partial.as_ref().is_none_or(|held| held.message.is_none()),
        };
        if alone && frame.remaining <= input.len().saturating_sub(*at) {
            let start = *at;
            frame.take(input, at);
            settle(partial, buffers); // a header that was carried over may have been all it held
            return Ok(Some(Found {
                what: frame.what,
                place: Place::Input(start..*at),
            }));
        }
        partial.get_or_insert_with(Partial::new).expect(frame);
    }
}

/// Reads a frame's header, None if it is cut: then its bytes are carried over.
fn read_header(
    partial: &mut Option<Box<Partial>>,
    input: &[u8],
    at: &mut usize,
    settings: &Settings,
) -> Result<Option<Frame>, Failure> {
    let fresh = input.get(*at..).unwrap_or_default();
    let mut joined = [0; HEADER_BYTES_MAX];
    let (bytes, carried) = match partial.as_deref() {
        Some(Partial {
            pending: Pending::Header(CarriedHeader { bytes, len }),
            ..
        }) => {
            let (old, new) = joined.split_at_mut(*len);
            let new_len = new.len().min(fresh.len());
            old.copy_from_slice(&bytes[..*len]);
            new[..new_len].copy_from_slice(&fresh[..new_len]);
            (&joined[..*len + new_len], *len)
        }
        _ => (fresh, 0),
    };
    let Some(header) = Header::parse(bytes) else {
        if !fresh.is_empty() {
            let mut carried = CarriedHeader {
                bytes: [0; HEADER_BYTES_MAX],
                len: bytes.len(),
            };
            carried.bytes[..bytes.len()].copy_from_slice(bytes); // a header that is cut is shorter than the longest
            partial.get_or_insert_with(Partial::new).pending = Pending::Header(carried);
            *at = input.len();
        }
        return Ok(None);
    };
    *at += header.bytes - carried;
    let mut message = None;
    if let Some(held) = partial {
        held.pending = Pending::Boundary;
        message = held.message.as_ref();
    }
    check(&header, message, settings).map(Some)
}

/// What a header says (RFC 6455 section 5.2).
struct Header {
    /// FIN, the reserved bits and the op code.
    first: u8,
    /// MASK and the short length.
    second: u8,
    payload_len: u64,
    /// Zero if there is none.
    mask: [u8; 4],
    /// Bytes that it takes.
    bytes: usize,
}

impl Header {
    /// None: it is cut.
    #[inline]
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let (payload_len, rest) = match second & 0x7f {
            126 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u64::from(u16::from_be_bytes(*len)), rest)
            }
            127 => {
                let (len, rest) = rest.split_first_chunk()?;
                (u64::from_be_bytes(*len), rest)
            }
            short => (u64::from(short), rest),
        };
        let (mask, rest) = match second & MASKED {
            0 => ([0; 4], rest),
            _ => {
                let (mask, rest) = rest.split_first_chunk()?;
                (*mask, rest)
            }
        };
        Some(Self {
            first,
            second,
            payload_len,
            mask,
            bytes: bytes.len() - rest.len(),
        })
    }
}

/// Holds a header against RFC 6455 section 5.2 and against the message that it would belong to.
#[inline]
fn check(header: &Header, message: Option<&Message>, settings: &Settings) -> Result<Frame, Failure> {
    let last = header.first & FINAL != 0;
    let compressed = header.first & RESERVED_1 != 0;
    let code = header.first & 0x0f;
    if !matches!(code, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(protocol("reserved op code"));
    }
    if header.first & RESERVED_2_3 != 0 {
        return Err(protocol("reserved bit set"));
    }
    let what = match (code, message) {
        (CLOSE | PING | PONG, _) => {
            if compressed {
                return Err(protocol("reserved bit set"));
            }
            if !last {
                return Err(protocol("fragmented control frame"));
            }
            if header.payload_len > CONTROL_PAYLOAD_MAX as u64 {
                return Err(protocol("control frame too long"));
            }
            What::Control(match code {
                CLOSE => ControlKind::Close,
                PING => ControlKind::Ping,
                _ => ControlKind::Pong,
            })
        }
        (CONTINUATION, None) => return Err(protocol("continuation of nothing")),
        (CONTINUATION, Some(message)) => {
            if compressed {
                return Err(protocol("reserved bit set"));
            }
            What::Message(message.kind)
        }
        (_, Some(_)) => return Err(protocol("new message inside a message")),
        (_, None) => {
            if compressed && !settings.deflate {
                return Err(protocol("reserved bit set"));
            }
            let text = code == TEXT;
            What::Message(MessageKind { text, compressed })
        }
    };
    let payload_len = header.payload_len;
    let minimal = match header.second & 0x7f {
        126 => payload_len > 125,
        127 => payload_len > 0xffff,
        _ => true,
    };
    if !minimal || payload_len >> 63 != 0 {
        return Err(protocol("bad length encoding"));
    }
    if header.second & MASKED == 0 {
        return Err(protocol("frame without a mask"));
    }
    let remaining = match what {
        What::Control(_) => usize::try_from(payload_len).ok(),
        What::Message(kind) => {
            let held = message.map_or(0, |message| message.payload.len());
            let room = settings.gather_max(kind.compressed).saturating_sub(held);
            usize::try_from(payload_len).ok().filter(|len| *len <= room)
        }
    };
    let Some(remaining) = remaining else {
        return Err(TOO_LONG);
    };
    Ok(Frame {
        what,
        last,
        mask: header.mask,
        remaining,
    })
}

/// Reads the payload of a close frame (RFC 6455 sections 5.5.1 and 7.4).
fn close_code(payload: &[u8]) -> Result<Option<u16>, Failure> {
    match payload.split_first_chunk() {
        None if payload.is_empty() => Ok(None),
        None => Err(protocol("close frame with half a code")),
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            // 1014 (bad gateway) is registered with IANA, but the type takes it for unassigned.
            if !CloseCode::from(code).is_allowed() && code != 1014 {
                return Err(protocol("invalid close code"));
            }
            if simdutf8::basic::from_utf8(reason).is_err() {
                return Err(NOT_UTF8);
            }
            Ok(Some(code))
        }
    }
}

const fn protocol(reason: &'static str) -> Failure {
    Failure { code: 1002, reason }
}

const NOT_UTF8: Failure = Failure {
    code: 1007,
    reason: "text is not UTF-8",
};
const TOO_LONG: Failure = Failure {
    code: 1009,
    reason: "message too long",
};

/// Longest header of a client's frame: two bytes, eight of length, four of mask.
const HEADER_BYTES_MAX: usize = 14;

// The first byte of a header.
const FINAL: u8 = 0x80;
const RESERVED_1: u8 = 0x40;
const RESERVED_2_3: u8 = 0x30;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
/// The bit of the second byte that says that a mask follows.
const MASKED: u8 = 0x80;
