//! The back: asked for game servers over NATS, and the register that game servers look into.
//!
//! Owns: who asked and where the answers go, the service `gensession`, the writing of client ids.
//! Never: finds a server, or makes a token; registers a client id without both acknowledgements.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::service::endpoint::Endpoint;
use async_nats::service::{self, Service, ServiceExt as _};
use async_nats::{Message, Subject, Subscriber};
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::front::request_subject;
use super::objects::{Buckets, Fault};
use super::part::{Orders, Part};
use super::{Bounds, Common, FLUSH_WITHIN, at_once, store};
use crate::dialect::bevygap::parse_seek;
use crate::message::game_server::{
    CertDigest, Event, Failure, Name, Note, Outcome, Placement, RequestId, Seek, Wanted,
};
use crate::provider::{Answer, Busy, Outbox, Registry};

/// Of those who answer the same game, one gets each request.
const MATCHMAKERS: &str = "matchmaker_queue";
/// The service for the configured game.
const SERVICE: &str = "gensession";
const SERVICE_VERSION: &str = "0.0.1";
const SERVICE_DESCRIPTION: &str = "Generate sessions for clients who want to play";
const SERVICE_GROUP: &str = "session";
const SERVICE_QUEUE: &str = "session_queue";
/// Where game servers tell of themselves.
const CONTEXTS: &str = "gameserver.contexts";
/// What of that is logged.
const CONTEXT_BYTES_MAX: usize = 512;
/// Answers that could not be sent are told of again after this.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Registrations that are being written at a time.
const REGISTERING_MAX: usize = 256;
/// Registrations that wait for that, with them.
const WAITING_MAX: usize = 8192;
/// A registration may take this long, and wait for its turn as long.
const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// How the last frame of success begins; it is followed by two empty messages, as every other last frame by one.
const READY_FRAME: &str = r#"{"SessionReady""#;

/// What is answered over NATS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Games and versions.
    pub games: Vec<(Name, Name)>,
    /// Whether the configured game is asked for through the service as well.
    pub configured: bool,
}

/// Requests over NATS, and the register.
#[derive(Debug)]
pub struct Back {
    part: Part<Order>,
}

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Order {
    Register(Registration),
    Answer(u64, Answer),
}

#[derive(Debug)]
pub(super) struct Registration {
    id: RequestId,
    client_id: u64,
    session: String,
    /// Whose digest is wanted.
    digest_of: Option<IpAddr>,
}

impl Back {
    pub(super) fn new(part: Part<Order>) -> Self {
        Self { part }
    }
}

impl Registry for Back {
    fn register(
        &mut self,
        id: RequestId,
        client_id: u64,
        placement: &Placement,
        wants_digest: bool,
    ) -> Result<(), Busy> {
        self.part.give(Order::Register(Registration {
            id,
            client_id,
            session: placement.session.to_string(),
            digest_of: wants_digest.then(|| placement.public.ip()),
        }))
    }

    fn answer(&mut self, remote: u64, answer: Answer) {
        if self.part.give(Order::Answer(remote, answer)).is_err() {
            tracing::warn!("NATS: an answer is lost: the queue is full");
        }
    }

    fn has_events(&self) -> bool {
        self.part.has_events()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.part.poll_event()
    }

    fn ignore_events(&mut self) {
        self.part.ignore_events();
    }

    fn stop(&mut self) {
        self.part.stop();
    }
}

/// Runs until there are no more orders.
pub(super) async fn serve(common: Common, mut orders: Orders<Order>, outbox: Outbox, served: Served, bounds: Bounds) {
    let Subscribed {
        mut requests,
        mut contexts,
        service,
    } = match subscribe(&common, &served).await {
        Ok(subscribed) => subscribed,
        Err(fault) => return tracing::error!("NATS: {fault}"),
    };
    let (_service, mut endpoint) = service.unzip();
    let mut link = common.link.clone();
    let mut desk = Remotes {
        common,
        bounds,
        outbox,
        served,
        remotes: HashMap::new(),
        ages: VecDeque::new(),
        last: 0,
        registering: Arc::new(Semaphore::new(REGISTERING_MAX)),
        waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        unsent: Unsent::default(),
    };
    loop {
        tokio::select! {
            order = orders.next() => match order {
                None => break,
                Some(Order::Answer(remote, answer)) => desk.answer(remote, answer),
                Some(Order::Register(registration)) => desk.register(registration),
            },
            Some(message) = requests.next() => desk.on_request(&message),
            Some(request) = next_of(endpoint.as_mut()) => desk.on_service_request(request),
            Some(message) = contexts.next() => on_context(&message),
            Ok(()) = link.changed() => {
                let connected = link.borrow_and_update().connected;
                desk.outbox.tell(Event::Noted(Note::Connected(connected)));
            }
        }
    }
    desk.end();
    let _ = timeout(FLUSH_WITHIN, desk.common.client.flush()).await;
}

