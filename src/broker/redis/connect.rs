//! Connections to Redis.
//!
//! Owns: where it is, how one proves who one is, and how long anything may take.
//! Never: knows what a connection is for.

use std::error::Error;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, ConnectionLike as _, IntoConnectionInfo as _, ProtocolVersion,
    RedisConnectionInfo, RedisError, ServerErrorKind, TlsCertificates, Value, io::tcp::TcpSettings,
};

use crate::broker::Trouble;

/// How Redis is reached.
#[derive(Clone)]
pub struct RedisOptions {
    /// Where it is.
    pub address: Address,
    /// As whom (ACL); None: as the default user.
    pub user: Option<String>,
    /// The password; None: it asks for none.
    pub password: Option<String>,
    /// The number of the database.
    pub db: u32,
    /// Speak TLS, to Sentinels as well; None: in plain text.
    pub tls: Option<Tls>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long an answer, or the way of a request out, may take.
    pub timeout: Duration,
    /// Bytes of public info that a list of members is to have; it ends with the member that passes them.
    pub list_bytes: usize,
}

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host's name or address, and a port.
    Server(String, u16),
    /// A socket of this machine.
    Socket(PathBuf),
    /// Whoever is the primary by what these say.
    Sentinels {
        /// What they call it.
        name: String,
        /// Hosts and ports; asked in order.
        sentinels: Vec<(String, u16)>,
    },
}

/// Whom to trust.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates (PEM) of authorities; None: those of the system.
    pub ca: Option<Vec<u8>>,
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// RESP2.
    Two,
    /// RESP3, in which what was not asked for can be told from answers.
    Three,
}

/// A connection may take so long to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// An answer may take so long. Two thirds of a lease: a renewal without an answer ends when the lease does.
const ANSWER: Duration = Duration::from_secs(2);
/// What a peer is told of a list unless it is set otherwise.
const LIST_BYTES: usize = 256 * 1024;
/// The port of a server that is given without one.
const PORT: u16 = 6379;
/// The port of a Sentinel that is given without one.
const SENTINEL_PORT: u16 = 26379;

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(host, port) => write_place(f, host, *port),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Sentinels { name, sentinels } => {
                write!(f, "sentinel://{name}@")?;
                for (index, (host, port)) in sentinels.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    write_place(f, host, *port)?;
                }
                Ok(())
            }
        }
    }
}

fn write_place(f: &mut fmt::Formatter<'_>, host: &str, port: u16) -> fmt::Result {
    match host.contains(':') {
        true => write!(f, "[{host}]:{port}"),
        false => write!(f, "{host}:{port}"),
    }
}

impl Address {
    /// Reads `host:port`, `[IPv6 address]:port`, `unix:/path`, or `sentinel://name@host:port,host:port`. A port may be left out.
    ///
    /// # Errors
    /// What is wrong with it, for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Socket(path.into())),
                false => Err("unix: wants a path from the root, as in unix:/run/redis.sock".to_owned()),
            };
        }
        let Some(rest) = text.strip_prefix("sentinel://") else {
            let (host, port) = parse_place(text, PORT)?;
            return Ok(Self::Server(host, port));
        };
        let Some((name, places)) = rest.split_once('@').filter(|(name, _)| !name.is_empty()) else {
            return Err("sentinel:// wants the name of the primary and an @ before the hosts".to_owned());
        };
        let sentinels = places.split(',').map(|place| parse_place(place.trim(), SENTINEL_PORT));
        Ok(Self::Sentinels {
            name: name.to_owned(),
            sentinels: sentinels.collect::<Result<_, _>>()?,
        })
    }
}

fn parse_place(text: &str, default_port: u16) -> Result<(String, u16), String> {
    // It is not repeated: it may be an address of another form, with a password in it.
    let wrong =
        || "wants host:port, [IPv6 address]:port, unix:/path, or sentinel://name@host:port,host:port".to_owned();
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
        host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
        match port.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if port.is_empty() => (host, None),
            None => return Err(wrong()),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let strange = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | '@' | ',' | '[' | ']');
    if host.is_empty() || host.contains(strange) {
        return Err(wrong());
    }
    let port = port.map_or(Ok(default_port), |port| port.parse().map_err(|_| wrong()))?;
    match port {
        0 => Err(wrong()),
        port => Ok((host.to_owned(), port)),
    }
}

