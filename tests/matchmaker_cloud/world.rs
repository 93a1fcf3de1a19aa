//! The fleet: a NATS server, the mock of the cloud, a server in front and one behind.
//!
//! Owns: starting and ending them, what the game server of the tests would put into NATS, and what the cloud was asked.
//! Never: speaks the players' protocol.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::{Server, http};

/// The key that the recordings were made with, as the environment has it.
pub(crate) const KEY: &str = "1,2,3,4,5,6,7,8,9,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1";
/// The same.
pub(crate) const KEY_BYTES: [u8; 32] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];
/// The protocol id of the recordings.
pub(crate) const PROTOCOL_ID: u64 = 80085;
/// The digest of the recordings.
pub(crate) const DIGEST: &str =
    "e3:76:4d:86:6c:11:d1:96:00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55:66:77";
/// Where the mock says that its game server is.
pub(crate) const GAME_SERVER: &str = "203.0.113.10";
/// Stands for players on this machine.
pub(crate) const FAKE_IP: &str = "81.128.157.100";

/// How long something may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A NATS server with JetStream, and a client that plays the game server.
pub(crate) struct Nats {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
    context: jetstream::Context,
    _process: Process,
    _folder: TempDir,
}

impl Nats {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new("nats-server")
            .args([
                "--addr",
                "127.0.0.1",
                "--port",
                "-1",
                "--jetstream",
                "--user",
                "u",
                "--pass",
                "p",
            ])
            .arg("--store_dir")
            .arg(folder.path())
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server (Debian's package) can be run");
        let ports = folder.path().join(format!("nats-server_{}.ports", process.id()));
        let process = Process(process);
        let address = until("nats-server names its port", || ports_of(&ports));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let context = runtime.block_on(async {
            let options = async_nats::ConnectOptions::with_user_and_password("u".to_owned(), "p".to_owned());
            jetstream::new(options.connect(address.to_string()).await.unwrap())
        });
        Self {
            address,
            runtime,
            context,
            _process: process,
            _folder: folder,
        }
    }

    /// Puts a value into a bucket, which a server made; None: deletes it.
    pub(crate) fn put(&self, bucket: &str, key: &str, value: Option<&str>) {
        let bucket = self.bucket(bucket);
        self.runtime.block_on(async {
            match value {
                Some(value) => drop(bucket.put(key, value.to_owned().into()).await.unwrap()),
                None => bucket.delete(key).await.unwrap(),
            }
        });
    }

    /// What a bucket has under a key.
    pub(crate) fn get(&self, bucket: &str, key: &str) -> Option<String> {
        let bucket = self.bucket(bucket);
        let value = self.runtime.block_on(bucket.get(key)).unwrap();
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    /// Hears everything from now on.
    pub(crate) fn listen(&self) -> async_nats::Subscriber {
        let client = self.context.client();
        self.runtime.block_on(async {
            let everything = client.subscribe(">").await.unwrap();
            // A round trip: the server has the subscription.
            client.request("$JS.API.INFO", "".into()).await.unwrap();
            everything
        })
    }

    /// The subjects of what was heard, to the message that this sends; those of requests of JetStream left out.
    pub(crate) fn heard(&self, everything: &mut async_nats::Subscriber) -> Vec<String> {
        use futures_util::StreamExt as _;
        let client = self.context.client();
        self.runtime.block_on(async {
            client.publish("the.end", "".into()).await.unwrap();
            let mut subjects = Vec::new();
            while let Some(message) = everything.next().await {
                match message.subject.as_str() {
                    "the.end" => break,
                    subject if subject.starts_with(['$', '_']) => {}
                    subject => subjects.push(subject.to_owned()),
                }
            }
            subjects
        })
    }

    /// Publishes a message and sees that it was stored.
    pub(crate) fn publish(&self, subject: String, payload: &str) {
        self.runtime.block_on(async {
            self.context
                .publish(subject, payload.to_owned().into())
                .await
                .unwrap()
                .await
                .unwrap();
        });
    }

    fn bucket(&self, bucket: &str) -> jetstream::kv::Store {
        until("a server makes its buckets", || {
            self.runtime.block_on(self.context.get_key_value(bucket)).ok()
        })
    }
}

fn ports_of(file: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(file).ok()?;
    let ports: Value = serde_json::from_str(&text).ok()?;
    ports["nats"][0].as_str()?.strip_prefix("nats://")?.parse().ok()
}

/// The mock of the cloud.
pub(crate) struct Cloud {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Cloud {
    /// Starts one on a free port.
    pub(crate) fn start() -> Self {
        let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/edgegap/mock_edgegap.py");
        let mut process = Command::new("python3")
            .arg(mock)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 can be run");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("LISTENING http://").unwrap().parse().unwrap();
        Self {
            address,
            _process: Process(process),
        }
    }

