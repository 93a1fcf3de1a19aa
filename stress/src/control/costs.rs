//! What a target costs: the processes of all its nodes, and its broker.
//!
//! Owns: one reading of all of them.
//! Never: compares two readings; the report does.

use std::collections::BTreeMap;

use super::sample::{self, Sample};
use super::target::Target;

/// A target at one moment.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// All nodes together.
    pub sum: Sample,
    /// Each node; empty where there is no broker.
    pub nodes: Vec<Sample>,
    /// The broker and how often each of its commands was called.
    pub broker: Option<(Sample, BTreeMap<String, u64>)>,
}

/// A target now. Everything of a process that is not on this machine is 0.
pub fn take(target: &Target) -> Costs {
    let samples: Vec<Sample> = target.pids().into_iter().map(sample::take).collect();
    let broker = target.broker.as_ref();
    Costs {
        sum: samples.iter().fold(Sample::default(), |sum, sample| sum.plus(sample)),
        broker: broker.map(|broker| (sample::take(broker.pid()), broker.commands())),
        nodes: broker.map_or(Vec::new(), |_| samples),
    }
}
