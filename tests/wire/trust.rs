//! Attacks that worked on the server whose protocol this is, one test each: what happens here instead.

use std::time::Duration;

use serde_json::{Value, json};

use crate::scene::{Peer, Raw, UPGRADE, fingerprint_of, framed, join, register, serve, wait_for_peers, wait_until};
use crate::support::{ConnectOptions, Server, http};

const LOOPS: [u32; 3] = [1, 2, 4];

fn with_alias(server: &Server, key: &str, alias: &str) -> Peer {
    let payload = json!({ "public_key": key, "alias": alias });
    Peer::register_as(server.addr(), ConnectOptions::default(), payload)
}

fn member(server: &Server, key: &str, namespace: &str) -> Peer {
    let mut peer = Peer::register(server.addr(), key);
    peer.join(namespace);
    peer
}

fn signal(from: &Peer, to: &str, payload: Value) {
    from.client
        .send_json(&json!({ "type": "signal", "to": to, "payload": payload }));
}

fn matching(namespace: &str, group_size: u32, criteria: Value) -> Value {
    json!({ "type": "match", "payload": { "namespace": namespace, "group_size": group_size, "criteria": criteria } })
}

#[test]
fn row_1_an_alias_that_is_somebodys_fingerprint_captures_nothing() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let victim_fingerprint = fingerprint_of("victim");
        // Before the victim comes, and again while it is there.
        let mut early = with_alias(&server, "early attacker", &victim_fingerprint);
        early.join("hall");
        let mut sender = member(&server, "sender", "hall");
        signal(&sender, &victim_fingerprint, json!("for the victim only"));
        sender.expect_error(404, "peer not found");

        let mut victim = member(&server, "victim", "hall");
        let mut late = with_alias(&server, "late attacker", &victim_fingerprint);
        late.join("hall");
        for kind in ["signal", "relay"] {
            sender
                .client
                .send_json(&json!({ "type": kind, "to": victim_fingerprint, "payload": "secret" }));
            assert_eq!(victim.next(kind)["payload"], "secret");
        }
        drop(victim);
        while early.next("peer_left")["from"] != victim_fingerprint.as_str() {}
        while late.next("peer_left")["from"] != victim_fingerprint.as_str() {}
        while sender.next("peer_left")["from"] != victim_fingerprint.as_str() {}
        signal(&sender, &victim_fingerprint, json!("late"));
        sender.expect_error(404, "peer not found");
        // Upper case is no fingerprint, but looks like one: it resolves to nobody either.
        let shouted = victim_fingerprint.to_uppercase();
        let mut loud = with_alias(&server, "loud attacker", &shouted);
        loud.join("hall");
        sender.next("peer_joined");
        signal(&sender, &shouted, json!("late"));
        sender.expect_error(404, "peer not found");
        early.expect_none_of(&["signal", "relay"]);
        late.expect_none_of(&["signal", "relay"]);
        loud.expect_none_of(&["signal", "relay"]);
    }
}

impl Peer {
    /// Up to the answer to a ping nothing of these comes.
    fn expect_none_of(&mut self, kinds: &[&str]) {
        self.client.send_json(&json!({ "type": "ping" }));
        loop {
            let message = self.client.recv_json();
            if message["type"] == "pong" {
                return;
            }
            assert!(!kinds.contains(&message["type"].as_str().unwrap()), "{message}");
        }
    }
}

