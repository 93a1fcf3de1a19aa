//! The broker lost and found, nodes gone, and what there is too much of.

use super::*;

#[test]
fn a_lost_roster_fails_the_join_and_takes_it_back() {
    let mut home = Home::new();
    home.ask_join('a');
    home.ask_join('c');
    home.reply(Reply::Lost);
    home.joined(6, None);
    home.reply(Reply::Lost);
    let unavailable = ["a broker unavailable", "c broker unavailable"];
    assert_eq!(home.said(), unavailable);
    assert!(home.is_empty());
    home.ask('d', Ask::Discover { limit: 5 });
    let (peers, total) = (Vec::new(), 0);
    home.reply(Reply::Listed { peers, total });
    assert_eq!(home.said(), ["d listed "]);
    assert_eq!(home.asked(), ["leave"], "the broker has room again");
}

#[test]
fn too_many_events_before_a_roster_are_in_a_later_one() {
    let mut home = Home::new();
    home.ask_join('a');
    let most = copies::KEPT_MAX as u64;
    for version in 2..most + 3 {
        home.comes(version, 'b', Some(1));
    }
    let roster = home.roster(1, &[('a', None)]);
    home.joined(1, Some(roster));
    assert_eq!(home.asked(), ["roster"]);
    let roster = home.roster(most + 1, &[('a', None), ('b', Some(1))]);
    home.reply(Reply::Roster(roster));
    assert_eq!(home.said(), ["b moved", "a in ab, loop 1 1, node 1 1"]);
}

#[test]
fn while_the_broker_is_down_what_leaves_is_let_go() {
    let mut home = Home::with_two();
    for (version, peer) in [(6, 'c'), (7, 'd')] {
        home.ask_join(peer);
        home.comes(version, peer, None);
        home.joined(version, None);
    }
    let _ = home.said();
    home.gone('c');
    assert_eq!(home.said(), ["c gone"]);
    home.ask_join('e');
    home.joined(9, None);
    home.ask_join('f');
    assert_eq!(home.asked(), ["join"]);
    home.tell(Event::Down);
    assert_eq!(home.said(), ["e broker unavailable", "-c loop 1 2"]);
    home.reply(Reply::Lost);
    assert_eq!(home.said(), ["f broker unavailable"]);
    home.ask('d', Ask::Leave);
    assert_eq!(home.said(), ["-d loop 1 1", "d done"]);
    home.reply(Reply::Lost);
    home.gone('a');
    assert_eq!(home.said(), ["a gone"]);
    assert!(home.is_empty() && home.asked().is_empty());
}

#[test]
fn what_a_home_does_that_hears_late_that_the_broker_is_back_is_told_to_it() {
    let mut home = Home::with_two();
    home.ask_match('a');
    home.reply(Reply::Waiting);
    home.ask_join('c');
    home.comes(6, 'c', None);
    home.joined(6, None);
    let _ = home.said();
    home.tell(Event::Down);
    // Its loop has heard `Up`.
    for peer in ['a', 'c'] {
        home.rejoin(peer, true, false);
        home.reply(Reply::Joined {
            version: 6,
            roster: None,
        });
    }
    assert_eq!(home.said(), ["a rejoined", "c rejoined"]);
    home.ask('c', Ask::Leave);
    assert_eq!(home.said(), ["-c loop 1 1", "c done"]);
    let (namespace, session, info) = (home.space, home.who('a').session, home.info('a'));
    home.shard.handle_mail(Mail::InfoChanged {
        namespace,
        session,
        info,
    });
    home.ask_match('a');
    assert_eq!(home.asked(), ["leave", "show", "match"]);
    home.reply(Reply::Done);
    home.reply(Reply::Lost);
    home.reply(Reply::Lost);
    assert_eq!(home.said(), ["a broker unavailable"]);
    home.tell(Event::Up);
    assert!(home.asked().is_empty() && home.permits.match_waiting.now() == 0);
}

