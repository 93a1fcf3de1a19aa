//! The composition of the matchmaker web service: its settings for the loops, the desk, the provider, the register.
//!
//! Owns: what each of them is made from, and which of them there are.
//! Never: serves a request.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use super::StartError;
use crate::broker::{Queues, Routes};
use crate::codec::connect_token::{Layout, PrivateKey};
use crate::config::{Config, EdgegapMode, Provider, TokenLayout};
use crate::event_loop::{Office, SeekerSettings, Settings};
use crate::message::game_server::{CertDigest, KeyIndex, Name};
use crate::provider::edgegap::{self, Edgegap};
use crate::provider::nats::{self, NatsStore};
use crate::provider::store::{FileStore, SessionStore};
use crate::provider::{GameServerProvider, Registry, Wake, outbox};
use crate::shard::desk::{self, Desk, Source};

/// Makes a provider that wakes the desk's loop with this.
type MakeProvider = Box<dyn FnOnce(&Wake) -> Box<dyn GameServerProvider>>;
/// Makes a register that wakes the desk's loop with this.
type MakeRegistry = Box<dyn FnOnce(&Wake) -> Box<dyn Registry>>;

/// Takes what the broker's threads have: what the loops hand over, and the way to them.
type BeBroker = Box<dyn FnOnce(Queues, Routes)>;

/// Parts in place of the server's own, for tests.
#[derive(Default)]
pub struct Substitutes {
    /// Who finds servers that are not configured.
    pub provider: Option<MakeProvider>,
    /// Where game servers look up who comes.
    pub registry: Option<MakeRegistry>,
    /// How long a client may take to say what it seeks.
    pub first_message: Option<Duration>,
    /// Who is the broker: takes the other ends of the loops' links, before the loops start.
    pub broker: Option<BeBroker>,
}

impl Substitutes {
    pub(super) fn alter(&self, mut settings: Settings) -> Settings {
        if let Some((own, first_message)) = settings.seekers.as_mut().zip(self.first_message) {
            own.first_message_ms = super::millis(first_message);
        }
        settings
    }
}

/// Whether clients are served.
fn is_served(config: &Config) -> bool {
    config.matchmaker.is_served()
}

/// Whether anybody is, over NATS alone perhaps.
fn has_desk(config: &Config) -> bool {
    is_served(config) || config.matchmaker.nats_back
}

/// How the loops serve it, or seal the tokens of those who ask over NATS; None: not at all.
pub(super) fn seekers(config: &Config) -> Option<SeekerSettings> {
    let settings = &config.matchmaker;
    has_desk(config).then(|| SeekerSettings {
        open: is_served(config),
        origins: settings.cors.clone(),
        fake_ip: settings.fake_ip,
        client_ip_override: settings.client_ip_override,
        first_message_ms: 10_000,
        report_secret: settings.report_secret.clone(),
        ticket_secret: settings.ticket_secret.clone(),
        keys: keys(config),
        layout: match settings.token_layout {
            TokenLayout::Netcode => Layout::Netcode,
            TokenLayout::LightyearLe => Layout::LightyearLe,
            TokenLayout::LightyearBe => Layout::LightyearBe,
        },
        token_expires_s: settings.token_expire.as_secs(),
        // Rounded up: zero would be no timeout at all.
        token_timeout_s: match settings.token_timeout.as_millis().div_ceil(1000) {
            0 => -1,
            seconds => i32::try_from(seconds).unwrap_or(i32::MAX),
        },
    })
}

/// The general key, then one for each server that has its own.
fn keys(config: &Config) -> Vec<(PrivateKey, u64)> {
    let settings = &config.matchmaker;
    let Some(general) = settings.general_key() else {
        return Vec::new();
    };
    let general = (general, settings.protocol_id);
    let own = settings.servers.iter().map(|server| {
        (
            server.private_key.unwrap_or(general.0),
            server.protocol_id.unwrap_or(general.1),
        )
    });
    let all = std::iter::once(general).chain(own);
    all.map(|(key, protocol_id)| (PrivateKey::new(key), protocol_id))
        .collect()
}

/// The office before anybody works for it.
pub(super) struct Prospect<'a> {
    config: &'a Config,
    wake: &'a Wake,
    provider: Option<MakeProvider>,
    registry: Option<MakeRegistry>,
    nats: Option<nats::Prepared>,
}

/// Makes what must be there before the loops have descriptor tables of their own; None: the service is not served.
///
/// # Errors
/// Settings of NATS that cannot be used.
pub(super) fn prepare<'a>(
    config: &'a Config,
    wake: &'a Wake,
    substitutes: &mut Substitutes,
) -> Result<Option<Prospect<'a>>, StartError> {
    if !has_desk(config) {
        return Ok(None);
    }
    Ok(Some(Prospect {
        config,
        wake,
        nats: nats(config, wake, substitutes)?,
        provider: substitutes.provider.take(),
        registry: substitutes.registry.take(),
    }))
}

impl Prospect<'_> {
    /// Makes the desk and starts who works for it. What they open while they work must stand in no loop's descriptor
    /// table, so all loops have theirs by now.
    ///
    /// # Errors
    /// A thread that cannot be started, a record of sessions that cannot be read.
    pub(super) fn open(self) -> Result<Office, StartError> {
        let Self { config, wake, .. } = self;
        let nats = self.nats.map(|nats| nats.start()).transpose();
        let nats = nats.map_err(|error| StartError(error.to_string()))?;
        let nats::Handles { front, back, store } = nats.unwrap_or_default();
        let provider = match self.provider {
            Some(make) => Some(make(wake)),
            None if config.matchmaker.provider == Provider::Edgegap => Some(edgegap(config, store, wake)?),
            None => front.map(|front| Box::new(front) as Box<dyn GameServerProvider>),
        };
        let registry = match self.registry {
            Some(make) => Some(make(wake)),
            None => back.map(|back| Box::new(back) as Box<dyn Registry>),
        };
        Ok(Office {
            desk: Desk::new(desk_settings(config), rand::rng().random()),
            provider,
            registry,
        })
    }
}

