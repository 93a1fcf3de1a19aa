//! Joins, rooms, leaves and kicks.

use super::*;

#[test]
fn a_joiner_is_answered_when_reply_and_event_are_both_there() {
    for reply_first in [true, false] {
        let mut home = Home::with_two();
        home.ask_join('c');
        if reply_first {
            home.joined(7, None);
            assert_eq!(home.said(), [""; 0]);
        }
        home.comes(6, 'd', Some(1));
        assert_eq!(home.said(), ["+d node 1 2", "d moved"]);
        home.comes(7, 'c', None);
        if !reply_first {
            assert_eq!(home.said(), ["+c loop 1 2"]);
            home.joined(7, None);
            assert_eq!(home.said(), ["c in badc, loop 1 2, node 1 2"]);
        } else {
            assert_eq!(home.said(), ["+c loop 1 2", "c in badc, loop 1 2, node 1 2"]);
        }
    }
}

#[test]
fn events_before_the_first_roster_wait_for_it() {
    let mut home = Home::new();
    home.ask_join('a');
    home.ask_join('c');
    assert_eq!(home.asked(), ["join and roster", "join"]);
    home.comes(5, 'a', None);
    home.comes(6, 'c', None);
    home.comes(7, 'd', Some(2));
    home.goes(8, 'b', Some(1));
    assert_eq!(home.said(), [""; 0]);
    let roster = home.roster(5, &[('b', Some(1)), ('a', None)]);
    home.joined(5, Some(roster));
    let heard = [
        "b moved",
        "a in ba, loop 1 1, node 1 1",
        "+c loop 1 2",
        "+d node 2 1",
        "d moved",
        "-b node 1 0",
        "b moved",
    ];
    assert_eq!(home.said(), heard);
    home.joined(6, None);
    assert_eq!(home.said(), ["c in acd, loop 1 2, node 2 1"]);
}

#[test]
fn a_roster_that_came_to_nothing_is_asked_for_again() {
    let mut home = Home::new();
    home.ask_to_enter('a', true);
    home.ask_join('c');
    home.reply(Reply::Refused(Refusal::RoomFull));
    assert_eq!(home.said(), ["a room full"]);
    home.joined(6, None);
    assert_eq!(home.asked(), ["roster"]);
    home.comes(6, 'c', None);
    let roster = home.roster(7, &[('c', None), ('b', Some(1))]);
    home.reply(Reply::Roster(roster));
    assert_eq!(home.said(), ["b moved", "c in cb, loop 1 1, node 1 1"]);
    home.comes(7, 'b', Some(1));
    assert_eq!(home.said(), [""; 0]);
}

#[test]
fn the_copy_answers_what_needs_no_one_else() {
    let mut home = Home::with_two();
    home.look('a', Ask::Discover { limit: 1 });
    home.look('a', Ask::RoomInfo);
    assert_eq!(home.said(), ["a listed b", "a room not found"]);
    home.tell(Event::Down);
    home.look('c', Ask::Discover { limit: 5 });
    home.ask_join('c');
    assert_eq!(home.said(), ["c listed ba", "c broker unavailable"]);
    assert!(home.commands.is_empty());
}

#[test]
fn the_last_leave_ends_the_copy_and_a_join_under_way_reads_it_anew() {
    for leave_event_first in [true, false] {
        let mut home = Home::with_two();
        // The join is given before the leave, so its command asks for no roster.
        home.ask_join('c');
        home.ask('a', Ask::Leave);
        assert_eq!(home.asked(), ["join", "leave"]);
        // The broker took the leave first: a retried command, say. Between the two nothing is told here.
        if leave_event_first {
            home.goes(6, 'a', None);
            home.joined(9, None);
        } else {
            home.joined(9, None);
            home.goes(6, 'a', None);
        }
        assert_eq!(home.said(), [""; 0]);
        home.reply(Reply::Done);
        assert_eq!(home.said(), ["a done"]);
        assert_eq!(home.asked(), ["roster"]);
        home.comes(9, 'c', None);
        let roster = home.roster(9, &[('d', Some(1)), ('c', None)]);
        home.reply(Reply::Roster(roster));
        assert_eq!(home.said(), ["d moved", "c in dc, loop 1 1, node 1 1"]);
    }
}

#[test]
fn who_joins_when_all_others_go_asks_for_the_roster_at_once() {
    let mut home = Home::with_two();
    home.ask('a', Ask::Leave);
    home.ask_join('a');
    assert_eq!(home.asked(), ["leave", "join and roster"]);
    home.reply(Reply::Done);
    let roster = home.roster(7, &[('b', Some(1)), ('a', None)]);
    assert_eq!(home.said(), ["a done"]);
    home.joined(7, Some(roster));
    assert_eq!(home.said(), ["a in ba, loop 1 1, node 1 1"]);
    home.goes(6, 'a', None);
    home.comes(7, 'a', None);
    assert_eq!(home.said(), [""; 0]);
    home.ask('a', Ask::Leave);
    home.reply(Reply::Done);
    home.goes(8, 'a', None);
    assert_eq!(home.said(), ["a done"]);
    assert!(home.is_empty());
}

