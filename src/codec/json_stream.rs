//! JSON objects one after another in a stream without lengths or delimiters.
//!
//! Only as much is looked at as says where an object ends: strings, and what opens and closes. Whether it is JSON is seen
//! when it is parsed.
//!
//! Owns: where one object begins and ends, how long and how deep it may be.
//! Never: keeps a byte of the stream.

/// Longest object, in bytes.
pub const OBJECT_BYTES_MAX: usize = 4096;
/// Deepest nesting, the object itself included.
pub const DEPTH_MAX: u32 = 8;

/// The search for the end of one object, which may go on when more bytes are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Bytes since the object began.
    len: u16,
    depth: u8,
    /// What is open, innermost in the lowest bit: 1 is an object, 0 an array.
    open: u8,
    in_string: bool,
    escaped: bool,
}

/// What follows the blanks of JSON (RFC 8259 section 2) at the beginning.
pub fn trim_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes
        .iter()
        .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    bytes.get(blanks.count()..).unwrap_or_default()
}

/// Why a stream cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What stands there is no object.
    Syntax,
    /// It is longer than [`OBJECT_BYTES_MAX`].
    TooLong,
    /// It is deeper than [`DEPTH_MAX`].
    TooDeep,
}

impl Scan {
    /// Looks at bytes that follow those of the last call. The number of bytes up to the end of the object, counted from
    /// the first one that this call was given; None: it goes on beyond them. After its end, a fresh scan finds the next.
    ///
    /// # Errors
    /// See [`Fault`]. They do not depend on how the stream was cut.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        for (at, byte) in bytes.iter().enumerate() {
            if self.depth == 0 && self.len == 0 {
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => continue,
                    b'{' => {}
                    _ => return Err(Fault::Syntax),
                }
            }
            if usize::from(self.len) == OBJECT_BYTES_MAX {
                return Err(Fault::TooLong);
            }
            self.len += 1;
            self.step(*byte)?;
            if self.depth == 0 {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<(), Fault> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => {
                if u32::from(self.depth) == DEPTH_MAX {
                    return Err(Fault::TooDeep);
                }
                self.depth += 1;
                self.open = self.open << 1 | u8::from(byte == b'{');
            }
            b'}' | b']' => {
                if (byte == b'}') != (self.open & 1 == 1) {
                    return Err(Fault::Syntax);
                }
                self.depth -= 1;
                self.open >>= 1;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// All objects of a stream that arrives in these pieces, and the fault that ended it.
    fn objects<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, Option<Fault>) {
        let (mut scan, mut object, mut found) = (Scan::default(), Vec::new(), Vec::new());
        for mut piece in pieces {
            loop {
                match scan.end(piece) {
                    Ok(Some(len)) => {
                        object.extend_from_slice(&piece[..len]);
                        found.push(String::from_utf8_lossy(&object).trim().to_owned());
                        (scan, piece) = (Scan::default(), &piece[len..]);
                        object.clear();
                    }
                    Ok(None) => {
                        object.extend_from_slice(piece);
                        break;
                    }
                    Err(fault) => return (found, Some(fault)),
                }
            }
        }
        (found, None)
    }

    #[test]
    fn objects_end_where_they_close() {
        let stream = b" {}\n{\"a\":\"}\\\"}\",\"b\":[{}]}{\"c\":{}} \r\n\t{\"\\\\\":1}".as_slice();
        let expected = ["{}", "{\"a\":\"}\\\"}\",\"b\":[{}]}", "{\"c\":{}}", "{\"\\\\\":1}"];
        let expected: Vec<String> = expected.map(str::to_owned).into();
        assert_eq!(objects([stream]), (expected.clone(), None));
        assert_eq!(objects(stream.chunks(1)), (expected, None));
    }

    #[test]
    fn a_form_feed_is_no_blank() {
        assert_eq!(trim_blanks(b" \t\r\n{"), b"{");
        assert_eq!(trim_blanks(b"\n \x0c{"), b"\x0c{");
        assert_eq!(trim_blanks(b" \n"), b"");
        assert_eq!(objects([trim_blanks(b"\x0c{}")]).1, Some(Fault::Syntax));
    }

    #[test]
    fn what_is_no_object_is_a_fault() {
        for (stream, fault) in [
            ("null", Fault::Syntax),
            ("[]", Fault::Syntax),
            ("\"{}\"", Fault::Syntax),
            ("{]", Fault::Syntax),
            ("{[}", Fault::Syntax),
            ("{} }", Fault::Syntax),
            ("{\"a\":[[[[[[[[1]]]]]]]]}", Fault::TooDeep),
        ] {
            assert_eq!(objects([stream.as_bytes()]).1, Some(fault), "{stream}");
            assert_eq!(objects(stream.as_bytes().chunks(1)).1, Some(fault), "{stream}");
        }
        assert_eq!(objects([b"{\"a\":[[[[[[[1]]]]]]]}".as_slice()]).0.len(), 1);
    }

    #[test]
    fn an_object_has_4096_bytes_at_most() {
        let object = |len: usize| format!("  {{\"a\":\"{}\"}}", "x".repeat(len - 8));
        assert_eq!(objects([object(4096).as_bytes()]).0.len(), 1);
        assert_eq!(objects([object(4097).as_bytes()]).1, Some(Fault::TooLong));
        let endless = [b"{".as_slice(), &[b' '; 10_000]].concat();
        assert_eq!(objects(endless.chunks(7)).1, Some(Fault::TooLong));
    }

    proptest::proptest! {
        #[test]
        fn a_stream_means_the_same_however_it_is_cut(
            stream in "([{}\\[\\]\"\\\\ a:,\n]|\\{\"a\":\\[1,\\{\\}\\]\\}){0,60}",
            cuts in proptest::collection::vec(0..200usize, 0..20),
        ) {
            let stream = stream.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]);
            proptest::prop_assert_eq!(objects(pieces), objects([stream]));
        }
    }
}