impl RedisOptions {
    /// To that address, without a password, in plain text, database 0.
    pub const fn new(address: Address) -> Self {
        Self {
            address,
            user: None,
            password: None,
            db: 0,
            tls: None,
            connect_timeout: CONNECT,
            timeout: ANSWER,
            list_bytes: LIST_BYTES,
        }
    }

    /// Opens a connection. Nothing on it takes longer than `timeout`, but see [`exchange`].
    ///
    /// # Errors
    /// It cannot be reached, refuses the credentials, or is no primary.
    pub(super) fn open(&self, protocol: Protocol) -> Result<Connection, Trouble> {
        let address = match &self.address {
            Address::Server(host, port) => self.address_of(host, *port)?,
            Address::Socket(path) => ConnectionAddr::Unix(path.clone()),
            Address::Sentinels { name, sentinels } => return self.open_primary(name, sentinels, protocol),
        };
        let mut connection = self.open_at(
            address,
            self.user.as_deref(),
            self.password.as_deref(),
            self.db,
            protocol,
        )?;
        // Without a password nothing was said yet: a handshake, or a server that asks for one, would only show later.
        redis::cmd("PING").exec(&mut connection).map_err(|error| lost(&error))?;
        Ok(connection)
    }

    /// Opens a connection to whoever the first Sentinel that answers calls the primary, if it agrees.
    fn open_primary(&self, name: &str, sentinels: &[(String, u16)], protocol: Protocol) -> Result<Connection, Trouble> {
        let mut last = Trouble::Lost("there is no Sentinel".to_owned());
        for (host, port) in sentinels {
            let found = self.ask_sentinel(host, *port, name).and_then(|(host, port)| {
                let address = self.address_of(&host, port)?;
                let mut connection = self.open_at(
                    address,
                    self.user.as_deref(),
                    self.password.as_deref(),
                    self.db,
                    protocol,
                )?;
                // For a while after a failover a Sentinel may name the one that was it before.
                let role: Vec<Value> = redis::cmd("ROLE")
                    .query(&mut connection)
                    .map_err(|error| lost(&error))?;
                match role.first() {
                    Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
                    _ => Err(Trouble::Lost(format!("{host}:{port} is not the primary"))),
                }
            });
            match found {
                Ok(connection) => return Ok(connection),
                Err(trouble) => last = trouble,
            }
        }
        Err(last)
    }

    /// Where the primary is by what this Sentinel says.
    fn ask_sentinel(&self, host: &str, port: u16, name: &str) -> Result<(String, u16), Trouble> {
        let address = self.address_of(host, port)?;
        let ask = |password: Option<&str>| {
            let mut connection = self.open_at(address.clone(), None, password, 0, Protocol::Two)?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(name);
            connection.req_command(&question).map_err(|error| lost(&error))
        };
        // Many Sentinels ask for no password where the servers do, and then refuse one.
        let mut answer = ask(None)?;
        if let Value::ServerError(error) = &answer
            && error.kind() != Some(ServerErrorKind::ResponseError)
        {
            answer = ask(self.password.as_deref())?;
        }
        let answer = answer.extract_error().map_err(|error| lost(&error))?;
        let unknown = || Trouble::Lost(format!("the Sentinel at {host}:{port} knows no {name}"));
        let (host, port): (String, u16) = redis::from_redis_value(answer).map_err(|_| unknown())?;
        Ok((host, port))
    }

    fn address_of(&self, host: &str, port: u16) -> Result<ConnectionAddr, Trouble> {
        let host = host.to_owned();
        let Some(tls) = &self.tls else {
            return Ok(ConnectionAddr::Tcp(host, port));
        };
        // Harmless if somebody else was first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let address = ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        };
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: tls.ca.clone(),
        };
        let client = Client::build_with_tls(address, certificates).map_err(|error| lost(&error))?;
        Ok(client.get_connection_info().addr().clone())
    }

    fn open_at(
        &self,
        address: ConnectionAddr,
        user: Option<&str>,
        password: Option<&str>,
        db: u32,
        protocol: Protocol,
    ) -> Result<Connection, Trouble> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(i64::from(db))
            .set_skip_set_lib_name()
            .set_protocol(match protocol {
                Protocol::Two => ProtocolVersion::RESP2,
                Protocol::Three => ProtocolVersion::RESP3,
            });
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        let open = || {
            let info: ConnectionInfo = address.into_connection_info()?;
            let tcp = TcpSettings::default().set_nodelay(true);
            let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
            let connection = Client::open(info)?.get_connection_with_timeout(self.connect_timeout)?;
            connection.set_read_timeout(Some(self.timeout))?;
            connection.set_write_timeout(Some(self.timeout))?;
            Ok(connection)
        };
        open().map_err(|error| lost(&error))
    }
}

