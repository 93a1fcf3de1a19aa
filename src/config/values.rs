//! Values: from the text or JSON that an operator wrote to a typed field, and back to JSON.
//!
//! Owns: the types, their ranges, and the words in which a refusal is told.
//! Never: names a key, or knows whether a value came from the file or the environment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::addresses::{address, host_port, hosts, http_url, network, origin, socket_address};
use super::durations::{self, DurationError};
use super::ice::{self, IceServer};
use super::{
    BrokerType, DescriptorTables, EdgegapMode, GameServer, LogFormat, Provider, ShareLocal, TokenLayout,
    game_server_values,
};

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
    /// Any number of 64 bits.
    Id(&'a mut u64),
    Ip(&'a mut Option<IpAddr>),
    SocketAddress(&'a mut Option<SocketAddr>),
    HostPort(&'a mut String),
    HttpUrl(&'a mut String),
    /// What a game or its version is called.
    Name(&'a mut String),
    CertDigest(&'a mut String),
    /// A secret whose form is checked when it is known, since a file may hold it.
    PrivateKey(&'a mut String),
    Provider(&'a mut Provider),
    TokenLayout(&'a mut TokenLayout),
    EdgegapMode(&'a mut EdgegapMode),
    GameServers(&'a mut Vec<GameServer>),
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
            Self::Id(field) => *field = id(raw, &range)?,
            Self::Ip(field) => *field = address(text(raw)?, "IP")?,
            Self::SocketAddress(field) => *field = socket_address(text(raw)?)?,
            Self::HostPort(field) => *field = host_port(text(raw)?)?,
            Self::HttpUrl(field) => *field = http_url(text(raw)?)?,
            Self::Name(field) => *field = game_server_values::name_or_none(text(raw)?).map_err(Problem::Refused)?,
            Self::CertDigest(field) => {
                *field = game_server_values::digest_or_none(text(raw)?).map_err(Problem::Refused)?
            }
            Self::PrivateKey(field) => *field = text(raw)?.to_owned(),
            Self::Provider(field) => *field = one_of(text(raw)?, PROVIDERS, &range)?,
            Self::TokenLayout(field) => *field = one_of(text(raw)?, TOKEN_LAYOUTS, &range)?,
            Self::EdgegapMode(field) => *field = one_of(text(raw)?, EDGEGAP_MODES, &range)?,
            Self::GameServers(field) => *field = servers(raw)?,
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
            Self::Text(field)
            | Self::LogLevel(field)
            | Self::HostPort(field)
            | Self::HttpUrl(field)
            | Self::Name(field)
            | Self::CertDigest(field)
            | Self::PrivateKey(field) => field.as_str().into(),
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
            Self::Ipv4(field) => text_of(field.as_ref()),
            Self::Ipv6(field) => text_of(field.as_ref()),
            Self::ShareLocal(field) => name_of(*field, SHARE_LOCAL).into(),
            Self::Id(field) => (**field).into(),
            Self::Ip(field) => text_of(field.as_ref()),
            Self::SocketAddress(field) => text_of(field.as_ref()),
            Self::Provider(field) => name_of(*field, PROVIDERS).into(),
            Self::TokenLayout(field) => name_of(*field, TOKEN_LAYOUTS).into(),
            Self::EdgegapMode(field) => name_of(*field, EDGEGAP_MODES).into(),
            Self::GameServers(field) => field.iter().map(GameServer::to_json).collect::<Vec<_>>().into(),
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
            Self::Id(_) => format!("0 to {}", u64::MAX),
            Self::Ip(_) => "an IP address, or empty".into(),
            Self::SocketAddress(_) => "IP:PORT, or empty".into(),
            Self::HostPort(_) => "host or host:port, or empty".into(),
            Self::HttpUrl(_) => "http:// or https:// and more".into(),
            Self::Name(_) => game_server_values::NAME_RANGE.into(),
            Self::CertDigest(_) => game_server_values::DIGEST_RANGE.into(),
            Self::PrivateKey(_) => game_server_values::KEY_RANGE.into(),
            Self::Provider(_) => names(PROVIDERS),
            Self::TokenLayout(_) => names(TOKEN_LAYOUTS),
            Self::EdgegapMode(_) => names(EDGEGAP_MODES),
            Self::GameServers(_) => "objects".into(),
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

/// A number of 64 bits, which JSON holds as well.
fn id(raw: Raw<'_>, range: &str) -> Result<u64, Problem> {
    match raw {
        Raw::Json(Value::Number(number)) => number.as_u64().ok_or_else(|| out_of_range(number, range)),
        Raw::Json(other) => Err(wrong_type("a whole number", other)),
        Raw::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| out_of_range(text, range))
        }
        Raw::Text(text) => Err(Problem::Unreadable(format!("{text:?} is not a whole number"))),
    }
}

/// A JSON array of objects, in the environment too.
fn servers(raw: Raw<'_>) -> Result<Vec<GameServer>, Problem> {
    let parsed: Value;
    let value = match raw {
        Raw::Json(value) => value,
        Raw::Text(text) => {
            parsed = serde_json::from_str(text).map_err(|error| Problem::Refused(format!("is not JSON: {error}")))?;
            &parsed
        }
    };
    let Value::Array(servers) = value else {
        return Err(match wrong_type("a list of objects", value) {
            Problem::Unreadable(what) | Problem::Refused(what) => Problem::Refused(what),
        });
    };
    game_server_values::parse(servers).map_err(Problem::Refused)
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

/// How an optional value is written.
fn text_of(value: Option<&impl ToString>) -> Value {
    value.map_or_else(String::new, ToString::to_string).into()
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
const PROVIDERS: &[(Provider, &str)] = &[
    (Provider::Static, "static"),
    (Provider::Edgegap, "edgegap"),
    (Provider::Nats, "nats"),
];
const TOKEN_LAYOUTS: &[(TokenLayout, &str)] = &[
    (TokenLayout::Netcode, "netcode"),
    (TokenLayout::LightyearLe, "lightyear-le"),
    (TokenLayout::LightyearBe, "lightyear-be"),
];
const EDGEGAP_MODES: &[(EdgegapMode, &str)] = &[
    (EdgegapMode::Session, "session"),
    (EdgegapMode::Deployment, "deployment"),
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
