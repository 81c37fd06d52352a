use std::time::Duration;

use super::*;
use crate::config::{Cluster, Durability, Protocol};

/// Sources with one settings file of this name and text; the folder lives as long as the test.
fn with_file(name: &str, text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    (
        folder,
        Sources {
            file: Some(file),
            ..Sources::default()
        },
    )
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn flag(key: &str, value: &str) -> Flag {
    Flag {
        key: key.to_owned(),
        value: value.to_owned(),
        typed: format!("--set {key}"),
    }
}

/// Problems as lines, without the folder that the file is in.
fn problems(sources: &Sources) -> Vec<String> {
    let refused = load(sources).unwrap_err();
    lines(sources, &refused.problems)
}

fn warnings(sources: &Sources) -> Vec<String> {
    lines(sources, &load(sources).unwrap().warnings)
}

fn lines(sources: &Sources, problems: &[Problem]) -> Vec<String> {
    let folder = sources
        .file
        .as_ref()
        .map(|file| format!("{}/", file.parent().unwrap().display()));
    problems
        .iter()
        .map(|problem| problem.to_string().replace(folder.as_deref().unwrap_or("\0"), ""))
        .collect()
}

#[test]
fn the_embedded_defaults_load_without_a_word() {
    let loaded = load(&Sources::default()).unwrap();

    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.router.http_port, 5001);
    assert_eq!(loaded.config.cluster, None);
    assert_eq!(
        loaded.config.store.url.as_deref(),
        Some("sqlite://openhim-data/openhim.db")
    );
    assert!(loaded.settings.iter().all(|setting| setting.origin == Origin::Default));
}

