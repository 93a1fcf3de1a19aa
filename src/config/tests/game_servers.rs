//! The settings of the matchmaker web service: what needs what, words of other programs, and the private key's ways.

use super::*;

/// A service with everything that the static provider wants.
fn service() -> Value {
    json!({
        "matchmaker_enabled": true,
        "matchmaker_report_secret": "reports-of-servers",
        "game_servers": [{ "id": "a", "public": "203.0.113.1:7", "game": "g", "version": "1", "capacity": 2 }],
    })
}

/// One that starts servers.
fn cloud() -> Value {
    json!({
        "matchmaker_enabled": true,
        "matchmaker_provider": "edgegap",
        "matchmaker_app_name": "g",
        "matchmaker_app_version": "1",
        "matchmaker_state_file": "/nonexistent/sessions",
        "edgegap_api_key": "token x",
        "edgegap_cert_digest": "ab".repeat(32),
    })
}

/// One that answers over NATS, with no page of its own.
fn back() -> Value {
    json!({
        "matchmaker_nats_back": true,
        "matchmaker_app_name": "g",
        "matchmaker_app_version": "1",
        "matchmaker_nats_host": "nats",
        "matchmaker_nats_user": "u",
        "matchmaker_nats_password": "p",
        "game_servers": service()["game_servers"],
        "matchmaker_report_secret": "reports-of-servers",
    })
}

/// One that asks over NATS.
fn front() -> Value {
    json!({
        "matchmaker_enabled": true,
        "matchmaker_provider": "nats",
        "matchmaker_nats_host": "nats",
        "matchmaker_nats_user": "u",
        "matchmaker_nats_password": "p",
    })
}

fn with(mut settings: Value, key: &str, value: Value) -> String {
    settings[key] = value;
    settings.to_string()
}

const WITH_KEY: &[(&str, &str)] = &[("LIGHTYEAR_PRIVATE_KEY", KEY)];

#[test]
fn each_way_to_serve_has_what_it_needs() {
    for settings in [service(), cloud(), back()] {
        let config = loaded(&settings.to_string(), WITH_KEY);
        assert_eq!(config.matchmaker.general_key(), Some([0x5c; 32]));
    }
    let front = loaded(&front().to_string(), &[]).matchmaker;
    assert!(front.is_served() && front.general_key().is_none());
    assert!(!loaded(&back().to_string(), WITH_KEY).matchmaker.is_served());
    let mut bound = service();
    bound["matchmaker_enabled"] = json!(false);
    bound["bind"] = json!("[::]:3000");
    assert!(loaded(&bound.to_string(), WITH_KEY).matchmaker.is_served());
}

#[test]
fn what_is_missing_is_told_with_its_key() {
    for (settings, missing, why) in [
        (
            cloud(),
            "matchmaker_app_name",
            "missing, while matchmaker_provider is edgegap",
        ),
        (
            cloud(),
            "matchmaker_app_version",
            "missing, while matchmaker_provider is edgegap",
        ),
        (
            cloud(),
            "edgegap_api_key",
            "missing, while matchmaker_provider is edgegap",
        ),
        (
            cloud(),
            "matchmaker_state_file",
            "missing: with edgegap and without matchmaker_nats_back",
        ),
        (
            back(),
            "matchmaker_app_name",
            "missing, while matchmaker_nats_back is on",
        ),
        (
            back(),
            "matchmaker_app_version",
            "missing, while matchmaker_nats_back is on",
        ),
        (
            back(),
            "matchmaker_nats_host",
            "missing, while matchmaker_nats_back is on",
        ),
        (
            back(),
            "matchmaker_nats_user",
            "missing, while matchmaker_nats_password is set",
        ),
        (
            back(),
            "matchmaker_nats_password",
            "missing, while matchmaker_nats_user is set",
        ),
        (
            front(),
            "matchmaker_nats_host",
            "missing, while matchmaker_provider is nats",
        ),
    ] {
        let error = one_error(&with(settings, missing, Value::Null), WITH_KEY);
        assert!(error.starts_with(&format!("{missing}: {why}")), "{error}");
    }
    let error = one_error(&with(service(), "matchmaker_app_name", json!("g")), WITH_KEY);
    assert_eq!(
        error,
        "matchmaker_app_version: missing, while matchmaker_app_name is set"
    );
}

