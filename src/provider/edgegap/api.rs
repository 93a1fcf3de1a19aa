//! The calls of Edgegap's interface, and what is read from its answers.
//!
//! Owns: the HTTP client, the requests' form, and a parser that wants only what is used.
//! Never: decides when to call, or repeats a call. Never lets the key or an answer's text into a log or an error.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::http::Response;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, Timeout};

use super::{Mode, Settings};
use crate::message::game_server::{Failure, SessionName};

/// Longest answer that is read, in bytes.
const BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Longest status word that players see.
const WORD_BYTES_MAX: usize = 32;
/// Longest id of a deployment: the name of a seat adds a number to it.
const DEPLOYMENT_BYTES_MAX: usize = 100;
/// A call to create goes on for so many times as long as others may take: only its answer tells what is to be deleted.
const CREATE_PATIENCE: u32 = 3;

/// Why a call did not do what it was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There was no connection, so nothing was asked.
    Unreached,
    /// The connection failed; nobody knows what was done.
    Lost,
    /// No answer in time.
    TimedOut,
    /// An answer that is none.
    Malformed,
    /// Refused, with the HTTP status and the wait that was asked for, in milliseconds.
    Status(u16, Option<u64>),
}

impl Fault {
    /// Whether the same call may do better later.
    pub(super) fn is_passing(self) -> bool {
        match self {
            Self::Unreached | Self::Lost | Self::TimedOut => true,
            Self::Malformed => false,
            Self::Status(status, _) => status == 429 || status >= 500,
        }
    }

    /// Whether what was asked to be created was certainly not, and may be asked for again.
    pub(super) fn is_before_creation(self) -> bool {
        matches!(self, Self::Unreached | Self::Status(429, _))
    }

    /// Whether what was asked to be created may be there all the same, under a name that nobody was told.
    pub(super) fn may_have_created(self) -> bool {
        match self {
            Self::Unreached => false,
            Self::Lost | Self::TimedOut | Self::Malformed => true,
            Self::Status(status, _) => status >= 500,
        }
    }

    /// Whether what was asked for is not there any more.
    pub(super) fn is_gone(self) -> bool {
        matches!(self, Self::Status(404 | 410, _))
    }

    /// How long to wait at least, in milliseconds.
    pub(super) fn wait_ms(self) -> u64 {
        match self {
            Self::Status(_, Some(wait_ms)) => wait_ms,
            _ => 0,
        }
    }

    /// What the player is told.
    pub(super) fn failure(self) -> Failure {
        let (code, text) = match self {
            Self::Unreached | Self::Lost => return Failure::UNAVAILABLE,
            Self::TimedOut | Self::Status(504, _) => (504, "provider timed out"),
            Self::Status(400, _) => (400, "provider refused the request"),
            Self::Status(401, _) => (401, "provider refused the credentials"),
            Self::Status(403, _) => (403, "provider does not permit it"),
            Self::Status(404, _) => (404, "provider knows no such thing"),
            Self::Status(409, _) => (409, "provider reports a conflict"),
            Self::Status(422, _) => (422, "provider cannot serve the request"),
            Self::Status(429, _) => (429, "provider has too many requests"),
            Self::Status(500.., _) => return Failure::UNAVAILABLE,
            Self::Status(..) | Self::Malformed => (500, "internal error"),
        };
        Failure::new(code, text)
    }
}

/// What a look at a session or deployment shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its status word and its age, such as `Seeking (2)`.
    pub(super) progress: Box<str>,
    /// How it stands.
    pub(super) state: State,
}

/// How a session or deployment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is coming.
    Waiting,
    /// It is there; None: without an address that one could connect to.
    Ready(Option<SocketAddr>),
    /// It will never be there, or no longer is.
    Over,
}