#[test]
fn row_2_a_taken_alias_is_not_freed_by_another_who_claimed_it() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut holder = with_alias(&server, "holder", "the-boss");
        holder.join("hall");
        let mut sender = member(&server, "sender", "hall");
        for turn in 0..5 {
            let mut thief = with_alias(&server, &format!("thief {turn}"), "the-boss");
            thief.join("hall");
            sender.next("peer_joined");
            signal(&sender, "the-boss", json!(turn));
            assert_eq!(holder.next("signal")["payload"], turn);
            thief.expect_none_of(&["signal"]);
            drop(thief);
            sender.next("peer_left");
        }
        let mut heir = with_alias(&server, "heir", "the-boss");
        heir.join("hall");
        sender.next("peer_joined");
        signal(&sender, "the-boss", json!("still"));
        assert_eq!(holder.next("signal")["payload"], "still");

        // When its holder leaves it resolves to nobody, until somebody registers with it again.
        drop(holder);
        sender.next("peer_left");
        signal(&sender, "the-boss", json!("anybody?"));
        sender.expect_error(404, "peer not found");
        let mut next = with_alias(&server, "next", "the-boss");
        next.join("hall");
        sender.next("peer_joined");
        signal(&sender, "the-boss", json!("welcome"));
        assert_eq!(next.next("signal")["payload"], "welcome");
        heir.expect_none_of(&["signal"]);
    }
}

fn is_made(alias: &str) -> bool {
    let parts: Vec<&str> = alias.split('-').collect();
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
    matches!(parts[..], [first, second, number] if is_word(first) && is_word(second)
        && number.len() == 2 && number != "00" && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[test]
fn row_3_made_aliases_do_not_clash_and_cannot_be_taken_in_advance() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let alias_of = |key: &str| {
            let mut raw = Raw::upgraded(server.addr());
            raw.send(&framed(&register(key)));
            let alias = raw.json()["payload"]["alias"].as_str().unwrap().to_owned();
            assert!(is_made(&alias), "{alias}");
            (raw, alias)
        };
        // At 470 peers the old lists made a clash as likely as not.
        let (held, mut aliases): (Vec<Raw>, Vec<String>) = (0..700).map(|n| alias_of(&format!("key {n}"))).unzip();
        aliases.sort_unstable();
        aliases.dedup();
        assert_eq!(aliases.len(), 700);
        drop(held);
        wait_for_peers(&server, 0);

        // The name of a key is known in advance: whoever takes it does not get the traffic of its owner.
        let (seen, first_choice) = alias_of("victim");
        drop(seen);
        wait_for_peers(&server, 0);
        let mut squatter = with_alias(&server, "squatter", &first_choice);
        squatter.join("hall");
        let victim = Raw::upgraded(server.addr());
        victim.send(&framed(&register("victim")));
        let mut victim = victim;
        let alias = victim.json()["payload"]["alias"].as_str().unwrap().to_owned();
        assert!(is_made(&alias) && alias != first_choice, "{alias}");
        victim.send(&framed(&join("hall")));
        assert_eq!(victim.json()["type"], "peer_list");
        squatter.next("peer_joined");
        signal(&squatter, &alias, json!("found"));
        assert_eq!(victim.json()["payload"], "found");
    }
}

#[test]
fn row_4_who_knows_a_key_can_take_its_place_but_nothing_of_what_it_had() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut witness = member(&server, "witness", "hall");
        let mut owner = with_alias(&server, "victim", "boss");
        owner.join("hall");
        witness.next("peer_joined");
        let room = json!({ "type": "create_room", "payload": { "room_id": "private" } });
        owner.client.send_json(&room);
        owner.next("room_created");
        owner.client.send_json(&matching("hall", 3, json!({})));
        owner.next("match");

        let mut usurper = Peer::register(server.addr(), "victim");
        owner.client.expect_close(4001, Some("replaced by new connection"));
        assert_eq!(witness.next("peer_left")["from"], usurper.fingerprint.as_str());
        assert_eq!(http(server.addr(), "GET", "/health", &[]).json()["peers"], 2);
        // No membership, no room, no alias and no place in a queue came along.
        signal(&usurper, &witness.fingerprint, json!("it is me"));
        usurper.expect_error(403, "no shared namespace");
        usurper
            .client
            .send_json(&json!({ "type": "room_info", "payload": { "room_id": "private" } }));
        usurper.expect_error(404, "room not found");
        signal(&witness, "boss", json!("still there?"));
        witness.expect_error(404, "peer not found");
        for key in ["second", "third"] {
            let mut other = Peer::register(server.addr(), key);
            other.client.send_json(&matching("hall", 3, json!({})));
            assert_eq!(other.next("match")["payload"]["status"], "waiting", "{key}");
        }
        witness.expect_nothing_but_a_pong();
    }
}

