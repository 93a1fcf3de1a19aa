//! Where a run of plain characters ends: quotes, backslashes and control characters, found 64 places at a time.
//!
//! Owns: the search, written so that the compiler makes vectors of it on every target that has some.
//! Never: knows whether a place is inside a string, or what it means there.

/// The special places of a text, read from the front to the back.
///
/// Words of bits for 64 places each, and not a search for each string: most strings of a message are a few characters,
/// several lie in one word, and where one ends is then a shift and a count away. The words do not depend on each other nor
/// on the text's structure, so they are made some at a time, ahead of the reader.
#[derive(Debug)]
pub(super) struct Specials<'w, 't, const WORDS: usize> {
    bytes: &'t [u8],
    /// The words made last. As many as the reader will need of a text: one for a string, more for a document.
    window: &'w mut [u64; WORDS],
    /// The one that is being read.
    pub(super) word: Word,
}

/// The word that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// The place of its lowest bit.
    base: usize,
    /// The special places among the 64 from there on; those past the end are set.
    bits: u64,
    /// Which of the window's it is.
    nth: usize,
}

impl Word {
    /// The word that ends where the first begins, in a window of so many: the first is made when it is asked for.
    #[inline(always)]
    pub(super) fn before<const WORDS: usize>(start: usize) -> Self {
        Self {
            base: start.wrapping_sub(PLACES),
            bits: 0,
            nth: WORDS,
        }
    }
}

impl<'w, 't, const WORDS: usize> Specials<'w, 't, WORDS> {
    /// The special places from `start` on. What the window holds is replaced.
    #[inline(always)]
    pub(super) fn from(bytes: &'t [u8], start: usize, window: &'w mut [u64; WORDS]) -> Self {
        Self::resume(bytes, window, Word::before::<WORDS>(start))
    }

    /// The special places from a word on: one of that window, or the one before any.
    #[inline(always)]
    pub(super) fn resume(bytes: &'t [u8], window: &'w mut [u64; WORDS], word: Word) -> Self {
        Self { bytes, window, word }
    }

    /// The text.
    #[inline(always)]
    pub(super) fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// The first special place at or after `at`, or the end of the text. `at` is never before an earlier answer.
    #[inline(always)] // The fields then live in registers.
    pub(super) fn next(&mut self, at: usize) -> usize {
        let Word { base, bits, .. } = self.word;
        let ahead = at.wrapping_sub(base);
        if ahead < PLACES {
            let bits = bits >> ahead;
            if bits != 0 {
                return at.wrapping_add(bits.trailing_zeros() as usize);
            }
        }
        self.search(at)
    }

    /// Searches the words that follow.
    #[inline(always)]
    fn search(&mut self, at: usize) -> usize {
        loop {
            self.word.base = self.word.base.wrapping_add(PLACES);
            self.word.nth = self.word.nth.wrapping_add(1);
            if self.word.nth >= WORDS {
                fill(self.window, self.bytes, self.word.base);
                self.word.nth = 0;
            }
            self.word.bits = self.window.get(self.word.nth).copied().unwrap_or(!0);
            let ahead = at.saturating_sub(self.word.base);
            if ahead < PLACES && self.word.bits >> ahead != 0 {
                let zeros = (self.word.bits >> ahead).trailing_zeros() as usize;
                return at.max(self.word.base).wrapping_add(zeros);
            }
        }
    }

    /// The same for a function that is not inlined; it says in what `word` it has stopped.
    #[inline(always)]
    pub(super) fn lent(&mut self) -> Specials<'_, 't, WORDS> {
        Specials {
            bytes: self.bytes,
            window: self.window,
            word: self.word,
        }
    }
}

/// Makes the words for the places from `at` on. What is past the end counts as special, so that a search ends there.
#[inline(never)]
fn fill(window: &mut [u64], bytes: &[u8], at: usize) {
    let rest = bytes.get(at..).unwrap_or_default();
    let (whole, end) = rest.as_chunks::<PLACES>();
    let mut words = window.iter_mut();
    for (places, word) in whole.iter().zip(&mut words) {
        *word = find(places);
    }
    if let Some(word) = words.next() {
        *word = !0;
        if let Some(places) = bytes.last_chunk::<PLACES>() {
            // The last 64 of a longer text are read again; only a text shorter than that is copied.
            if !end.is_empty() {
                let known = PLACES - end.len();
                *word = find(places) >> known | !(!0 >> known);
            }
        } else if end.len() < 16 {
            // A name: not worth a copy.
            let bits = |bits, (place, byte): (usize, &u8)| bits & !(u64::from(!mark(*byte) & 1) << place);
            *word = end.iter().enumerate().fold(!0, bits);
        } else {
            let mut places = [0; PLACES];
            for (place, byte) in places.iter_mut().zip(end) {
                *place = *byte;
            }
            *word = find(&places);
        }
        words.for_each(|word| *word = !0);
    }
}