/// Who calls.
pub(super) struct Client {
    /// For what may be asked twice.
    agent: Agent,
    /// For what may not: a connection that was idle may be dead, and then nobody knows what became of the request.
    creating: Agent,
    url: Box<str>,
    key: Box<str>,
    mode: Mode,
    app: Box<str>,
    version: Box<str>,
    port_name: Box<str>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// The certificates in `ca` cannot be read, or the URL is neither `https` nor `http`.
    pub(super) fn new(settings: &Settings) -> io::Result<Self> {
        let url = settings.url.trim_end_matches('/');
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(invalid("the provider's URL is neither https nor http"));
        }
        let mut roots = RootCerts::WebPki;
        if let Some(ca) = &settings.ca {
            let certificates: Result<Vec<Certificate<'static>>, _> = ureq::tls::parse_pem(ca.as_bytes())
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
                    Ok(_) => None,
                    Err(error) => Some(Err(error)),
                })
                .collect();
            let certificates = certificates.map_err(|_| invalid("the provider's authorities are no PEM"))?;
            roots = RootCerts::from(certificates);
        }
        let tls = TlsConfig::builder()
            .root_certs(roots)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .build();
        let agent = |timeout: Duration, idle: usize| {
            let config = Agent::config_builder()
                .http_status_as_error(false)
                // The interface has none, and the key is for nobody else.
                .max_redirects(0)
                .max_redirects_will_error(false)
                .max_idle_connections(idle)
                .max_idle_connections_per_host(idle)
                .timeout_connect(Some(settings.connect_timeout))
                .timeout_global(Some(timeout))
                .user_agent(concat!("peer-server/", env!("CARGO_PKG_VERSION")))
                .accept("application/json")
                .tls_config(tls.clone())
                // Nothing is taken from the environment: what goes through a proxy is for the operator to set.
                .proxy(None);
            config.build().new_agent()
        };
        Ok(Self {
            agent: agent(settings.call_timeout, usize::from(settings.workers)),
            creating: agent(settings.call_timeout * CREATE_PATIENCE, 0),
            url: url.into(),
            key: settings.api_key.as_str().into(),
            mode: settings.mode,
            app: settings.app_name.as_str().into(),
            version: settings.app_version.as_str().into(),
            port_name: settings.port_name.as_str().into(),
        })
    }

    /// Ends every call that is under way, and all later ones at once.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
        self.creating.clone().shutdown();
    }

    /// Whether the application and its version are there; false: there, but not active.
    pub(super) fn check(&self) -> Result<bool, Fault> {
        let app = encoded(&self.app);
        let version = encoded(&self.version);
        let mut active = true;
        for path in [format!("/v1/app/{app}"), format!("/v1/app/{app}/version/{version}")] {
            let value = self.look(&path)?;
            active &= value.get("is_active") != Some(&Value::Bool(false));
        }
        Ok(active)
    }

    /// Creates a session or a deployment for a player.
    pub(super) fn create(&self, client_ip: IpAddr) -> Result<SessionName, Fault> {
        let (path, body, id) = match self.mode {
            Mode::Session => (
                "/v1/session",
                json!({"app_name": *self.app, "version_name": *self.version, "ip_list": [client_ip.to_string()]}),
                "session_id",
            ),
            Mode::Deployment => {
                let user = json!({"user_type": "ip_address", "user_data": {"ip_address": client_ip.to_string()}});
                (
                    "/v2/deployments",
                    json!({"application": *self.app, "version": *self.version, "users": [user]}),
                    "request_id",
                )
            }
        };
        let request = self.creating.post(format!("{}{path}", self.url));
        let request = request
            .header("authorization", &*self.key)
            .header("content-type", "application/json");
        let value = read(request.send(body.to_string()))?;
        let name = value.get(id).and_then(Value::as_str).ok_or(Fault::Malformed)?;
        let fits = self.mode == Mode::Session || name.len() <= DEPLOYMENT_BYTES_MAX;
        SessionName::new(name).filter(|_| fits).ok_or_else(|| {
            tracing::error!("the provider gave an id that is no name; what it stands for cannot be deleted");
            Fault::Malformed
        })
    }

    /// Looks at a session or a deployment.
    pub(super) fn poll(&self, name: &SessionName) -> Result<Seen, Fault> {
        let path = match self.mode {
            Mode::Session => format!("/v1/session/{name}"),
            Mode::Deployment => format!("/v1/status/{name}"),
        };
        let value = self.look(&path)?;
        match self.mode {
            Mode::Session => seen_session(&value, &self.port_name),
            Mode::Deployment => seen_deployment(&value, &self.port_name),
        }
    }

    /// Deletes a session or a deployment; one that is not there is deleted.
    pub(super) fn delete(&self, name: &SessionName) -> Result<(), Fault> {
        let path = match self.mode {
            Mode::Session => format!("/v1/session/{name}"),
            Mode::Deployment => format!("/v1/stop/{name}"),
        };
        let request = self.agent.delete(format!("{}{path}", self.url));
        let mut response = request.header("authorization", &*self.key).call().map_err(fault)?;
        let status = response.status().as_u16();
        // Read to the end, so that the connection serves the next call.
        let _ = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
        match status {
            200..=299 | 404 | 410 => Ok(()),
            status => Err(Fault::Status(status, wait_asked_ms(&response))),
        }
    }

    fn look(&self, path: &str) -> Result<Value, Fault> {
        let request = self.agent.get(format!("{}{path}", self.url));
        read(request.header("authorization", &*self.key).call())
    }
}

