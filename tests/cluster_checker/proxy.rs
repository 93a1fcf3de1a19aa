//! A way between a node and its broker that can be cut.
//!
//! Owns: a listener on the loopback address and the connections through it. Cut, it passes no byte, refuses nothing and closes
//! nothing, as a network that swallows packets does.
//! Never: looks at what passes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use socket2::{SockAddr, Socket, Type};

/// One way.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<(TcpStream, Socket)>>,
}

impl Proxy {
    pub fn new(to: SockAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            cut: AtomicBool::new(false),
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let own = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if own.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(beyond) = Socket::new(to.domain(), Type::STREAM, None) else {
                    continue;
                };
                if beyond.connect(&to).is_err() {
                    continue;
                }
                let (Ok(back), Ok(beyond_back)) = (stream.try_clone(), beyond.try_clone()) else {
                    continue;
                };
                if let (Ok(stream), Ok(beyond)) = (stream.try_clone(), beyond.try_clone()) {
                    own.open
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((stream, beyond));
                }
                let (there, here) = (own.clone(), own.clone());
                thread::spawn(move || {
                    pass(&stream, &beyond, &there);
                    let _ = (stream.shutdown(Shutdown::Both), beyond.shutdown(Shutdown::Both));
                });
                thread::spawn(move || {
                    pass(&beyond_back, &back, &here);
                    let _ = (back.shutdown(Shutdown::Both), beyond_back.shutdown(Shutdown::Both));
                });
            }
        });
        Self { address, shared }
    }

    /// From here on nothing passes, or everything does again.
    pub fn cut(&self, cut: bool) {
        self.shared.cut.store(cut, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for (stream, beyond) in self
            .shared
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            let _ = (stream.shutdown(Shutdown::Both), beyond.shutdown(Shutdown::Both));
        }
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: impl Read, mut to: impl Write, shared: &Shared) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        while shared.cut.load(Ordering::Relaxed) && !shared.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(2));
        }
        if to.write_all(&bytes[..read]).is_err() {
            return;
        }
    }
}
