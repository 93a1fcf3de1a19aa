//! What the threads make of traffic, both ways.
//!
//! Owns: nothing. Never: needs more of an engine than its publisher and subscriber.

use super::*;
use crate::codec::node_traffic::{self, Direct, Frame, Kind, Reason, Refused};

fn direct(to: &Fingerprint, from: &Fingerprint, payload: &str) -> Vec<u8> {
    let mut frames = Vec::new();
    let direct = Direct {
        kind: Kind::Signal,
        to: to.as_bytes(),
        from: from.as_bytes(),
        session: 9,
        about: None,
        payload: Some(payload),
    };
    node_traffic::push_direct(&mut frames, &direct, std::iter::empty());
    frames
}

#[test]
fn messages_to_a_node_are_joined_and_numbered() {
    let mut world = World::up();
    let (other, third) = (
        world.other(1),
        world
            .nodes
            .number(NodeId::from_bytes([3; 16]), Epoch(1))
            .unwrap()
            .unwrap(),
    );
    let mut sent = Vec::new();
    let mut got = Vec::new();
    for count in 0..50 {
        let mut bytes = vec![count; 3000];
        sent.extend_from_slice(&bytes);
        world.links[usize::from(count % 2)]
            .publish(Channel::Node(other), &mut bytes)
            .unwrap();
        assert!(bytes.is_empty());
    }
    let mut bytes = b"x".to_vec();
    world.links[0].publish(Channel::Node(third), &mut bytes).unwrap();
    let mut expected = 1;
    while got.len() < sent.len() {
        let (channel, message) = world.next_published();
        assert_eq!(channel, Channel::Node(other));
        assert!(message.len() <= 64 * 1024 + Head::LEN);
        let (head, frames) = Head::split(&message).unwrap();
        assert_eq!((head.node, head.epoch, head.number), (*OWN.as_bytes(), 1, expected));
        expected += 1;
        got.extend_from_slice(frames);
    }
    assert!(got == sent, "in order, nothing else");
    let (channel, message) = world.next_published();
    assert_eq!(
        (channel, Head::split(&message).unwrap().0.number),
        (Channel::Node(third), 1)
    );
    world.until(|readings| readings.queue_bytes == 0 && readings.published == expected);
}

#[test]
fn what_nobody_listened_to_comes_back_as_not_there() {
    let mut world = World::up();
    world.script.state.lock().unwrap().deaf = true;
    let other = world.other(1);
    let (to, from) = (Fingerprint::of_key("to"), Fingerprint::of_key("from"));
    let mut frames = direct(&to, &from, "1");
    world.links[0].publish(Channel::Node(other), &mut frames).unwrap();
    // That is found out later, also if nothing more is sent.
    let (of, frames) = world.traffic(world.home(&from));
    assert_eq!(of, other);
    let wanted = Refused {
        to: from.as_bytes(),
        session: 9,
        target: to.as_bytes(),
        reason: Reason::NotHere,
    };
    assert_eq!(
        node_traffic::read(&frames).collect::<Vec<_>>(),
        [Ok(Frame::Refused(wanted))]
    );
    assert_eq!(world.running.figures().read().unheard, 1);
    // It is not said of what came after.
    let _ = world.next_published();
    let mut frames = direct(&to, &from, "2");
    world.links[0].publish(Channel::Node(other), &mut frames).unwrap();
    let _ = world.next_published();
    world.script.state.lock().unwrap().deaf = false;
    let mut frames = direct(&Fingerprint::of_key("another"), &from, "3");
    world.links[0].publish(Channel::Node(other), &mut frames).unwrap();
    let (_, frames) = world.traffic(world.home(&from));
    assert_eq!(
        node_traffic::read(&frames).collect::<Vec<_>>(),
        [Ok(Frame::Refused(wanted))]
    );
    world.until(|readings| readings.unheard == 2 && readings.published == 3);
}

#[test]
fn what_others_send_is_split_among_the_loops_and_gaps_are_counted() {
    let mut world = World::up();
    let other = world.other(7);
    let keys: Vec<Fingerprint> = (0..8).map(|key| Fingerprint::of_key(&key.to_string())).collect();
    let frames: Vec<u8> = keys.iter().flat_map(|key| direct(key, &keys[0], "1")).collect();
    let head = |node: NodeId, epoch, number| Head {
        node: *node.as_bytes(),
        epoch,
        number,
    };
    world.hear(head(OWN, 1, 1), &frames);
    world.hear(head(OTHER, 7, 5), &frames);
    for index in 0..2 {
        let (from, part) = world.traffic(index);
        let wanted: Vec<u8> = keys
            .iter()
            .filter(|key| world.home(key) == index)
            .flat_map(|key| direct(key, &keys[0], "1"))
            .collect();
        assert_eq!((from, part), (other, wanted));
    }
    world.script.heard.0.send(Some(b"short".to_vec())).unwrap();
    // Overtaken, so too late; then three are missing; the first of another epoch misses nothing.
    for (epoch, number) in [(7, 5), (7, 9), (8, 3)] {
        world.hear(head(OTHER, epoch, number), &direct(&keys[0], &keys[1], "2"));
    }
    let home = world.home(&keys[0]);
    assert_eq!(world.traffic(home).0, other);
    assert_eq!(world.traffic(home).0, world.other(8));
    world.until(|readings| readings.heard == 6);
    let readings = world.running.figures().read();
    assert_eq!((readings.gaps, readings.strange), (3, 2));
}

#[test]
fn a_loop_that_is_behind_refuses_traffic_and_the_sender_is_told() {
    let mut world = World::up();
    let other = world.other(7);
    let (to, from) = (Fingerprint::of_key("to"), Fingerprint::of_key("from"));
    let frames = direct(&to, &from, &"x".repeat(600));
    let head = |number| Head {
        node: *OTHER.as_bytes(),
        epoch: 7,
        number,
    };
    world.hear(head(1), &frames);
    world.hear(head(2), &frames);
    let (channel, message) = world.next_published();
    assert_eq!(channel, Channel::Node(other));
    let (_, refusals) = Head::split(&message).unwrap();
    let wanted = Refused {
        to: from.as_bytes(),
        session: 9,
        target: to.as_bytes(),
        reason: Reason::Full,
    };
    assert_eq!(
        node_traffic::read(refusals).collect::<Vec<_>>(),
        [Ok(Frame::Refused(wanted))]
    );
    assert_eq!(world.running.figures().read().refused_behind, 1);
    // What is taken makes room again.
    let home = world.home(&to);
    assert_eq!(world.traffic(home).1, frames);
    world.hear(head(3), &frames);
    assert_eq!(world.traffic(home).1, frames);
}