/// Reads an answer that must be JSON.
fn read(answer: Result<Response<Body>, Error>) -> Result<Value, Fault> {
    let mut response = answer.map_err(fault)?;
    let status = response.status().as_u16();
    let body = response.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_vec();
    if !(200..=299).contains(&status) {
        return Err(Fault::Status(status, wait_asked_ms(&response)));
    }
    serde_json::from_slice(&body.map_err(fault)?).map_err(|_| Fault::Malformed)
}

fn fault(error: Error) -> Fault {
    match error {
        Error::Timeout(Timeout::Resolve | Timeout::Connect) | Error::HostNotFound => Fault::Unreached,
        Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => Fault::Unreached,
        Error::Timeout(_) => Fault::TimedOut,
        Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => Fault::TimedOut,
        Error::BodyExceedsLimit(_) | Error::LargeResponseHeader(..) => Fault::Malformed,
        _ => Fault::Lost,
    }
}

/// The wait that `Retry-After` asks for in seconds; a date is not understood, and counts as none.
fn wait_asked_ms(response: &Response<Body>) -> Option<u64> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    text.trim().parse::<u64>().ok()?.checked_mul(1000)
}

fn seen_session(value: &Value, port_name: &str) -> Result<Seen, Fault> {
    let word = value.get("status").and_then(Value::as_str);
    let ready = value.get("ready").and_then(Value::as_bool);
    if word.is_none() && ready.is_none() {
        return Err(Fault::Malformed);
    }
    let failed = has_error(value.get("error"));
    Ok(seen(word, value.get("elapsed"), failed, ready == Some(true), || {
        address(value.get("deployment")?, port_name)
    }))
}

fn seen_deployment(value: &Value, port_name: &str) -> Result<Seen, Fault> {
    let word = value
        .get("current_status")
        .and_then(Value::as_str)
        .ok_or(Fault::Malformed)?;
    let word = word.strip_prefix("Status.").unwrap_or(word);
    let ready = word.eq_ignore_ascii_case("ready") && value.get("running") != Some(&Value::Bool(false));
    let failed = has_error(value.get("error"));
    Ok(seen(Some(word), value.get("elapsed_time"), failed, ready, || {
        address(value, port_name)
    }))
}

fn seen(
    word: Option<&str>,
    elapsed: Option<&Value>,
    failed: bool,
    ready: bool,
    address: impl FnOnce() -> Option<SocketAddr>,
) -> Seen {
    let word = shown(word.unwrap_or_default());
    let final_word = ["error", "unprocessable", "terminated"]
        .iter()
        .any(|ended| word.eq_ignore_ascii_case(ended));
    let elapsed = elapsed.and_then(Value::as_f64).unwrap_or(0.0).max(0.0) as u64;
    let progress = match ready {
        true => format!("Ready ({elapsed})"),
        false => format!("{word} ({elapsed})"),
    };
    let state = match (failed || final_word, ready) {
        (true, _) => State::Over,
        (false, true) => State::Ready(address()),
        (false, false) => State::Waiting,
    };
    Seen {
        progress: progress.into(),
        state,
    }
}

