//! Faults: what breaks, and that all of it is whole again at the end.
//!
//! Owns: which fault comes next.
//! Never: breaks anything that no operator has seen break.

use super::*;

impl World {
    /// One thing breaks, or is mended.
    pub(super) fn fault(&mut self) {
        let n = self.random.below(self.nodes.len());
        let kind = self.random.weighted(&self.settings.fault_weights);
        self.faults += 1;
        self.history.broken = true;
        match kind {
            0 if self.nodes[n].runs && !self.nodes[n].stopped => self.lose_connections(n),
            1 => self.toggle_broker(),
            2 => self.empty_broker(),
            3 => self.stop_or_continue(n),
            4 => self.kill_or_start(n),
            5 => self.cut_or_mend(n),
            6 if self.nodes[n].runs => self.trim_inbox(n),
            _ => {}
        }
    }

    /// From here on something is broken that a scene breaks itself.
    pub(crate) fn breaks(&mut self) {
        self.history.broken = true;
    }

    /// Everything is mended.
    pub(super) fn heal(&mut self) {
        if self.broker_down {
            self.toggle_broker();
        }
        // Somebody must be there to find the others dead.
        if !self.nodes.iter().any(|node| node.runs) {
            self.kill_or_start(0);
        }
        for n in 0..self.nodes.len() {
            if self.nodes[n].stopped {
                self.stop_or_continue(n);
            }
            if self.nodes[n].cut_off {
                self.cut_or_mend(n);
            }
        }
    }

    /// A connection to the broker is reset.
    pub(crate) fn lose_connections(&mut self, n: usize) {
        self.go_down(n, "a connection broke");
    }

    pub(crate) fn toggle_broker(&mut self) {
        self.broker_down = !self.broker_down;
        note!(self, "the broker is down: {}", self.broker_down);
        if self.broker_down {
            for n in 0..self.nodes.len() {
                if self.nodes[n].runs && !self.nodes[n].stopped && !self.nodes[n].cut_off {
                    self.go_down(n, "the broker stopped");
                }
            }
        }
    }

    /// The broker loses all that it was told.
    pub(crate) fn empty_broker(&mut self) {
        note!(self, "the broker is emptied");
        self.history.flushes += 1;
        self.broker.flush();
        // It does not close connections: each node finds out by its next command or renewal.
        for n in 0..self.nodes.len() {
            self.nodes[n].inbox_at = 0;
        }
    }

    /// SIGSTOP and SIGCONT.
    pub(crate) fn stop_or_continue(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.runs {
            node.stopped = !node.stopped;
            let stopped = node.stopped;
            note!(self, "node {n} is stopped: {stopped}");
        }
    }

    /// SIGKILL, and a new process in its place.
    pub(crate) fn kill_or_start(&mut self, n: usize) {
        if !self.nodes[n].runs {
            note!(self, "node {n} is started again");
            let loops = self.nodes[n].shards.len();
            self.nodes[n] = self.new_node(loops);
            return;
        }
        note!(self, "node {n} is killed");
        self.lose_traffic(n);
        let theirs: Vec<usize> = self
            .live
            .iter()
            .copied()
            .filter(|serial| self.conns[*serial].node == n)
            .collect();
        theirs.into_iter().for_each(|serial| self.forget(serial));
        let node = &mut self.nodes[n];
        (node.runs, node.stopped, node.cut_off, node.up) = (false, false, false, false);
    }

    /// Nothing passes between a node and the broker, and nobody is told.
    pub(crate) fn cut_or_mend(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if node.runs {
            node.cut_off = !node.cut_off;
            let cut_off = node.cut_off;
            note!(self, "node {n} is cut off: {cut_off}");
        }
    }
}
