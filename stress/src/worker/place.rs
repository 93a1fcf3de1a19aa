//! Which loop of the server serves a connection: the one whose thread works when that connection pings.
//!
//! Owns: the probing; it blocks, before the measurement begins.
//! Never: needs anything of the server but its process number.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use mio::Events;

use super::frames;
use super::io::{Input, Io};

/// Pings of one probe: enough work to stand out from a loop's ticks.
const PINGS: usize = 100;

/// The thread of the server that serves each connection, by slot.
///
/// # Errors
/// The server is not on this machine, or stopped answering.
pub fn loops(io: &mut Io, slots: &[usize]) -> Result<HashMap<usize, u32>, String> {
    let pid = io
        .job
        .pid
        .ok_or("placement needs a server on this machine: give its --pid")?;
    let mut places = HashMap::new();
    for slot in slots {
        let before = busy(pid)?;
        probe(io, *slot)?;
        let after = busy(pid)?;
        let work = |thread: u32| after[&thread].saturating_sub(before.get(&thread).copied().unwrap_or(0));
        let busiest = after.keys().copied().max_by_key(|thread| work(*thread));
        places.insert(*slot, busiest.ok_or("the server has no thread")?);
    }
    Ok(places)
}

fn busy(pid: u32) -> Result<HashMap<u32, u64>, String> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    let mut threads = HashMap::new();
    for entry in entries.flatten() {
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let time = text
            .split_ascii_whitespace()
            .next()
            .and_then(|field| field.parse().ok());
        let thread = entry.file_name().to_string_lossy().parse();
        if let (Some(time), Ok(thread)) = (time, thread) {
            threads.insert(thread, time);
        }
    }
    Ok(threads)
}

fn probe(io: &mut Io, slot: usize) -> Result<(), String> {
    for _ in 0..PINGS {
        io.send_text(slot, r#"{"type":"ping"}"#);
    }
    io.flush();
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut events = Events::with_capacity(1024);
    let mut input = vec![0; 64 * 1024];
    let (mut kept, mut pongs) = (Vec::new(), 0);
    while pongs < PINGS {
        if Instant::now() > deadline {
            return Err("a probe got no answer; is the rate limit off?".to_owned());
        }
        let waited = io.poll.poll(&mut events, Some(Duration::from_millis(50)));
        if let Err(error) = waited {
            return Err(error.to_string());
        }
        match io.read(slot, &mut input) {
            Input::Bytes(bytes) => kept.extend_from_slice(&input[..bytes]),
            Input::Nothing => continue,
            Input::End(why) => return Err(why),
        }
        while let Some((frame, used)) = frames::first(&kept)? {
            pongs += usize::from(frame.payload == br#"{"type":"pong"}"#);
            kept.drain(..used);
        }
    }
    Ok(())
}