#[test]
fn back_up_members_are_told_again_and_the_rosters_compared() {
    let mut home = Home::with_two();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.rejoin('a', true, false);
    assert_eq!(home.asked(), ["rejoin"]);
    // Somebody else was faster.
    home.comes(11, 'd', Some(3));
    home.comes(12, 'a', None);
    assert_eq!(home.said(), ["+d node 3 1", "d moved"], "a was never away");
    home.joined(12, None);
    assert_eq!(home.said(), ["a rejoined"]);
    home.tell(Event::Compare);
    assert_eq!(home.asked(), ["roster"]);
    // While it is read, b comes back and e comes: the one is in it, the other is not.
    home.comes(14, 'e', Some(3));
    assert_eq!(home.said(), ["+e node 3 2", "e moved"]);
    let roster = home.roster(13, &[('d', Some(3)), ('a', None), ('c', Some(4))]);
    home.reply(Reply::Roster(roster));
    assert_eq!(home.said(), ["-b node 1 0", "b moved", "+c node 4 1", "c moved"]);
    home.comes(13, 'c', Some(4));
    assert_eq!(home.said(), [""; 0]);
    home.look('a', Ask::Discover { limit: 9 });
    assert_eq!(home.said(), ["a listed dace"]);
}

#[test]
fn told_again_after_the_comparison_a_namespace_is_compared_again() {
    let mut home = Home::with_two();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.tell(Event::Compare);
    let roster = home.roster(6, &[('b', Some(1))]);
    home.reply(Reply::Roster(roster));
    home.rejoin('a', true, false);
    home.comes(9, 'a', None);
    home.joined(9, None);
    assert_eq!(home.said(), ["a rejoined"]);
    assert_eq!(
        home.asked(),
        ["roster"],
        "what came between the two was told to nobody here"
    );
    // It was gone again when that was read.
    home.reply(Reply::Roster(Box::default()));
    home.rejoin('a', true, false);
    home.joined(12, None);
    assert_eq!(home.asked(), ["roster"]);
}

#[test]
fn a_rejoin_refused_ends_the_session() {
    let mut home = Home::with_room();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.rejoin('a', true, true);
    let what = home.reply(Reply::Refused(Refusal::RoomNotFound));
    assert!(matches!(what, What::Rejoin { room: Some(_), .. }));
    assert_eq!(home.said(), ["a evicted", "a rejoined"]);
    home.gone('a');
    assert_eq!(
        home.said(),
        ["a gone"],
        "the broker has nothing of it, so it goes at once"
    );
    assert!(home.is_empty());
}

#[test]
fn a_node_that_is_gone_takes_its_members_with_it() {
    let mut home = Home::with_two();
    home.comes(6, 'c', Some(1));
    home.comes(7, 'd', Some(2));
    let _ = home.said();
    home.tell(Event::Compare);
    home.tell(Event::NodeGone(NodeNo::new(1).unwrap()));
    let heard = ["-b node 1 1", "b moved", "-c node 1 0", "c moved"];
    assert_eq!(home.said(), heard);
    // A roster that was read before.
    let roster = home.roster(7, &[('b', Some(1)), ('a', None), ('c', Some(1)), ('d', Some(2))]);
    home.reply(Reply::Roster(roster));
    assert_eq!(home.said(), [""; 0]);
}

#[test]
fn a_rejoin_that_was_lost_is_said_to_be_and_a_stale_one_ends_nothing() {
    let mut home = Home::with_two();
    home.tell(Event::Down);
    home.tell(Event::Up);
    for (reply, said) in [(Reply::Lost, "a not told"), (Reply::Stale, "a rejoined")] {
        home.rejoin('a', true, false);
        home.reply(reply);
        assert_eq!(home.said(), [said]);
    }
}

