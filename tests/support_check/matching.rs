//! The matching rules of the dialogues.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::Matcher;

#[track_caller]
fn fits(expected: Value, actual: Value) {
    matcher().matches(&expected, &actual).unwrap();
}

#[track_caller]
fn differs(expected: Value, actual: Value) {
    matcher().matches(&expected, &actual).unwrap_err();
}

fn matcher() -> Matcher {
    Matcher::new(BTreeMap::from([("A".to_owned(), "abc".to_owned())]))
}

#[test]
fn members_are_compared_without_order_and_in_full() {
    fits(json!({"a": 1, "b": [true, "x"]}), json!({"b": [true, "x"], "a": 1}));
    differs(json!({"a": 1}), json!({"a": 1, "b": 2}));
    differs(json!({"a": 1, "b": 2}), json!({"a": 1}));
    differs(json!({"a": [1, 2]}), json!({"a": [2, 1]}));
    differs(json!({"a": [1]}), json!({"a": [1, 1]}));
    differs(json!({"a": {}}), json!({"a": []}));
}

#[test]
fn null_and_an_empty_meta_are_absent_on_either_side() {
    fits(json!({"payload": null}), json!({}));
    fits(json!({}), json!({"payload": null}));
    fits(json!({"meta": {}}), json!({}));
    fits(json!({}), json!({"meta": {}}));
    fits(json!({"meta": {"a": null}}), json!({"meta": {}}));
    fits(json!({"meta": {"a": {}}}), json!({"meta": {"a": {}}}));
    differs(json!({"other": {}}), json!({}));
    differs(json!({"meta": {"a": {}}}), json!({}));
    differs(json!({"meta": []}), json!({}));
    differs(json!([null]), json!([]));
    fits(json!([null]), json!([null]));
}

