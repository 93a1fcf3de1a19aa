//! Rooms: namespaces with an owner, a cap and a kick.
//!
//! Owns: who owns each room whose home is this shard, and its cap. The creator stays the owner while the room lives.
//! Never: keeps a roster of its own (see `namespaces`), or touches a connection.

use std::sync::Arc;

use super::Shard;
use super::mail::{Answer, Asker, Mail};
use super::namespaces::Namespace;
use crate::ids::{Fingerprint, NamespaceId};
use crate::message::{PeerInfo, Refusal};

/// What makes a namespace a room.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) owner: Fingerprint,
    /// Members at most.
    pub(super) max_size: u32,
}

impl Shard {
    pub(super) fn create_room(
        &mut self,
        asker: &Asker,
        id: NamespaceId,
        name: Arc<str>,
        info: Arc<PeerInfo>,
        max_size: u32,
        crowded: bool,
    ) -> Answer {
        if self.namespaces.contains_key(&id) {
            return Answer::Refused(Refusal::RoomExists);
        }
        if crowded {
            return Answer::Refused(Refusal::TooManyNamespaces);
        }
        if !self.permits.rooms.take(self.limits.max_rooms) {
            return Answer::Refused(Refusal::ServerFull);
        }
        let room = Room {
            owner: asker.fingerprint,
            max_size,
        };
        let mut namespace = Namespace::new(name, Some(room), self.homes.loops(), self.homes.hasher());
        namespace.admit(info, asker);
        self.rooms += 1;
        let loops = namespace.loops().collect();
        self.namespaces.insert(id, namespace);
        Answer::Created {
            max_size,
            peers: Vec::new(),
            loops,
        }
    }

    pub(super) fn describe_room(&self, id: NamespaceId) -> Answer {
        let namespace = self.namespaces.get(&id);
        let Some((namespace, room)) = namespace.and_then(|namespace| Some((namespace, namespace.room.as_ref()?)))
        else {
            return Answer::Refused(Refusal::RoomNotFound);
        };
        Answer::Described {
            peer_count: namespace.roster.len() as u32,
            max_size: room.max_size,
            owner: room.owner,
        }
    }

    pub(super) fn kick(&mut self, asker: &Asker, id: NamespaceId, target: Option<&Fingerprint>) -> Answer {
        let namespace = self.namespaces.get(&id);
        let Some((namespace, room)) = namespace.and_then(|namespace| Some((namespace, namespace.room.as_ref()?)))
        else {
            return Answer::Refused(Refusal::RoomNotFound);
        };
        if room.owner != asker.fingerprint {
            return Answer::Refused(Refusal::NotRoomOwner);
        }
        let name = namespace.name.clone();
        let member = target.and_then(|target| namespace.roster.get(target));
        let Some((to, session, target)) =
            member.map(|member| (member.loop_id, member.session, member.info.fingerprint))
        else {
            return Answer::Refused(Refusal::PeerNotFound);
        };
        self.withdraw(id, session);
        // The others are told first: what the kicked peer does once it knows must not overtake its peer_left.
        self.remove_member(id, &target, Some(session));
        self.send(
            to,
            Mail::Kicked {
                room: id,
                name,
                owner: asker.fingerprint,
                target,
                session,
            },
        );
        Answer::Done
    }
}