#[test]
fn rosters_are_compared_some_at_a_time_and_lost_ones_again() {
    let mut home = Home::new();
    let most = 32 / home.shard.homes.loops();
    let count = 100;
    let names: Vec<Arc<str>> = (0..count)
        .map(|number| format!("small place {number}").into())
        .collect();
    for name in &names {
        (home.space, home.name) = (home.shard.homes.namespace(name), name.clone());
        home.ask_join('a');
        let roster = home.roster(5, &[('a', None)]);
        home.joined(5, Some(roster));
    }
    let _ = home.said();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.tell(Event::Compare);
    assert_eq!(home.asked().len(), most);
    for _ in 0..most {
        home.reply(Reply::Lost);
    }
    assert_eq!(home.asked(), [""; 0], "there is no room for them");
    home.comes(6, 'b', Some(1));
    assert_eq!(home.asked().len(), most, "the broker is there");
    let mut seen = BTreeSet::new();
    while !home.asked().is_empty() {
        assert!(home.commands.len() <= most);
        let roster = home.roster(6, &[('a', None)]);
        let What::Roster { namespace } = home.reply(Reply::Roster(roster)) else {
            panic!()
        };
        assert!(seen.insert(namespace));
    }
    assert_eq!(seen.len(), count);
    let _ = home.said();
    home.tell(Event::Compare);
    home.tell(Event::Down);
    for _ in 0..most {
        home.reply(Reply::Lost);
    }
    assert_eq!(home.asked(), [""; 0]);
}

#[test]
fn who_is_told_that_a_join_was_lost_is_not_in_the_copy() {
    let mut home = Home::with_two();
    home.ask_join('c');
    home.comes(6, 'c', None);
    assert_eq!(home.said(), ["+c loop 1 2"]);
    home.reply(Reply::Lost);
    assert_eq!(home.said(), ["-c loop 1 1", "c broker unavailable"]);
    // A member that only asked to be shown anew stays.
    home.ask_join('a');
    home.reply(Reply::Lost);
    assert_eq!(home.said(), ["a broker unavailable"]);
    // Let in, and its copy behind, when the broker is lost.
    home.ask_join('d');
    home.comes(7, 'd', None);
    home.ask_join('e');
    home.comes(8, 'e', None);
    home.tell(Event::Down);
    home.reply(Reply::Lost);
    home.reply(Reply::Lost);
    let heard = [
        "+d loop 1 2",
        "+e loop 1 3",
        "-d loop 1 2",
        "d broker unavailable",
        "-e loop 1 1",
        "e broker unavailable",
    ];
    assert_eq!(home.said(), heard);
}

#[test]
fn a_leave_that_was_not_told_is_told_after_a_join_that_was_not_either() {
    let mut home = Home::with_two();
    home.ask_join('c');
    home.comes(6, 'c', None);
    home.joined(6, None);
    home.ask('c', Ask::Leave);
    home.reply(Reply::Lost);
    home.ask_join('c');
    home.reply(Reply::Lost);
    assert_eq!(
        home.said(),
        [
            "+c loop 1 2",
            "c in bac, loop 1 2, node 1 1",
            "c done",
            "c broker unavailable"
        ]
    );
    home.comes(7, 'd', Some(1));
    assert_eq!(home.asked(), ["leave"], "the broker is there");
    home.reply(Reply::Done);
    home.goes(8, 'c', None);
    assert_eq!(home.said(), ["+d node 1 2", "d moved", "-c loop 1 1"]);
}

#[test]
fn leaves_that_were_not_told_are_told_some_at_a_time() {
    let mut home = Home::with_two();
    home.ask_join('c');
    home.comes(6, 'c', None);
    home.joined(6, None);
    for _ in 0..100 {
        home.ask('c', Ask::Leave);
        home.reply(Reply::Lost);
    }
    home.comes(7, 'd', Some(1));
    assert_eq!(home.asked(), ["leave"], "one for each member");
    home.reply(Reply::Done);
    let session = home.who('c').session.as_u64();
    let owed = (0..100).map(|number| {
        let session = SessionId::from_u64(session + number);
        (
            home.space,
            Who {
                session,
                ..home.who('c')
            },
        )
    });
    let owed: BTreeSet<_> = owed.collect();
    home.shard.spaces_mut().unwrap().owed = owed;
    home.comes(8, 'e', Some(1));
    assert_eq!(home.asked().len(), 64);
}