#[test]
fn row_5_the_end_of_a_replaced_connection_does_not_touch_the_new_one() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut witness = member(&server, "witness", "hall");
        let mut current = member(&server, "again", "hall");
        for turn in 0..30 {
            let previous = current;
            current = Peer::register(server.addr(), "again");
            // Before the new session has done anything, after it joined, or not at all.
            match turn % 3 {
                0 => drop(previous),
                1 => previous.client.reset_tcp(),
                _ => {
                    let mut previous = previous;
                    previous.client.expect_close(4001, Some("replaced by new connection"));
                    previous.client.expect_eof();
                }
            }
            current.join("hall");
            current.round_trip();
            signal(&witness, &current.fingerprint, json!(turn));
            assert_eq!(current.next("signal")["payload"], turn, "on {loops} loops");
            assert_eq!(http(server.addr(), "GET", "/health", &[]).json()["peers"], 2);
        }
        // One of each for every turn, in turn.
        let mut kinds = Vec::new();
        witness.client.send_json(&json!({ "type": "ping" }));
        loop {
            let message = witness.client.recv_json();
            if message["type"] == "pong" {
                break;
            }
            kinds.push(message["type"].as_str().unwrap().to_owned());
        }
        let expected: Vec<&str> = std::iter::once("peer_joined")
            .chain((0..30).flat_map(|_| ["peer_left", "peer_joined"]))
            .collect();
        assert_eq!(kinds, expected, "on {loops} loops");
    }
}

#[test]
fn row_5_many_at_once_with_one_key_leave_exactly_one() {
    let server = serve(json!({ "loops": 4 }));
    let mut bytes = UPGRADE.as_bytes().to_vec();
    bytes.extend(framed(&register("popular")));
    bytes.extend(framed(&join("hall")));
    let all: Vec<Raw> = (0..60)
        .map(|_| {
            let raw = Raw::open(server.addr());
            raw.send(&bytes);
            raw
        })
        .collect();
    let mut winner = member(&server, "witness", "hall");
    wait_for_peers(&server, 2);
    wait_until(
        || crate::scene::metric(&server, "peer_server_closes_total{code=\"4001\"}") == 59,
        || "59 were replaced".to_owned(),
    );
    winner
        .client
        .send_json(&json!({ "type": "discover", "payload": { "namespace": "hall" } }));
    wait_until(
        || {
            winner
                .client
                .send_json(&json!({ "type": "discover", "payload": { "namespace": "hall" } }));
            winner.next("peer_list")["payload"]["total"] == 2
        },
        || "both in the hall".to_owned(),
    );
    drop(all);
    wait_for_peers(&server, 1);
}

#[test]
fn row_11_a_list_is_capped_whatever_is_asked_for() {
    // Nobody of the crowd reads what it is told of those who come later.
    let server =
        serve(json!({ "loops": 4, "rate_limit_per_sec": 0, "send_buffer_size": 2000, "send_buffer_bytes": 1 << 20 }));
    let crowd: Vec<Raw> = (0..1001)
        .map(|number| {
            let mut raw = Raw::upgraded(server.addr());
            let messages = [register(&format!("key {number}")), join("crowd")];
            raw.send(&messages.iter().flat_map(framed).collect::<Vec<u8>>());
            assert_eq!(raw.json()["type"], "registered");
            raw
        })
        .collect();
    let mut asker = Peer::register(server.addr(), "asker");
    let mut list = |limit: Value| {
        let discover = json!({ "type": "discover", "payload": { "namespace": "crowd", "limit": limit } });
        asker.client.send_json(&discover);
        let payload = asker.next("peer_list")["payload"].take();
        (
            payload["peers"].as_array().unwrap().len(),
            payload["total"].as_u64().unwrap(),
        )
    };
    wait_until(|| list(json!(1)).1 == 1001, || "all in the crowd".to_owned());
    assert_eq!(list(json!(100_000)), (1000, 1001));
    assert_eq!(list(json!(i64::MAX)), (1000, 1001));
    assert_eq!(list(json!(1000)), (1000, 1001));
    for limit in [json!(null), json!(0), json!(-5)] {
        assert_eq!(list(limit), (50, 1001));
    }
    drop(crowd);
}

