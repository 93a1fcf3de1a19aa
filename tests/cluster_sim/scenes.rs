//! Scenes: races that have a name, directed by hand.
//!
//! Owns: one test for each order of events that the design promises something about.
//! Never: leaves a scene before everything is quiet and all agree.

use peer_server::message::{CLOSE_REPLACED, CLOSE_RESTART};

use crate::sequential::Seen;
use crate::settings::Settings;
use crate::workload::Req;
use crate::world::World;

fn scene(nodes: &[usize]) -> World {
    let mut world = World::new(1, Settings::calm(nodes));
    world.settle();
    world
}

impl World {
    fn quiet(&mut self) {
        self.settle();
        self.check_quiet();
    }

    fn is_closed_with(&self, serial: usize, code: u16) -> bool {
        self.conns[serial].saw(&Seen::Closed(code))
    }
}

const JOIN: Req = Req::Join {
    name: 0,
    app: "",
    meta: None,
};

#[test]
fn a_key_on_two_nodes_has_one_session() {
    let mut w = scene(&[1, 2]);
    let first = w.connect(0, 0, "");
    w.quiet();
    w.ask(first, JOIN);
    let second = w.connect(1, 0, "");
    w.quiet();
    assert!(w.is_closed_with(first, CLOSE_REPLACED) && !w.is_closed_with(second, CLOSE_REPLACED));
}

#[test]
fn a_node_that_is_killed_leaves_no_ghost() {
    let mut w = scene(&[2, 1, 2]);
    let (here, there) = (w.connect(0, 0, ""), w.connect(1, 1, ""));
    w.quiet();
    w.ask(here, JOIN);
    w.ask(there, JOIN);
    w.quiet();
    w.breaks();
    w.kill_or_start(1);
    w.quiet();
    assert!(w.conns[here].saw(&Seen::Left { name: 0, key: 1 }));
}

#[test]
fn a_node_that_was_stopped_for_long_tells_its_sessions_again() {
    let mut w = scene(&[1, 1]);
    let (here, there) = (w.connect(0, 0, ""), w.connect(1, 1, ""));
    w.quiet();
    w.ask(here, JOIN);
    w.ask(there, JOIN);
    w.quiet();
    w.breaks();
    w.stop_or_continue(1);
    (0..20).for_each(|_| w.pass_time(500));
    w.quiet();
    assert!(w.conns[here].saw(&Seen::Left { name: 0, key: 1 }));
}

#[test]
fn a_fleet_tells_an_emptied_broker_everything_again() {
    let mut w = scene(&[1, 2]);
    let (here, there) = (w.connect(0, 0, ""), w.connect(1, 1, ""));
    w.quiet();
    w.ask(here, Req::Create { name: 1, max: 2 });
    w.quiet();
    w.ask(there, Req::JoinRoom(1));
    w.quiet();
    w.breaks();
    w.empty_broker();
    w.quiet();
    assert!(!w.is_closed_with(here, CLOSE_RESTART) && !w.is_closed_with(there, CLOSE_RESTART));
}

#[test]
fn the_owner_of_a_room_that_others_made_while_it_was_cut_off_starts_over() {
    let mut w = scene(&[1, 1]);
    let (here, there) = (w.connect(0, 0, ""), w.connect(1, 1, ""));
    w.quiet();
    w.ask(here, Req::Create { name: 1, max: 2 });
    w.quiet();
    w.breaks();
    w.cut_or_mend(0);
    (0..20).for_each(|_| w.pass_time(500));
    w.ask(there, Req::Create { name: 1, max: 4 });
    for _ in 0..200 {
        w.step(false);
    }
    w.quiet();
    assert!(w.is_closed_with(here, CLOSE_RESTART) && !w.is_closed_with(there, CLOSE_RESTART));
    assert!(w.conns[there].saw(&Seen::Created {
        name: 1,
        owner: 1,
        max: 4
    }));
}
