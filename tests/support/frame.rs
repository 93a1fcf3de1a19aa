//! RFC 6455 frames as a test sees them: any frame can be built, and what arrives is checked without mercy.
//!
//! Owns: building frames, however wrong; putting the server's frames together into [`Event`]s.
//! Never: touches a socket, or answers anything.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What came from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole data message.
    Message {
        /// Text rather than binary; a text is valid UTF-8.
        text: bool,
        /// Uncompressed.
        payload: Vec<u8>,
        /// RSV1 was set: the message came compressed.
        compressed: bool,
        /// How many frames it took.
        frames: usize,
    },
    /// A control ping and its data.
    Ping(Vec<u8>),
    /// A control pong and its data.
    Pong(Vec<u8>),
    /// A close frame.
    Close {
        /// Absent in an empty close frame.
        code: Option<u16>,
        /// Empty when there was none.
        reason: String,
    },
    /// The TCP connection ended in order. Nothing follows.
    Eof,
    /// The TCP connection was reset. Nothing follows.
    Reset,
    /// The server broke the protocol, or the connection failed in another way. Nothing follows.
    Broken(String),
}

impl Event {
    /// Whether it is a data message, a close or an end: everything but pings and pongs.
    pub fn is_content(&self) -> bool {
        !matches!(self, Self::Ping(_) | Self::Pong(_))
    }

    /// Whether nothing can follow it.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Eof | Self::Reset | Self::Broken(_))
    }

    /// The code that a WebSocket API would report: 1005 for an empty close frame, 1006 for an end without one.
    pub fn close_code(&self) -> Option<u16> {
        match self {
            Self::Close { code, .. } => Some(code.unwrap_or(1005)),
            Self::Eof | Self::Reset => Some(1006),
            Self::Message { .. } | Self::Ping(_) | Self::Pong(_) | Self::Broken(_) => None,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Message {
                text: true,
                payload,
                compressed,
                frames,
            } => {
                let how = if *compressed { ", compressed" } else { "" };
                format!(
                    "a text ({} bytes in {frames} frame(s){how}): {}",
                    payload.len(),
                    shortened(payload)
                )
            }
            Self::Message {
                text: false, payload, ..
            } => {
                format!("a binary message of {} bytes: {}", payload.len(), shortened(payload))
            }
            Self::Ping(data) => format!("a ping: {}", shortened(data)),
            Self::Pong(data) => format!("a pong: {}", shortened(data)),
            Self::Close {
                code: Some(code),
                reason,
            } => format!("close {code} {reason:?}"),
            Self::Close { code: None, .. } => "an empty close".to_owned(),
            Self::Eof => "the end of the TCP connection".to_owned(),
            Self::Reset => "a TCP reset".to_owned(),
            Self::Broken(why) => format!("a broken connection: {why}"),
        }
    }
}

/// Frame types, RFC 6455 section 5.2. Any other number may be sent too.
pub struct Opcode;

impl Opcode {
    /// A further fragment.
    pub const CONTINUATION: u8 = 0;
    /// A text.
    pub const TEXT: u8 = 1;
    /// A binary message.
    pub const BINARY: u8 = 2;
    /// The closing handshake.
    pub const CLOSE: u8 = 8;
    /// To be answered with the same data.
    pub const PING: u8 = 9;
    /// The answer.
    pub const PONG: u8 = 10;
}

/// How the payload length is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LengthForm {
    /// As short as can be, as it must be.
    #[default]
    Shortest,
    /// In 16 bits, even if 7 would do.
    Sixteen,
    /// In 64 bits, even if fewer would do.
    SixtyFour,
}

/// A frame to send, right or wrong.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The last fragment.
    pub fin: bool,
    /// RSV1 to RSV3 as the bits 4, 2 and 1.
    pub rsv: u8,
    /// Four bits.
    pub opcode: u8,
    /// A frame of a client must have one.
    pub mask: Option<[u8; 4]>,
    /// Unmasked.
    pub payload: Vec<u8>,
    /// What the header says about the length; absent: the truth.
    pub declared_length: Option<u64>,
    /// How it says it.
    pub length_form: LengthForm,
}

