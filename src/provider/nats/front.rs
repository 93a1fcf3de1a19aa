//! The front: asks another matchmaker for game servers and passes on what it says.
//!
//! Owns: the requests that wait for answers, and the one inbox that all answers come to.
//! Never: understands an answer; writes a subject that holds anything but checked names.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use futures_util::StreamExt as _;
use rand::RngExt as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::part::{Orders, Part};
use super::{Bounds, Common, FLUSH_WITHIN, Link, at_once};
use crate::dialect::bevygap::push_seek;
use crate::message::game_server::{
    Event, FORWARDED_BYTES_MAX, Failure, Note, Outcome, RequestId, Seek, SessionName, Wanted,
};
use crate::provider::{Busy, GameServerProvider, Outbox};

/// The subject of the service that serves the configured game.
pub(super) const GENSESSION: &str = "session.gensession";
/// Headers of an answer that is an error.
const ERROR_CODE: &str = "Nats-Service-Error-Code";
const ERROR_TEXT: &str = "Nats-Service-Error";
/// How long the answer for the configured game may take.
const OUTCOME_WITHIN: Duration = Duration::from_secs(60);
/// Nobody listens on the request's subject.
const NOBODY: Failure = Failure::new(503, "nobody serves this game");

/// Another matchmaker as a provider of game servers: its frames are forwarded.
#[derive(Debug)]
pub struct Front {
    part: Part<Ask>,
}

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Ask {
    Submit(RequestId, Seek),
    Cancel(RequestId),
}

impl Front {
    pub(super) fn new(part: Part<Ask>) -> Self {
        Self { part }
    }
}

impl GameServerProvider for Front {
    fn submit(&mut self, id: RequestId, seek: Seek) -> Result<(), Busy> {
        self.part.give(Ask::Submit(id, seek))
    }

    fn cancel(&mut self, id: RequestId) {
        // If there is no room the request is forgotten when its time is up.
        let _ = self.part.give(Ask::Cancel(id));
    }

    // Sessions of another matchmaker are its own.
    fn claimed(&mut self, _session: &SessionName) {}

    fn released(&mut self, _session: &SessionName) {}

    fn has_events(&self) -> bool {
        self.part.has_events()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.part.poll_event()
    }

    fn stop(&mut self) {
        self.part.stop();
    }
}