#[test]
fn whoever_makes_tokens_needs_a_key() {
    let servers = with(front(), "game_servers", service()["game_servers"].clone());
    for settings in [service().to_string(), cloud().to_string(), back().to_string()] {
        let error = one_error(&settings, &[]);
        assert!(
            error.starts_with("matchmaker_private_key: missing: name its file as"),
            "{error}"
        );
    }
    let errors = load_with(Some(&servers), &[]).unwrap_err();
    assert!(errors[0].starts_with("matchmaker_private_key: missing"), "{errors:?}");
}

#[test]
fn all_faults_of_the_service_are_told_at_once() {
    let file = json!({
        "matchmaker_bind": "3000", "matchmaker_enabled": true, "matchmaker_provider": "edgegap",
        "matchmaker_app_name": "two words", "matchmaker_app_version": "v0.0.1", "matchmaker_cors": ["*"],
        "matchmaker_fake_ip": "me", "matchmaker_deadline": "1h", "matchmaker_ticket_secret": "short",
        "matchmaker_report_secret": "with blanks in between", "matchmaker_protocol_id": -1,
        "matchmaker_token_layout": "renet", "matchmaker_token_expire": "61s", "edgegap_url": "api.edgegap.com",
        "edgegap_cert_digest": "ab", "edgegap_max_players": 0, "edgegap_workers": 5, "matchmaker_nats_host": "nats://a",
        "game_servers": [{ "id": "a", "addr": "203.0.113.1:7" }], "lightyear-private-key": "1,2,3",
    });
    let errors = load_with(Some(&file.to_string()), &[("NATS_HOST", "a b")]).unwrap_err();
    let keys: Vec<&str> = errors.iter().map(|error| error.split_once(": ").unwrap().0).collect();
    for key in file
        .as_object()
        .unwrap()
        .keys()
        .filter(|key| !matches!(&***key, "matchmaker_enabled" | "matchmaker_provider"))
    {
        let key = if key == "lightyear-private-key" {
            "matchmaker_private_key"
        } else {
            key
        };
        assert!(keys.contains(&key), "{key}: {errors:?}");
    }
    assert!(
        keys.contains(&"edgegap_api_key") && keys.contains(&"matchmaker_state_file"),
        "{errors:?}"
    );
    assert_eq!(keys.iter().filter(|key| **key == "matchmaker_nats_host").count(), 2);
    assert!(errors.iter().any(|error| error.ends_with("in NATS_HOST")), "{errors:?}");
}

#[test]
fn a_private_key_is_never_in_the_file() {
    for name in ["matchmaker_private_key", "lightyear-private-key"] {
        for value in [json!(KEY), json!("***"), json!([1, 2])] {
            let error = one_error(&json!({ name: value }).to_string(), &[]);
            assert!(error.starts_with("matchmaker_private_key: may not stand in this file; name a file of its own as"));
            assert!(!error.contains(KEY) && error.contains("LIGHTYEAR_PRIVATE_KEY or PEER_MATCHMAKER_PRIVATE_KEY"));
        }
        loaded(&json!({ name: "" }).to_string(), &[]);
        loaded(&json!({ name: null }).to_string(), &[]);
    }
    let config = loaded("{}", WITH_KEY);
    assert_eq!(config.to_json()["matchmaker_private_key"], "");
    assert_eq!(config.to_json_masked()["matchmaker_private_key"], "***");
}