#[test]
fn numbers_are_equal_by_value_and_never_equal_booleans_or_strings() {
    fits(json!({"n": 1}), json!({"n": 1.0}));
    fits(json!({"n": 100}), serde_json::from_str(r#"{"n": 1e2}"#).unwrap());
    fits(json!(u64::MAX), json!(u64::MAX));
    differs(json!(u64::MAX), json!(u64::MAX - 1));
    differs(json!(i64::MAX), json!(i64::MAX - 1));
    differs(json!({"n": 1}), json!({"n": true}));
    differs(json!({"n": false}), json!({"n": 0}));
    differs(json!({"n": 1}), json!({"n": "1"}));
}

#[test]
fn peers_have_no_order_except_in_matched() {
    let list = |kind: &str, names: [&str; 3]| json!({"type": kind, "payload": {"peers": names}});
    fits(list("peer_list", ["a", "b", "c"]), list("peer_list", ["c", "a", "b"]));
    differs(list("peer_list", ["a", "b", "c"]), list("peer_list", ["c", "a", "a"]));
    fits(list("matched", ["a", "b", "c"]), list("matched", ["a", "b", "c"]));
    differs(list("matched", ["a", "b", "c"]), list("matched", ["c", "a", "b"]));
    fits(json!({"peers": 1}), json!({"peers": 1}));
}

#[test]
fn unordered_peers_are_tried_in_every_way_before_a_placeholder_is_bound() {
    let expected = json!({"peers": [{"alias": "${autoalias:X}"}, {"alias": "red-fox-01"}]});
    let mut matcher = matcher();
    matcher
        .matches(
            &expected,
            &json!({"peers": [{"alias": "red-fox-01"}, {"alias": "blue-owl-02"}]}),
        )
        .unwrap();
    assert_eq!(
        matcher.substitute(&json!("${autoalias:X}")).unwrap(),
        json!("blue-owl-02")
    );
}

#[test]
fn keys_and_fingerprints_are_known_from_the_start() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    fits(json!(["${key:A}", "${fp:A}", "${rep:3}"]), json!(["abc", abc, "xxx"]));
    differs(json!("${fp:A}"), json!(abc.to_uppercase()));
    differs(json!("${key:A}"), json!("abd"));
    differs(json!("${rep:3}"), json!("xxxx"));
    let sent = matcher()
        .substitute(&json!({"k": "${key:A}", "l": ["${fp:A}", "a ${key:A}"]}))
        .unwrap();
    assert_eq!(sent, json!({"k": "abc", "l": [abc, "a ${key:A}"]}));
}

#[test]
fn a_generated_value_is_bound_at_first_sight() {
    let mut matcher = matcher();
    let alias = json!("${autoalias:A}");
    matcher.substitute(&alias).unwrap_err();
    for wrong in [
        "red-fox-1",
        "red-fox-001",
        "Red-fox-01",
        "red-fox",
        "-fox-01",
        "red-fox-01-x",
        "red-fox-0a",
    ] {
        matcher.matches(&alias, &json!(wrong)).unwrap_err();
    }
    matcher.matches(&alias, &json!(1)).unwrap_err();
    matcher.matches(&alias, &json!("red-fox-01")).unwrap();
    matcher.matches(&alias, &json!("red-fox-01")).unwrap();
    matcher.matches(&alias, &json!("red-fox-02")).unwrap_err();
    matcher.matches(&json!("${autoalias:B}"), &json!("red-fox-02")).unwrap();

    let id = json!("${hex32:S}");
    matcher
        .matches(&id, &json!("0123456789ABCDEF0123456789abcdef"))
        .unwrap_err();
    matcher
        .matches(&id, &json!("0123456789abcdef0123456789abcde"))
        .unwrap_err();
    matcher
        .matches(&id, &json!("0123456789abcdef0123456789abcdef"))
        .unwrap();
    matcher
        .matches(&id, &json!("1123456789abcdef0123456789abcdef"))
        .unwrap_err();
}

#[test]
fn a_mismatch_binds_nothing() {
    let mut matcher = matcher();
    let expected = json!({"alias": "${autoalias:A}", "total": 1});
    matcher
        .matches(&expected, &json!({"alias": "red-fox-01", "total": 2}))
        .unwrap_err();
    matcher
        .matches(&expected, &json!({"alias": "red-fox-02", "total": 1}))
        .unwrap();
}

#[test]
fn stamps_are_integers_close_to_now() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    fits(json!("${ts}"), json!(now));
    fits(json!("${ts}"), json!(now - 50_000));
    differs(json!("${ts}"), json!(now - 70_000));
    differs(json!("${ts}"), json!(now as f64 + 0.5));
    differs(json!("${ts}"), json!(now / 1000));
    fits(json!("${unix}"), json!(now / 1000));
    differs(json!("${unix}"), json!(now));
    differs(json!("${unix}"), json!((now / 1000).to_string()));
}

#[test]
fn any_is_anything_but_nothing() {
    fits(json!({"a": "${any}"}), json!({"a": false}));
    fits(json!({"a": "${any}"}), json!({"a": {}}));
    differs(json!({"a": "${any}"}), json!({"a": null}));
    differs(json!({"a": "${any}"}), json!({}));
}

#[test]
fn an_unknown_placeholder_or_client_is_refused() {
    for wrong in ["${alias:A}", "${key:B}", "${fp:B}", "${rep:many}", "${nothing}", "${}"] {
        for actual in [json!("x"), json!(1)] {
            matcher().matches(&json!(wrong), &actual).unwrap_err();
        }
        matcher().substitute(&json!(wrong)).unwrap_err();
    }
    matcher().substitute(&json!("${ts}")).unwrap_err();
    matcher().substitute(&json!("${any}")).unwrap_err();
}

#[test]
fn an_index_becomes_an_integer() {
    let burst = json!({"payload": {"i": "${i}", "l": ["${i}", "i"]}});
    assert_eq!(
        Matcher::with_index(&burst, 7),
        json!({"payload": {"i": 7, "l": [7, "i"]}})
    );
}
