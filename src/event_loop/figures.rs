//! What a loop counted and holds, published for whoever reads the metrics.
//!
//! Owns: which figure comes from where, and how often they are published.
//! Never: counts anything itself.

use super::EventLoop;
use super::nodes::Neighbours;
use crate::broker::Readings;
use crate::dialect::status::{self, Broker};
use crate::metrics::Metric;

/// How often the metrics are published.
pub(super) const PUBLISH_MS: u64 = 50;

impl EventLoop {
    pub(super) fn end_turn(&mut self) {
        // The turn's length is what a message that arrived at its start had to wait for at most.
        self.counters.turn(self.clock.now.elapsed().as_nanos() as u64);
        self.unpublished = true;
        if self.clock.now_ms >= self.published_ms + PUBLISH_MS {
            self.publish();
        }
    }

    pub(super) fn publish(&mut self) {
        let census = self.shard.census();
        let shard = self.shard.counters().clone();
        let before = std::mem::replace(&mut self.shard_counted, shard.clone());
        for (metric, value) in [
            (Metric::Peers, census.peers),
            (Metric::Namespaces, census.namespaces),
            (Metric::Rooms, census.rooms),
            (Metric::MatchWaiting, census.match_waiting),
            (Metric::Aliases, census.aliases),
            (Metric::OpenSums, census.open_sums),
            (Metric::StateBytes, self.shard.state_bytes()),
            (Metric::OutputBytes, self.unsent),
            (Metric::PoolBlocksTaken, self.pool.taken()),
            (Metric::PoolBytesKept, self.pool.kept_bytes()),
            (Metric::MailBacklog, self.mailbox.backlog()),
        ] {
            self.counters.set(metric, value as u64);
        }
        for (metric, value) in [
            (Metric::StaleMail, shard.stale_mail - before.stale_mail),
            (Metric::Replaced, shard.replaced - before.replaced),
            (Metric::Matches, shard.matches - before.matches),
            (
                Metric::RefusedForbidden,
                shard.refused_forbidden - before.refused_forbidden,
            ),
            (
                Metric::RefusedNotFound,
                shard.refused_not_found - before.refused_not_found,
            ),
            (Metric::RefusedFull, shard.refused_full - before.refused_full),
        ] {
            // Added, because the loop counts refusals of its own as well.
            self.counters.add(metric, value);
        }
        self.publish_punch();
        self.publish_office();
        self.publish_nodes();
        self.shared.board.publish(self.id.index(), &self.counters);
        self.published_ms = self.clock.now_ms;
        self.unpublished = false;
    }

    /// This loop's part of what goes between nodes.
    fn publish_nodes(&mut self) {
        let Some(figures) = self.neighbours.as_ref().map(Neighbours::figures) else {
            return;
        };
        for (metric, value) in [
            (Metric::NodeFramesSent, figures.sent),
            (Metric::NodeFramesReceived, figures.received),
            (Metric::NodeFramesDropped, figures.dropped),
            (Metric::NodeFramesFaulty, figures.faulty),
            (Metric::NodeFramesMisled, figures.misled),
            (Metric::NodeRefusedHere, figures.refused_here),
            (Metric::NodeRefusedThere, figures.refused_there),
            (Metric::NodeRefusedBroker, figures.refused),
        ] {
            self.counters.set(metric, value);
        }
    }

    /// The broker's figures are the process's, and change while every loop sleeps: they are read when somebody asks.
    pub(super) fn publish_broker(&self) {
        let Some(readings) = self.neighbours.as_ref().map(Neighbours::readings) else {
            return;
        };
        let Readings {
            up,
            lease_age_ms,
            round_trip_us,
            nodes,
            peers,
            queue_bytes,
            commands,
            batches,
            commands_lost,
            published,
            published_bytes,
            heard,
            heard_bytes,
            unheard,
            gaps,
            strange,
            foreign,
            refused_full,
            refused_down,
            refused_behind,
            dropped,
            reconnects,
        } = readings;
        for (metric, value) in [
            (Metric::BrokerUp, u64::from(up)),
            (Metric::BrokerLeaseAge, lease_age_ms.unwrap_or(0) * 1_000_000),
            (Metric::BrokerRoundTrip, round_trip_us * 1000),
            (Metric::BrokerQueueBytes, queue_bytes),
            (Metric::ClusterNodes, nodes),
            (Metric::ClusterPeers, peers),
            (Metric::BrokerCommands, commands),
            (Metric::BrokerBatches, batches),
            (Metric::BrokerCommandsLost, commands_lost),
            (Metric::BrokerMessagesOut, published),
            (Metric::BrokerMessagesIn, heard),
            (Metric::BrokerBytesOut, published_bytes),
            (Metric::BrokerBytesIn, heard_bytes),
            (Metric::BrokerUnheard, unheard),
            (Metric::BrokerLinkGaps, gaps),
            (Metric::BrokerStrange, strange),
            (Metric::BrokerForeign, foreign),
            (Metric::BrokerRefusedFull, refused_full),
            (Metric::BrokerRefusedDown, refused_down),
            (Metric::BrokerRefusedBehind, refused_behind),
            (Metric::BrokerDropped, dropped),
            (Metric::BrokerReconnects, reconnects),
        ] {
            self.shared.board.set(metric, value);
        }
    }

    /// How it stands with the broker, as the status pages tell it.
    pub(super) fn broker_state(&self) -> Broker {
        match &self.neighbours {
            None => Broker::Local,
            Some(neighbours) if neighbours.readings().up => Broker::Up,
            Some(_) => Broker::Down,
        }
    }

    /// Whether this node takes new peers.
    pub(super) fn is_ready(&self, broker: Broker) -> bool {
        let gated = self.settings.fleet.as_ref().is_some_and(|fleet| fleet.gates_ready);
        self.shared.serving.load(std::sync::atomic::Ordering::Relaxed) && (broker != Broker::Down || !gated)
    }

    /// Registered peers of all nodes, if they tell each other: those of the others are as of the last renewal.
    pub(super) fn fleet_peers(&self) -> Option<u64> {
        let _ = self.settings.fleet.as_ref().filter(|fleet| fleet.cluster_state)?;
        let readings = self.neighbours.as_ref()?.readings();
        Some(readings.peers.max(self.shared.permits.registered.now() as u64))
    }

    /// What `/health` says of the cluster; None: this node is alone.
    pub(super) fn cluster_status(&self) -> Option<status::Cluster> {
        let (fleet, neighbours) = self.settings.fleet.as_ref().zip(self.neighbours.as_ref())?;
        let readings = neighbours.readings();
        Some(status::Cluster {
            node: fleet.node_id.to_string(),
            broker: fleet.broker,
            up: readings.up,
            fleet: self.fleet_peers().map(|peers| status::Fleet {
                // Nobody was counted before the first renewal.
                nodes: readings.nodes.max(1),
                peers,
                lease_age_ms: readings.lease_age_ms,
                round_trip_us: readings.round_trip_us,
            }),
            queue_bytes: readings.queue_bytes,
        })
    }
}
