//! Sessions that are told again.
//!
//! Owns: scenes of one shard after the broker was lost, its replies given by hand.
//! Never: knows a broker.
#![allow(clippy::unwrap_used)]
use super::super::fixtures::Scene;
use super::*;
use crate::ids::{ConnId, LoopId};
use crate::message::cluster::{Command, Event};
use crate::message::{CLOSE_REPLACED, CriteriaKey, Refusal, Request};
use crate::shard::mail::{Answer, Ask};

const FIRST: ConnId = ConnId::new(1, 1);

/// Who, with an alias, a member of these; the match requests are asked for where there are some.
fn resumes(what: &What) -> (Who, bool, Vec<NamespaceId>) {
    match what {
        What::Resume {
            who, alias, member_of, ..
        } => (*who, alias.is_some(), member_of.clone()),
        other => panic!("{other:?}"),
    }
}

/// The rejoins that left for the other loop: what, as a member, for a match.
fn rejoins(scene: &mut Scene) -> Vec<(Who, NamespaceId, bool, bool)> {
    let mail = std::mem::take(&mut scene.mail);
    let rejoin = |(_, mail)| match mail {
        Mail::Rejoin {
            who,
            namespace,
            member,
            ticket,
            ..
        } => Some((who, namespace, member, ticket)),
        _ => None,
    };
    mail.into_iter().filter_map(rejoin).collect()
}

fn hear_mail(scene: &mut Scene, mail: Mail) {
    scene.shard.handle_mail(mail);
    scene.collect();
}

#[test]
fn every_session_is_told_again_and_not_all_at_once() {
    let mut scene = Scene::new();
    let count = 3 * TELLING_MAX as u32;
    let peers: Vec<(PeerKey, Who)> = (0..count).map(|slot| scene.peer(slot)).collect();
    scene.lose_broker();
    scene.hear(Event::Up);
    let (mut told, name) = (Vec::new(), scene.name(0));
    while let Some(Command { id, what }) = scene.commands.pop_back() {
        assert!(scene.commands.len() < TELLING_MAX);
        assert!(!scene.shard.cluster_ready());
        assert!(scene.ask_join(peers[7].0, &name).is_none());
        assert_eq!(scene.errors(ConnId::new(7, 1)), [Refusal::BrokerUnavailable]);
        let (who, has_alias, namespaces) = resumes(&what);
        assert!(has_alias && namespaces.is_empty());
        told.push(who);
        scene.reply(id, Reply::Registered { alias: Some(0) });
    }
    told.sort_unstable();
    let mut all: Vec<Who> = peers.iter().map(|(_, who)| *who).collect();
    all.sort_unstable();
    assert_eq!(told, all);
    assert!(scene.shard.cluster_ready());
    assert!(scene.ask_join(peers[7].0, &name).is_some());
}

#[test]
fn every_home_of_what_a_session_is_in_is_told() {
    let mut scene = Scene::new();
    let (peer, who) = scene.peer(1);
    let names = [0, 1, 2].map(|number| scene.name(number));
    let [both, member, waiting] = [0, 1, 2].map(|at: usize| scene.homes.namespace(&names[at]));
    for (name, joins, matches) in [
        (&names[0], true, true),
        (&names[1], true, false),
        (&names[2], false, true),
    ] {
        if joins {
            scene.join(peer, name);
        }
        if matches {
            let request = Request::Match {
                namespace: name,
                group_size: 3,
                criteria: CriteriaKey([0; 32]),
            };
            scene.shard.handle_request(peer, request);
            scene.collect();
            let Some((_, Mail::Ask { asker, namespace, ask })) = scene.mail.pop_back() else {
                panic!();
            };
            assert!(matches!(ask, Ask::Match { .. }));
            let answer = Answer::Waiting;
            scene.home_answers(asker, namespace, answer);
        }
    }
    scene.lose_broker();
    scene.mail.clear();
    scene.hear(Event::Up);
    let what = scene.answer(Reply::Registered { alias: Some(0) });
    let What::Resume {
        member_of, waits_in, ..
    } = what
    else {
        panic!("{what:?}")
    };
    let mut expected = vec![
        (who, both, true, true),
        (who, member, true, false),
        (who, waiting, false, true),
    ];
    expected.sort_unstable();
    let named = |has: fn(&(Who, NamespaceId, bool, bool)) -> bool| {
        let named = expected.iter().copied().filter(has);
        named.map(|(_, namespace, ..)| namespace).collect::<Vec<_>>()
    };
    assert_eq!(member_of, named(|expected| expected.2));
    assert_eq!(waits_in, named(|expected| expected.3));
    assert_eq!(rejoins(&mut scene), expected);
    for _ in 0..3 {
        assert!(!scene.shard.cluster_ready());
        hear_mail(&mut scene, Mail::Rejoined { who, lost: false });
    }
    assert!(scene.shard.cluster_ready());
}