/// Runs until no more is asked.
pub(super) async fn serve(common: Common, mut asks: Orders<Ask>, outbox: Outbox, bounds: Bounds) {
    let prefix = common.client.new_inbox();
    let mut replies = match common.client.subscribe(format!("{prefix}.*")).await {
        Ok(replies) => replies,
        Err(error) => return tracing::error!("NATS: {error}"),
    };
    let mut link = common.link.clone();
    let known = *link.borrow_and_update();
    if known.connected {
        // It was quicker than we, so there will be no change to tell.
        outbox.tell(Event::Noted(Note::Connected(true)));
    }
    let mut desk = Waiting {
        common,
        bounds,
        link: known,
        prefix,
        outbox,
        requests: HashMap::new(),
        due: BTreeSet::new(),
    };
    loop {
        let due = desk.due.first().map(|(at, _)| *at);
        tokio::select! {
            biased;
            Some(reply) = replies.next() => desk.on_reply(&reply),
            Ok(()) = link.changed() => {
                let link = *link.borrow_and_update();
                desk.on_link(link);
            }
            ask = asks.next() => match ask {
                None => break,
                Some(Ask::Submit(id, seek)) => desk.submit(id, &seek),
                Some(Ask::Cancel(id)) => desk.forget(id.0).map_or((), drop),
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => desk.on_due(),
        }
    }
    let _ = timeout(FLUSH_WITHIN, desk.common.client.flush()).await;
}

/// A request that waits for answers.
struct Request {
    /// Part of its reply subject: who knows one request's cannot guess another's.
    salt: u64,
    /// Whether it is answered in one piece.
    in_one: bool,
    since: Instant,
    due: Instant,
}

struct Waiting {
    common: Common,
    bounds: Bounds,
    link: Link,
    prefix: String,
    outbox: Outbox,
    requests: HashMap<u64, Request>,
    due: BTreeSet<(Instant, u64)>,
}

impl Waiting {
    fn submit(&mut self, id: RequestId, seek: &Seek) {
        if !self.common.is_connected() || self.requests.len() >= self.bounds.requests_max {
            return self.outbox.tell(Event::Failed(id, Failure::UNAVAILABLE));
        }
        let Some(subject) = subject(&seek.wanted) else {
            return self.outbox.tell(Event::Failed(id, Failure::new(400, "invalid name")));
        };
        let salt = rand::rng().random();
        let reply = format!("{}.{:x}-{salt:x}", self.prefix, id.0);
        let sent = at_once(
            self.common
                .client
                .publish_with_reply(subject, reply, payload(seek).into()),
        );
        if !matches!(sent, Some(Ok(()))) {
            return self.outbox.tell(Event::Failed(id, Failure::UNAVAILABLE));
        }
        let in_one = seek.wanted == Wanted::Configured;
        let since = Instant::now();
        // Whoever seeks was told long before that nothing comes.
        let due = since
            + match in_one {
                true => OUTCOME_WITHIN,
                false => self.bounds.patience,
            };
        self.due.insert((due, id.0));
        let request = Request {
            salt,
            in_one,
            since,
            due,
        };
        self.requests.insert(id.0, request);
    }

    fn forget(&mut self, id: u64) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.due.remove(&(request.due, id));
        Some(request)
    }

    /// The last word on a request; `good`: it did what it was for.
    fn end(&mut self, id: u64, event: Event, good: bool) {
        let Some(request) = self.forget(id) else { return };
        self.outbox.tell(event);
        let took = request.since.elapsed();
        self.outbox.tell(Event::Noted(Note::Called { took, good }));
    }

    fn on_reply(&mut self, message: &Message) {
        let Some((id, salt)) = message.subject.as_str().rsplit('.').next().and_then(parse_token) else {
            return;
        };
        let Some(request) = self.requests.get(&id).filter(|request| request.salt == salt) else {
            return;
        };
        let nobody = message.status == Some(StatusCode::NO_RESPONDERS);
        if request.in_one {
            let outcome = outcome(message, nobody);
            let good = outcome.status == 200;
            return self.end(id, Event::ForwardedOutcome(RequestId(id), Box::new(outcome)), good);
        }
        if nobody {
            return self.end(id, Event::Failed(RequestId(id), NOBODY), false);
        }
        if message.payload.is_empty() {
            return self.end(id, Event::End(RequestId(id)), true);
        }
        match std::str::from_utf8(&message.payload) {
            Ok(text) if text.len() <= FORWARDED_BYTES_MAX => {
                self.outbox.tell(Event::Forwarded(RequestId(id), text.into()));
            }
            Ok(_) | Err(_) => {
                let bytes = message.payload.len();
                tracing::debug!("NATS: an answer of {bytes} bytes is no text, or too long: dropped");
            }
        }
    }

    fn on_link(&mut self, link: Link) {
        let first = self.link.generation == 0 && link.connected;
        self.link = link;
        self.outbox.tell(Event::Noted(Note::Connected(link.connected)));
        if first {
            return;
        }
        // Answers may have been lost with the connection: whoever waits for them would wait in vain.
        let lost: Vec<u64> = self.requests.keys().copied().collect();
        for id in lost {
            self.end(id, Event::Failed(RequestId(id), Failure::UNAVAILABLE), false);
        }
    }

    fn on_due(&mut self) {
        let now = Instant::now();
        while let Some(&(due, id)) = self.due.first() {
            if due > now {
                return;
            }
            let event = match self.requests.get(&id).is_some_and(|request| request.in_one) {
                true => Event::ForwardedOutcome(RequestId(id), Box::new(plain(408, "Request timeout"))),
                false => Event::Failed(RequestId(id), Failure::TIMED_OUT),
            };
            self.end(id, event, false);
            self.due.remove(&(due, id));
        }
    }
}