#[test]
fn a_private_key_comes_from_the_environment_or_from_a_file_of_its_own() {
    let files = Files::new();
    let numbers = ["92"; 32].join(", ");
    let path = files.write("key", format!("{numbers}\r\n"));
    let path = path.to_str().unwrap();
    for (file, env) in [
        ("{}".to_owned(), ("LIGHTYEAR_PRIVATE_KEY", &*numbers)),
        ("{}".to_owned(), ("PEER_MATCHMAKER_PRIVATE_KEY", KEY)),
        ("{}".to_owned(), ("LIGHTYEAR_PRIVATE_KEY_FILE", path)),
        ("{}".to_owned(), ("PEER_MATCHMAKER_PRIVATE_KEY_FILE", path)),
        (
            json!({ "matchmaker_private_key_file": path }).to_string(),
            ("UNRELATED", ""),
        ),
        (
            json!({ "matchmaker_private_key_file": "/nonexistent" }).to_string(),
            ("LIGHTYEAR_PRIVATE_KEY", KEY),
        ),
    ] {
        assert_eq!(
            loaded(&file, &[env]).matchmaker.general_key(),
            Some([92; 32]),
            "{env:?}"
        );
    }
    let error = one_error(
        "{}",
        &[("LIGHTYEAR_PRIVATE_KEY", KEY), ("LIGHTYEAR_PRIVATE_KEY_FILE", path)],
    );
    assert!(error.starts_with("matchmaker_private_key: given twice"), "{error}");
    let error = one_error(r#"{"matchmaker_private_key_file":"/nonexistent"}"#, &[]);
    assert!(
        error.starts_with("matchmaker_private_key_file: cannot read /nonexistent"),
        "{error}"
    );
}

#[test]
fn what_is_no_key_is_told_without_repeating_it() {
    let files = Files::new();
    let short = "123456789";
    for (text, why) in [(short, "is neither 64 hex digits"), (&*"0".repeat(64), "is all zeros")] {
        let path = files.write("key", text);
        let in_file = json!({ "matchmaker_private_key_file": path }).to_string();
        for error in [
            one_error("{}", &[("LIGHTYEAR_PRIVATE_KEY", text)]),
            one_error(&in_file, &[]),
        ] {
            assert!(error.starts_with(&format!("matchmaker_private_key: {why}")), "{error}");
            assert!(!error.contains(text), "{error}");
        }
        let mut settings = service();
        settings["game_servers"][0]["private_key_file"] = json!(path);
        let error = one_error(&settings.to_string(), WITH_KEY);
        assert!(
            error.starts_with("game_servers: a: the key in ") && error.contains(why),
            "{error}"
        );
        assert!(!error.contains(text), "{error}");
    }
}

#[test]
fn a_server_may_have_a_key_of_its_own_which_nobody_prints() {
    let files = Files::new();
    let mut settings = service();
    settings["game_servers"][0]["private_key_file"] = json!(files.write("key", "6d".repeat(32)));
    let config = loaded(&settings.to_string(), WITH_KEY);
    assert_eq!(config.matchmaker.servers[0].private_key, Some([0x6d; 32]));
    for text in [
        format!("{config:?}"),
        format!("{:?}", config.matchmaker.servers),
        config.to_json().to_string(),
    ] {
        assert!(!text.contains("6d6d") && !text.contains("109, 109"), "{text}");
    }
    settings["game_servers"][0]["private_key_file"] = json!("/nonexistent");
    let error = one_error(&settings.to_string(), WITH_KEY);
    assert!(
        error.starts_with("game_servers: a: cannot read /nonexistent"),
        "{error}"
    );
}

#[test]
fn words_of_other_programs_are_keys_too() {
    let file = json!({
        "app-name": "g", "app-version": "1", "lightyear-protocol-id": u64::MAX, "cors": ["http://localhost:8000"],
        "bind": "0.0.0.0:3000", "fake-ip": "81.128.157.100", "game_servers": service()["game_servers"],
        "matchmaker_report_secret": "reports-of-servers",
    });
    let settings = loaded(&file.to_string(), WITH_KEY).matchmaker;
    assert_eq!((&*settings.app_name, &*settings.app_version), ("g", "1"));
    assert_eq!((settings.protocol_id, settings.cors.len()), (u64::MAX, 1));
    assert_eq!(settings.bind, Some("0.0.0.0:3000".parse().unwrap()));
    assert_eq!(settings.fake_ip, Some("81.128.157.100".parse().unwrap()));
    for key in KEYS {
        let Some(word) = key.word.filter(|_| !key.is_kept_out_of_the_file) else {
            continue;
        };
        let value = match key.name {
            "matchmaker_protocol_id" => json!(7),
            _ => file[word].clone(),
        };
        let error = one_error(&json!({ word: value, key.name: value }).to_string(), WITH_KEY);
        assert!(
            error.starts_with(&format!("{}: given twice, also as {word}", key.name)),
            "{error}"
        );
    }
}

#[test]
fn flags_of_other_programs_beat_everything() {
    let env = |name: &str| match name {
        "PEER_MATCHMAKER_APP_NAME" => Some("from-the-environment".to_owned()),
        "LIGHTYEAR_PRIVATE_KEY" => Some(KEY.to_owned()),
        _ => None,
    };
    let flags = |words: &[(&'static str, &str)]| Flags {
        port: None,
        words: words.iter().map(|(word, text)| (*word, (*text).to_owned())).collect(),
    };
    let files = Files::new();
    let path = files.write("c.json", with(service(), "app-version", json!("1")));
    let all = flags(&[
        ("app-name", "first"),
        ("app-name", "g"),
        ("app-version", "2"),
        ("lightyear-protocol-id", "18446744073709551615"),
        ("cors", "http://a.example, http://b.example"),
        ("bind", "127.0.0.1:3000"),
        ("fake-ip", "2001:db8::1"),
    ]);
    let settings = load(Some(&path), &env, &all).unwrap().config.matchmaker;
    assert_eq!((&*settings.app_name, &*settings.app_version), ("g", "2"));
    assert_eq!((settings.protocol_id, settings.cors.len()), (u64::MAX, 2));
    assert_eq!(settings.fake_ip, Some("2001:db8::1".parse().unwrap()));
    for (word, text, why) in [
        (
            "app-name",
            "two words",
            "matchmaker_app_name: \"two words\" is not a name",
        ),
        (
            "lightyear-protocol-id",
            "many",
            "matchmaker_protocol_id: \"many\" is not a whole number",
        ),
        (
            "lightyear-protocol-id",
            "18446744073709551616",
            "matchmaker_protocol_id: 18446744073709551616 is out of range",
        ),
        ("cors", "*", "matchmaker_cors: \"*\" is not an origin"),
        (
            "bind",
            "3000",
            "matchmaker_bind: \"3000\" is not an IP address with a port",
        ),
        ("fake-ip", "me", "matchmaker_fake_ip: \"me\" is not an IP address"),
    ] {
        let errors = load(None, &|_| None, &flags(&[(word, text)])).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].starts_with(why) && errors[0].ends_with(&format!(", in --{word}")),
            "{errors:?}"
        );
    }
    let words: Vec<&str> = KEYS
        .iter()
        .filter(|key| !key.is_kept_out_of_the_file)
        .filter_map(|key| key.word)
        .collect();
    assert_eq!(words.len(), 6, "{words:?}");
}

