//! The settings of the matchmaker web service.
//!
//! Owns: their types and defaults.
//! Never: reads one (see `game_server_values`), makes a token, or contacts a provider.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::game_server_values::parse_key;

/// The settings of the matchmaker web service, one field for each key; `docs/settings.md` describes them.
#[derive(Clone, PartialEq, Eq)]
pub struct Matchmaker {
    /// Whether it is served. `bind` serves it as well.
    pub enabled: bool,
    /// A further address on which TCP is listened, for those who expect the service there.
    pub bind: Option<SocketAddr>,
    /// Who serves games that no configured server runs.
    pub provider: Provider,
    /// Whether requests that come over NATS are answered.
    pub nats_back: bool,
    /// The one configured game; empty: none.
    pub app_name: String,
    /// Its version; empty: none.
    pub app_version: String,
    /// Pages of which origins may use it, in lower case; empty: any.
    pub cors: Vec<String>,
    /// Stands for clients on private networks and this machine.
    pub fake_ip: Option<IpAddr>,
    /// Whether clients may say what their address is.
    pub client_ip_override: bool,
    /// Whether players are sent to IPv6 addresses.
    pub ipv6: bool,
    /// Requests under way; 0 = unlimited.
    pub waiting_max: u32,
    /// Those of one IPv4 address or IPv6 /64; 0 = unlimited.
    pub waiting_per_ip: u32,
    /// Requests a minute of one IPv4 address or IPv6 /64; 0 = unlimited.
    pub requests_per_min_per_ip: u32,
    /// How long a request may take. More than zero.
    pub deadline: Duration,
    /// What tickets are made from, empty for none. A secret.
    pub ticket_secret: String,
    /// Where `ticket_secret` was read from, if from a file.
    pub ticket_secret_file: Option<PathBuf>,
    /// What game servers show with their reports, empty: reports are not taken. A secret.
    pub report_secret: String,
    /// Where `report_secret` was read from, if from a file.
    pub report_secret_file: Option<PathBuf>,
    /// The key of the connect tokens, in hex or as decimal numbers between commas. A secret.
    pub private_key: String,
    /// Where `private_key` was read from, if from a file.
    pub private_key_file: Option<PathBuf>,
    /// The protocol id in connect tokens.
    pub protocol_id: u64,
    /// How connect tokens are laid out.
    pub token_layout: TokenLayout,
    /// How long a connect token is good for. A second to a minute.
    pub token_expire: Duration,
    /// How long a game's connection may be without a packet; zero: for ever.
    pub token_timeout: Duration,
    /// Where sessions are on record that a provider created; needed without NATS.
    pub state_file: Option<PathBuf>,
    /// The configured game servers.
    pub servers: Vec<GameServer>,
    /// Edgegap's.
    pub edgegap: Edgegap,
    /// The NATS server of the game servers.
    pub nats: NatsServer,
}

/// The settings of Edgegap.
#[derive(Clone, PartialEq, Eq)]
pub struct Edgegap {
    /// Where its interface is, without a slash at the end.
    pub url: String,
    /// The whole value of `Authorization`, the word `token` included. A secret.
    pub api_key: String,
    /// Where `api_key` was read from, if from a file.
    pub api_key_file: Option<PathBuf>,
    /// Whether a session or a whole deployment is asked for.
    pub mode: EdgegapMode,
    /// The port by its name; empty: the only one of UDP, else the first by name.
    pub port_name: String,
    /// The digest of the servers' certificate, if it is the same for all; empty: from reports or NATS.
    pub cert_digest: String,
    /// Players of one deployment. At least 1.
    pub max_players: u32,
    /// Calls under way at a time, 1 to 4.
    pub workers: u8,
    /// Sessions or deployments created a second; at least 1.
    pub creates_per_sec: u32,
    /// Other calls a second; at least 1.
    pub polls_per_sec: u32,
}

