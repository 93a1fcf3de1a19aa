//! Who may ask: tickets, which the game's own login service makes, and bearer secrets (RFC 6750 section 2.1).
//!
//! Owns: what both look like, and that comparing them tells nothing of the secret by its time.
//! Never: makes a ticket, or keeps one: until it ends it is good for any number of requests.

use aws_lc_rs::{constant_time, hmac};
use data_encoding::HEXLOWER;

/// How far ahead a ticket may end, in seconds: one that leaked is of use for a day at most.
pub const TICKET_AHEAD_MAX_S: u64 = 86_400;

/// Whether a request is admitted: by the secret or a ticket as bearer, or by a ticket in the query.
///
/// `authorization` is the value of that header field. An empty secret admits nobody.
#[must_use]
pub fn is_admitted(secret: &str, authorization: Option<&[u8]>, ticket: Option<&str>, now_s: u64) -> bool {
    let shown = authorization.and_then(bearer);
    shown.is_some_and(|shown| is_secret(secret, shown))
        || shown
            .into_iter()
            .chain(ticket)
            .any(|ticket| verify_ticket(secret, ticket, now_s))
}

/// Whether `EXPIRY.HEX` is a ticket that is good now: EXPIRY is when it ends in decimal Unix seconds, HEX the HMAC-SHA256 of
/// that text in lower case.
#[must_use]
pub fn verify_ticket(secret: &str, ticket: &str, now_s: u64) -> bool {
    let Some((expiry, hex)) = ticket.split_once('.') else {
        return false;
    };
    let mut tag = [0; TAG_BYTES];
    // `parse` alone would take a plus sign, and so a second spelling of the same time.
    let digits = !expiry.is_empty() && expiry.len() <= 20 && expiry.bytes().all(|digit| digit.is_ascii_digit());
    if secret.is_empty()
        || !digits
        || hex.len() != 2 * TAG_BYTES
        || HEXLOWER.decode_mut(hex.as_bytes(), &mut tag).is_err()
    {
        return false;
    }
    let in_time = |expiry_s: u64| expiry_s > now_s && expiry_s - now_s <= TICKET_AHEAD_MAX_S;
    let key = || hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    expiry.parse().is_ok_and(in_time) && hmac::verify(&key(), expiry.as_bytes(), &tag).is_ok()
}

/// Whether the value of `Authorization` shows the secret itself.
#[must_use]
pub fn verify_bearer(secret: &str, authorization: &[u8]) -> bool {
    bearer(authorization).is_some_and(|shown| is_secret(secret, shown))
}

/// What the value of `Authorization` shows.
#[must_use]
pub fn bearer(authorization: &[u8]) -> Option<&str> {
    let (scheme, shown) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| shown.trim_ascii())
}

fn is_secret(secret: &str, shown: &str) -> bool {
    let same = constant_time::verify_slices_are_equal(secret.as_bytes(), shown.as_bytes()).is_ok();
    !secret.is_empty() && same
}

const TAG_BYTES: usize = 32;