#[test]
fn a_room_is_made_by_its_event_and_the_owner_is_told_before_what_comes_after() {
    for reply_first in [true, false] {
        let mut home = Home::new();
        home.ask_create('o');
        home.take_outputs();
        if reply_first {
            home.reply(Reply::Created { version: 3 });
        }
        home.comes_to_room(3, 'o', None);
        if !reply_first {
            home.comes_to_room(4, 'b', Some(1));
            assert_eq!(home.said(), [""; 0]);
            home.reply(Reply::Created { version: 3 });
            assert_eq!(home.said(), ["o created", "+b node 1 1", "b moved"]);
        } else {
            assert_eq!(home.said(), ["o created"]);
        }
        assert_eq!((home.permits.rooms.now(), home.shard.rooms), (1, 1));
        home.look('o', Ask::RoomInfo);
        let members = if reply_first { 1 } else { 2 };
        assert_eq!(home.said(), [format!("o described {members}")]);
        home.ask('o', Ask::Leave);
        home.goes(5, 'o', None);
        home.reply(Reply::Done);
        assert_eq!(home.said(), ["o done"]);
        assert!(home.is_empty());
    }
}

#[test]
fn an_owner_is_told_of_those_who_came_before_it_was_answered() {
    let mut home = Home::with_two();
    home.said();
    home.ask_create('o');
    home.comes_to_room(8, 'o', None);
    home.comes_to_room(9, 'c', Some(1));
    assert_eq!(home.said(), ["+o loop 1 2", "+c node 1 2", "c moved"]);
    home.reply(Reply::Created { version: 8 });
    assert_eq!(home.said(), ["o created before bac"]);
}

#[test]
fn a_join_beside_a_room_that_is_being_made_waits_for_that() {
    let mut home = Home::new();
    home.ask_create('o');
    home.ask_to_enter('c', true);
    home.take_outputs();
    let (create, join) = (home.commands.remove(0), home.commands.remove(0));
    let roster = Some(home.room_roster(4, &[('o', None), ('c', None)]));
    let (id, reply) = (join.id, Reply::Joined { version: 4, roster });
    home.tell(Event::Replied { id, reply });
    home.comes_to_room(3, 'o', None);
    home.comes_to_room(4, 'c', None);
    assert_eq!(home.said(), [""; 0]);
    let (id, reply) = (create.id, Reply::Created { version: 3 });
    home.tell(Event::Replied { id, reply });
    assert_eq!(home.said(), ["o created", "+c loop 1 2", "c in oc, loop 1 2"]);
}

#[test]
fn rooms_of_others_need_no_permit_but_making_one_does() {
    let mut home = Home::with_room();
    let (name, info) = (Arc::<str>::from("another"), home.info('c'));
    home.space = home.shard.homes.namespace("another");
    let (max_size, crowded) = (2, false);
    home.ask(
        'c',
        Ask::CreateRoom {
            name,
            info,
            max_size,
            crowded,
        },
    );
    let what = home.reply(Reply::Refused(Refusal::ServerFull));
    assert!(matches!(
        what,
        What::CreateRoom {
            refuse: Some(Refusal::ServerFull),
            ..
        }
    ));
    assert_eq!(home.said(), [format!("c {}", Refusal::ServerFull.text())]);
    assert_eq!(home.permits.rooms.now(), 1);
}

#[test]
fn who_is_put_out_hears_it_after_the_others() {
    let mut home = Home::with_room();
    home.ask_to_enter('c', true);
    home.comes_to_room(6, 'c', None);
    home.joined(6, None);
    assert_eq!(home.said(), ["+c loop 1 2", "c in oac, loop 1 2, node 1 1"]);
    home.is_kicked(7, 'c');
    assert_eq!(home.said(), ["-c loop 1 1", "c kicked"]);
    home.is_kicked(8, 'a');
    assert_eq!(home.said(), ["a kicked"]);
    assert!(home.is_empty());
}

#[test]
fn who_is_put_out_before_its_answer_hears_the_answer_first() {
    // The event of the join and that of the kick before the reply.
    let mut home = Home::with_room();
    home.ask_to_enter('c', true);
    home.comes_to_room(6, 'c', None);
    home.is_kicked(7, 'c');
    assert_eq!(home.said(), ["+c loop 1 2", "-c loop 1 1"]);
    home.joined(6, None);
    assert_eq!(home.said(), ["c in oa, loop 1 1, node 1 1", "c kicked"]);
    // As the first of this node, with the kick already in the roster, before its event and after it.
    for event_first in [true, false] {
        let mut home = Home::new();
        home.ask_to_enter('c', true);
        home.comes_to_room(6, 'c', None);
        if event_first {
            home.is_kicked(7, 'c');
        }
        let roster = home.room_roster(7, &[('o', Some(1))]);
        home.joined(6, Some(roster));
        if !event_first {
            assert_eq!(home.said(), ["o moved", "c in o, node 1 1"]);
            home.is_kicked(7, 'c');
            assert_eq!(home.said(), ["c kicked"]);
        } else {
            assert_eq!(home.said(), ["o moved", "c in o, node 1 1", "c kicked"]);
        }
        assert!(home.is_empty());
    }
}

