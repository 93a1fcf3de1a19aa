//! Names and forms of everything that is kept in Redis.
//!
//! A *place* is `<node id, 32 hex digits>:<epoch>`, a *session* `<place>:<number>`. `<key>` is a fingerprint (64 hex digits),
//! `<ns>` a namespace's id: the first 16 bytes of the SHA-256 of its name as 32 hex digits. An *info* is a peer as it is shown
//! to others: `{"fingerprint","alias","app_type"?,"meta"?}`.
//!
//! | name | type | what | ends |
//! | --- | --- | --- | --- |
//! | `peer:generation` | string | told when the data were first made: a node that finds another one tells everything again | never |
//! | `peer:version` | string | counts changes of namespaces and match requests; not below the microseconds since 1970 at the last start of a lease | never |
//! | `peer:epoch` | string | counts epochs | never |
//! | `peer:leases` | sorted set | places by the end of their lease, in milliseconds of Redis's clock | with the last lease: released, or marked dead by whoever renews first |
//! | `peer:dead` | set | places whose entries are to be swept | when they are |
//! | `peer:in:<place>` | stream | what happened to the namespaces and keys of a node in its epoch; ids are `1-0`, `1-1`, … without gaps, at most some 100,000 entries; the node trims what it has read | with the lease that is given back, ten minutes after the step that marks the place dead |
//! | `peer:n:<place>` | set | keys with a session there | with the last session, or swept |
//! | `peer:p:<key>` | hash | `at`: the session; `alias`; `m:<ns>`: a membership; `t:<ns>`: a match request, `<group size>:<criteria, 64 hex digits>` | with the session, or swept with its place |
//! | `peer:a:<alias>` | string | the key that holds it | with the holder's session |
//! | `peer:s:<ns>` | hash | `name`; `version` of the last change; a room's `owner` and `max`; for each place that has members how many | with the last member |
//! | `peer:r:<ns>` | hash | members: by key `<session> <info>` | with the last member |
//! | `peer:o:<ns>` | sorted set | members' keys by the version of their join | with the last member |
//! | `peer:q:<ns>:<group size>:<criteria>` | sorted set | keys that wait for a match, in order | with the last request |
//! | `peer:w:<ns>:<group size>:<criteria>` | hash | by key `<session> <ticket> <info>` | with the last request |
//! | `peer:t:<node id>:<ticket>` | string | that this match request was met: `<epoch> <id>`, the entry of its node's inbox that told so; some 150 bytes each | after a minute |
//!
//! Nothing else has a time to live: whatever a node leaves is swept by those that are left, or by the next one that starts. Each
//! stream entry is a list of fields, the first `e` its kind:
//!
//! | `e` | other fields |
//! | --- | --- |
//! | `joined` | `ns`, `v` version, `at` session, `i` info; of a room `o` owner and `m` members at most |
//! | `shown` | `ns`, `v`, `at`, `i` |
//! | `left` | `ns`, `v`, `at`, `f` key; `k` the owner who put it out |
//! | `matched` | `ns`, `name`, `g` the group's name, an `i` for each peer in order, a `w` `<key>:<session number>:<ticket>` for each of this node |
//! | `replaced` | `at`, `f` |
//! | `gone` | `p` the place |
//!
//! Owns: this table, and the texts by which Rust names what the scripts keep.
//! Never: reads or writes anything.

use crate::broker::{Epoch, NodeId};
use crate::ids::{Fingerprint, NamespaceId, SessionId};

/// The stream of a place.
pub(super) fn inbox(place: &str) -> String {
    format!("peer:in:{place}")
}

/// A node in an epoch.
pub(super) fn place(node: NodeId, epoch: Epoch) -> String {
    format!("{node}:{}", epoch.0)
}

/// A namespace.
pub(super) fn namespace(id: NamespaceId) -> String {
    // The id's own bytes begin with the last of the digest.
    let mut bytes = id.to_bytes();
    bytes.reverse();
    data_encoding::HEXLOWER.encode(&bytes)
}

/// A namespace, as [`namespace`] writes it.
pub(super) fn parse_namespace(text: &[u8]) -> Option<NamespaceId> {
    let bytes = data_encoding::HEXLOWER.decode(text).ok()?;
    let mut bytes: [u8; 16] = bytes.try_into().ok()?;
    bytes.reverse();
    Some(NamespaceId::from_bytes(bytes))
}

/// A place, as [`place`] writes it.
pub(super) fn parse_place(text: &str) -> Option<(NodeId, Epoch)> {
    let (node, epoch) = text.split_once(':')?;
    Some((NodeId::parse(node)?, Epoch(epoch.parse().ok()?)))
}

/// A place with the number of a session.
pub(super) fn parse_session(text: &str) -> Option<(NodeId, Epoch, SessionId)> {
    let (place, session) = text.rsplit_once(':')?;
    let (node, epoch) = parse_place(place)?;
    Some((node, epoch, SessionId::from_u64(session.parse().ok()?)))
}

/// A fingerprint as the scripts have it.
pub(super) fn hex(fingerprint: &Fingerprint) -> [u8; 64] {
    fingerprint.hex()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::Homes;

    #[test]
    fn a_namespace_is_named_by_the_digest_of_its_name() {
        let homes = Homes::new(1, [1, 2, 3, 4]).in_cluster();
        let id = homes.namespace("abc");
        assert_eq!(namespace(id), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(parse_namespace(namespace(id).as_bytes()), Some(id));
        assert_eq!(parse_namespace(b"ba78"), None);
    }

    #[test]
    fn places_and_sessions_are_read_as_written_and_nothing_else() {
        let node = NodeId::from_bytes([7; 16]);
        let text = place(node, Epoch(3));
        assert_eq!(parse_place(&text), Some((node, Epoch(3))));
        let session = parse_session(&format!("{text}:{}", u64::MAX));
        assert_eq!(session, Some((node, Epoch(3), SessionId::from_u64(u64::MAX))));
        for text in [
            "",
            ":",
            "::",
            "07:3",
            &text[1..],
            &format!("{text}:"),
            &format!("{text}:1:1"),
        ] {
            assert_eq!(parse_place(text), None, "{text}");
        }
        for wrong in ["", &text, &format!("{text}:x"), &format!("{text}:-1")] {
            assert_eq!(parse_session(wrong), None, "{wrong}");
        }
    }
}