#[test]
fn a_key_taken_elsewhere_is_replaced_and_a_lost_alias_ends_the_session() {
    for (reply, code, ends) in [
        (Reply::Taken, CLOSE_REPLACED, false),
        (Reply::Registered { alias: None }, CLOSE_RESTART, true),
    ] {
        let mut scene = Scene::new();
        let (_, who) = scene.peer(1);
        scene.lose_broker();
        scene.hear(Event::Up);
        scene.answer(reply);
        assert_eq!(scene.closed, [(FIRST, code)]);
        let ended: Vec<Who> = scene
            .take_commands()
            .into_iter()
            .map(|command| match command.what {
                What::End { who } => who,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ended, if ends { vec![who] } else { vec![] });
        assert_eq!(scene.permits.registered.now(), 0);
        assert!(scene.session(&who.fingerprint).is_none() && scene.shard.cluster_ready());
    }
}

#[test]
fn who_never_held_its_alias_need_not_get_it_back() {
    let mut scene = Scene::new();
    let key = scene.key(1);
    scene.register(FIRST, key, "ada");
    scene.answer(Reply::Registered { alias: None });
    scene.lose_broker();
    scene.hear(Event::Up);
    let (_, has_alias, _) = resumes(&scene.answer(Reply::Registered { alias: None }));
    assert!(!has_alias && scene.closed.is_empty() && scene.shard.cluster_ready());
}

#[test]
fn whom_a_namespace_cannot_take_back_is_closed() {
    let mut scene = Scene::new();
    let (peer, who) = scene.peer(1);
    for number in 0..2 {
        let name = scene.name(number);
        scene.join(peer, &name);
    }
    let [namespace, nothing] = [0, 2].map(|number| scene.homes.namespace(&scene.name(number)));
    scene.lose_broker();
    scene.hear(Event::Up);
    scene.answer(Reply::Registered { alias: Some(0) });
    let not_there = Mail::Evicted {
        who,
        namespace: nothing,
    };
    hear_mail(&mut scene, not_there);
    assert_eq!(scene.closed, [], "it has nothing there any more");
    hear_mail(&mut scene, Mail::Evicted { who, namespace });
    assert_eq!(scene.closed, [(FIRST, CLOSE_RESTART)]);
    assert!(matches!(scene.answer(Reply::Done), What::End { who: ended } if ended == who));
    assert!(scene.shard.cluster_ready(), "nothing is waited for");
    for mail in [
        Mail::Rejoined { who, lost: false },
        Mail::Rejoined { who, lost: false },
        Mail::Evicted { who, namespace },
    ] {
        hear_mail(&mut scene, mail);
    }
    assert_eq!((scene.closed.len(), scene.permits.registered.now()), (1, 0));
}

#[test]
fn lost_again_it_begins_again_and_late_replies_count_for_nothing() {
    let mut scene = Scene::new();
    let (peer, who) = scene.peer(1);
    let name = scene.name(0);
    scene.join(peer, &name);
    scene.hear(Event::Down);
    scene.hear(Event::Up);
    let first = scene.commands.pop_front().unwrap();
    scene.hear(Event::Down);
    scene.hear(Event::Up);
    let second = scene.commands.pop_front().unwrap();
    assert_eq!(resumes(&first.what), resumes(&second.what));
    scene.reply(first.id, Reply::Registered { alias: None });
    assert!(scene.closed.is_empty() && rejoins(&mut scene).is_empty());
    scene.reply(second.id, Reply::Registered { alias: Some(0) });
    assert_eq!(rejoins(&mut scene).len(), 1);
    scene.hear(Event::Down);
    hear_mail(&mut scene, Mail::Rejoined { who, lost: false });
    assert!(!scene.shard.cluster_ready());
    scene.hear(Event::Up);
    scene.answer(Reply::Registered { alias: Some(0) });
    assert!(!scene.shard.cluster_ready());
    hear_mail(&mut scene, Mail::Rejoined { who, lost: false });
    assert!(scene.shard.cluster_ready() && scene.shard.serves(peer, FIRST));
}

#[test]
fn who_waits_for_an_answer_is_told_after_it() {
    for let_in in [true, false] {
        let mut scene = Scene::new();
        let (peer, who) = scene.peer(1);
        let name = scene.name(0);
        let asker = scene.ask_join(peer, &name).unwrap();
        scene.lose_broker();
        scene.hear(Event::Up);
        assert!(scene.commands.is_empty() && !scene.shard.cluster_ready());
        let namespace = scene.homes.namespace(&name);
        match let_in {
            true => scene.let_in(asker, &name, vec![(LoopId::new(0), 1)]),
            false => {
                let answer = Answer::Refused(Refusal::BrokerUnavailable);
                scene.home_answers(asker, namespace, answer);
            }
        }
        let (resumed, _, namespaces) = resumes(&scene.answer(Reply::Registered { alias: Some(0) }));
        assert_eq!(resumed, who);
        assert_eq!(namespaces, if let_in { vec![namespace] } else { vec![] });
        assert_eq!(scene.shard.cluster_ready(), !let_in);
    }
}

#[test]
fn nobody_waits_for_a_session_that_ends_on_the_way() {
    let mut scene = Scene::new();
    let (asked, _) = scene.peer(1);
    let (joined, _) = scene.peer(2);
    let (waiting, _) = scene.peer(3);
    let name = scene.name(0);
    scene.join(joined, &name);
    scene.ask_join(waiting, &name).unwrap();
    scene.lose_broker();
    scene.hear(Event::Up);
    let [first, second] = [(); 2].map(|()| scene.commands.pop_front().unwrap());
    scene.reply(second.id, Reply::Registered { alias: Some(0) });
    for peer in [asked, joined, waiting] {
        assert!(!scene.shard.cluster_ready());
        scene.shard.close(peer);
        scene.collect();
    }
    assert!(scene.shard.cluster_ready());
    scene.reply(first.id, Reply::Registered { alias: Some(0) });
    assert!(scene.shard.cluster_ready());
    assert_eq!(scene.commands.len(), 3, "the ends");
}

#[test]
fn a_session_for_which_there_was_no_room_is_told_when_the_broker_answers() {
    let mut scene = Scene::new();
    let (peer, who) = scene.peer(1);
    scene.lose_broker();
    scene.busy = true;
    scene.hear(Event::Up);
    scene.busy = false;
    assert!(scene.commands.is_empty() && !scene.shard.cluster_ready());
    // A request that is refused for it is a sign as good as any.
    let name = scene.name(0);
    assert!(scene.ask_join(peer, &name).is_none());
    let (resumed, ..) = resumes(&scene.answer(Reply::Registered { alias: Some(0) }));
    assert!(resumed == who && scene.shard.cluster_ready());
}

#[test]
fn what_a_home_could_not_tell_the_broker_is_told_again() {
    let mut scene = Scene::new();
    let (peer, who) = scene.peer(1);
    let names = [0, 1].map(|number| scene.name(number));
    names.iter().for_each(|name| scene.join(peer, name));
    scene.lose_broker();
    scene.hear(Event::Up);
    scene.answer(Reply::Registered { alias: Some(0) });
    assert_eq!(rejoins(&mut scene).len(), 2);
    hear_mail(&mut scene, Mail::Rejoined { who, lost: true });
    assert!(scene.commands.is_empty(), "the other home has not answered");
    hear_mail(&mut scene, Mail::Rejoined { who, lost: false });
    assert!(!scene.shard.cluster_ready());
    let (resumed, ..) = resumes(&scene.answer(Reply::Registered { alias: Some(0) }));
    assert_eq!((resumed, rejoins(&mut scene).len()), (who, 2));
    for _ in 0..2 {
        hear_mail(&mut scene, Mail::Rejoined { who, lost: false });
    }
    assert!(scene.shard.cluster_ready() && scene.commands.is_empty());
}

#[test]
fn without_the_broker_who_leaves_or_looks_still_asks_the_home() {
    let mut scene = Scene::new();
    let (peer, _) = scene.peer(1);
    let name = scene.name(0);
    scene.join(peer, &name);
    scene.lose_broker();
    scene.mail.clear();
    for (request, goes) in [
        (Request::JoinRoom { room: &name }, false),
        (
            Request::CreateRoom {
                room: &name,
                max_size: 2,
            },
            false,
        ),
        (
            Request::Kick {
                room: &name,
                target: None,
            },
            false,
        ),
        (Request::RoomInfo { room: &name }, true),
        (
            Request::Discover {
                namespace: &name,
                limit: 1,
            },
            true,
        ),
        (Request::Leave { namespace: &name }, true),
    ] {
        scene.shard.handle_request(peer, request);
        scene.collect();
        let refused = scene.errors(FIRST);
        assert_eq!(refused.is_empty(), goes);
        let Some((_, Mail::Ask { asker, namespace, .. })) = scene.mail.pop_front() else {
            assert!(!goes);
            continue;
        };
        let answer = Answer::Done;
        scene.home_answers(asker, namespace, answer);
    }
}