#[test]
fn row_11_a_list_is_capped_in_bytes() {
    let server = serve(json!({ "loops": 2, "list_bytes_max": 20_000 }));
    let mut peers: Vec<Peer> = (0..40)
        .map(|number| {
            let payload = json!({ "public_key": format!("key {number}"), "meta": { "text": "x".repeat(2000) } });
            let mut peer = Peer::register_as(server.addr(), ConnectOptions::default(), payload);
            peer.client.send_json(&join("crowd"));
            peer.next("peer_list");
            peer
        })
        .collect();
    let discover = json!({ "type": "discover", "payload": { "namespace": "crowd", "limit": 1000 } });
    peers[0].client.send_json(&discover);
    let list = peers[0].next("peer_list");
    assert!(list.to_string().len() <= 20_000);
    assert_eq!(list["payload"]["total"], 40);
    assert!((5..10).contains(&list["payload"]["peers"].as_array().unwrap().len()));
}

#[test]
fn row_11_a_match_without_membership_opens_no_way_to_strangers() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut member = member(&server, "member", "hall");
        let mut stranger = Peer::register(server.addr(), "stranger");
        member.client.send_json(&matching("hall", 2, json!({})));
        assert_eq!(member.next("match")["payload"]["status"], "waiting");
        stranger.client.send_json(&matching("hall", 2, json!({})));
        let (one, other) = (member.next("matched"), stranger.next("matched"));
        assert_eq!(one, other);
        signal(&stranger, &member.fingerprint, json!("hi"));
        stranger.expect_error(403, "no shared namespace");
        signal(&member, &stranger.fingerprint, json!("hi"));
        member.expect_error(403, "no shared namespace");
        stranger.join("hall");
        signal(&stranger, &member.fingerprint, json!("hi"));
        assert_eq!(member.next("signal")["payload"], "hi");
    }
}

#[test]
fn row_11_a_room_entered_by_join_keeps_its_cap() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut owner = Peer::register(server.addr(), "owner");
        owner
            .client
            .send_json(&json!({ "type": "create_room", "payload": { "room_id": "den", "max_size": 2 } }));
        owner.next("room_created");
        let mut guest = Peer::register(server.addr(), "guest");
        guest.join("den");
        owner.next("peer_joined");
        let mut late = Peer::register(server.addr(), "late");
        late.client.send_json(&join("den"));
        late.expect_error(429, "namespace full");
        late.client
            .send_json(&json!({ "type": "join_room", "payload": { "room_id": "den" } }));
        late.expect_error(429, "room full");
        late.client
            .send_json(&json!({ "type": "discover", "payload": { "namespace": "den" } }));
        late.expect_error(403, "cannot discover room peers");
        owner.expect_nothing_but_a_pong();
        // Who is in may join again.
        guest.join("den");
    }
}

fn kick(room: &str, fingerprint: &str) -> Value {
    json!({ "type": "kick", "payload": { "room_id": room, "fingerprint": fingerprint } })
}