/// A status word as players see it: `SEEKING` as `Seeking`, and nothing but letters, digits and blanks.
fn shown(word: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b' ' | b'_' | b'-');
    if word.is_empty() || word.len() > WORD_BYTES_MAX || !word.as_bytes().iter().all(plain) {
        return "Unknown".to_owned();
    }
    match word.bytes().any(|byte| byte.is_ascii_lowercase()) {
        true => word.to_owned(),
        false => {
            let (first, rest) = word.split_at(1);
            first.to_owned() + &rest.to_ascii_lowercase()
        }
    }
}

fn has_error(error: Option<&Value>) -> bool {
    match error {
        Some(Value::Bool(failed)) => *failed,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Object(members)) => !members.is_empty(),
        Some(Value::Null | Value::Number(_) | Value::Array(_)) | None => false,
    }
}

/// Where players connect: the port of the configured name, else the only one of UDP, else the first by name.
fn address(deployment: &Value, port_name: &str) -> Option<SocketAddr> {
    let ip: IpAddr = deployment.get("public_ip")?.as_str()?.parse().ok()?;
    let mut ports: Vec<(&str, &Value)> = deployment
        .get("ports")?
        .as_object()?
        .iter()
        .map(|(name, port)| (name.as_str(), port))
        .collect();
    ports.sort_unstable_by_key(|(name, _)| *name);
    let text = |port: &Value, member: &str| port.get(member).and_then(Value::as_str).map(str::to_ascii_lowercase);
    let chosen = match port_name {
        "" => {
            let mut udp = ports
                .iter()
                .filter(|(_, port)| text(port, "protocol").is_some_and(|protocol| protocol.contains("udp")));
            match (udp.next(), udp.next()) {
                (Some(only), None) => Some(only),
                _ => ports.first(),
            }
        }
        wanted => ports
            .iter()
            .find(|(name, port)| *name == wanted || port.get("name").and_then(Value::as_str) == Some(wanted)),
    };
    let external = chosen?.1.get("external")?.as_u64()?;
    let external = u16::try_from(external).ok().filter(|port| *port != 0)?;
    (!ip.is_unspecified()).then(|| SocketAddr::new(ip, external))
}