/// Which connection it is: the server's run, and its number there.
pub(super) type Identity = (String, i64);

/// Has the server close the connection that this one takes the place of, if it still has it. What was sent on that may lie in
/// a buffer on the way, and is not to be done after what comes on this one. A server that does not let us keeps it.
/// The server's run, if it says which one it is.
pub(super) fn take_place(connection: &mut Connection, before: &Mutex<Option<Identity>>) -> Option<String> {
    let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
    let earlier = before.take();
    let own = identity(connection)?;
    // Numbers begin again with each run, then such a number is somebody else's.
    if let Some((_, number)) = earlier.filter(|(run, _)| *run == own.0) {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("ID").arg(number);
        let _ = connection.req_command(&kill);
    }
    let run = own.0.clone();
    *before = Some(own);
    Some(run)
}

fn identity(connection: &mut Connection) -> Option<Identity> {
    let number = redis::cmd("CLIENT").arg("ID").query(connection).ok()?;
    let about: String = redis::cmd("INFO").arg("server").query(connection).ok()?;
    let run = about.lines().find_map(|line| line.strip_prefix("run_id:"))?;
    Some((run.trim().to_owned(), number))
}

/// Sends several packed commands at once and tells each answer in order, refusals of the server as
/// [`Value::ServerError`]. With the first that does not come the connection is of no use: the crate's own pipelines would go
/// on to wait as long for each of the others.
///
/// # Errors
/// The connection broke or an answer did not come in time.
pub(super) fn exchange(
    connection: &mut Connection,
    packed: &[u8],
    count: usize,
    mut told: impl FnMut(Value) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    connection.send_packed_command(packed).map_err(|error| lost(&error))?;
    for _ in 0..count {
        told(connection.recv_response().map_err(|error| lost(&error))?)?;
    }
    Ok(())
}

/// Whether a signal, such as the one that lets a stopped process go on, woke who waited for an answer.
pub(super) fn is_interrupted(error: &RedisError) -> bool {
    // The crate keeps it so.
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::Interrupted)
}

/// What the crate says, for the operator.
pub(super) fn lost(error: &RedisError) -> Trouble {
    Trouble::Lost(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_way_to_write_an_address_is_read_and_written() {
        let server = |host: &str, port| Address::Server(host.to_owned(), port);
        for (text, address, written) in [
            (
                "redis.example:7000",
                server("redis.example", 7000),
                "redis.example:7000",
            ),
            ("localhost", server("localhost", 6379), "localhost:6379"),
            ("[2001:db8::1]:7000", server("2001:db8::1", 7000), "[2001:db8::1]:7000"),
            ("[::1]", server("::1", 6379), "[::1]:6379"),
            (
                "unix:/run/redis.sock",
                Address::Socket("/run/redis.sock".into()),
                "unix:/run/redis.sock",
            ),
            (
                "sentinel://main@a:1,[::1]:2, c",
                Address::Sentinels {
                    name: "main".to_owned(),
                    sentinels: vec![("a".to_owned(), 1), ("::1".to_owned(), 2), ("c".to_owned(), 26379)],
                },
                "sentinel://main@a:1,[::1]:2,c:26379",
            ),
        ] {
            assert_eq!(Address::parse(text).as_ref(), Ok(&address), "{text}");
            assert_eq!(address.to_string(), written);
        }
    }

    #[test]
    fn an_interruption_is_told_from_other_troubles() {
        for (kind, interrupted) in [(io::ErrorKind::Interrupted, true), (io::ErrorKind::WouldBlock, false)] {
            assert_eq!(is_interrupted(&RedisError::from(io::Error::from(kind))), interrupted);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ":6379",
            "h:",
            "h:0",
            "h:65536",
            "h:x",
            "::1",
            "[::1",
            "[h]:1",
            "[::1]x",
            "a b:1",
            "redis://h:1",
            "u@h:1",
            "unix:",
            "unix:run/redis.sock",
            "sentinel://h:1",
            "sentinel://@h:1",
            "sentinel://main@",
            "sentinel://main@a,,b",
            "h:1,h:2",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
