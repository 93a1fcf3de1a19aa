//! Bytes of what stands in the log and in its snapshots: numbers big-endian, texts with their length before them.
//!
//! Owns: how the words that both have in common are written and read.
//! Never: panics on bytes that make no sense; they read as None.

use std::sync::Arc;

use crate::broker::{Epoch, NodeId};
use crate::ids::{CommandId, Fingerprint, NamespaceId, SessionId};
use crate::message::cluster::{RoomTerms, Who};
use crate::message::{CriteriaKey, Meta, PeerInfo, Refusal};

/// Writes.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.byte(u8::from(flag));
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn u64(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    pub(super) fn array(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend(text.as_bytes());
    }

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn home(&mut self, (node, epoch): (NodeId, Epoch)) {
        self.array(node.as_bytes());
        self.u64(epoch.0);
    }

    pub(super) fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        self.array(fingerprint.as_bytes());
    }

    pub(super) fn who(&mut self, who: &Who) {
        self.fingerprint(&who.fingerprint);
        self.u64(who.session.as_u64());
    }

    pub(super) fn namespace(&mut self, namespace: NamespaceId) {
        self.array(&namespace.to_bytes());
    }

    pub(super) fn terms(&mut self, terms: RoomTerms) {
        self.fingerprint(&terms.owner);
        self.u32(terms.max_size);
    }

    pub(super) fn info(&mut self, info: &PeerInfo) {
        self.fingerprint(&info.fingerprint);
        self.text(&info.alias);
        self.text(&info.app_type);
        self.count(info.meta.entries().count());
        for (name, value) in info.meta.entries() {
            self.text(name);
            self.text(value);
        }
    }

    pub(super) fn refusal(&mut self, refusal: Refusal) {
        self.text(refusal.text());
    }
}

/// Reads; None from the first thing on that is not there.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Of things that take at least a byte each.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.u32()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let count = self.count()?;
        std::str::from_utf8(self.take(count)?).ok()
    }

    /// Whether there is one, and it.
    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.flag()? {
            true => read(self).map(Some),
            false => Some(None),
        }
    }

    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.count()?;
        (0..count).map(|_| read(self)).collect()
    }

    pub(super) fn home(&mut self) -> Option<(NodeId, Epoch)> {
        Some((NodeId::from_bytes(self.array()?), Epoch(self.u64()?)))
    }

    pub(super) fn fingerprint(&mut self) -> Option<Fingerprint> {
        self.array().map(Fingerprint::from_bytes)
    }

    pub(super) fn session(&mut self) -> Option<SessionId> {
        self.u64().map(SessionId::from_u64)
    }

    pub(super) fn command(&mut self) -> Option<CommandId> {
        self.u64().map(CommandId::from_u64)
    }

    pub(super) fn who(&mut self) -> Option<Who> {
        Some(Who {
            fingerprint: self.fingerprint()?,
            session: self.session()?,
        })
    }

    pub(super) fn namespace(&mut self) -> Option<NamespaceId> {
        self.array().map(NamespaceId::from_bytes)
    }

    pub(super) fn criteria(&mut self) -> Option<CriteriaKey> {
        self.array().map(CriteriaKey)
    }

    pub(super) fn terms(&mut self) -> Option<RoomTerms> {
        Some(RoomTerms {
            owner: self.fingerprint()?,
            max_size: self.u32()?,
        })
    }

    pub(super) fn info(&mut self) -> Option<Arc<PeerInfo>> {
        let fingerprint = self.fingerprint()?;
        let alias = self.text()?.into();
        let app_type = self.text()?.into();
        let entries = self.list(|reader| Some((reader.text()?.into(), reader.text()?.into())))?;
        Some(Arc::new(PeerInfo {
            fingerprint,
            alias,
            app_type,
            meta: Meta::from_entries(entries),
        }))
    }

    pub(super) fn refusal(&mut self) -> Option<Refusal> {
        let text = self.text()?;
        Refusal::ALL.iter().copied().find(|refusal| refusal.text() == text)
    }
}