struct Subscribed {
    requests: SelectAll<Subscriber>,
    contexts: Subscriber,
    service: Option<(Service, Endpoint)>,
}

async fn subscribe(common: &Common, served: &Served) -> Result<Subscribed, Fault> {
    let client = &common.client;
    let mut requests = SelectAll::new();
    for (game, version) in &served.games {
        let Some(subject) = request_subject(game.as_str(), version.as_str()) else {
            continue;
        };
        let subscribed = client.queue_subscribe(subject, MATCHMAKERS.to_owned()).await;
        requests.push(subscribed.map_err(|error| Fault::new("requests", error))?);
    }
    let contexts = client.subscribe(CONTEXTS).await;
    let contexts = contexts.map_err(|error| Fault::new(CONTEXTS, error))?;
    let service = match served.configured {
        true => Some(offer(common).await.map_err(|error| Fault::new(SERVICE, error))?),
        false => None,
    };
    Ok(Subscribed {
        requests,
        contexts,
        service,
    })
}

async fn offer(common: &Common) -> Result<(Service, Endpoint), async_nats::Error> {
    let service = common.client.service_builder().description(SERVICE_DESCRIPTION);
    let service = service.start(SERVICE, SERVICE_VERSION).await?;
    let group = service.group_with_queue_group(SERVICE_GROUP, SERVICE_QUEUE);
    let endpoint = group.endpoint(SERVICE).await?;
    Ok((service, endpoint))
}

/// The next request, or None for ever if there is no service.
async fn next_of(endpoint: Option<&mut Endpoint>) -> Option<service::Request> {
    endpoint?.next().await
}

fn on_context(message: &Message) {
    let shown = &message.payload[..message.payload.len().min(CONTEXT_BYTES_MAX)];
    tracing::debug!(
        "NATS: a game server tells of itself: {:?}",
        String::from_utf8_lossy(shown)
    );
}

/// Who asked.
enum Remote {
    /// Frames go to this inbox.
    Inbox { reply: Subject, ready: bool },
    /// The answer is one piece.
    Service(Box<service::Request>),
}

struct Remotes {
    common: Common,
    bounds: Bounds,
    outbox: Outbox,
    served: Served,
    remotes: HashMap<u64, Remote>,
    /// When each came, oldest first; some are gone already.
    ages: VecDeque<(Instant, u64)>,
    last: u64,
    registering: Arc<Semaphore>,
    /// Places for registrations, those that wait for their turn included.
    waiting: Arc<Semaphore>,
    unsent: Unsent,
}

/// Answers that could not be sent.
#[derive(Default)]
struct Unsent {
    since_told: u64,
    told: Option<Instant>,
}

impl Unsent {
    /// One more; how many the log is to be told of, if it is time for that.
    fn count(&mut self) -> Option<u64> {
        self.since_told += 1;
        let due = self.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN_AFTER);
        due.then(|| {
            self.told = Some(Instant::now());
            std::mem::take(&mut self.since_told)
        })
    }
}

impl Remotes {
    fn on_request(&mut self, message: &Message) {
        let Some(reply) = message.reply.clone().filter(is_inbox) else {
            return tracing::debug!("NATS: a request without an inbox for its answers: dropped");
        };
        let asked = self.served.games.iter().find(|(game, version)| {
            request_subject(game.as_str(), version.as_str()).is_some_and(|subject| subject == message.subject.as_str())
        });
        let Some((game, version)) = asked.cloned() else { return };
        let remote = Remote::Inbox { reply, ready: false };
        let wanted = Wanted::Game { game, version };
        match (parse_seek(&message.payload).ok(), self.has_room()) {
            (Some(client_ip), true) => self.ask(remote, Seek { wanted, client_ip }),
            (None, _) => self.refuse(remote, 400, "invalid session request"),
            (Some(_), false) => self.refuse(remote, Failure::TOO_MANY.code, &Failure::TOO_MANY.text),
        }
    }

