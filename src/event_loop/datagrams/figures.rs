//! Figures of datagrams: which metric counts what, and what `/health` shows of them.
//!
//! Owns: the names of dialects and reasons.
//! Never: counts.

use crate::dialect::status::Figures;
use crate::message::punch::{Dialect, Dropped};
use crate::metrics::{Board, Metric};

/// Counts what came of this dialect.
pub(super) fn received_metric(dialect: Dialect) -> Metric {
    match dialect {
        Dialect::Stun => Metric::DatagramsStun,
        Dialect::Matchmaker => Metric::DatagramsMatchmaker,
        Dialect::Simple => Metric::DatagramsSimple,
        Dialect::Natpunch => Metric::DatagramsNatpunch,
    }
}

/// Counts what left of this dialect.
pub(super) fn sent_metric(dialect: Dialect) -> Metric {
    match dialect {
        Dialect::Stun => Metric::DatagramsSentStun,
        Dialect::Matchmaker => Metric::DatagramsSentMatchmaker,
        Dialect::Simple => Metric::DatagramsSentSimple,
        Dialect::Natpunch => Metric::DatagramsSentNatpunch,
    }
}

/// Counts what came to nothing for this reason.
pub(super) fn dropped_metric(reason: Dropped) -> Metric {
    match reason {
        Dropped::Unknown => Metric::DroppedUnknown,
        Dropped::Malformed => Metric::DroppedMalformed,
        Dropped::RateLimited => Metric::DroppedRateLimited,
        Dropped::Full => Metric::DroppedFull,
        Dropped::NotAllowed => Metric::DroppedNotAllowed,
        Dropped::Bound => Metric::DroppedBound,
        Dropped::MailFull => Metric::DroppedMailFull,
        Dropped::NotSent => Metric::DroppedNotSent,
    }
}

fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Stun => "stun",
        Dialect::Matchmaker => "matchmaker",
        Dialect::Simple => "simple",
        Dialect::Natpunch => "natpunch",
    }
}

fn reason_name(reason: Dropped) -> &'static str {
    match reason {
        Dropped::Unknown => "unknown",
        Dropped::Malformed => "malformed",
        Dropped::RateLimited => "rate_limited",
        Dropped::Full => "full",
        Dropped::NotAllowed => "not_allowed",
        Dropped::Bound => "bound",
        Dropped::MailFull => "mail_full",
        Dropped::NotSent => "not_sent",
    }
}

/// Lends the published figures of all loops; None until the first datagram, so that `/health` stays as it was for those
/// who serve none.
pub(in crate::event_loop) fn with_figures(board: &Board, show: impl FnOnce(Option<Figures<'_>>)) {
    let mut received: Vec<(&str, u64)> = Dialect::ALL
        .iter()
        .map(|dialect| (name(*dialect), board.sum(received_metric(*dialect))))
        .collect();
    received.push(("unknown", board.sum(Metric::DatagramsUnknown)));
    if received.iter().all(|(_, count)| *count == 0) {
        return show(None);
    }
    let sent = Dialect::ALL.map(|dialect| (name(dialect), board.sum(sent_metric(dialect))));
    let dropped = Dropped::ALL.map(|reason| (reason_name(reason), board.sum(dropped_metric(reason))));
    let sessions = [
        ("simple", board.sum(Metric::PunchSimpleSessions)),
        ("natpunch", board.sum(Metric::PunchNatpunchClients)),
        ("matchmaker", board.sum(Metric::PunchMatchmakerSessions)),
    ];
    let lobbies = [
        ("natpunch", board.sum(Metric::PunchNatpunchLobbies)),
        ("matchmaker", board.sum(Metric::PunchMatchmakerLobbies)),
    ];
    show(Some(&[
        ("received", &received),
        ("sent", &sent),
        ("dropped", &dropped),
        ("sessions", &sessions),
        ("lobbies", &lobbies),
    ]));
}