#[test]
fn who_was_kicked_while_the_broker_was_lost_is_not_made_a_member_again() {
    // Its own node hears of it before it is told again.
    for others in [true, false] {
        let mut home = Home::with_room();
        if others {
            home.ask_to_enter('c', true);
            home.comes_to_room(6, 'c', None);
            home.joined(6, None);
        }
        home.tell(Event::Down);
        home.tell(Event::Up);
        home.is_kicked(7, 'a');
        let _ = home.said();
        home.rejoin('a', true, false);
        assert_eq!(home.said(), ["a evicted", "a rejoined"], "it knows that it was kicked");
        assert_eq!(home.asked(), [""; 0]);
    }
    // While it is told: kick, joined and reply in every order that there is.
    for order in ["kjr", "krj", "rkj"] {
        for others in [true, false] {
            let mut home = Home::with_room();
            if others {
                home.ask_to_enter('c', true);
                home.comes_to_room(6, 'c', None);
                home.joined(6, None);
            }
            home.tell(Event::Down);
            home.tell(Event::Up);
            let _ = home.said();
            home.rejoin('a', true, false);
            for step in order.chars() {
                match step {
                    'k' => home.is_kicked(7, 'a'),
                    'j' => home.comes_to_room(8, 'a', None),
                    _ => home.joined(8, None),
                }
            }
            assert_eq!(home.asked(), ["leave"], "{order} {others}");
            home.reply(Reply::Done);
            home.goes(9, 'a', None);
            let said = home.said();
            let told = said.iter().filter(|said| *said == "a kicked").count();
            assert_eq!(told, 1, "{said:?}");
            if others {
                let left = home.shard.namespaces.get(&home.space).unwrap();
                assert_eq!(left.roster.len(), 2, "{order}");
            } else {
                assert!(home.is_empty(), "{order}");
            }
        }
    }
}

#[test]
fn who_goes_while_it_is_told_again_does_not_come_back() {
    // What is told of it (j, and l once it is out), the reply, and a roster that it is not in any more, in every order.
    for order in ["rjlR", "rjRl", "rRjl", "jrlR", "jrRl", "jlrR"] {
        for by_leave in [false, true] {
            let mut home = Home::with_two();
            home.ask_join('c');
            home.comes(6, 'c', None);
            home.joined(6, None);
            home.tell(Event::Down);
            home.tell(Event::Up);
            home.tell(Event::Compare);
            let roster = home.roster(6, &[('b', Some(1))]);
            home.reply(Reply::Roster(roster));
            let _ = home.said();
            home.rejoin('c', true, false);
            match by_leave {
                true => home.ask('c', Ask::Leave),
                false => home.gone('c'),
            }
            for step in order.chars() {
                match step {
                    'j' => home.comes(8, 'c', None),
                    'l' => home.goes(9, 'c', None),
                    'r' => {
                        home.joined(8, None);
                        let asked = home.asked().last().copied();
                        assert_eq!(asked, Some("roster"), "it may have changed since the first was read");
                        if by_leave {
                            home.reply(Reply::Done);
                        }
                    }
                    _ => {
                        let roster = home.roster(9, &[('b', Some(1))]);
                        home.reply(Reply::Roster(roster));
                    }
                }
            }
            let copy = home.shard.namespaces.get(&home.space).unwrap();
            let there: Vec<_> = copy
                .roster
                .iter()
                .map(|member| home.letter(&member.info.fingerprint))
                .collect();
            assert_eq!(there, ['b', 'a'], "{order} {by_leave}");
            let said = home.said();
            assert_eq!(said[0], "-c loop 1 1", "{order}: {said:?}");
            assert!(!said.iter().any(|said| said.starts_with("+c")), "{order}: {said:?}");
        }
    }
}

#[test]
fn a_member_that_was_missing_in_a_roster_goes_with_the_event_before_it() {
    for kicked in [false, true] {
        let mut home = Home::with_room();
        home.ask_to_enter('c', true);
        home.comes_to_room(6, 'c', None);
        home.joined(6, None);
        home.tell(Event::Down);
        home.tell(Event::Up);
        home.rejoin('c', true, false);
        home.joined(7, None);
        home.comes_to_room(7, 'c', None);
        home.tell(Event::Compare);
        let _ = home.said();
        let roster = home.room_roster(8, &[('o', Some(1)), ('a', None)]);
        home.reply(Reply::Roster(roster));
        assert_eq!(home.said(), [""; 0], "members here are what this node says they are");
        match kicked {
            true => home.is_kicked(8, 'c'),
            false => home.goes(8, 'c', None),
        }
        let heard: &[&str] = if kicked {
            &["-c loop 1 1", "c kicked"]
        } else {
            &["-c loop 1 1"]
        };
        assert_eq!(home.said(), heard);
    }
}