    fn on_service_request(&mut self, request: service::Request) {
        if !request.message.reply.as_ref().is_some_and(is_inbox) {
            return;
        }
        let asked = parse_seek(&request.message.payload).ok();
        let remote = Remote::Service(Box::new(request));
        let wanted = Wanted::Configured;
        match (asked, self.has_room()) {
            (Some(client_ip), true) => self.ask(remote, Seek { wanted, client_ip }),
            (None, _) => self.refuse(remote, 400, "invalid session request"),
            (Some(_), false) => self.refuse(remote, Failure::TOO_MANY.code, &Failure::TOO_MANY.text),
        }
    }

    /// Whether another request may wait. Forgets those that the desk has long ended.
    fn has_room(&mut self) -> bool {
        while let Some(&(since, id)) = self.ages.front() {
            if self.remotes.contains_key(&id) && since.elapsed() < self.bounds.patience {
                break;
            }
            self.ages.pop_front();
            self.remotes.remove(&id);
        }
        self.remotes.len() < self.bounds.requests_max
    }

    fn ask(&mut self, remote: Remote, seek: Seek) {
        self.last += 1;
        self.remotes.insert(self.last, remote);
        self.ages.push_back((Instant::now(), self.last));
        self.outbox.tell(Event::Asked(self.last, seek));
    }

    fn refuse(&mut self, remote: Remote, code: u16, text: &str) {
        match remote {
            Remote::Inbox { reply, .. } => {
                self.send(&reply, serde_json::json!({ "Error": [code, text] }).to_string());
                self.send(&reply, String::new());
            }
            Remote::Service(request) => {
                if !respond(&request, Err(error(code, text))) {
                    self.lost();
                }
            }
        }
    }

    fn answer(&mut self, id: u64, answer: Answer) {
        let Some(remote) = self.remotes.get_mut(&id) else {
            return;
        };
        match (remote, answer) {
            (Remote::Inbox { reply, ready }, Answer::Frame(frame)) => {
                *ready = frame.starts_with(READY_FRAME);
                let reply = reply.clone();
                // An empty frame would be the end.
                if !frame.is_empty() {
                    self.send(&reply, frame);
                }
            }
            (Remote::Inbox { reply, ready }, Answer::End | Answer::Outcome(_)) => {
                let (reply, times) = (reply.clone(), if *ready { 2 } else { 1 });
                self.remotes.remove(&id);
                for _ in 0..times {
                    self.send(&reply, String::new());
                }
            }
            (Remote::Service(_), Answer::Frame(_)) => {}
            (Remote::Service(_), answer @ (Answer::Outcome(_) | Answer::End)) => {
                let Some(Remote::Service(request)) = self.remotes.remove(&id) else {
                    return;
                };
                let answer = match answer {
                    Answer::Outcome(Outcome { status: 200, body }) => Ok(body),
                    Answer::Outcome(Outcome { status, body }) => Err(error(status, &body)),
                    Answer::Frame(_) | Answer::End => Err(error(500, "internal error")),
                };
                if !respond(&request, answer) {
                    self.lost();
                }
            }
        }
    }

    /// Sends if there is room: the connection has a queue, which outlasts a short loss of it.
    fn send(&mut self, reply: &Subject, frame: String) {
        let sent = at_once(self.common.client.publish(reply.clone(), frame.into()));
        if !matches!(sent, Some(Ok(()))) {
            self.lost();
        }
    }

    /// An answer could not be sent.
    fn lost(&mut self) {
        if let Some(answers) = self.unsent.count() {
            tracing::warn!(answers, "NATS: too much waits to be sent: answers are lost");
        }
    }

    fn register(&self, registration: Registration) {
        let id = registration.id;
        let place = Arc::clone(&self.waiting).try_acquire_owned();
        let Some(place) = place.ok().filter(|_| self.common.is_connected()) else {
            return self.outbox.tell(Event::NotRegistered(id));
        };
        let (outbox, common) = (self.outbox.clone(), self.common.clone());
        let mut objects = common.objects.clone();
        let registering = Arc::clone(&self.registering);
        tokio::spawn(async move {
            // A burst takes turns; what JetStream does not work off is not kept.
            let turn = timeout(REGISTER_WITHIN, registering.acquire_owned()).await;
            let Some(permit) = turn.ok().and_then(Result::ok).filter(|_| common.is_connected()) else {
                return outbox.tell(Event::NotRegistered(id));
            };
            let since = Instant::now();
            let written = timeout(REGISTER_WITHIN, async {
                let buckets = store::ready(&mut objects).await?;
                write(&buckets, &registration).await
            });
            let (event, good) = match written.await {
                Ok(Ok(digest)) => (Event::Registered(id, digest), true),
                Ok(Err(fault)) => {
                    tracing::warn!("NATS: a player is not registered: {fault}");
                    (Event::NotRegistered(id), false)
                }
                Err(_) => {
                    tracing::warn!("NATS: a player is not registered: no answer in time");
                    (Event::NotRegistered(id), false)
                }
            };
            outbox.tell(event);
            let took = since.elapsed();
            outbox.tell(Event::Noted(Note::Called { took, good }));
            drop((permit, place));
        });
    }