/// The NATS server of the game servers, apart from the one that connects nodes.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsServer {
    /// `host` or `host:port`; empty: none.
    pub host: String,
    /// User name.
    pub user: String,
    /// Password. A secret.
    pub password: String,
    /// Where `password` was read from, if from a file.
    pub password_file: Option<PathBuf>,
    /// Whether TLS is not used.
    pub insecure: bool,
    /// PEM file of the authorities that it is checked against.
    pub ca: Option<PathBuf>,
    /// The same as text, if there is no file.
    pub ca_contents: String,
}

/// A game server that is always there.
///
/// `{:?}` prints it without its key.
#[derive(Clone, PartialEq, Eq)]
pub struct GameServer {
    /// What it is called in reports, as it may stand in a URL's path. Unique.
    pub id: String,
    /// Where players connect.
    pub public: SocketAddr,
    /// Its own view of that address; empty: the same.
    pub internal: Vec<SocketAddr>,
    /// Its game.
    pub game: String,
    /// The version of that.
    pub version: String,
    /// Players that it takes. At least 1.
    pub capacity: u32,
    /// The digest of its certificate; empty: it reports it.
    pub cert_digest: String,
    /// Where it is, for people.
    pub region: String,
    /// Its protocol id, if it is not the general one.
    pub protocol_id: Option<u64>,
    /// The file with its private key, if that is not the general one.
    pub private_key_file: Option<PathBuf>,
    /// The key in that file. A secret.
    pub private_key: Option<[u8; 32]>,
}

/// Who serves games that no configured server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Nobody.
    Static,
    /// Edgegap, for the configured game.
    Edgegap,
    /// Another matchmaker over NATS.
    Nats,
}

/// How connect tokens are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenLayout {
    /// The standard's.
    Netcode,
    /// Lightyear 0.17 to 0.19.
    LightyearLe,
    /// Lightyear from 0.21.
    LightyearBe,
}

/// What is asked of Edgegap for a player.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgegapMode {
    /// A session: a seat.
    Session,
    /// A deployment: a whole server, which players share.
    Deployment,
}

impl Matchmaker {
    /// Whether players are served.
    pub fn is_served(&self) -> bool {
        self.enabled || self.bind.is_some()
    }

    /// The general key; None: there is none.
    pub fn general_key(&self) -> Option<[u8; 32]> {
        parse_key(&self.private_key).ok()
    }
}

impl fmt::Debug for GameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to_json())
    }
}

impl Default for Matchmaker {
    fn default() -> Self {
        Self {
            enabled: false,
            bind: None,
            provider: Provider::Static,
            nats_back: false,
            app_name: String::new(),
            app_version: String::new(),
            cors: Vec::new(),
            fake_ip: None,
            client_ip_override: false,
            ipv6: false,
            waiting_max: 20_000,
            waiting_per_ip: 32,
            requests_per_min_per_ip: 120,
            deadline: Duration::from_secs(75),
            ticket_secret: String::new(),
            ticket_secret_file: None,
            report_secret: String::new(),
            report_secret_file: None,
            private_key: String::new(),
            private_key_file: None,
            protocol_id: 1982,
            token_layout: TokenLayout::LightyearLe,
            token_expire: Duration::from_secs(25),
            token_timeout: Duration::from_secs(15),
            state_file: None,
            servers: Vec::new(),
            edgegap: Edgegap {
                url: "https://api.edgegap.com".to_owned(),
                api_key: String::new(),
                api_key_file: None,
                mode: EdgegapMode::Session,
                port_name: String::new(),
                cert_digest: String::new(),
                max_players: 1,
                workers: 4,
                creates_per_sec: 40,
                polls_per_sec: 20,
            },
            nats: NatsServer {
                host: String::new(),
                user: String::new(),
                password: String::new(),
                password_file: None,
                insecure: false,
                ca: None,
                ca_contents: String::new(),
            },
        }
    }
}