#[test]
fn flags_win_over_environment_over_file_over_profile_over_defaults() {
    let text = r#"{"logger": {"level": "debug"}, "router": {"httpPort": 1, "httpsPort": 2, "timeout": 3}}"#;
    let (_folder, mut sources) = with_file("openhim.json", text);
    sources.environment = environment(&[
        ("NODE_ENV", "production"),
        ("router_httpPort", "11"),
        ("router_httpsPort", "12"),
    ]);
    sources.flags = vec![flag("router.httpPort", "21")];

    let loaded = load(&sources).unwrap();

    let router = &loaded.config.router;
    assert_eq!((router.http_port, router.https_port, router.timeout), (21, 12, 3));
    assert_eq!(router.route_timeout(), Duration::from_millis(3));
    assert_eq!(loaded.config.logger.level, "debug");
    assert!(!loaded.config.logger.cap_db_logs, "the profile says so");
    let origin = |key: &str| {
        let setting = loaded.settings.iter().find(|setting| setting.key == key).unwrap();
        setting.origin.to_string().rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(origin("router.httpPort"), "flag --set router.httpPort");
    assert_eq!(origin("router.httpsPort"), "environment router_httpsPort");
    assert_eq!(origin("router.timeout"), "openhim.json:1:85");
    assert_eq!(origin("logger.capDBLogs"), "default of NODE_ENV=production");
    assert_eq!(origin("router.kafkaBrokers"), "default");
}

#[test]
fn yaml_takes_the_same_keys() {
    let text = "api:\n  protocol: http\n  authenticationTypes: [local]\ntrustedProxies:\n  - 10.0.0.1\ncluster: 2\n";
    let (_folder, sources) = with_file("openhim.yaml", text);

    let config = load(&sources).unwrap().config;

    assert_eq!(config.api.protocol, Protocol::Http);
    assert_eq!(config.api.authentication_types, ["local"]);
    assert_eq!(config.trusted_proxies, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!(config.cluster, Some(Cluster::Count(2)));
}

#[test]
fn lists_are_replaced_whole_and_objects_are_merged() {
    let text = r#"{"api": {"authenticationTypes": ["token"]}, "email": {"nodemailer": {"auth": {"user": "me"}}}}"#;
    let (_folder, mut sources) = with_file("openhim.json", text);
    sources.environment = environment(&[
        ("auditing_servers_udp_enabled", "yes"),
        ("email_nodemailer_tls_rejectUnauthorized", "false"),
        ("email_nodemailer_port", "2525"),
    ]);

    let config = load(&sources).unwrap().config;

    assert_eq!(config.api.authentication_types, ["token"]);
    assert!(config.auditing.servers.udp.enabled);
    assert_eq!(config.auditing.servers.udp.port, 5050);
    assert_eq!(
        config.email.unwrap().nodemailer,
        serde_json::json!({
            "service": "Gmail", "port": 2525, "auth": {"user": "me", "pass": "password"},
            "tls": {"rejectUnauthorized": false}
        })
    );
}

#[test]
fn the_environment_is_typed_by_the_key() {
    let sources = Sources {
        environment: environment(&[
            ("logger_logToDB", "true"),
            ("api_secureCookie", "false"),
            ("rerun_processor_enabled", "0"),
            ("events_enableTSNormalization", "1"),
            ("api_authenticationTypes", r#"["token", "basic", "openid", "local"]"#),
            ("authentication_jwt_secretOrPublicKey", "12345"),
            ("store_durability", "strict"),
            ("cluster", "3"),
        ]),
        ..Sources::default()
    };

    let config = load(&sources).unwrap().config;

    assert!(config.logger.log_to_db && config.events.enable_ts_normalization);
    assert!(!config.api.secure_cookie && !config.rerun.processor.enabled);
    assert_eq!(config.api.authentication_types, ["token", "basic", "openid", "local"]);
    assert_eq!(config.authentication.jwt.secret_or_public_key, "12345");
    assert_eq!(config.store.durability, Durability::Strict);
    assert_eq!(config.cluster, Some(Cluster::Count(3)));
}

#[test]
fn every_problem_is_told_with_key_environment_form_place_and_what_is_expected() {
    let text = "{\n  \"router\": {\"httpPort\": \"five\", \"timeout\": 0},\n  \"api\": [],\n  \"caching\": {\"enabled\": null}\n}";
    let (_folder, mut sources) = with_file("openhim.json", text);
    sources.environment = environment(&[("logger_level", "loud"), ("cluster", "2.5")]);
    sources.flags = vec![flag("store.url", "postgres://db"), flag("api.sessionKey", "a secret")];

    assert_eq!(
        problems(&sources),
        [
            "openhim.json:2:26: `router.httpPort` (environment `router_httpPort`): expected a port from 0 to 65535, \
             found \"five\"",
            "openhim.json:2:45: `router.timeout` (environment `router_timeout`): expected a whole number from 1, found 0",
            "openhim.json:3:10: `api`: expected an object, found a list",
            "openhim.json:4:26: `caching.enabled` (environment `caching_enabled`): expected true or false, found null",
            "environment logger_level: `logger.level` (environment `logger_level`): expected one of off, fatal, error, \
             warn, info, http, verbose, debug, silly or trace, found \"loud\"",
            "environment cluster: invalid --cluster argument entered: 2.5. Please enter a positive number \
             or 'auto'.",
            "flag --set store.url: `store.url` (environment `store_url`): expected an address that begins with \
             sqlite://, mongodb:// or mongodb+srv://, found \"postgres://db\"",
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let missing = Sources {
        file: Some("/nowhere/openhim.json".into()),
        ..Sources::default()
    };
    assert_eq!(
        problems(&missing),
        [
            "/nowhere/openhim.json: cannot read the settings file: No such file or directory (os error 2)"
                .replace("/nowhere/", "")
        ]
    );

    let (_folder, broken) = with_file("openhim.json", "{\n  \"router\": {\n    \"httpPort\": 5001,\n  }\n}");
    assert_eq!(problems(&broken), ["openhim.json:4:3: not valid JSON: trailing comma"]);

    let (_folder, broken) = with_file("openhim.yaml", "router:\n  httpPort: 1\n bad: 2\n");
    assert!(
        problems(&broken)[0].starts_with("openhim.yaml:3:"),
        "{:?}",
        problems(&broken)
    );
}

#[test]
fn the_rerun_port_is_for_this_machine_and_says_so() {
    let on = |host: &str, port: &str| Sources {
        flags: vec![flag("rerun.host", host), flag("rerun.httpPort", port)],
        ..Sources::default()
    };
    for host in ["localhost", "127.0.0.1", "::1"] {
        assert_eq!(warnings(&on(host, "7786")), Vec::<String>::new(), "{host}");
    }
    assert_eq!(warnings(&on("0.0.0.0", "0")), Vec::<String>::new());
    let told = warnings(&on("0.0.0.0", "7786"));
    assert!(told.len() == 1 && told[0].contains("this machine only"), "{told:?}");
}

#[test]
fn unknown_keys_warn_with_a_suggestion() {
    let text =
        "{\n  \"routr\": {\"httpPort\": 1},\n  \"api\": {\"prot\": 8080},\n  \"router.timeout\": 5,\n  \"zzz\": 1\n}";
    let (_folder, mut sources) = with_file("openhim.json", text);
    sources.environment = environment(&[
        ("MONGO_URL", "mongodb://db"),
        ("router_httpsport", "1"),
        ("email", "someone@example.org"),
        ("HOME", "/root"),
        ("NODE_ENV", "staging"),
    ]);
    sources.flags = vec![flag("caching.enable", "true")];

    assert_eq!(
        warnings(&sources),
        [
            "environment NODE_ENV: there is no profile `staging`, only development, production and test; the defaults \
             are used",
            "openhim.json:2:3: unknown key `routr` is ignored; did you mean `router`?",
            "openhim.json:3:11: unknown key `api.prot` is ignored; did you mean `api.port`?",
            "openhim.json:5:3: unknown key `zzz` is ignored",
            "environment MONGO_URL: ignored, since names are case-sensitive; did you mean `mongo_url`?",
            "environment router_httpsport: unknown key `router.httpsport` is ignored; did you mean `router.httpsPort`?",
            "environment email: ignored: `email` is a section, set the keys below it",
            "flag --set caching.enable: unknown key `caching.enable` is ignored; did you mean `caching.enabled`?",
        ]
    );
}

#[test]
fn the_store_follows_mongo_url_only_where_a_person_gave_it() {
    let store = |pairs: &[(&str, &str)]| {
        let sources = Sources {
            environment: environment(pairs),
            ..Sources::default()
        };
        let config = load(&sources).unwrap().config;
        (config.store.url.unwrap(), config.mongo.atna_url)
    };
    let sqlite = "sqlite://openhim-data/openhim.db".to_owned();

    assert_eq!(store(&[("NODE_ENV", "development")]).0, sqlite);
    let url = "mongodb://db/openhim".to_owned();
    assert_eq!(store(&[("mongo_url", &url)]), (url.clone(), url.clone()));
    assert_eq!(
        store(&[("mongo_url", &url), ("mongo_atnaUrl", "mongodb://audits/a")]).1,
        "mongodb://audits/a"
    );
    assert_eq!(
        store(&[("mongo_url", &url), ("store_url", "sqlite:///data/a.db")]).0,
        "sqlite:///data/a.db"
    );
}

#[test]
fn a_dotted_name_in_a_file_is_the_nested_one() {
    let (_folder, sources) = with_file("openhim.yaml", "router.timeout: 5\nrouter.httpPort: none\n");
    assert!(
        problems(&sources)[0].starts_with("openhim.yaml:2:18: `router.httpPort`"),
        "{:?}",
        problems(&sources)
    );

    let (_folder, sources) = with_file("openhim.yaml", "router.timeout: 5\n");
    assert_eq!(load(&sources).unwrap().config.router.timeout, 5);
}

#[test]
fn the_environments_conf_names_a_file_and_the_flag_wins() {
    let (folder, mut sources) = with_file("flag.json", r#"{"router": {"httpPort": 1}}"#);
    let other = folder.path().join("environment.json");
    fs::write(&other, r#"{"router": {"httpPort": 2}}"#).unwrap();
    sources.environment = environment(&[("conf", other.to_str().unwrap())]);

    assert_eq!(load(&sources).unwrap().config.router.http_port, 1);
    sources.file = None;
    assert_eq!(load(&sources).unwrap().config.router.http_port, 2);
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let text = r#"{"router": {"httpPort": 8080}, "api": {"authenticationTypes": []},
        "auditing": {"servers": {"tls": {"enabled": true, "port": 5052}, "tcp": {"enabled": false}},
                     "auditEvents": {"interface": "tls", "port": 0}}}"#;
    let (_folder, mut sources) = with_file("openhim.json", text);
    assert_eq!(
        problems(&sources),
        [
            "openhim.json:1:25: `router.httpPort`: port 8080 is already taken by `api.port`; give each listener its \
             own, or 0 to leave it out",
            "openhim.json:1:63: `api.authenticationTypes`: an empty list lets nobody use the API",
            "openhim.json:3:66: `auditing.auditEvents.port`: audits go out over tls, to which port?",
        ]
    );

    sources.environment = environment(&[("auditing_servers_tcp_enabled", "true")]);
    assert!(
        problems(&sources)
            .iter()
            .any(|line| line.contains("port 5052 is already taken"))
    );
}

#[test]
fn secrets_are_never_shown() {
    let sources = Sources {
        environment: environment(&[
            ("mongo_url", "mongodb://me:hunter2@db/openhim"),
            ("api_sessionKey", "hunter2"),
            ("email_nodemailer_auth_pass", "hunter2"),
            ("nodemailer_auth_pass", "hunter2"),
        ]),
        ..Sources::default()
    };

    let settings = load(&sources).unwrap().settings;

    assert!(
        settings.iter().all(|setting| !setting.value.contains("hunter2")),
        "{settings:#?}"
    );
    let shown = |key: &str| {
        settings
            .iter()
            .find(|setting| setting.key == key)
            .unwrap()
            .value
            .clone()
    };
    assert_eq!(shown("store.url"), "\"mongodb://me:***@db/openhim\"");
    assert_eq!(shown("nodemailer.auth.pass"), "***");
    assert_eq!(shown("authentication.jwt.secretOrPublicKey"), "\"\"");

    let wrong = Sources {
        environment: environment(&[("mongo_url", "mongo://me:hunter2@db")]),
        ..Sources::default()
    };
    assert!(!problems(&wrong)[0].contains("hunter2"));
}
