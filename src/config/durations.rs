//! Durations as people write them: Go's notation (`1m30s`, `1.5h`, `.5s`, `-2us`) and whole or broken milliseconds.
//!
//! Owns: the grammar, its overflow rules, and the spelling used when settings are printed.
//! Never: decides whether a negative or empty duration makes sense (see `values`).

use std::time::Duration;

/// Why a text is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DurationError {
    /// The text does not follow the grammar.
    Malformed,
    /// It does, but the amount does not fit 64 bits of nanoseconds (about 292 years).
    Overflow,
}

/// Reads a Go duration and answers signed nanoseconds.
pub(super) fn parse(text: &str) -> Result<i64, DurationError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Ok(0);
    }
    if unsigned.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    let mut overflow = false;
    while !rest.is_empty() {
        let (nanoseconds, after) = leading_amount(rest)?;
        // The grammar is checked to the end, so that a malformed text is never reported as too long.
        match nanoseconds.and_then(|amount| total.checked_add(amount)) {
            Some(sum) => total = sum,
            None => overflow = true,
        }
        rest = after;
    }
    let signed = i128::try_from(total).map(|total| if negative { -total } else { total });
    match signed.ok().and_then(|signed| i64::try_from(signed).ok()) {
        Some(nanoseconds) if !overflow => Ok(nanoseconds),
        _ => Err(DurationError::Overflow),
    }
}

/// Reads one number with its unit from the front; answers nanoseconds (`None`: far too many) and what follows.
fn leading_amount(text: &str) -> Result<(Option<u128>, &str), DurationError> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after_point) => split_digits(after_point),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(DurationError::Malformed);
    }
    let unit_length = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_length);
    let unit = nanoseconds_of(unit).ok_or(DurationError::Malformed)?;
    // Go reads the fraction as a float: `0.3333333333333333333h` is twenty minutes, not a nanosecond less.
    let fraction = fraction_nanoseconds(fraction, unit);
    let whole = if whole.is_empty() {
        Some(0)
    } else {
        whole.parse::<u64>().ok()
    };
    Ok((
        whole.map(|whole| u128::from(whole) * u128::from(unit) + u128::from(fraction)),
        rest,
    ))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn nanoseconds_of(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // The micro sign U+00B5 and the Greek mu U+03BC look alike and are both in use.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// What `0.digits` of a unit is worth, from as many digits as fit 63 bits; those that follow are below a nanosecond.
fn fraction_nanoseconds(digits: &str, unit: u64) -> u64 {
    let mut value: i64 = 0;
    let mut scale: f64 = 1.0;
    for digit in digits.bytes() {
        match value
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(i64::from(digit - b'0')))
        {
            Some(longer) => value = longer,
            None => break,
        }
        scale *= 10.0;
    }
    (value as f64 * (unit as f64 / scale)) as u64
}

/// Nanoseconds of a number of milliseconds, its fraction cut off.
pub(super) fn from_milliseconds(number: &serde_json::Number) -> Result<i64, DurationError> {
    let whole = match (number.as_i64(), number.as_f64()) {
        (Some(whole), _) => whole,
        // A float beyond the range saturates, and the product then overflows.
        (None, Some(broken)) => broken as i64,
        (None, None) => return Err(DurationError::Malformed),
    };
    whole.checked_mul(1_000_000).ok_or(DurationError::Overflow)
}

/// Reads what an environment variable may hold: a whole number of milliseconds or a Go duration.
pub(super) fn parse_environment(text: &str) -> Result<i64, DurationError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return parse(text);
    }
    let milliseconds: i64 = text.parse().map_err(|_| DurationError::Overflow)?;
    milliseconds.checked_mul(1_000_000).ok_or(DurationError::Overflow)
}

/// Writes a duration so that [`parse`] reads the same again, in the largest unit up to seconds that needs no fraction.
pub(super) fn format(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
        if nanoseconds.is_multiple_of(size) {
            return format!("{}{unit}", nanoseconds / size);
        }
    }
    format!("{nanoseconds}ns")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn every_form_of_go_is_read() {
        for (text, nanoseconds) in [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("0s", 0),
            ("5s", 5 * S),
            ("+5s", 5 * S),
            ("-1m", -60 * S),
            (".5s", S / 2),
            ("-.5s", -S / 2),
            ("1.s", S),
            ("1.5h", 5400 * S),
            ("1m30s", 90 * S),
            ("1h2m3.5s", 3723 * S + S / 2),
            ("1s1s", 2 * S),
            ("3s1h", 3603 * S),
            ("007s", 7 * S),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("13ms", 13_000_000),
            ("1.0000000019s", S + 1),
            ("0.5ns", 0),
            ("39h9m14.425s", 140_954 * S + 425_000_000),
            ("0.3333333333333333333h", 1200 * S),
            ("0.100000000000000000000h", 360 * S),
            ("0.830103483285477580700h", 2988 * S + 372_539_827),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
            ("2562047h47m16.854775807s", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(nanoseconds), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "", "+", "-", "--1s", "+-1s", "s", ".", "-.", ".s", "+.s", "1", "1.", "00", "1.5", "3000", "1d", "1S",
            "1 s", " 1s", "1s ", "1h2", "1h 2m", "1e3s", "1,5s", "\u{b5}s", "1\u{b5}", "1..5s", "-1m-1s", "\u{661}s",
        ] {
            assert_eq!(parse(text), Err(DurationError::Malformed), "{text:?}");
        }
        for text in [
            "3000000h",
            "9223372036854775808ns",
            "-9223372036854775809ns",
            "9223372036854775.808us",
            "2562047h47m16.854775808s",
            "99999999999999999999999999s",
            "18446744073709551615h18446744073709551615h",
        ] {
            assert_eq!(parse(text), Err(DurationError::Overflow), "{text}");
        }
        assert_eq!(parse("3000000h1"), Err(DurationError::Malformed));
    }

    #[test]
    fn numbers_are_milliseconds_without_their_fraction() {
        let read = |text: &str| from_milliseconds(&serde_json::from_str(text).unwrap());
        assert_eq!(read("1500"), Ok(3 * S / 2));
        assert_eq!(read("1.9"), Ok(1_000_000));
        assert_eq!(read("-0.9"), Ok(0));
        assert_eq!(read("-2"), Ok(-2_000_000));
        assert_eq!(read("1e3"), Ok(S));
        for huge in ["9223372036855", "18446744073709551615", "1e300", "-1e300"] {
            assert_eq!(read(huge), Err(DurationError::Overflow), "{huge}");
        }
    }

    #[test]
    fn the_environment_may_hold_plain_milliseconds() {
        assert_eq!(parse_environment("1500"), Ok(3 * S / 2));
        assert_eq!(parse_environment("+7"), Ok(7_000_000));
        assert_eq!(parse_environment("-7"), Ok(-7_000_000));
        assert_eq!(parse_environment("1.5s"), Ok(3 * S / 2));
        assert_eq!(parse_environment("99999999999999999999"), Err(DurationError::Overflow));
        for text in ["", "+", "1.5", "ten", "1 "] {
            assert_eq!(parse_environment(text), Err(DurationError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_printed_duration_reads_back_the_same() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1500ns"),
            (2_000, "2us"),
            (1_500_000_000, "1500ms"),
            (60_000_000_000, "60s"),
            (i64::MAX.unsigned_abs(), "9223372036854775807ns"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanoseconds)), text);
            assert_eq!(parse(text), Ok(i64::try_from(nanoseconds).unwrap()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-+0-9.nuµμmsh é]{0,24}") {
            let _ = parse(&text);
            let _ = parse_environment(&text);
        }
    }
}