    /// Forgets everything and behaves as usual, but for these options.
    pub(crate) fn behave(&self, options: Value) {
        let usual = json!({
            "public_ip": GAME_SERVER, "game_port": 30004, "ready_after": 2, "never_ready": false, "error_after": 0,
            "no_deployment": false, "no_ports": false, "latency_ms": 0, "drop": false, "bad_json": false,
            "fail_post": 0, "fail_get": 0, "fail_get_after": 0, "fail_delete": 0,
        });
        let Value::Object(mut wanted) = usual else {
            unreachable!()
        };
        wanted.extend(options.as_object().unwrap().clone());
        self.post("/__mock/reset", &json!({}));
        self.post("/__mock/config", &Value::Object(wanted));
    }

    /// The sessions by name.
    pub(crate) fn sessions(&self) -> Map<String, Value> {
        self.state()["sessions"].as_object().unwrap().clone()
    }

    /// Waits until no session is left.
    pub(crate) fn await_no_session(&self) {
        until("every session of the cloud is deleted", || {
            let all = self.sessions().values().all(|session| session["deleted"] == true);
            all.then_some(())
        });
    }

    /// The calls as `METHOD PATH`.
    pub(crate) fn calls(&self) -> Vec<String> {
        let state = self.state();
        let calls = state["requests"].as_array().unwrap().iter();
        let name = |call: &Value| {
            format!(
                "{} {}",
                call["method"].as_str().unwrap(),
                call["path"].as_str().unwrap()
            )
        };
        calls.map(name).collect()
    }

    /// All that it knows.
    pub(crate) fn state(&self) -> Value {
        http(self.address, "GET", "/__mock/state", &[]).json()
    }

    fn post(&self, path: &str, body: &Value) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: mock\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{path}: {answer}");
    }
}

/// All of them.
pub(crate) struct World {
    pub(crate) front: Server,
    pub(crate) back: Option<Server>,
    pub(crate) cloud: Cloud,
    pub(crate) nats: Nats,
}

impl World {
    /// A whole fleet; `settings` are added to those of both servers.
    pub(crate) fn start(settings: Value) -> Self {
        let world = Self::start_without_back(settings.clone());
        let back = Self::back(&world.nats, &world.cloud, settings);
        world.nats.put("cert_digests", GAME_SERVER, Some(DIGEST));
        Self {
            back: Some(back),
            ..world
        }
    }

    /// One in which nobody answers.
    pub(crate) fn start_without_back(settings: Value) -> Self {
        let (nats, cloud) = (Nats::start(), Cloud::start());
        let own = json!({ "matchmaker_enabled": true, "matchmaker_provider": "nats", "matchmaker_fake_ip": FAKE_IP });
        let front = Server::start(merged(own, settings), &environment(&nats, &[]));
        until("the front is connected", || {
            let answer = http(
                front.addr(),
                "POST",
                "/matchmaker/wannaplay",
                &[("Content-Length", "0")],
            );
            (answer.text() == "No service responders").then_some(())
        });
        Self {
            front,
            back: None,
            cloud,
            nats,
        }
    }

    /// The server that answers.
    pub(crate) fn back(nats: &Nats, cloud: &Cloud, settings: Value) -> Server {
        let own = json!({
            "matchmaker_enabled": true,
            "matchmaker_provider": "edgegap",
            "matchmaker_nats_back": true,
            "matchmaker_app_name": "bevygap-spaceships",
            "matchmaker_app_version": "1",
            "matchmaker_protocol_id": PROTOCOL_ID,
            "edgegap_url": format!("http://{}", cloud.address),
        });
        let own_environment = [("LIGHTYEAR_PRIVATE_KEY", KEY), ("EDGEGAP_API_KEY", "token test-key")];
        Server::start(merged(own, settings), &environment(nats, &own_environment))
    }
}

fn merged(mut own: Value, more: Value) -> Value {
    own.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    own
}

fn environment<'a>(nats: &Nats, own: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    // The tests' own; each world's address lives as long as the tests.
    let host: &'static str = nats.address.to_string().leak();
    let common = [
        ("NATS_HOST", host),
        ("NATS_USER", "u"),
        ("NATS_PASS", "p"),
        ("NATS_INSECURE", "1"),
    ];
    common.into_iter().chain(own.iter().copied()).collect()
}

/// Looks again and again until there is something; fails with the name of what was awaited.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
