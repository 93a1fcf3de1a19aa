//! Values: from the text or JSON that an operator wrote to a typed field, and back to JSON.
//!
//! Owns: the types, their ranges, and the words in which a refusal is told.
//! Never: names a key, or knows whether a value came from the file or the environment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::durations::{self, DurationError};
use super::ice::{self, IceServer};
use super::{BrokerType, DescriptorTables, LogFormat, ShareLocal};

/// A value as it was written.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// In the file; never `null`.
    Json(&'a Value),
    /// In the environment; never empty.
    Text(&'a str),
}

/// Why a value was not taken. The text never repeats a value of the wrong type, which may be a misplaced secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// No number, switch or duration at all. The environment is forgiven that, with a warning.
    Unreadable(String),
    /// Readable and not allowed.
    Refused(String),
}

/// An integer field of any width.
pub(super) trait Integer {
    fn value(&self) -> i64;
    /// Answers false, and changes nothing, if the field is too narrow.
    fn set(&mut self, value: i64) -> bool;
}

/// One field of the settings, with what may be written into it.
pub(super) enum Setting<'a> {
    Integer {
        field: &'a mut dyn Integer,
        min: i64,
        max: i64,
        /// What zero and everything below stand for, if that is allowed.
        zero_or_less: Option<i64>,
    },
    PowerOfTwo(&'a mut u32),
    PositiveDuration(&'a mut Duration),
    Duration(&'a mut Duration),
    /// With the shortest and the longest that are allowed.
    BoundedDuration(&'a mut Duration, Duration, Duration),
    Boolean(&'a mut bool),
    Text(&'a mut String),
    File(&'a mut Option<PathBuf>),
    Hosts(&'a mut Vec<IpAddr>),
    Broker(&'a mut BrokerType),
    Origins(&'a mut Vec<String>),
    Networks(&'a mut Vec<IpNet>),
    IceServers(&'a mut Vec<IceServer>),
    LogLevel(&'a mut String),
    LogFormat(&'a mut LogFormat),
    /// One of the arrangements of descriptor tables.
    DescriptorTables(&'a mut DescriptorTables),
    Ports(&'a mut Vec<u16>),
    Ipv4(&'a mut Option<Ipv4Addr>),
    Ipv6(&'a mut Option<Ipv6Addr>),
    ShareLocal(&'a mut ShareLocal),
}

impl<'a> Setting<'a> {
    pub(super) fn integer(field: &'a mut dyn Integer, min: i64, max: i64) -> Self {
        Self::Integer {
            field,
            min,
            max,
            zero_or_less: None,
        }
    }

    /// An integer that may be negative; zero and everything below stand for `meaning`.
    pub(super) fn lenient(field: &'a mut dyn Integer, meaning: i64, max: i64) -> Self {
        Self::Integer {
            field,
            min: i64::MIN,
            max,
            zero_or_less: Some(meaning),
        }
    }

    /// Takes the value; on a problem the field keeps what it had.
    pub(super) fn read(self, raw: Raw<'_>) -> Result<(), Problem> {
        let range = self.range();
        match self {
            Self::Integer {
                field,
                min,
                max,
                zero_or_less,
            } => {
                let number = whole_number(raw, &range)?;
                let number = zero_or_less.filter(|_| number <= 0).unwrap_or(number);
                if number < min || number > max || !field.set(number) {
                    return Err(out_of_range(number, &range));
                }
            }
            Self::PowerOfTwo(field) => {
                let number = whole_number(raw, &range)?;
                *field = u32::try_from(number)
                    .ok()
                    .filter(|number| number.is_power_of_two() && *number <= POWER_MAX)
                    .ok_or_else(|| out_of_range(number, &range))?;
            }
            Self::PositiveDuration(field) => *field = duration(raw, 1, &range)?,
            Self::Duration(field) => *field = duration(raw, 0, &range)?,
            Self::BoundedDuration(field, min, max) => {
                *field = duration(raw, 0, &range).and_then(|value| match (min..=max).contains(&value) {
                    true => Ok(value),
                    false => Err(out_of_range(durations::format(value), &range)),
                })?;
            }
            Self::Boolean(field) => *field = boolean(raw)?,
            Self::Text(field) => *field = text(raw)?.to_owned(),
            Self::File(field) => *field = Some(text(raw)?).filter(|path| !path.is_empty()).map(PathBuf::from),
            Self::Hosts(field) => *field = hosts(text(raw)?)?,
            Self::Broker(field) => *field = one_of(text(raw)?, BROKERS, &range)?,
            Self::Origins(field) => *field = list(raw, origin)?,
            Self::Networks(field) => *field = list(raw, network)?,
            Self::IceServers(field) => {
                *field = match raw {
                    Raw::Json(Value::String(word)) if word == ice::AUTO => vec![IceServer::Auto],
                    _ => list(raw, |text| ice::parse(text).map_err(Problem::Refused))?,
                }
            }
            Self::LogLevel(field) => *field = log_level(text(raw)?)?,
            Self::LogFormat(field) => *field = one_of(text(raw)?, LOG_FORMATS, &range)?,
            Self::DescriptorTables(field) => *field = one_of(text(raw)?, DESCRIPTOR_TABLES, &range)?,
            Self::Ports(field) => *field = ports(raw, &range)?,
            Self::Ipv4(field) => *field = address(text(raw)?, "IPv4")?,
            Self::Ipv6(field) => *field = address(text(raw)?, "IPv6")?,
            Self::ShareLocal(field) => *field = one_of(text(raw)?, SHARE_LOCAL, &range)?,
        }
        Ok(())
    }

    /// The value as the file would hold it.
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Integer { field, .. } => field.value().into(),
            Self::PowerOfTwo(field) => (**field).into(),
            Self::PositiveDuration(field) | Self::Duration(field) | Self::BoundedDuration(field, _, _) => {
                durations::format(**field).into()
            }
            Self::Boolean(field) => (**field).into(),
            Self::Text(field) | Self::LogLevel(field) => field.as_str().into(),
            Self::File(field) => field
                .as_deref()
                .map_or_else(String::new, |p| p.to_string_lossy().into_owned())
                .into(),
            Self::Hosts(field) => field.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",").into(),
            Self::Broker(field) => name_of(*field, BROKERS).into(),
            Self::Origins(field) => field.as_slice().into(),
            Self::Networks(field) => field.iter().map(IpNet::to_string).collect::<Vec<_>>().into(),
            Self::IceServers(field) => field.iter().map(IceServer::text).collect::<Vec<_>>().into(),
            Self::LogFormat(field) => name_of(*field, LOG_FORMATS).into(),
            Self::DescriptorTables(field) => name_of(*field, DESCRIPTOR_TABLES).into(),
            Self::Ports(field) => field.as_slice().into(),
            Self::Ipv4(field) => field.map_or_else(String::new, |address| address.to_string()).into(),
            Self::Ipv6(field) => field.map_or_else(String::new, |address| address.to_string()).into(),
            Self::ShareLocal(field) => name_of(*field, SHARE_LOCAL).into(),
        }
    }

    /// What may be written, in the words of errors and of the documentation.
    pub(super) fn range(&self) -> String {
        match self {
            Self::Integer {
                max,
                zero_or_less: Some(meaning),
                ..
            } => format!("up to {max}; 0 or less means {meaning}"),
            Self::Integer { min, max, .. } => format!("{min} to {max}"),
            Self::PowerOfTwo(_) => format!("a power of two, 1 to {POWER_MAX}"),
            Self::PositiveDuration(_) => "more than 0".into(),
            Self::Duration(_) => "0 or more".into(),
            Self::BoundedDuration(_, Duration::ZERO, max) => format!("0 to {}", durations::format(*max)),
            Self::BoundedDuration(_, min, max) => format!("{} to {}", durations::format(*min), durations::format(*max)),
            Self::Boolean(_) => "true or false".into(),
            Self::Text(_) => "any text".into(),
            Self::File(_) => "a path, or empty".into(),
            Self::Hosts(_) => "IP addresses or localhost".into(),
            Self::Broker(_) => names(BROKERS),
            Self::Origins(_) => "scheme://host[:port], or null".into(),
            Self::Networks(_) => "networks or IP addresses".into(),
            Self::IceServers(_) => "auto, or URLs of STUN and TURN".into(),
            Self::LogLevel(_) => "a level or filter directives".into(),
            Self::LogFormat(_) => names(LOG_FORMATS),
            Self::DescriptorTables(_) => names(DESCRIPTOR_TABLES),
            Self::Ports(_) => format!("at most {PORTS_MAX} of 1 to 65535"),
            Self::Ipv4(_) => "an IPv4 address, or empty".into(),
            Self::Ipv6(_) => "an IPv6 address, or empty".into(),
            Self::ShareLocal(_) => names(SHARE_LOCAL),
        }
    }
}

fn whole_number(raw: Raw<'_>, range: &str) -> Result<i64, Problem> {
    match raw {
        Raw::Json(Value::Number(number)) => match number.as_i64() {
            Some(number) => Ok(number),
            None if number.is_u64() => Err(out_of_range(number, range)),
            None => Err(Problem::Unreadable(format!("{number} is not a whole number"))),
        },
        Raw::Json(other) => Err(wrong_type("a whole number", other)),
        Raw::Text(text) => text
            .parse()
            .map_err(|error: std::num::ParseIntError| match error.kind() {
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => out_of_range(text, range),
                _ => Problem::Unreadable(format!("{text:?} is not a whole number")),
            }),
    }
}

/// A duration of at least `min` nanoseconds.
fn duration(raw: Raw<'_>, min: u64, range: &str) -> Result<Duration, Problem> {
    let (parsed, written) = match raw {
        Raw::Json(Value::Number(number)) => (durations::from_milliseconds(number), number.to_string()),
        Raw::Json(Value::String(text)) => (durations::parse(text), text.clone()),
        Raw::Json(other) => return Err(wrong_type("a duration", other)),
        Raw::Text(text) => (durations::parse_environment(text), text.to_owned()),
    };
    match parsed.map(u64::try_from) {
        Ok(Ok(nanoseconds)) if nanoseconds >= min => Ok(Duration::from_nanos(nanoseconds)),
        Ok(_) => Err(out_of_range(written, range)),
        Err(DurationError::Overflow) => Err(Problem::Refused(format!("{written} is out of range (too long)"))),
        Err(DurationError::Malformed) => Err(Problem::Unreadable(format!(
            "{written:?} is not a duration (such as 1m30s, 1.5h or 250ms)"
        ))),
    }
}

fn boolean(raw: Raw<'_>) -> Result<bool, Problem> {
    match raw {
        Raw::Json(Value::Bool(switch)) => Ok(*switch),
        Raw::Json(other) => Err(wrong_type("true or false", other)),
        Raw::Text("true" | "1") => Ok(true),
        Raw::Text("false" | "0") => Ok(false),
        Raw::Text(other) => Err(Problem::Unreadable(format!("{other:?} is none of true, 1, false, 0"))),
    }
}

fn text(raw: Raw<'_>) -> Result<&str, Problem> {
    match raw {
        Raw::Json(Value::String(text)) => Ok(text),
        Raw::Json(other) => Err(wrong_type("a string", other)),
        Raw::Text(text) => Ok(text),
    }
}

/// A JSON array of whole numbers, or the pieces between commas in the environment.
fn ports(raw: Raw<'_>, range: &str) -> Result<Vec<u16>, Problem> {
    let numbers: Vec<i64> = match raw {
        Raw::Json(Value::Array(values)) => values
            .iter()
            .map(|value| whole_number(Raw::Json(value), range))
            .collect::<Result<_, _>>()?,
        Raw::Json(other) => return Err(wrong_type("a list of ports", other)),
        Raw::Text(text) => text
            .split(',')
            .map(str::trim)
            .filter(|piece| !piece.is_empty())
            .map(|piece| whole_number(Raw::Text(piece), range))
            .collect::<Result<_, _>>()?,
    };
    let mut ports = Vec::new();
    for number in numbers {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| out_of_range(number, range))?;
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    match ports.len() <= PORTS_MAX {
        true => Ok(ports),
        false => Err(out_of_range(format!("a list of {}", ports.len()), range)),
    }
}

/// An address that clients can reach, or nothing.
fn address<T: std::str::FromStr + Into<IpAddr> + Copy>(text: &str, family: &str) -> Result<Option<T>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    let reachable = |address: &T| {
        let address: IpAddr = (*address).into();
        !address.is_unspecified() && !address.is_multicast()
    };
    let parsed = text.parse::<T>().ok().filter(reachable);
    parsed
        .map(Some)
        .ok_or_else(|| Problem::Refused(format!("{text:?} is not an {family} address that clients can reach")))
}

/// A JSON array of strings, or the pieces between commas in the environment, where an empty piece is nothing.
fn list<T: PartialEq>(raw: Raw<'_>, parse: fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
    let pieces: Vec<&str> = match raw {
        Raw::Json(Value::Array(values)) => values
            .iter()
            .map(|value| text(Raw::Json(value)))
            .collect::<Result<_, _>>()?,
        Raw::Json(other) => return Err(wrong_type("a list of strings", other)),
        Raw::Text(text) => text.split(',').filter(|piece| !piece.trim().is_empty()).collect(),
    };
    let mut entries = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let entry = parse(piece.trim())?;
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn hosts(text: &str) -> Result<Vec<IpAddr>, Problem> {
    let mut addresses = Vec::new();
    for piece in text.split(',').map(str::trim) {
        let address = match piece {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => piece
                .parse()
                .map_err(|_| Problem::Refused(format!("{piece:?} is not an IP address")))?,
        };
        if addresses.contains(&address) {
            return Err(Problem::Refused(format!("{address} is named twice")));
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn network(text: &str) -> Result<IpNet, Problem> {
    let network = text
        .parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network
        .map(|network| network.trunc())
        .map_err(|_| Problem::Refused(format!("{text:?} is not a network")))
}

/// An origin as browsers send it (RFC 6454 section 6.2). One with a path would never match and lock everybody out.
fn origin(text: &str) -> Result<String, Problem> {
    let well_formed = match text.split_once("://") {
        Some((scheme, host)) => !scheme.is_empty() && !host.contains(['/', '?', '#', '@', ',']),
        None => text == "null",
    };
    if well_formed && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Problem::Refused(format!(
            "{text:?} is not an origin (scheme://host[:port], no path)"
        )))
    }
}

fn log_level(text: &str) -> Result<String, Problem> {
    match EnvFilter::try_new(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(Problem::Refused(format!(
            "{text:?} is neither a level nor a list of filter directives"
        ))),
    }
}

fn one_of<T: Copy>(text: &str, choices: &[(T, &str)], range: &str) -> Result<T, Problem> {
    let found = choices.iter().find(|(_, name)| *name == text);
    found
        .map(|(choice, _)| *choice)
        .ok_or_else(|| Problem::Refused(format!("{text:?} is unknown ({range})")))
}

/// The name under which a choice is written.
pub(super) fn name_of<T: PartialEq>(choice: &T, choices: &'static [(T, &'static str)]) -> &'static str {
    choices
        .iter()
        .find(|(candidate, _)| candidate == choice)
        .map_or("", |(_, name)| name)
}

fn names<T>(choices: &[(T, &str)]) -> String {
    choices.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

fn out_of_range(written: impl std::fmt::Display, range: &str) -> Problem {
    Problem::Refused(format!("{written} is out of range ({range})"))
}

fn wrong_type(wanted: &str, found: &Value) -> Problem {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Problem::Unreadable(format!("must be {wanted}, not {found}"))
}

macro_rules! integer_fields {
    ($($width:ty),*) => {$(
        impl Integer for $width {
            fn value(&self) -> i64 {
                i64::try_from(*self).unwrap_or(i64::MAX)
            }
            fn set(&mut self, value: i64) -> bool {
                <$width>::try_from(value).map(|value| *self = value).is_ok()
            }
        }
    )*};
}
integer_fields!(u8, u16, u32, u64, usize);

/// The brokers by their names.
pub(super) const BROKERS: &[(BrokerType, &str)] = &[
    (BrokerType::Local, "local"),
    (BrokerType::Redis, "redis"),
    (BrokerType::Nats, "nats"),
];
const DESCRIPTOR_TABLES: &[(DescriptorTables, &str)] = &[
    (DescriptorTables::Auto, "auto"),
    (DescriptorTables::Shared, "shared"),
    (DescriptorTables::PerLoop, "per_loop"),
];
const SHARE_LOCAL: &[(ShareLocal, &str)] = &[
    (ShareLocal::SamePublicIp, "same-public-ip"),
    (ShareLocal::Always, "always"),
    (ShareLocal::Never, "never"),
];
/// Each port is a listener and a socket of every loop, for each host.
const PORTS_MAX: usize = 16;
const LOG_FORMATS: &[(LogFormat, &str)] = &[(LogFormat::Text, "text"), (LogFormat::Json, "json")];
const POWER_MAX: u32 = 1 << 30;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused<T: std::fmt::Debug>(result: Result<T, Problem>) -> bool {
        matches!(result.unwrap_err(), Problem::Refused(_))
    }

    #[test]
    fn hosts_are_addresses_or_localhost() {
        assert_eq!(hosts("localhost").unwrap(), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts("10.0.0.1, ::1").unwrap().len(), 2);
        for bad in [
            "",
            " ",
            "10.0.0.1,",
            "example.org",
            "[::1]",
            "0.0.0.0:80",
            "1.2.3",
            "::,::",
            "localhost,127.0.0.1",
        ] {
            assert!(refused(hosts(bad)), "{bad:?}");
        }
    }

    #[test]
    fn networks_may_be_bare_addresses() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("fd00::1").unwrap().to_string(), "fd00::1/128");
        assert_eq!(network("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        for bad in ["", "10.0.0.0/33", "10.0.0.0/", "10.0/8", "all", "fd00::/129"] {
            assert!(refused(network(bad)), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_numbers_above_zero_and_each_counts_once() {
        let parse = |json: &str| {
            let value: Value = serde_json::from_str(json).unwrap();
            let mut field = vec![1];
            Setting::Ports(&mut field).read(Raw::Json(&value)).map(|()| field)
        };
        assert_eq!(parse("[8070, 3478, 8070]").unwrap(), [8070, 3478]);
        assert_eq!(parse("[]").unwrap(), [0; 0]);
        for bad in ["[0]", "[65536]", "[-1]", "[\"80\"]", "80", "\"80\"", "[1.5]"] {
            parse(bad).unwrap_err();
        }
        assert!(refused(ports(Raw::Text("70000"), "")));
        assert_eq!(ports(Raw::Text("8070, 3478,"), "").unwrap(), [8070, 3478]);
        let many = (1..=17).map(|port| port.to_string()).collect::<Vec<_>>().join(",");
        assert!(refused(ports(Raw::Text(&many), "")));
    }

    #[test]
    fn public_addresses_are_such_as_can_be_reached() {
        assert_eq!(address::<Ipv4Addr>("", "IPv4").unwrap(), None);
        assert_eq!(
            address("203.0.113.1", "IPv4").unwrap(),
            Some(Ipv4Addr::new(203, 0, 113, 1))
        );
        assert!(address::<Ipv6Addr>("2001:db8::1", "IPv6").unwrap().is_some());
        for bad in ["0.0.0.0", "224.0.0.1", "::1", "example.org", " "] {
            assert!(refused(address::<Ipv4Addr>(bad, "IPv4")), "{bad:?}");
        }
        assert!(refused(address::<Ipv6Addr>("::", "IPv6")));
    }

    #[test]
    fn origins_that_could_never_match_are_refused() {
        assert_eq!(origin("HTTPS://Example.org:8443").unwrap(), "https://example.org:8443");
        for good in ["null", "file://", "chrome-extension://abc"] {
            assert_eq!(origin(good).unwrap(), good);
        }
        for bad in [
            "",
            "*",
            "example.org",
            "https://example.org/",
            "https://a b",
            "://x",
            "https://u@h",
            "https://ä",
        ] {
            assert!(refused(origin(bad)), "{bad:?}");
        }
    }

    #[test]
    fn an_integer_keeps_its_old_value_when_refused() {
        let mut port: u16 = 5;
        for (text, forgiven) in [
            ("70000", false),
            ("-1", false),
            ("9999999999999999999999", false),
            ("8e3", true),
        ] {
            let problem = Setting::integer(&mut port, 0, 65_535)
                .read(Raw::Text(text))
                .unwrap_err();
            assert_eq!(matches!(problem, Problem::Unreadable(_)), forgiven, "{text}");
        }
        for json in ["8080.0", "1e3", "\"80\"", "true", "[]", "18446744073709551615"] {
            let value: Value = serde_json::from_str(json).unwrap();
            Setting::integer(&mut port, 0, 65_535)
                .read(Raw::Json(&value))
                .unwrap_err();
        }
        assert_eq!(port, 5);
    }

    #[test]
    fn zero_or_less_stands_for_something_where_allowed() {
        let mut size: usize = 7;
        for text in ["0", "-1", "-9223372036854775808"] {
            size = 7;
            Setting::lenient(&mut size, 32, 100).read(Raw::Text(text)).unwrap();
            assert_eq!(size, 32);
        }
        Setting::lenient(&mut size, 32, 100).read(Raw::Text("100")).unwrap();
        assert_eq!(size, 100);
        Setting::lenient(&mut size, 32, 100).read(Raw::Text("101")).unwrap_err();
    }
}
