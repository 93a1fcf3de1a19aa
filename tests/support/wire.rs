//! A byte stream to the server, plain or TLS, which one thread may read while others write.
//!
//! Owns: the socket and the TLS state. Never: knows what the bytes mean.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};
use socket2::{Domain, SockRef, Socket, Type};

/// How to open a [`Wire`].
#[derive(Clone, Default)]
pub struct WireOptions {
    /// Speak TLS with this configuration (see `trust_anything`).
    pub tls: Option<Arc<ClientConfig>>,
    /// SO_RCVBUF, set before connecting: a small one makes a reader that soon holds the server up.
    pub receive_buffer_bytes: Option<usize>,
    /// The local address to connect from, such as 127.0.0.2, for limits that count by address.
    pub source: Option<IpAddr>,
}

/// An open connection.
pub struct Wire {
    tcp: TcpStream,
    tls: Option<Mutex<ClientConnection>>,
    // Held over one whole write, so that frames of two threads do not mix.
    writing: Mutex<()>,
}

impl Wire {
    /// Connects. With TLS nothing has been said yet: the handshake happens with the first write and reads.
    pub fn open(addr: SocketAddr, options: &WireOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
        if let Some(bytes) = options.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(source) = options.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&addr.into(), CONNECT_WITHIN)?;
        let tcp = TcpStream::from(socket);
        tcp.set_nodelay(true)?;
        tcp.set_write_timeout(Some(WRITE_WITHIN))?;
        let tls = match &options.tls {
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let mut tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
                tls.set_buffer_limit(None);
                Some(Mutex::new(tls))
            }
            None => None,
        };
        Ok(Self {
            tcp,
            tls,
            writing: Mutex::new(()),
        })
    }

    /// Writes all bytes, as one piece with regard to other writers.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let _writing = locked(&self.writing);
        match &self.tls {
            None => (&self.tcp).write_all(bytes),
            Some(tls) => {
                let mut tls = locked(tls);
                tls.writer().write_all(bytes)?;
                self.flush(&mut tls)
            }
        }
    }

    /// Waits for bytes and appends them; 0 is the end. Only one thread may read.
    pub fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let Some(tls) = &self.tls else {
            let count = (&self.tcp).read(&mut bytes)?;
            into.extend_from_slice(&bytes[..count]);
            return Ok(count);
        };
        loop {
            let count = (&self.tcp).read(&mut bytes)?;
            // Without the lock above: a silent server must not keep others from writing.
            let mut tls = locked(tls);
            let mut rest = &bytes[..count];
            if count == 0 {
                return Ok(0);
            }
            let before = into.len();
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                let state = tls.process_new_packets();
                self.flush(&mut tls)?;
                let state = state.map_err(io::Error::other)?;
                let start = into.len();
                into.resize(start + state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut into[start..])?;
                if state.peer_has_closed() {
                    break;
                }
            }
            if into.len() > before {
                return Ok(into.len() - before);
            }
        }
    }

    /// How long [`Wire::read`] may wait; none: for ever.
    pub fn set_read_timeout(&self, within: Option<Duration>) -> io::Result<()> {
        self.tcp.set_read_timeout(within)
    }

    /// Ends both directions; a reader sees the end.
    pub fn shutdown(&self) {
        let _ = self.tcp.shutdown(Shutdown::Both);
    }

    /// Says that nothing more will be sent; reading goes on.
    pub fn shutdown_write(&self) {
        let _ = self.tcp.shutdown(Shutdown::Write);
    }

    /// Makes the coming close a reset, and wakes the reader without telling the server yet.
    pub fn reset_on_close(&self) {
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        let _ = self.tcp.shutdown(Shutdown::Read);
    }

    /// The local address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// The application protocol that the server chose, after the handshake.
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.tls
            .as_ref()
            .and_then(|tls| locked(tls).alpn_protocol().map(<[u8]>::to_vec))
    }

    /// The TLS version, after the handshake.
    pub fn tls_version(&self) -> Option<ProtocolVersion> {
        self.tls.as_ref().and_then(|tls| locked(tls).protocol_version())
    }

    fn flush(&self, tls: &mut ClientConnection) -> io::Result<()> {
        while tls.wants_write() {
            if tls.write_tls(&mut &self.tcp)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// A server that reads nothing for so long has hung the test.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// Small enough that rustls never holds more than one whole record besides it.
const READ_BYTES: usize = 4096;