#[test]
fn a_kick_asks_the_broker() {
    let mut home = Home::with_room();
    let target = Some(home.key('b'));
    home.ask('a', Ask::Kick { target });
    home.reply(Reply::Refused(Refusal::NotRoomOwner));
    home.ask('a', Ask::Kick { target });
    home.reply(Reply::Done);
    assert_eq!(home.said(), ["a only room owner can kick", "a done"]);
}

#[test]
fn the_same_member_again_is_announced_and_another_session_takes_its_place() {
    let mut home = Home::with_two();
    home.comes(6, 'b', Some(1));
    assert_eq!(home.said(), ["+b node 1 1"]);
    let mut member = home.member('b', Some(2));
    member.session = SessionId::from_u64(1);
    home.change(7, Change::Joined { member, room: None });
    assert_eq!(home.said(), ["-b node 1 0", "b moved", "+b node 2 1", "b moved"]);
    home.goes(8, 'b', Some(1));
    assert_eq!(home.said(), [""; 0], "that session is over");
    home.look('a', Ask::Discover { limit: 9 });
    assert_eq!(home.said(), ["a listed ba"]);
}

#[test]
fn who_is_there_again_with_another_epoch_of_its_node_never_went() {
    for by_roster in [true, false] {
        let mut home = Home::with_two();
        if by_roster {
            home.tell(Event::Compare);
            let roster = home.roster(7, &[('b', Some(2)), ('a', None)]);
            home.reply(Reply::Roster(roster));
        } else {
            home.comes(7, 'b', Some(2));
        }
        assert_eq!(home.said(), ["= node 1 0", "b moved", "= node 2 1", "b moved"]);
        // That epoch's end concerns nobody any more.
        home.tell(Event::NodeGone(NodeNo::new(1).unwrap()));
        home.goes(8, 'b', Some(1));
        assert_eq!(home.said(), [""; 0]);
        home.look('a', Ask::Discover { limit: 9 });
        assert_eq!(home.said(), ["a listed ba"]);
        home.goes(9, 'b', Some(2));
        assert_eq!(home.said(), ["-b node 2 0", "b moved"]);
    }
}

#[test]
fn a_session_that_ends_goes_by_the_brokers_word() {
    let mut home = Home::with_two();
    home.ask_join('c');
    home.comes(6, 'c', None);
    home.joined(6, None);
    let _ = home.said();
    home.gone('c');
    assert_eq!(home.said(), ["c gone"]);
    home.goes(7, 'c', None);
    assert_eq!(home.said(), ["-c loop 1 1"]);
    // With a join under way: nothing of it is applied.
    home.ask_join('d');
    home.gone('d');
    home.comes(8, 'd', None);
    home.goes(9, 'd', None);
    home.joined(8, None);
    assert_eq!(home.said(), ["d gone"]);
    // As the first.
    let mut home = Home::new();
    home.ask_join('d');
    home.gone('d');
    assert!(home.is_empty());
    let roster = home.roster(5, &[('d', None)]);
    home.joined(5, Some(roster));
    home.comes(5, 'd', None);
    assert!(home.is_empty());
    assert_eq!(home.said(), ["d gone"]);
}

#[test]
fn how_a_member_is_shown_changes_with_the_event() {
    let mut home = Home::with_two();
    let mut info = PeerInfo::clone(&home.info('a'));
    info.app_type = "other".into();
    let (info, namespace, session) = (Arc::new(info), home.space, home.who('a').session);
    let mail = |info: &Arc<PeerInfo>| Mail::InfoChanged {
        namespace,
        session,
        info: info.clone(),
    };
    home.shard.handle_mail(mail(&info));
    assert_eq!(home.asked(), ["show"]);
    let shown = |home: &Home| {
        let namespace = home.shard.namespaces.get(&home.space).unwrap();
        namespace.roster.get(&home.key('a')).unwrap().info.app_type.to_string()
    };
    home.reply(Reply::Done);
    assert_eq!(shown(&home), "");
    let node = None;
    home.change(6, Change::Shown(Member { node, session, info }));
    assert_eq!(shown(&home), "other");
    home.tell(Event::Down);
    let info = home.info('a');
    home.shard.handle_mail(mail(&info));
    assert_eq!(shown(&home), "");
}
