//! `peer-stress floor --stun`: the least that any STUN server on one thread must do. A request is answered with the address
//! that it came from, and not looked at.
//!
//! It is honest: one socket that blocks, a receive and a send for each request, an answer without a copy.
//!
//! Owns: its socket.
//! Never: checks what it answers.

use std::io::{self, Write};
use std::net::{SocketAddr, UdpSocket};

use crate::stun;

/// Requests that are not lost while another process has the core.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// Serves until it is killed; prints `listening on ADDRESS` first. It swallows each `lose_every`th request; 0: none.
///
/// # Errors
/// The address cannot be had, or the socket fails.
pub fn run(address: SocketAddr, lose_every: u64) -> Result<(), String> {
    serve(address, lose_every).map_err(|error| format!("floor on {address}: {error}"))
}

fn serve(address: SocketAddr, lose_every: u64) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    // Less will do where the system allows less.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES);
    let mut out = io::stdout();
    writeln!(out, "listening on {}", socket.local_addr()?)?;
    out.flush()?;
    let mut buffer = [0; 2048];
    let mut requests = 0_u64;
    loop {
        let (bytes, from) = socket.recv_from(&mut buffer)?;
        requests += 1;
        if bytes < stun::HEADER_BYTES || (lose_every > 0 && requests.is_multiple_of(lose_every)) {
            continue;
        }
        let len = stun::answer(&mut buffer, from);
        // A client that is gone needs none.
        let _ = socket.send_to(&buffer[..len], from);
    }
}
