//! A client's side of WebSocket framing (RFC 6455, section 5).
//!
//! Owns: masked frames out, unmasked frames in.
//! Never: reads or writes a socket.

/// The mask of all frames: a real one, so that the server has to undo it.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One frame from the server.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// 1 text, 8 close, 9 ping, 10 pong.
    pub opcode: u8,
    /// Whether the payload is compressed.
    pub compressed: bool,
    /// The payload as sent.
    pub payload: &'a [u8],
}

/// The first whole frame of `bytes` and its length; None: more bytes are needed.
///
/// # Errors
/// What a server never sends: fragments, masked frames, reserved bits.
pub fn first(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let [head, length, rest @ ..] = bytes else {
        return Ok(None);
    };
    if head & 0x80 == 0 || head & 0x30 != 0 || length & 0x80 != 0 {
        return Err(format!("frame head {head:#04x} {length:#04x}"));
    }
    let extended = match length {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((extension, rest)) = rest.split_at_checked(extended) else {
        return Ok(None);
    };
    let len = match extended {
        0 => usize::from(*length),
        _ => extension.iter().fold(0, |len, byte| len << 8 | usize::from(*byte)),
    };
    let Some(payload) = rest.get(..len) else {
        return Ok(None);
    };
    let frame = Frame {
        opcode: head & 0x0f,
        compressed: head & 0x40 != 0,
        payload,
    };
    Ok(Some((frame, 2 + extended + len)))
}

/// Appends one masked frame and returns where its payload begins.
pub fn push(out: &mut Vec<u8>, opcode: u8, compressed: bool, payload: &[u8]) -> usize {
    out.push(0x80 | u8::from(compressed) << 6 | opcode);
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    let start = out.len();
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ MASK[at & 3]));
    start
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_servers_frame_is_read_at_every_length_and_not_before_it_is_whole() {
        for len in [0, 125, 126, 65535, 65536] {
            let payload = vec![7; len];
            let mut bytes = vec![0x81];
            match len {
                0..126 => bytes.push(len as u8),
                126..65536 => {
                    bytes.push(126);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend_from_slice(&(len as u64).to_be_bytes());
                }
            }
            bytes.extend_from_slice(&payload);
            for cut in [0, 1, 2, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert!(first(&bytes[..cut]).unwrap().is_none());
                }
            }
            let (frame, used) = first(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload, used), (1, &payload[..], bytes.len()));
        }
    }

    #[test]
    fn a_clients_frame_is_masked() {
        let mut out = Vec::new();
        let start = push(&mut out, 1, false, b"hello");
        assert_eq!(&out[..start], [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]);
        let plain: Vec<u8> = out[start..]
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(a, b)| a ^ b)
            .collect();
        assert_eq!(plain, b"hello");
    }

    #[test]
    fn what_a_server_never_sends_is_an_error() {
        assert!(first(&[0x01, 0x00]).is_err());
        assert!(first(&[0x81, 0x80]).is_err());
    }
}