/// The parts of the one connection to NATS that the settings ask for, and that no test stands in for.
fn nats(config: &Config, wake: &Wake, substitutes: &Substitutes) -> Result<Option<nats::Prepared>, StartError> {
    let settings = &config.matchmaker;
    let back = settings.nats_back && substitutes.registry.is_none();
    let parts = nats::Parts {
        front: settings.provider == Provider::Nats && substitutes.provider.is_none(),
        back: back.then(|| nats::Served {
            games: served_games(config),
            configured: configured(config).is_some(),
        }),
        store: back && settings.provider == Provider::Edgegap,
        deadline: settings.deadline,
        waiting_max: settings.waiting_max,
    };
    if !parts.front && parts.back.is_none() {
        return Ok(None);
    }
    let own = &settings.nats;
    let server = nats::Settings {
        host: own.host.clone(),
        user: own.user.clone(),
        password: own.password.clone(),
        tls: match (&own.ca, own.ca_contents.as_str()) {
            _ if own.insecure => nats::Tls::Insecure,
            (Some(file), _) => nats::Tls::File(file.clone()),
            (None, "") => nats::Tls::System,
            (None, contents) => nats::Tls::Contents(contents.to_owned()),
        },
    };
    let prepared = nats::prepare(&server, &parts, wake).map_err(|error| StartError(error.to_string()))?;
    Ok(Some(prepared))
}

/// The games that are asked for by their names: the configured one, and those of the configured servers.
fn served_games(config: &Config) -> Vec<(Name, Name)> {
    let servers = config.matchmaker.servers.iter();
    let of_servers = servers.filter_map(|server| name(&server.game).zip(name(&server.version)));
    let mut games: Vec<(Name, Name)> = configured(config).into_iter().chain(of_servers).collect();
    games.sort();
    games.dedup();
    games
}

/// The one configured game.
fn configured(config: &Config) -> Option<(Name, Name)> {
    name(&config.matchmaker.app_name).zip(name(&config.matchmaker.app_version))
}

fn name(text: &str) -> Option<Name> {
    Name::new(text).ok()
}

/// Edgegap, with its sessions on record in NATS or in a file.
fn edgegap(config: &Config, store: Option<NatsStore>, wake: &Wake) -> Result<Box<dyn GameServerProvider>, StartError> {
    let own = &config.matchmaker.edgegap;
    let settings = edgegap::Settings {
        url: own.url.clone(),
        api_key: own.api_key.clone(),
        mode: match own.mode {
            EdgegapMode::Session => edgegap::Mode::Session,
            EdgegapMode::Deployment => edgegap::Mode::Deployment,
        },
        app_name: config.matchmaker.app_name.clone(),
        app_version: config.matchmaker.app_version.clone(),
        port_name: own.port_name.clone(),
        cert_digest: CertDigest::parse(&own.cert_digest),
        max_players: own.max_players,
        workers: own.workers,
        creates_per_sec: own.creates_per_sec,
        polls_per_sec: own.polls_per_sec,
        ..edgegap::Settings::default()
    };
    let store: Arc<dyn SessionStore> = match store {
        Some(store) => Arc::new(store),
        None => Arc::new(record(config)?),
    };
    let (outbox, inbox) = outbox(wake.clone());
    let provider = Edgegap::start(settings, store, outbox, inbox).map_err(|error| super::failed("edgegap", &error))?;
    Ok(Box::new(provider))
}

/// Where the sessions are on record that a provider created.
fn record(config: &Config) -> Result<FileStore, StartError> {
    let Some(path) = &config.matchmaker.state_file else {
        return Err(StartError("matchmaker_state_file is missing".to_owned()));
    };
    FileStore::open(path).map_err(|error| super::failed(&path.display().to_string(), &error))
}

fn desk_settings(config: &Config) -> desk::Settings {
    let settings = &config.matchmaker;
    let servers = settings.servers.iter().enumerate().filter_map(|(index, server)| {
        Some(desk::Server {
            id: server.id.as_str().into(),
            public: server.public,
            internal: server.internal.clone(),
            game: name(&server.game)?,
            version: name(&server.version)?,
            capacity: server.capacity,
            cert_digest: CertDigest::parse(&server.cert_digest),
            key: KeyIndex(index as u16 + 1),
        })
    });
    desk::Settings {
        limits: desk::Limits {
            waiting_max: settings.waiting_max,
            waiting_per_ip: settings.waiting_per_ip,
            requests_per_min_per_ip: settings.requests_per_min_per_ip,
            deadline_ms: super::millis(settings.deadline),
            claim_ms: 62_000,
            silence_ms: 30_000,
            ipv6: settings.ipv6,
        },
        servers: servers.collect(),
        configured: configured(config),
        source: match settings.provider {
            Provider::Static => Source::None,
            Provider::Edgegap => Source::Provider,
            Provider::Nats => Source::Forwarded,
        },
        registers: settings.nats_back,
    }
}

/// Wakes the loop that has the desk.
pub(super) fn wake(postbox: Arc<crate::mailbox::Postbox<crate::event_loop::Delivery>>) -> Wake {
    Arc::new(move || postbox.wake(crate::event_loop::DESK_LOOP))
}
