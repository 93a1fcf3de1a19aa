//! How large and how long the loads of the standard set are.
//!
//! Owns: the two sets, the short and the whole, and how they shrink to what a host can do.
//! Never: measures.

use std::time::Duration;

/// Most peers of the set: more take more time and say no more.
const PEERS_MAX: usize = 16_000;

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Rounds of each figure, as long as there is time.
    pub rounds: usize,
    /// Most peers of the set: those of the further load.
    pub most: usize,
    /// Pairs of which each has one message under way.
    pub pairs: usize,
    /// Seconds of a round: of the closed and of the open loop, and of those of many points.
    pub closed: f64,
    pub open: f64,
    pub short: f64,
    pub warm_up: f64,
    /// Shares of `most` that the curves against peers are measured at. The last stays well below 1.
    pub points: &'static [f64],
    /// Connections of the connect rate.
    pub connections: usize,
    /// Seconds that it may take to connect the most peers.
    pub connecting: f64,
    /// After so long no further round or point is begun, only what is missing.
    pub bound: Duration,
}

impl Sizes {
    /// For a server that may hold so many connections.
    pub fn new(quick: bool, connections_max: usize) -> Self {
        // Not to the brim: the server keeps some descriptors for others, and some places for the unregistered.
        let most = |wanted: usize| wanted.min(connections_max * 85 / 100).max(40) / 20 * 20;
        if quick {
            let most = most(2_000);
            return Self {
                rounds: 1,
                most,
                pairs: 200.min(most / 2),
                closed: 0.6,
                open: 0.6,
                short: 0.2,
                warm_up: 0.2,
                points: &[0.125, 0.4, 0.75],
                connections: 500.min(most),
                connecting: 1.5,
                bound: Duration::from_secs(20),
            };
        }
        let most = most(PEERS_MAX);
        Self {
            rounds: 3,
            most,
            pairs: 1_000.min(most / 2),
            closed: 2.0,
            open: 4.0,
            short: 1.0,
            warm_up: 0.4,
            points: &[0.0625, 0.15, 0.3, 0.5, 0.75],
            connections: 2_000.min(most),
            connecting: 6.0,
            bound: Duration::from_secs(240),
        }
    }

    /// Fewer peers, if so many connections a second are all that this machine makes.
    pub fn slow_down(&mut self, connects_per_second: f64) {
        let most = (connects_per_second * self.connecting) as usize;
        self.most = self.most.min(most.max(2 * self.pairs).max(40)) / 20 * 20;
    }

    /// Peers among which the open loop runs: a signal costs more among more of them, so that the further load could not
    /// be foretold from few.
    pub fn loaded(&self) -> usize {
        (self.most / 2).max(2 * self.pairs) / 20 * 20
    }

    /// Numbers of peers that the curves are measured at: even, and whole namespaces.
    pub fn peers(&self) -> impl Iterator<Item = usize> {
        self.points
            .iter()
            .map(|share| (share * self.most as f64) as usize / 20 * 20)
            .map(|peers| peers.max(20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_below_what_the_server_may_hold() {
        for connections in [200, 1_000, 20_000, 1_000_000] {
            for quick in [false, true] {
                let sizes = Sizes::new(quick, connections);
                assert!(sizes.most <= connections && 2 * sizes.pairs <= sizes.most, "{sizes:?}");
                assert!((2 * sizes.pairs..=sizes.most).contains(&sizes.loaded()), "{sizes:?}");
                assert!(
                    sizes
                        .peers()
                        .all(|peers| peers < sizes.most && peers.is_multiple_of(20)),
                    "{sizes:?}"
                );
            }
        }
    }

    #[test]
    fn a_slow_host_gets_fewer_peers_but_all_pairs() {
        let mut sizes = Sizes::new(false, 1_000_000);
        sizes.slow_down(1e6);
        assert_eq!(sizes.most, PEERS_MAX);
        sizes.slow_down(1_000.0);
        assert_eq!(sizes.most, 6_000);
        sizes.slow_down(0.0);
        assert_eq!(sizes.most, 2 * sizes.pairs);
    }
}