/// The subject of a request. Names hold nothing that means something to NATS; that is checked once more, because a space
/// or a line end here would be a command.
fn subject(wanted: &Wanted) -> Option<String> {
    match wanted {
        Wanted::Configured => Some(GENSESSION.to_owned()),
        Wanted::Game { game, version } => request_subject(game.as_str(), version.as_str()),
    }
}

/// The subject on which servers of this game and version are asked for; None: a name would be more than a name.
pub(super) fn request_subject(game: &str, version: &str) -> Option<String> {
    (is_token(game) && is_token(version)).then(|| format!("matchmaker.request.{game}.{version}"))
}

/// Whether it may be one token of a subject, or a key.
pub(super) fn is_token(text: &str) -> bool {
    let means_something = |byte: u8| byte <= b' ' || byte == 0x7f || matches!(byte, b'.' | b'*' | b'>' | b'$');
    !text.is_empty() && text.is_ascii() && !text.bytes().any(means_something)
}

fn payload(seek: &Seek) -> Vec<u8> {
    let mut payload = Vec::new();
    let app = match &seek.wanted {
        Wanted::Configured => None,
        Wanted::Game { game, version } => Some((game, version)),
    };
    push_seek(&mut payload, seek.client_ip.to_canonical(), app);
    payload
}

fn parse_token(token: &str) -> Option<(u64, u64)> {
    let (id, salt) = token.split_once('-')?;
    Some((u64::from_str_radix(id, 16).ok()?, u64::from_str_radix(salt, 16).ok()?))
}

/// The answer for the configured game.
fn outcome(message: &Message, nobody: bool) -> Outcome {
    if nobody {
        return plain(503, "No service responders");
    }
    let header = |headers: &HeaderMap, name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let headers = message.headers.as_ref();
    let code = headers.and_then(|headers| header(headers, ERROR_CODE));
    let text = headers.and_then(|headers| header(headers, ERROR_TEXT));
    if code.is_some() || text.is_some() {
        let status = code.and_then(|code| code.trim().parse().ok());
        let status = status.filter(|status| (400..=599).contains(status)).unwrap_or(502);
        let body = text
            .filter(|text| text.len() <= FORWARDED_BYTES_MAX)
            .unwrap_or_default();
        return Outcome { status, body };
    }
    match std::str::from_utf8(&message.payload) {
        Ok(body) if !body.is_empty() && body.len() <= FORWARDED_BYTES_MAX => plain(200, body),
        Ok(_) | Err(_) => plain(502, "Unusable answer"),
    }
}

fn plain(status: u16, body: &str) -> Outcome {
    Outcome {
        status,
        body: body.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::message::game_server::Name;

    #[test]
    fn what_means_something_to_nats_is_no_token() {
        for bad in ["", "a b", "a.b", "*", ">", "a\r\nPUB x 0", "a\0", "é", "$JS", "\x7f"] {
            assert!(request_subject(bad, "1").is_none(), "{bad:?}");
            assert!(request_subject("game", bad).is_none(), "{bad:?}");
        }
        assert_eq!(
            request_subject("my-game", "1_0").unwrap(),
            "matchmaker.request.my-game.1_0"
        );
    }

    #[test]
    fn the_payload_names_the_address_in_canonical_form() {
        let name = |text| Name::new(text).unwrap();
        let seek = |wanted| Seek {
            wanted,
            client_ip: "::ffff:81.128.157.100".parse().unwrap(),
        };
        let game = Wanted::Game {
            game: name("bevygap-spaceships"),
            version: name("1"),
        };
        assert_eq!(
            payload(&seek(game)),
            br#"{"client_ip":"81.128.157.100","game":"bevygap-spaceships","version":"1"}"#
        );
        assert_eq!(payload(&seek(Wanted::Configured)), br#"{"client_ip":"81.128.157.100"}"#);
    }

    #[test]
    fn a_reply_token_is_an_id_and_a_salt() {
        assert_eq!(parse_token("1f-ff"), Some((31, 255)));
        for bad in ["", "1", "-", "1-", "x-1", "1-2-3", "11111111111111111-1"] {
            assert_eq!(parse_token(bad), None, "{bad:?}");
        }
    }
}