impl Frame {
    /// A correct frame: final, masked, no reserved bits.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            rsv: 0,
            opcode,
            mask: Some(rand::random()),
            payload: payload.into(),
            declared_length: None,
            length_form: LengthForm::Shortest,
        }
    }

    /// A text message.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new(Opcode::TEXT, text.into())
    }

    /// A compressed text message (permessage-deflate without context takeover).
    pub fn compressed_text(text: &str) -> Self {
        Self::new(Opcode::TEXT, deflate(text.as_bytes())).rsv(4)
    }

    /// A close frame; without a code it is empty.
    pub fn close(code: Option<u16>, reason: &str) -> Self {
        let mut payload = code.map_or_else(Vec::new, |code| code.to_be_bytes().to_vec());
        payload.extend_from_slice(reason.as_bytes());
        Self::new(Opcode::CLOSE, payload)
    }

    /// More fragments follow.
    pub fn more(self) -> Self {
        Self { fin: false, ..self }
    }

    /// With these reserved bits.
    pub fn rsv(self, rsv: u8) -> Self {
        Self { rsv, ..self }
    }

    /// Without a mask, which a server must refuse.
    pub fn unmasked(self) -> Self {
        Self { mask: None, ..self }
    }

    /// With a header that says another length than there is.
    pub fn declaring(self, length: u64) -> Self {
        Self {
            declared_length: Some(length),
            ..self
        }
    }

    /// With a length that is not written in the shortest way.
    pub fn length_form(self, length_form: LengthForm) -> Self {
        Self { length_form, ..self }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let length = self.declared_length.unwrap_or(self.payload.len() as u64);
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![u8::from(self.fin) << 7 | (self.rsv & 7) << 4 | self.opcode & 15];
        match (self.length_form, length) {
            (LengthForm::Shortest, 0..=125) => bytes.push(mask_bit | length as u8),
            (LengthForm::Shortest, 126..=0xffff) | (LengthForm::Sixteen, 0..=0xffff) => {
                bytes.push(mask_bit | 126);
                bytes.extend_from_slice(&(length as u16).to_be_bytes());
            }
            (LengthForm::Shortest | LengthForm::Sixteen | LengthForm::SixtyFour, _) => {
                bytes.push(mask_bit | 127);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
        }
        match self.mask {
            None => bytes.extend_from_slice(&self.payload),
            Some(mask) => {
                bytes.extend_from_slice(&mask);
                bytes.extend(
                    self.payload
                        .iter()
                        .zip(mask.iter().cycle())
                        .map(|(byte, key)| byte ^ key),
                );
            }
        }
        bytes
    }
}

/// One message through permessage-deflate (RFC 7692 section 7.2.1), with a fresh context.
pub fn deflate(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(message.len() + 64);
    loop {
        let used = usize::try_from(compress.total_in()).expect("it fits");
        compress
            .compress_vec(&message[used..], &mut out, FlushCompress::Sync)
            .expect("compressing cannot fail");
        if compress.total_in() == message.len() as u64 && out.len() < out.capacity() {
            break;
        }
        out.reserve(1024);
    }
    assert!(
        out.ends_with(&SYNC_TAIL),
        "a sync flush ends with an empty stored block"
    );
    out.truncate(out.len() - SYNC_TAIL.len());
    out
}

/// Turns the server's bytes into events.
pub(super) struct Decoder {
    buffer: Vec<u8>,
    inflate: Option<Inflate>,
    partial: Option<Partial>,
    closed: bool,
}

struct Partial {
    text: bool,
    compressed: bool,
    payload: Vec<u8>,
    frames: usize,
}

impl Decoder {
    /// `extension` is the server's answer, if it accepted one; `first` are bytes that came with the upgrade.
    pub(super) fn new(extension: Option<&str>, first: Vec<u8>) -> Self {
        let inflate = extension.map(|answer| Inflate::new(answer.contains("server_no_context_takeover")));
        Self {
            buffer: first,
            inflate,
            partial: None,
            closed: false,
        }
    }

    /// Where received bytes are appended.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether the bytes so far end between two messages.
    pub(super) fn is_between_messages(&self) -> bool {
        self.buffer.is_empty() && self.partial.is_none()
    }