/// A name as one segment of a path.
fn encoded(name: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.');
    // A segment of dots alone means something else.
    if name.bytes().all(plain) && !name.bytes().all(|byte| byte == b'.') {
        return Cow::Borrowed(name);
    }
    let escaped = name.bytes().map(|byte| match plain(byte) && byte != b'.' {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    Cow::Owned(escaped.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn port(external: u16, protocol: &str, name: &str) -> Value {
        json!({"external": external, "internal": 1, "protocol": protocol, "name": name})
    }

    fn chosen(ports: Value, port_name: &str) -> Option<u16> {
        address(&json!({"public_ip": "203.0.113.10", "ports": ports}), port_name).map(|address| address.port())
    }

    #[test]
    fn the_port_is_the_named_one_or_the_only_one_of_udp_or_the_first_by_name() {
        let ports = json!({"web": port(3, "TCP", "web"), "game": port(4, "UDP", "play"), "a": port(5, "TCP", "a")});
        assert_eq!(chosen(ports.clone(), "web"), Some(3));
        assert_eq!(chosen(ports.clone(), "play"), Some(4));
        assert_eq!(chosen(ports.clone(), "none"), None);
        assert_eq!(chosen(ports, ""), Some(4));
        let two = json!({"z": port(6, "UDP", "z"), "b": port(7, "UDP", "b"), "c": port(8, "TCP", "c")});
        assert_eq!(chosen(two, ""), Some(7));
        for none in [
            json!({}),
            json!(null),
            json!([1]),
            json!({"a": {"external": 70000}}),
            json!({"a": {"external": 0}}),
        ] {
            assert_eq!(chosen(none, ""), None);
        }
    }

    #[test]
    fn only_what_is_used_is_wanted_of_an_answer() {
        let waiting = seen_session(&json!({"status": "Seeking", "ready": false, "elapsed": 2}), "").unwrap();
        assert_eq!((&*waiting.progress, waiting.state), ("Seeking (2)", State::Waiting));
        let ready = json!({"ready": true, "deployment": {"public_ip": "2001:db8::1", "ports": {"p": {"external": 7}}}});
        let ready = seen_session(&ready, "").unwrap();
        assert_eq!(&*ready.progress, "Ready (0)");
        assert_eq!(ready.state, State::Ready(Some("[2001:db8::1]:7".parse().unwrap())));
        for nothing in [
            json!(null),
            json!(true),
            json!([]),
            json!({}),
            json!({"status": 5, "ready": "yes"}),
        ] {
            assert_eq!(seen_session(&nothing, ""), Err(Fault::Malformed), "{nothing}");
            assert_eq!(seen_deployment(&nothing, ""), Err(Fault::Malformed), "{nothing}");
        }
        let bare = seen_session(&json!({"ready": true, "status": "Ready"}), "").unwrap();
        assert_eq!(bare.state, State::Ready(None));
        let bad_ip = json!({"ready": true, "deployment": {"public_ip": "nowhere", "ports": {"p": {"external": 7}}}});
        assert_eq!(seen_session(&bad_ip, "").unwrap().state, State::Ready(None));
    }

    #[test]
    fn errors_and_final_words_are_final() {
        for over in [
            json!({"status": "Error", "ready": false}),
            json!({"status": "Unprocessable", "ready": false}),
            json!({"status": "TERMINATED", "ready": true}),
            json!({"status": "Seeking", "ready": false, "error": "no room"}),
        ] {
            assert_eq!(seen_session(&over, "").unwrap().state, State::Over, "{over}");
        }
        let fine = json!({"status": "Seeking", "ready": false, "error": ""});
        assert_eq!(seen_session(&fine, "").unwrap().state, State::Waiting);
        let failed = json!({"current_status": "Status.SEEKING", "error": true});
        assert_eq!(seen_deployment(&failed, "").unwrap().state, State::Over);
    }

    #[test]
    fn a_deployment_is_ready_when_it_runs() {
        let mut value =
            json!({"current_status": "Status.SEEKING", "running": false, "elapsed_time": 3.7, "error": false});
        let seen = seen_deployment(&value, "").unwrap();
        assert_eq!((&*seen.progress, seen.state), ("Seeking (3)", State::Waiting));
        value["current_status"] = json!("Status.READY");
        assert_eq!(seen_deployment(&value, "").unwrap().state, State::Waiting);
        value["running"] = json!(true);
        value["public_ip"] = json!("203.0.113.10");
        value["ports"] = json!({"6420": port(30004, "UDP", "6420")});
        let seen = seen_deployment(&value, "").unwrap();
        assert_eq!(seen.state, State::Ready(Some("203.0.113.10:30004".parse().unwrap())));
    }

    #[test]
    fn players_see_no_word_that_could_be_anything() {
        assert_eq!(shown("<b>\u{e9}"), "Unknown");
        assert_eq!(shown(&"a".repeat(33)), "Unknown");
        assert_eq!(shown(""), "Unknown");
        assert_eq!(shown("DEPLOYING"), "Deploying");
        assert_eq!(shown("InProgress"), "InProgress");
    }

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(encoded("bevygap-spaceships"), "bevygap-spaceships");
        assert_eq!(encoded("v0.0.1"), "v0.0.1");
        assert_eq!(encoded(".."), "%2E%2E");
        assert_eq!(encoded("a/b c?d"), "a%2Fb%20c%3Fd");
    }
}