/// The special ones among 64 bytes.
#[inline(always)]
fn find(places: &[u8; PLACES]) -> u64 {
    let (a, b, c, d) = (&places[..16], &places[16..32], &places[32..48], &places[48..]);
    let mut merged = [0; 16];
    for place in 0..16 {
        // The compiler makes vectors of this loop: no branch, no table, four times sixteen places in one go.
        merged[place] = mark(a[place]) & 0x01 | mark(b[place]) & 0x04 | mark(c[place]) & 0x10 | mark(d[place]) & 0x40;
    }
    let merged = u128::from_le_bytes(merged);
    let bits = merged as u64 | ((merged >> 64) as u64) << 1;
    // The bit of place 8n + m is the mth byte's nth: the square of eight by eight has to be mirrored.
    if bits == 0 { 0 } else { mirrored(bits) }
}

/// All bits for a special byte, none for another.
#[inline]
fn mark(byte: u8) -> u8 {
    // Flipping the second bit exchanges the quote with the space and permutes the controls: one comparison finds both.
    if (byte ^ 0x02 < 0x21) | (byte == b'\\') {
        0xff
    } else {
        0
    }
}

/// The nth byte's mth bit as the mth byte's nth: exchanges single bits, then squares of two by two, then of four by four.
#[inline]
fn mirrored(mut bits: u64) -> u64 {
    for (distance, upper) in [
        (7, 0x00aa_00aa_00aa_00aa),
        (14, 0x0000_cccc_0000_cccc),
        (28, 0x0000_0000_f0f0_f0f0),
    ] {
        let differ = (bits ^ bits >> distance) & upper;
        bits ^= differ ^ differ << distance;
    }
    bits
}

/// How many places a word of bits stands for.
const PLACES: usize = 64;
#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_special(byte: u8) -> bool {
        byte == b'"' || byte == b'\\' || byte < 0x20
    }

    fn found_one_by_one(places: &[u8; PLACES]) -> u64 {
        let bits = places.iter().enumerate();
        bits.fold(0, |bits, (place, byte)| bits | u64::from(is_special(*byte)) << place)
    }

    #[test]
    fn every_byte_is_judged_alone_in_every_place() {
        for byte in 0..=u8::MAX {
            for around in [b'a', b'!', b'#', b'[', b']', b' ', 0x1f, b'"', b'\\', 0x7f, 0x80, 0xff] {
                for place in 0..PLACES {
                    let mut places = [around; PLACES];
                    places[place] = byte;
                    let expected = found_one_by_one(&places);
                    assert_eq!(find(&places), expected, "{byte:#x} at {place} in {around:#x}");
                }
            }
        }
    }

    #[test]
    fn the_end_is_found_from_every_place_of_every_length() {
        for length in 0..3 * PLACES {
            let text = vec![b'a'; length];
            for start in 0..=length {
                let one = Specials::from(&text, start, &mut [0; 1]).next(start);
                let two = Specials::from(&text, start, &mut [0; 2]).next(start);
                let many = Specials::from(&text, start, &mut [0; 16]).next(start);
                assert_eq!([one, two, many], [length; 3], "from {start} of {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_next_special_place_is_found_in_any_bytes(
            bytes in prop::collection::vec(prop_oneof![9 => any::<u8>(), 20 => Just(b'a'), 1 => Just(b'"')], 0..400),
            start in 0_usize..400,
            steps in prop::collection::vec(0_usize..200, 0..20),
        ) {
            let mut at = start.min(bytes.len());
            let mut from = at;
            let (mut small, mut large) = ([0; 1], [0; 3]);
            let mut by_one = Specials::from(&bytes, at, &mut small);
            let mut by_three = Specials::from(&bytes, at, &mut large);
            for step in steps {
                let found = bytes[at..].iter().position(|byte| is_special(*byte));
                at = found.map_or(bytes.len(), |found| at + found);
                prop_assert_eq!([by_one.next(from), by_three.next(from)], [at; 2]);
                at = (at + step).min(bytes.len());
                from = at;
            }
        }
    }
}
