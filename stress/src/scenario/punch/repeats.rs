//! Answers that name what a client had before: late ones, doubled ones, and those of a server that did not hear the end of it.
//!
//! Owns: which of these an answer is. A lost end shows when nothing else comes; a doubled answer when something does.
//! Never: asks again.

/// What is known of one client.
#[derive(Clone, Default)]
pub struct Repeats {
    /// Requests that were said again: as many answers may come a second time.
    spare: usize,
    /// Whether an answer came that nothing explains yet.
    unexplained: bool,
    /// Whether the end of what the client had before was said again.
    insisted: bool,
}

impl Repeats {
    /// An answer with what the client had before.
    ///
    /// # Errors
    /// There is no good reason for it.
    pub fn on_old(&mut self) -> Result<(), &'static str> {
        match self.spare.checked_sub(1) {
            Some(spare) => self.spare = spare,
            None if self.insisted => return Err("what came before has not ended"),
            None if self.unexplained => return Err("it was told before"),
            None => self.unexplained = true,
        }
        Ok(())
    }

    /// An answer with something new.
    ///
    /// # Errors
    /// The one before it had two answers.
    pub fn on_new(&mut self) -> Result<(), &'static str> {
        let is_doubled = self.unexplained;
        (self.unexplained, self.insisted) = (false, false);
        match is_doubled {
            true => Err("the answer before it came twice"),
            false => Ok(()),
        }
    }

    /// Nothing new came in time. Whether the end of what came before was lost.
    pub fn on_silence(&mut self) -> bool {
        if !self.unexplained {
            self.spare += 1;
            return false;
        }
        (self.unexplained, self.insisted) = (false, true);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_doubled_answer_is_known_by_the_next() {
        let mut repeats = Repeats::default();
        repeats.on_new().unwrap();
        repeats.on_old().unwrap();
        assert!(repeats.on_new().is_err());
        repeats.on_new().unwrap();
        repeats.on_old().unwrap();
        assert!(repeats.on_old().is_err());
    }

    #[test]
    fn a_lost_end_is_known_by_the_silence_and_may_not_be_lost_for_ever() {
        let mut repeats = Repeats::default();
        repeats.on_old().unwrap();
        assert!(repeats.on_silence(), "the end is said again");
        let mut heeded = repeats.clone();
        heeded.on_new().unwrap();
        heeded.on_old().unwrap();
        assert!(repeats.on_old().is_err());
    }

    #[test]
    fn what_was_asked_twice_may_be_answered_twice() {
        let mut repeats = Repeats::default();
        assert!(!repeats.on_silence());
        repeats.on_new().unwrap();
        repeats.on_old().unwrap();
        repeats.on_new().unwrap();
        repeats.on_old().unwrap();
        assert!(repeats.on_new().is_err());
    }
}