#[test]
fn row_12_an_owner_cannot_kick_whom_it_does_not_have() {
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut owner = Peer::register(server.addr(), "owner");
        owner
            .client
            .send_json(&json!({ "type": "create_room", "payload": { "room_id": "den" } }));
        owner.next("room_created");
        let mut guest = Peer::register(server.addr(), "guest");
        guest.join("den");
        owner.next("peer_joined");
        let mut stranger = Peer::register(server.addr(), "stranger");

        for nobody in [
            stranger.fingerprint.clone(),
            fingerprint_of("not there"),
            "not-a-fingerprint".to_owned(),
        ] {
            owner.client.send_json(&kick("den", &nobody));
            owner.expect_error(404, "peer not found");
        }
        guest.client.send_json(&kick("den", &owner.fingerprint));
        guest.expect_error(403, "only room owner can kick");
        stranger.client.send_json(&kick("den", &guest.fingerprint));
        stranger.expect_error(403, "only room owner can kick");
        stranger.expect_nothing_but_a_pong();
        guest.expect_nothing_but_a_pong();
        owner.expect_nothing_but_a_pong();

        // Who was kicked is out, is told once, and may come again.
        owner.client.send_json(&kick("den", &guest.fingerprint));
        let told = guest.next("kick");
        assert_eq!(
            told,
            json!({ "type": "kick", "from": owner.fingerprint, "payload": { "room_id": "den", "fingerprint": guest.fingerprint } })
        );
        assert_eq!(owner.next("peer_left")["from"], guest.fingerprint.as_str());
        signal(&guest, &owner.fingerprint, json!("let me in"));
        guest.expect_error(403, "no shared namespace");
        owner.client.send_json(&kick("den", &guest.fingerprint));
        owner.expect_error(404, "peer not found");
        guest.expect_nothing_but_a_pong();
        guest
            .client
            .send_json(&json!({ "type": "join_room", "payload": { "room_id": "den" } }));
        guest.next("peer_list");
    }
}

#[test]
fn row_13_criteria_meet_only_their_equals() {
    let different = [
        json!({ "a": "1,b=2" }),
        json!({ "a": "1", "b": "2" }),
        json!({ "a": "1" }),
        json!({ "a": 1 }),
        json!({ "a": "1,b", "c": "=2" }),
        json!({ "a,b": "1" }),
        json!({ "a": true }),
        json!({ "a": "true" }),
        json!({ "a": [1] }),
        json!({ "a": { "b": 1 } }),
        json!({ "a": "" }),
        json!({ "a": "null" }),
        json!({ "": "a" }),
        json!({}),
    ];
    for loops in LOOPS {
        let server = serve(json!({ "loops": loops }));
        let mut waiting: Vec<Peer> = Vec::new();
        for (number, criteria) in different.iter().enumerate() {
            let mut peer = Peer::register(server.addr(), &format!("peer {number}"));
            peer.client.send_json(&matching("hall", 2, criteria.clone()));
            assert_eq!(peer.client.recv_json()["payload"]["status"], "waiting", "{criteria}");
            waiting.push(peer);
        }
        // In other spellings, they meet.
        for (first, spelling) in [
            (1, r#"{"b":"2","a":"1"}"#),
            (2, r#"{"a":"\u0031"}"#),
            (3, r#"{"a":1.0}"#),
            (8, r#"{"a":[10e-1]}"#),
            (13, "null"),
        ] {
            let mut second = Peer::register(server.addr(), &format!("second {first}"));
            second.client.send_text(&format!(
                r#"{{"type":"match","payload":{{"namespace":"hall","group_size":2,"criteria":{spelling}}}}}"#
            ));
            let matched = second.client.recv_json();
            assert_eq!(
                matched["payload"]["peers"][0]["fingerprint"],
                waiting[first].fingerprint.as_str(),
                "{spelling}: {matched}"
            );
            assert_eq!(waiting[first].next("matched"), matched);
        }
        for peer in &mut waiting {
            assert!(peer.try_next(Duration::ZERO).is_none());
            peer.expect_nothing_but_a_pong();
        }
    }
}
