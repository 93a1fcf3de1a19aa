//! The nodes of the cluster by the numbers that this process gives them.
//!
//! Owns: which number stands for which node in which epoch. The broker's threads share it; a loop asks it once
//! for each number.
//! Never: knows whether a node is alive.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Epoch;
use crate::ids::NodeNo;

/// A node's name: 16 random bytes, new at each start.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Reads 32 lowercase hex digits.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Some(Self(bytes.try_into().ok()?))
    }
}

/// 32 lowercase hex digits.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// Every node that this process has heard of.
#[derive(Debug)]
pub struct Nodes {
    own: NodeId,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<(NodeId, Epoch), NodeNo>,
    names: Vec<(NodeId, Epoch)>,
    /// The epoch of this node.
    own: Option<Epoch>,
}

/// Why this node is down from then on.
const USED_UP: &str = "too many nodes were seen since this one was started: start it again";

impl Known {
    fn next(&self) -> Option<NodeNo> {
        u16::try_from(self.names.len()).ok().and_then(NodeNo::new)
    }
}

impl Nodes {
    /// Only this node is known.
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            known: Mutex::default(),
        }
    }

    /// This node.
    pub const fn own(&self) -> NodeId {
        self.own
    }

    /// This node is in that epoch from here on.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.with(|known| known.own = Some(epoch));
    }

    /// The number of a node in an epoch; None: it is this one in its present epoch. This node in an earlier epoch is another.
    ///
    /// # Errors
    /// The numbers are used up, after some thirty thousand starts of nodes in the life of this process.
    pub fn number(&self, node: NodeId, epoch: Epoch) -> Result<Option<NodeNo>, super::Trouble> {
        self.with(|known| {
            if node == self.own && known.own == Some(epoch) {
                return Ok(None);
            }
            if let Some(number) = known.numbers.get(&(node, epoch)) {
                return Ok(Some(*number));
            }
            let number = known.next().ok_or_else(|| super::Trouble::Lost(USED_UP.to_owned()))?;
            known.names.push((node, epoch));
            known.numbers.insert((node, epoch), number);
            Ok(Some(number))
        })
    }

    /// Whether a node that was not heard of would have a number. Otherwise this process cannot be one of several any more.
    ///
    /// # Errors
    /// They are used up.
    pub fn check(&self) -> Result<(), super::Trouble> {
        match self.with(|known| known.next()) {
            Some(_) => Ok(()),
            None => Err(super::Trouble::Lost(USED_UP.to_owned())),
        }
    }

    /// The node with this number, and its epoch.
    pub fn name(&self, number: NodeNo) -> Option<(NodeId, Epoch)> {
        self.with(|known| known.names.get(number.index()).copied())
    }

    fn with<T>(&self, look: impl FnOnce(&mut Known) -> T) -> T {
        look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_epoch_of_a_node_is_another_and_the_present_one_of_this_node_none() {
        let (own, other) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let nodes = Nodes::new(own);
        nodes.set_epoch(Epoch(2));
        assert_eq!(nodes.number(own, Epoch(2)).unwrap(), None);
        let numbers: Vec<NodeNo> = [(own, 1), (other, 1), (other, 2)]
            .map(|(node, epoch)| nodes.number(node, Epoch(epoch)).unwrap().unwrap())
            .into();
        assert_eq!(
            numbers.iter().map(|number| number.index()).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        assert_eq!(nodes.number(other, Epoch(1)).unwrap(), Some(numbers[1]));
        assert_eq!(nodes.name(numbers[2]), Some((other, Epoch(2))));
        assert_eq!(NodeId::parse(&own.to_string()), Some(own));
        assert_eq!(NodeId::parse("ab"), None);
    }

    #[test]
    fn numbers_that_are_used_up_are_found_so() {
        let nodes = Nodes::new(NodeId::from_bytes([1; 16]));
        let other = NodeId::from_bytes([2; 16]);
        let mut epoch = 0;
        while nodes.check().is_ok() {
            nodes.number(other, Epoch(epoch)).unwrap();
            epoch += 1;
        }
        assert!(epoch > 30_000);
        assert!(nodes.number(other, Epoch(epoch)).is_err());
        assert!(nodes.number(other, Epoch(0)).is_ok(), "known already");
    }
}
