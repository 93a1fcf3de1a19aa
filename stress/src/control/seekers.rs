//! What a server is told that clients ask for game servers: its own, or a provider that never answers.
//!
//! Owns: these settings, and the listener that stands for such a provider.
//! Never: asks for anything.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::scenario::GAME;
use crate::workload::{Kind, Workload};

/// Whether this workload has clients that ask for game servers.
pub fn are_in(workload: &Workload) -> bool {
    workload.scenario == Kind::Seek || workload.seekers_waiting > 0
}

/// A provider whose connections the kernel takes, and nobody answers; None: the workload needs none.
///
/// # Errors
/// No port can be had.
pub fn stalled(workload: &Workload) -> Result<Option<TcpListener>, String> {
    if workload.seekers_waiting == 0 {
        return Ok(None);
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    listener.map(Some).map_err(|error| error.to_string())
}

/// The settings: no limit of one address is in the way, and servers have room for all.
///
/// # Errors
/// A file that cannot be written.
pub fn settings(
    workload: &Workload,
    stalled: Option<&TcpListener>,
    folder: &Path,
) -> Result<Map<String, Value>, String> {
    if !are_in(workload) {
        return Ok(Map::new());
    }
    let secret = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(|error| error.to_string())?;
        Ok::<_, String>(json!(path))
    };
    let (game, version) = GAME;
    let mut settings = Map::from_iter([
        ("matchmaker_enabled".to_owned(), json!(true)),
        (
            "matchmaker_private_key_file".to_owned(),
            secret("token-key", &"5a".repeat(32))?,
        ),
        ("matchmaker_waiting_max".to_owned(), json!(0)),
        ("matchmaker_waiting_per_ip".to_owned(), json!(0)),
        ("matchmaker_requests_per_min_per_ip".to_owned(), json!(0)),
    ]);
    let Some(stalled) = stalled else {
        let servers = (0..SERVERS).map(|number| {
            json!({
                "id": format!("server-{number}"), "public": format!("203.0.113.10:{}", 30_000 + number),
                "game": game, "version": version, "capacity": CAPACITY, "cert_digest": "e3".repeat(32),
            })
        });
        settings.insert("game_servers".to_owned(), servers.collect());
        return Ok(settings);
    };
    let url = stalled.local_addr().map_err(|error| error.to_string())?;
    settings.extend([
        ("matchmaker_provider".to_owned(), json!("edgegap")),
        ("matchmaker_app_name".to_owned(), json!(game)),
        ("matchmaker_app_version".to_owned(), json!(version)),
        ("matchmaker_deadline".to_owned(), json!("10m")),
        ("matchmaker_state_file".to_owned(), json!(folder.join("sessions"))),
        ("edgegap_url".to_owned(), json!(format!("http://{url}"))),
        ("edgegap_api_key_file".to_owned(), secret("api-key", "token none")?),
    ]);
    Ok(settings)
}

/// A place is kept for a minute for a player who never comes: there are enough for 250,000 a second.
const SERVERS: u16 = 16;
const CAPACITY: u32 = 1_000_000;
