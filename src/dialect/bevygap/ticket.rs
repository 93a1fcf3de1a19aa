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

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "north-of-the-wall";
    const NOON: u64 = 1_767_225_600;

    /// As a login service makes it.
    fn ticket(secret: &str, expiry: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!(
            "{expiry}.{}",
            HEXLOWER.encode(hmac::sign(&key, expiry.as_bytes()).as_ref())
        )
    }

    /// `printf 1767225660 | openssl dgst -sha256 -hmac north-of-the-wall`.
    #[test]
    fn a_ticket_is_what_any_tool_makes() {
        let made = "1767225660.d98706d9244653fc5370752658e2095b7577ddce12dc1c20e68895857c0b574a";
        assert_eq!(ticket(SECRET, "1767225660"), made);
        assert!(verify_ticket(SECRET, made, NOON));
    }

    #[test]
    fn a_ticket_is_good_until_its_end_and_no_further_ahead_than_a_day() {
        for (expiry, good) in [
            (NOON - 1, false),
            (NOON, false),
            (NOON + 1, true),
            (NOON + TICKET_AHEAD_MAX_S, true),
            (NOON + TICKET_AHEAD_MAX_S + 1, false),
            (u64::MAX, false),
        ] {
            assert_eq!(
                verify_ticket(SECRET, &ticket(SECRET, &expiry.to_string()), NOON),
                good,
                "{expiry}"
            );
        }
    }

    #[test]
    fn nothing_else_is_a_ticket() {
        let expiry = (NOON + 60).to_string();
        let good = ticket(SECRET, &expiry);
        assert!(verify_ticket(SECRET, &good, NOON));
        for bad in [
            String::new(),
            ".".to_owned(),
            expiry.clone(),
            good.to_uppercase(),
            format!("{good}0"),
            format!(" {good}"),
            good.replace('.', ":"),
            ticket("another", &expiry),
            ticket(SECRET, &format!("+{expiry}")),
            ticket(SECRET, &format!(" {expiry}")),
            ticket(SECRET, ""),
            ticket(SECRET, "99999999999999999999999"),
            format!("{}{}", NOON + 61, &good[expiry.len()..]),
        ] {
            assert!(!verify_ticket(SECRET, &bad, NOON), "{bad}");
        }
        for at in 0..good.len() {
            let mut changed = good.clone().into_bytes();
            changed[at] ^= 1;
            assert!(
                !verify_ticket(SECRET, &String::from_utf8_lossy(&changed), NOON),
                "byte {at}"
            );
        }
        assert!(!verify_ticket("", &ticket("", &expiry), NOON), "no secret, no ticket");
    }

    #[test]
    fn a_bearer_shows_the_secret() {
        for (value, good) in [
            (&b"Bearer north-of-the-wall"[..], true),
            (b"bearer  north-of-the-wall ", true),
            (b"Basic north-of-the-wall", false),
            (b"north-of-the-wall", false),
            (b"Bearer north-of-the-wal", false),
            (b"Bearer north-of-the-wall2", false),
            (b"Bearer ", false),
            (b"Bearer", false),
            (b"Bearer \xff", false),
            (b"", false),
        ] {
            assert_eq!(verify_bearer(SECRET, value), good, "{value:?}");
        }
        assert!(!verify_bearer("", b"Bearer "), "no secret, nobody shows it");
    }

    #[test]
    fn a_request_is_admitted_by_any_of_the_three() {
        let ticket = ticket(SECRET, &(NOON + 60).to_string());
        let bearer = format!("Bearer {ticket}");
        let shown =
            |authorization: Option<&str>, ticket| is_admitted(SECRET, authorization.map(str::as_bytes), ticket, NOON);
        assert!(shown(Some("Bearer north-of-the-wall"), None));
        assert!(shown(Some(&bearer), None));
        assert!(shown(None, Some(&ticket)));
        assert!(shown(Some("Basic abc"), Some(&ticket)));
        assert!(!shown(None, None));
        // A secret has no business in a query: that is logged everywhere.
        assert!(!shown(None, Some(SECRET)));
        assert!(!is_admitted(SECRET, Some(bearer.as_bytes()), Some(&ticket), NOON + 60));
    }
}
