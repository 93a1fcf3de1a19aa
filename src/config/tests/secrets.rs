//! Secrets: in files of their own, in one source or another, and never printed.

use super::super::keys::SECRETS;
use super::*;

#[test]
fn a_secret_loses_one_line_break_at_its_end() {
    let files = Files::new();
    for (content, password) in [
        ("s3", "s3"),
        ("s3\n", "s3"),
        ("s3\r\n", "s3"),
        ("s3\n\n", "s3\n"),
        (" s3 ", " s3 "),
    ] {
        let path = files.write("p", content);
        let config = loaded("{}", &[("REDIS_PASSWORD_FILE", path.to_str().unwrap())]);
        assert_eq!(
            (config.redis_password.as_str(), config.redis_password_file),
            (password, Some(path))
        );
    }
    let empty = files.write("p", "\n");
    let on_nats = json!({ "broker_type": "nats", "nats_url": "nats://host", "nats_token_file": empty });
    assert!(one_warning(&on_nats.to_string(), &[]).starts_with("nats_token_file: "));
}

#[test]
fn a_secret_and_its_file_exclude_each_other_in_one_source_only() {
    let files = Files::new();
    // What every secret may be.
    let (direct, filed) = (KEY, "6d".repeat(32));
    let path = files.write("p", &filed);
    for secret in SECRETS.iter().filter(|secret| secret.key != "matchmaker_private_key") {
        let both = json!({ secret.key: direct, secret.file_key: path }).to_string();
        assert!(one_error(&both, &[]).starts_with(&format!("{}: given twice", secret.key)));
        let (name, file_name) = (
            format!("PEER_{}", secret.key.to_uppercase()),
            format!("PEER_{}", secret.file_key.to_uppercase()),
        );
        let errors = one_error("{}", &[(&name, direct), (&file_name, path.to_str().unwrap())]);
        assert!(errors.starts_with(&format!("{}: given twice", secret.key)));

        let mut config = loaded(
            &json!({ secret.key: direct }).to_string(),
            &[(&file_name, path.to_str().unwrap())],
        );
        assert_eq!(
            (secret.fields)(&mut config),
            (&mut filed.clone(), &mut Some(path.clone()))
        );
        // The file named by the weaker source is not even opened.
        let mut config = loaded(
            &json!({ secret.file_key: "/nonexistent" }).to_string(),
            &[(&name, direct)],
        );
        assert_eq!((secret.fields)(&mut config), (&mut direct.to_owned(), &mut None));

        let error = one_error(&json!({ secret.file_key: "/nonexistent" }).to_string(), &[]);
        assert!(error.starts_with(&format!("{}: cannot read /nonexistent", secret.file_key)));
    }
}

#[test]
fn no_secret_is_printed() {
    let files = Files::new();
    let file = json!({
        "redis_password": "s3cret", "nats_password": "s3cret", "nats_token_file": files.write("p", "s3cret"),
        "nats_url": "nats://u:s3cret,x@y@h1:4222", "redis_addr": "s3cret@h2:6379", "turn_secret": "s3cret",
        "matchmaker_ticket_secret": "s3cret-of-tickets", "matchmaker_report_secret": "s3cret-of-reports",
        "edgegap_api_key": "token s3cret", "matchmaker_nats_password": "s3cret",
    });
    let config = loaded(&file.to_string(), &[("LIGHTYEAR_PRIVATE_KEY", KEY)]);
    let masked = config.to_json_masked();
    for text in [masked.to_string(), format!("{config:?}")] {
        assert!(!text.contains("s3cret") && !text.contains(KEY), "{text}");
    }
    for secret in SECRETS {
        assert_eq!(masked[secret.key], "***");
    }
    assert_eq!(
        (&masked["nats_url"], &masked["redis_addr"]),
        (&json!("nats://***@h1:4222"), &json!("***@h2:6379"))
    );
    assert_eq!(Config::default().to_json_masked(), Config::default().to_json());
    let error = one_error(r#"{"redis_password":["s3cret"]}"#, &[]);
    assert!(!error.contains("s3cret"), "{error}");
}