#[test]
fn who_goes_does_so_whatever_is_heard_of_an_earlier_join() {
    for by_roster in [true, false] {
        let mut home = Home::with_two();
        home.ask_join('c');
        home.comes(6, 'c', None);
        home.joined(6, None);
        home.ask_join('c');
        home.gone('c');
        home.joined(7, None);
        home.comes(7, 'c', None);
        let _ = home.said();
        if by_roster {
            home.tell(Event::Compare);
            let roster = home.roster(8, &[('b', Some(1)), ('a', None)]);
            home.reply(Reply::Roster(roster));
        } else {
            home.tell(Event::Down);
        }
        assert_eq!(home.said(), ["-c loop 1 1"]);
    }
}

#[test]
fn a_key_that_came_on_another_node_takes_the_last_member_and_the_copy() {
    for by_roster in [true, false] {
        let mut home = Home::with_two();
        if by_roster {
            home.tell(Event::Compare);
            let roster = home.roster(7, &[('b', Some(1)), ('a', Some(2))]);
            home.reply(Reply::Roster(roster));
        } else {
            home.comes(7, 'a', Some(2));
        }
        let _ = home.said();
        assert!(home.is_empty());
    }
}

#[test]
fn who_is_a_member_to_its_loop_alone_is_told_so() {
    let mut home = Home::with_two();
    home.goes(6, 'a', None);
    home.tell(Event::Down);
    home.tell(Event::Up);
    let _ = home.said();
    home.rejoin('a', true, false);
    assert_eq!(home.said(), ["a evicted", "a rejoined"]);
}

#[test]
fn who_leaves_before_its_home_hears_that_the_broker_is_back_leaves_it_there_too() {
    for heard_down in [true, false] {
        let mut home = Home::with_two();
        if heard_down {
            home.tell(Event::Down);
        }
        // Its loop knew sooner.
        home.rejoin('a', true, false);
        home.ask('a', Ask::Leave);
        assert_eq!(home.asked(), ["rejoin", "leave"]);
        if !heard_down {
            home.tell(Event::Down);
        }
        home.tell(Event::Up);
        home.joined(8, None);
        home.comes(8, 'a', None);
        home.reply(Reply::Done);
        home.goes(9, 'a', None);
        assert!(home.is_empty());
    }
}

#[test]
fn a_change_that_there_was_no_room_for_is_told_with_the_next_sign_of_the_broker() {
    let mut home = Home::with_two();
    let mut info = (*home.info('a')).clone();
    info.app_type = "changed".into();
    let (namespace, session, info) = (home.space, home.who('a').session, Arc::new(info));
    home.shard.handle_mail(Mail::InfoChanged {
        namespace,
        session,
        info: info.clone(),
    });
    home.reply(Reply::Lost);
    assert!(home.asked().is_empty(), "there may still be no room");
    home.goes(6, 'b', Some(1));
    let what = home.reply(Reply::Lost);
    assert!(matches!(what, What::Show { info: shown, .. } if shown == info));
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.goes(7, 'x', Some(1));
    assert!(
        home.asked().is_empty(),
        "with the broker it is told by what is told again"
    );
}

#[test]
fn what_is_heard_late_of_before_the_broker_was_lost_is_old() {
    let mut home = Home::with_two();
    home.tell(Event::Down);
    home.tell(Event::Up);
    home.goes(4, 'a', None);
    home.goes(5, 'b', Some(1));
    assert_eq!(home.said(), [""; 0], "they came again with what the copy was made of");
    home.look('a', Ask::Discover { limit: 9 });
    assert_eq!(home.said(), ["a listed ba"]);
    // Nothing but a clock that was set back makes a broker that lost its data count from below.
    home.tell(Event::Compare);
    let roster = home.roster(2, &[('a', None)]);
    home.reply(Reply::Roster(roster));
    home.comes(3, 'd', Some(1));
    assert_eq!(home.said(), ["-b node 1 0", "b moved", "+d node 1 1", "d moved"]);
}
