//! A way between a node and its broker that can be cut.
//!
//! Owns: a listener on the loopback address and the connections through it. Cut, it passes no byte, refuses nothing and closes
//! nothing, as a network that swallows packets does.
//! Never: looks at what passes.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// One way.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub fn new(to: SocketAddr) -> Self {
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
                let Ok(beyond) = TcpStream::connect(to) else { continue };
                let (Ok(back), Ok(beyond_back)) = (stream.try_clone(), beyond.try_clone()) else { continue };
                let mut open = own.open.lock().unwrap_or_else(PoisonError::into_inner);
                open.extend(stream.try_clone().into_iter().chain(beyond.try_clone()));
                drop(open);
                let (there, here) = (own.clone(), own.clone());
                thread::spawn(move || pass(stream, beyond, &there));
                thread::spawn(move || pass(beyond_back, back, &here));
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
        for stream in self.shared.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        while shared.cut.load(Ordering::Relaxed) && !shared.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(2));
        }
        if to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