#[test]
fn variables_of_other_programs_are_read() {
    let env = [
        ("NATS_HOST", "nats.example:4222"),
        ("NATS_USER", "u"),
        ("NATS_PASS", "second"),
        ("NATS_CA", "/ca.pem"),
        ("NATS_CA_CONTENTS", "-----BEGIN"),
        ("EDGEGAP_API_KEY", "token x"),
    ];
    let settings = loaded("{}", &env).matchmaker;
    assert_eq!(
        (&*settings.nats.host, &*settings.nats.user, &*settings.nats.password),
        ("nats.example:4222", "u", "second")
    );
    assert_eq!(
        (settings.nats.ca, &*settings.nats.ca_contents),
        (Some("/ca.pem".into()), "-----BEGIN")
    );
    assert_eq!(settings.edgegap.api_key, "token x");
    // The broker's are others.
    assert_eq!(loaded("{}", &env).nats_url, "");
    let both = [("NATS_PASSWORD", "first"), ("NATS_PASS", "second")];
    assert_eq!(loaded("{}", &both).matchmaker.nats.password, "first");
}

#[test]
fn a_variable_that_is_there_does_without_tls_whatever_it_says() {
    for (name, text, insecure) in [
        ("NATS_INSECURE", "1", true),
        ("NATS_INSECURE", "0", true),
        ("NATS_INSECURE", "false", true),
        ("NATS_INSECURE", "please", true),
        ("NATS_INSECURE", "", false),
        ("PEER_MATCHMAKER_NATS_INSECURE", "1", true),
        ("PEER_MATCHMAKER_NATS_INSECURE", "false", false),
    ] {
        assert_eq!(
            loaded("{}", &[(name, text)]).matchmaker.nats.insecure,
            insecure,
            "{name}={text}"
        );
    }
}