    /// Tells all who wait that nothing will come.
    fn end(&mut self) {
        for (_, remote) in std::mem::take(&mut self.remotes) {
            self.refuse(remote, Failure::UNAVAILABLE.code, &Failure::UNAVAILABLE.text);
        }
    }
}

/// Writes both ways, and looks up the digest; all three at the same time.
async fn write(buckets: &Buckets, registration: &Registration) -> Result<Option<CertDigest>, Fault> {
    let client_id = registration.client_id.to_string();
    let session = &registration.session;
    let digest = async {
        match registration.digest_of {
            Some(ip) => digest(buckets, ip).await,
            None => Ok(None),
        }
    };
    let there = async {
        let put = buckets.sessions_ly2eg.put(&client_id, session.clone().into()).await;
        put.map_err(|error| Fault::new("sessions_ly2eg", error))
    };
    let back = async {
        let put = buckets.sessions_eg2ly.put(session, client_id.clone().into()).await;
        put.map_err(|error| Fault::new("sessions_eg2ly", error))
    };
    let (digest, _, _) = tokio::try_join!(digest, there, back)?;
    Ok(digest)
}

async fn digest(buckets: &Buckets, ip: IpAddr) -> Result<Option<CertDigest>, Fault> {
    let value = buckets.cert_digests.get(digest_key(ip)).await;
    let value = value.map_err(|error| Fault::new("cert_digests", error))?;
    let text = value.as_deref().map(String::from_utf8_lossy);
    Ok(text.and_then(|text| CertDigest::parse(&text)))
}

/// A key holds no `:`, which an IPv6 address has.
fn digest_key(ip: IpAddr) -> String {
    ip.to_canonical().to_string().replace(':', "-")
}

/// Whether answers may be published there. A requester must not have us write to subjects that mean something.
fn is_inbox(reply: &Subject) -> bool {
    const OURS: [&str; 6] = [
        "$",
        "matchmaker.",
        "session.",
        "gameserver.",
        "edgegap_delete_session_q.",
        "webhook.",
    ];
    let reply = reply.as_str();
    let plain = !reply.bytes().any(|byte| byte <= b' ' || matches!(byte, b'*' | b'>'));
    !reply.is_empty() && plain && !OURS.iter().any(|prefix| reply.starts_with(prefix))
}

/// An error as the service's answer.
fn error(status: u16, text: &str) -> service::error::Error {
    service::error::Error {
        // A line end in a header would be another header, and the library does not take it.
        status: text.replace(|c: char| c.is_control(), " "),
        code: usize::from(status),
    }
}

/// Sends it if there is room; whether there was.
fn respond(request: &service::Request, answer: Result<String, service::error::Error>) -> bool {
    matches!(at_once(request.respond(answer.map(Into::into))), Some(Ok(())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn answers_go_to_inboxes_alone() {
        for good in ["_INBOX.abc.def", "my.prefix.1", "_R_.x"] {
            assert!(is_inbox(&good.into()), "{good}");
        }
        for bad in [
            "",
            "$KV.cert_digests.1.2.3.4",
            "edgegap_delete_session_q.x",
            "matchmaker.request.a.b",
            "a b",
            ">",
        ] {
            assert!(!is_inbox(&bad.into()), "{bad}");
        }
    }

    #[test]
    fn a_digest_is_kept_under_the_address_without_colons() {
        assert_eq!(digest_key("203.0.113.10".parse().unwrap()), "203.0.113.10");
        assert_eq!(digest_key("2001:db8::1".parse().unwrap()), "2001-db8--1");
        assert_eq!(digest_key("::ffff:1.2.3.4".parse().unwrap()), "1.2.3.4");
    }

    #[test]
    fn lost_answers_are_told_of_once_in_a_while() {
        let mut unsent = Unsent::default();
        assert_eq!(unsent.count(), Some(1));
        assert_eq!((unsent.count(), unsent.count()), (None, None));
        unsent.told = None;
        assert_eq!(unsent.count(), Some(3));
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(error(500, "a\r\nb: c").status, "a  b: c");
    }
}