    /// The next event, as soon as its bytes are all there; an error says what the server did wrong.
    pub(super) fn next(&mut self) -> Result<Option<Event>, String> {
        while let Some(frame) = self.next_frame()? {
            if let Some(event) = self.on_frame(frame)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, String> {
        let [first, second, rest @ ..] = self.buffer.as_slice() else {
            return Ok(None);
        };
        if second & 0x80 != 0 {
            return Err("a masked frame from the server".to_owned());
        }
        let (length, extra) = match second & 0x7f {
            126 => match rest.first_chunk::<2>() {
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
                None => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 8),
                None => return Ok(None),
            },
            short => (u64::from(short), 0),
        };
        if (extra == 2 && length < 126) || (extra == 8 && length < 0x1_0000) {
            return Err(format!("a length of {length} in {extra} extra bytes"));
        }
        if length > PAYLOAD_BYTES_MAX {
            return Err(format!("a frame of {length} bytes"));
        }
        let start = 2 + extra;
        let end = start + length as usize;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let (fin, rsv, opcode) = (first & 0x80 != 0, first >> 4 & 7, first & 15);
        let payload = self.buffer[start..end].to_vec();
        self.buffer.drain(..end);
        Ok(Some(Frame {
            fin,
            rsv,
            mask: None,
            ..Frame::new(opcode, payload)
        }))
    }

    fn on_frame(&mut self, frame: Frame) -> Result<Option<Event>, String> {
        if self.closed {
            return Err(format!("a frame with opcode {} after the close frame", frame.opcode));
        }
        let starts_message = matches!(frame.opcode, Opcode::TEXT | Opcode::BINARY);
        if frame.rsv & 3 != 0 || frame.rsv == 4 && !(starts_message && self.inflate.is_some()) {
            return Err(format!("reserved bits {:03b} on opcode {}", frame.rsv, frame.opcode));
        }
        if frame.opcode >= Opcode::CLOSE && (!frame.fin || frame.payload.len() > 125) {
            return Err("a control frame that is fragmented or longer than 125 bytes".to_owned());
        }
        match frame.opcode {
            Opcode::TEXT | Opcode::BINARY if self.partial.is_some() => Err("a new message inside another".to_owned()),
            Opcode::TEXT | Opcode::BINARY => {
                let text = frame.opcode == Opcode::TEXT;
                self.on_fragment(
                    Partial {
                        text,
                        compressed: frame.rsv == 4,
                        payload: Vec::new(),
                        frames: 0,
                    },
                    frame,
                )
            }
            Opcode::CONTINUATION => match self.partial.take() {
                Some(partial) => self.on_fragment(partial, frame),
                None => Err("a continuation of nothing".to_owned()),
            },
            Opcode::CLOSE => {
                self.closed = true;
                close_event(&frame.payload).map(Some)
            }
            Opcode::PING => Ok(Some(Event::Ping(frame.payload))),
            Opcode::PONG => Ok(Some(Event::Pong(frame.payload))),
            opcode => Err(format!("opcode {opcode}")),
        }
    }

    fn on_fragment(&mut self, mut partial: Partial, frame: Frame) -> Result<Option<Event>, String> {
        partial.payload.extend_from_slice(&frame.payload);
        partial.frames += 1;
        if !frame.fin {
            self.partial = Some(partial);
            return Ok(None);
        }
        let payload = match &mut self.inflate {
            Some(inflate) if partial.compressed => inflate.message(&partial.payload)?,
            Some(_) | None => partial.payload,
        };
        if partial.text && std::str::from_utf8(&payload).is_err() {
            return Err("a text that is not UTF-8".to_owned());
        }
        let Partial {
            text,
            compressed,
            frames,
            ..
        } = partial;
        Ok(Some(Event::Message {
            text,
            payload,
            compressed,
            frames,
        }))
    }
}

struct Inflate {
    decompress: Decompress,
    fresh_each_time: bool,
}

impl Inflate {
    fn new(fresh_each_time: bool) -> Self {
        Self {
            decompress: Decompress::new(false),
            fresh_each_time,
        }
    }

    fn message(&mut self, compressed: &[u8]) -> Result<Vec<u8>, String> {
        if self.fresh_each_time {
            self.decompress.reset(false);
        }
        let input = [compressed, &SYNC_TAIL].concat();
        let mut out = Vec::with_capacity(4 * input.len() + 64);
        let start = self.decompress.total_in();
        loop {
            let used = (self.decompress.total_in() - start) as usize;
            let status = self
                .decompress
                .decompress_vec(&input[used..], &mut out, FlushDecompress::Sync)
                .map_err(|error| format!("bad deflate data: {error}"))?;
            let used = (self.decompress.total_in() - start) as usize;
            match status {
                _ if out.len() as u64 > PAYLOAD_BYTES_MAX => {
                    return Err("a message that inflates without end".to_owned());
                }
                Status::StreamEnd => return Err("a final deflate block, which nobody needs to send".to_owned()),
                Status::Ok | Status::BufError if out.len() == out.capacity() => out.reserve(out.len() + 1024),
                Status::Ok | Status::BufError if used == input.len() => return Ok(out),
                Status::Ok => {}
                Status::BufError => return Err("deflate data that stops half way".to_owned()),
            }
        }
    }
}

/// RFC 6455 sections 5.5.1 and 7.4: what a close frame may hold.
fn close_event(payload: &[u8]) -> Result<Event, String> {
    let (code, reason) = match payload {
        [] => (None, &[][..]),
        [_] => return Err("a close frame of one byte".to_owned()),
        [high, low, reason @ ..] => (Some(u16::from_be_bytes([*high, *low])), reason),
    };
    if code.is_some_and(|code| !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)) {
        return Err(format!("close code {code:?}"));
    }
    let reason = String::from_utf8(reason.to_vec()).map_err(|_| "a close reason that is not UTF-8".to_owned())?;
    Ok(Event::Close { code, reason })
}

fn shortened(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into_owned(),
    }
}

/// RFC 7692 section 7.2.1: what the sender of a message leaves out.
const SYNC_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
const SHOWN_CHARS: usize = 2000;