#[test]
fn game_servers_may_stand_in_the_environment_as_json() {
    let text = service()["game_servers"].to_string();
    let warning = one_warning("{}", &[("PEER_GAME_SERVERS", &text)]);
    assert!(warning.starts_with("game_servers: without effect"), "{warning}");
    for (text, why) in [
        ("a,b", "game_servers: is not JSON"),
        ("{}", "game_servers: must be a list of objects, not an object"),
        ("[{}]", "game_servers: number 1: id is missing"),
    ] {
        let error = one_error("{}", &[("PEER_GAME_SERVERS", text)]);
        assert!(
            error.starts_with(why) && error.ends_with(", in PEER_GAME_SERVERS"),
            "{error}"
        );
    }
    let mut twice = service();
    let again = twice["game_servers"][0].clone();
    twice["game_servers"].as_array_mut().unwrap().push(again);
    assert_eq!(
        one_error(&twice.to_string(), WITH_KEY),
        "game_servers: the id \"a\" is given twice"
    );
}

#[test]
fn both_ends_of_nats_at_once_answer_nobody() {
    let file = with(back(), "matchmaker_provider", json!("nats"));
    assert!(one_error(&file, WITH_KEY).starts_with("matchmaker_nats_back: nobody would answer"));
}

#[test]
fn a_token_is_over_before_its_player_is_forgotten() {
    let expires =
        |settings, text: &str| load_with(Some(&with(settings, "matchmaker_token_expire", json!(text))), WITH_KEY);
    assert!(expires(back(), "25s").is_ok());
    let errors = expires(back(), "25001ms").unwrap_err();
    assert!(
        errors[0].starts_with("matchmaker_token_expire: too long (at most 25s"),
        "{errors:?}"
    );
    assert!(expires(service(), "60s").is_ok());
    for text in ["999ms", "61s"] {
        let errors = expires(service(), text).unwrap_err();
        assert!(errors[0].ends_with("is out of range (1s to 60s)"), "{errors:?}");
    }
}

#[test]
fn secrets_are_long_enough_and_can_travel() {
    for key in ["matchmaker_ticket_secret", "matchmaker_report_secret"] {
        let error = one_error(&json!({ key: "fifteen-letters" }).to_string(), &[]);
        assert_eq!(error, format!("{key}: too short (at least 16 characters)"));
        loaded(&json!({ key: "sixteen--letters" }).to_string(), &[]);
    }
    for (key, text) in [
        ("matchmaker_report_secret", "with a blank in it"),
        ("matchmaker_report_secret", "Umlaute-stören-hier"),
        ("edgegap_api_key", "token x\r\nX: y"),
        ("edgegap_api_key", " token x"),
    ] {
        let error = one_error(&json!({ key: text }).to_string(), &[]);
        assert!(
            error.starts_with(&format!("{key}: has ")) && !error.contains(text),
            "{error}"
        );
    }
    loaded(r#"{"matchmaker_ticket_secret":"any text at all, ä"}"#, &[]);
}

#[test]
fn what_works_but_hardly_as_meant_is_told() {
    for (settings, key, value, why) in [
        (
            service(),
            "game_servers",
            json!([]),
            "game_servers: empty: every player",
        ),
        (
            service(),
            "matchmaker_enabled",
            json!(false),
            "game_servers: without effect",
        ),
        (
            service(),
            "matchmaker_report_secret",
            json!(""),
            "game_servers: a: no cert_digest",
        ),
        (
            cloud(),
            "edgegap_api_key",
            json!("x"),
            "edgegap_api_key: does not begin with",
        ),
        (
            cloud(),
            "edgegap_cert_digest",
            json!(""),
            "edgegap_cert_digest: missing",
        ),
        (
            cloud(),
            "edgegap_url",
            json!("http://cloud.example"),
            "edgegap_url: has no TLS",
        ),
    ] {
        let warning = one_warning(&with(settings, key, value), WITH_KEY);
        assert!(warning.starts_with(why), "{warning}");
    }
    let mut settings = service();
    settings["game_servers"][0]["public"] = json!("[2001:db8::1]:7");
    assert!(one_warning(&settings.to_string(), WITH_KEY).starts_with("game_servers: a: nobody is sent"));
    settings["matchmaker_ipv6"] = json!(true);
    loaded(&settings.to_string(), WITH_KEY);
    let mut open = front();
    open["matchmaker_nats_user"] = json!("");
    open["matchmaker_nats_password"] = json!("");
    assert!(one_warning(&open.to_string(), &[]).starts_with("matchmaker_nats_user: missing"));
}

#[test]
fn the_service_may_be_bound_where_everything_else_is() {
    let mut settings = service();
    settings["host"] = json!("127.0.0.1");
    settings["bind"] = json!("127.0.0.1:8080");
    loaded(&settings.to_string(), WITH_KEY);
}
