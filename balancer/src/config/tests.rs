use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::plan::{Admin, CheckKind, ClientIp, LogFormat, Mode, Schedule};

fn file(text: &str) -> Result<Checked, Problems> {
    Config::from_text(text, Path::new("balancer.yaml"))?.check()
}

fn plan(text: &str) -> Plan {
    file(text).expect("a good file").plan
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn the_documented_example_is_understood() {
    let plan = plan(
        "
services:
  - name: https
    listen: 0.0.0.0:5000
    mode: tcp
    schedule: rr
    client_ip: proxy-v2
    check: { type: https, port: 8080, path: /heartbeat, insecure: true, interval: 3s, rise: 2, fall: 4 }
    backends: [10.0.0.2:5000, { address: 10.0.0.3:5000, weight: 2 }, { address: 10.0.0.4:5000, backup: true }]
  - name: http
    listen: 0.0.0.0:5001
    backends_file: nodes-http.txt
",
    );

    let [https, http] = plan.services.as_slice() else {
        panic!("two services")
    };
    assert_eq!(
        (&*https.name, https.mode, https.schedule),
        ("https", Mode::Tcp, Schedule::Rr)
    );
    assert_eq!(https.client_ip, ClientIp::ProxyV2);
    assert_eq!(
        (https.check.kind, https.check.port, https.check.fall),
        (CheckKind::Https, Some(8080), 4)
    );
    assert_eq!(https.check.interval, Duration::from_secs(3));
    assert!(https.check.insecure);
    let backends: Vec<_> = https
        .backends
        .iter()
        .map(|it| (it.endpoint.to_string(), it.weight, it.backup))
        .collect();
    assert_eq!(
        backends,
        [
            ("10.0.0.2:5000".to_owned(), 1, false),
            ("10.0.0.3:5000".to_owned(), 2, false),
            ("10.0.0.4:5000".to_owned(), 1, true)
        ]
    );
    assert_eq!(http.backends_file.as_deref(), Some(Path::new("nodes-http.txt")));
    assert_eq!(http.check.kind, CheckKind::Tcp);
}

#[test]
fn what_is_not_written_is_as_the_manual_says() {
    let plan = plan("backends: 10.0.0.2:5000, 10.0.0.3:5000@2");

    assert_eq!(plan.process.metrics, Some(SocketAddr::from(([127, 0, 0, 1], 9101))));
    assert_eq!(
        (plan.process.admin, plan.process.log, plan.process.threads),
        (Admin::Default, LogFormat::Auto, None)
    );
    let service = &plan.services[0];
    assert_eq!(
        (&*service.name, service.listen[0].to_string()),
        ("0.0.0.0:5000", "0.0.0.0:5000".into())
    );
    assert_eq!(service.backends.iter().map(|it| it.weight).collect::<Vec<_>>(), [1, 2]);
    let times = service.timeouts;
    assert_eq!(
        [times.connect, times.idle, times.half_close, times.drain].map(|it| it.as_secs()),
        [1, 0, 60, 30]
    );
    assert_eq!(
        (service.check.rise, service.check.fall, service.check.interval.as_secs()),
        (2, 3, 2)
    );
}

#[test]
fn every_manual_default_is_the_default() {
    let written: Vec<(&str, &str)> = keys::KEYS
        .iter()
        .filter(|key| {
            !matches!(
                key.name,
                "services" | "name" | "admin" | "log" | "check_port" | "check_host" | "maxconn"
            )
        })
        .filter(|key| !key.default.is_empty())
        .map(|key| (key.name, key.default))
        .collect();
    let explicit = Config::from_options(written)
        .with_options([("backends", "10.0.0.2:80")])
        .check()
        .expect("defaults");
    let implicit = Config::from_options([("backends", "10.0.0.2:80")])
        .check()
        .expect("a good command line");

    assert_eq!(explicit.plan, implicit.plan);
    assert!(explicit.warnings.is_empty(), "{}", explicit.warnings);
}

#[test]
fn all_problems_are_reported_each_with_its_place() {
    let problems = file(
        "threads: many
services:
  - name: a
    listen: nowhere
    check: { type: https, port: 80800 }
    backends: [10.0.0.2, { weight: 2 }]
  - name: a
    schedule: robin
    backends: []
",
    )
    .expect_err("bad");

    let lines = lines(&problems);
    let expected = [
        "balancer.yaml:1:10: threads: `many` is not a whole number from 1 to 1024",
        "balancer.yaml:4:13: services[0].listen: `nowhere` is not an address to listen on",
        "balancer.yaml:5:33: services[0].check.port: `80800` is not a whole number from 1 to 65535",
        "balancer.yaml:6:16: services[0].backends[0]: backend `10.0.0.2` has no port",
        "balancer.yaml:6:26: services[0].backends[1]: has no `address`",
        "balancer.yaml:8:15: services[1].schedule: `robin` is not known",
        "balancer.yaml:7:5: services[1].name: a second service is called `a`",
        "balancer.yaml:7:5: services[1].listen: `0.0.0.0:5000` is already the address of service `a`",
    ];
    assert_eq!(lines.len(), expected.len(), "{problems}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\nis not\n{expected}");
    }
}

#[test]
fn a_service_without_backends_is_a_problem() {
    let problems = file("listen: 127.0.0.1:80").expect_err("nobody to serve");

    assert!(problems.to_string().contains("has no backends"), "{problems}");
}

#[test]
fn an_empty_list_is_a_service_whose_backends_come_later() {
    assert!(plan("backends: []").services[0].backends.is_empty());
}

#[test]
fn unknown_keys_warn_and_suggest() {
    let checked = file("backend: x:1\nbackends: [10.0.0.2:1]\ncheck: { intervall: 2s }\nfoo_bar_baz: 1").expect("good");

    let lines = lines(&checked.warnings);
    assert_eq!(
        lines[0],
        "balancer.yaml:1:1: backend: unknown key `backend`; did you mean `backends`?"
    );
    assert!(
        lines[1].contains("unknown key `foo_bar_baz`; it has no effect"),
        "{lines:?}"
    );
    assert!(
        lines[2].contains("check.intervall: unknown key `intervall`; did you mean `interval`?"),
        "{lines:?}"
    );
}

#[test]
fn broken_yaml_names_line_and_column() {
    let text = file("services:\n  - name: [a\n    listen: b")
        .expect_err("broken")
        .to_string();

    assert!(text.starts_with("balancer.yaml:3:"), "{text}");
    assert!(file("").expect_err("empty").to_string().contains("is empty"));
    assert!(
        file("a: 1\n---\nb: 2")
            .expect_err("two")
            .to_string()
            .contains("second document")
    );
    assert!(
        file("- just\n- a list")
            .expect_err("no map")
            .to_string()
            .contains("is not a map")
    );
}

#[test]
fn deep_nesting_is_refused() {
    let deep = format!("backends: {}{}", "[".repeat(100), "]".repeat(100));

    assert!(file(&deep).expect_err("deep").to_string().contains("nested too deeply"));
}

#[test]
fn the_top_of_the_file_holds_defaults_of_all_services() {
    let plan = plan(
        "
connect_timeout: 3s
check: { type: http, port: 8080 }
maxconn: 100
services:
  - { name: a, listen: ':1', backends: [x:1] }
  - { name: b, listen: ':2', backends: [x:1], connect_timeout: 4s, check: none, maxconn: 7 }
",
    );

    let [a, b] = plan.services.as_slice() else {
        panic!("two services")
    };
    assert_eq!((a.timeouts.connect.as_secs(), b.timeouts.connect.as_secs()), (3, 4));
    assert_eq!(
        (a.check.kind, a.check.port, b.check.kind),
        (CheckKind::Http, Some(8080), CheckKind::None)
    );
    assert_eq!((plan.process.maxconn, a.maxconn, b.maxconn), (Some(100), None, Some(7)));
}

#[test]
fn options_name_themselves_in_problems_and_may_repeat() {
    let good = Config::from_options([
        ("--listen", ":1"),
        ("listen", ":2"),
        ("backends", "x:1"),
        ("admin", "off"),
    ]);
    assert_eq!(good.check().expect("good").plan.services[0].listen.len(), 2);

    let bad = Config::from_options([("backends", "10.0.0.2"), ("connect-timeout", "soon")]);
    let problems = bad.check().expect_err("two problems").to_string();
    assert!(
        problems.contains("--backends: backend `10.0.0.2` has no port"),
        "{problems}"
    );
    assert!(
        problems.contains("--connect-timeout: `soon` is not a time"),
        "{problems}"
    );
}

#[test]
fn json_is_read_too() {
    let plan = plan(r#"{"services": [{"name": "x", "listen": "127.0.0.1:1", "backends": ["10.0.0.2:1"], "rise": 1}]}"#);

    assert_eq!(plan.services[0].check.rise, 1);
}

#[test]
fn what_ipvsadm_saved_is_a_configuration() {
    let plan = plan(
        "-A -t 10.0.0.1:5000 -s rr -p 600
-a -t 10.0.0.1:5000 -r 10.0.0.2:5000 -m -w 1
-a -t 10.0.0.1:5000 -r 10.0.0.3:5000 -m -w 3 -x 100 -y 50
-A -u 10.0.0.1:5050 -s wlc
-a -u 10.0.0.1:5050 -r 10.0.0.2:5050 -m -w 1
",
    );

    let [tcp, udp] = plan.services.as_slice() else {
        panic!("two services")
    };
    assert_eq!(
        (&*tcp.name, tcp.schedule, tcp.sticky.map(|it| it.timeout.as_secs())),
        ("10.0.0.1:5000", Schedule::Rr, Some(600))
    );
    let backends: Vec<_> = tcp
        .backends
        .iter()
        .map(|it| (it.endpoint.to_string(), it.weight, it.maxconn))
        .collect();
    assert_eq!(
        backends,
        [
            ("10.0.0.2:5000".to_owned(), 1, None),
            ("10.0.0.3:5000".to_owned(), 3, Some(100))
        ]
    );
    assert_eq!(
        (udp.mode, udp.schedule, udp.listen[0].port()),
        (Mode::Udp, Schedule::Wlc, 5050)
    );
}

#[test]
fn rules_of_ipvsadm_that_a_proxy_cannot_keep_are_refused_with_their_place() {
    let text =
        file("-A -t 10.0.0.1:5000 -s rr\n-a -t 10.0.0.1:5000 -r 10.0.0.2:5000 -g\n").expect_err("direct routing");

    assert!(text.to_string().starts_with("balancer.yaml:2:"), "{text}");
}

#[test]
fn tls_is_read_in_pairs_and_what_does_not_fit_is_told() {
    let plan = plan(
        "
tls_cert: [a.crt, both.pem]
tls_key: [a.key, both.pem]
tls_client_ca: ca.pem
tls_client: optional
mode: http
backends: 10.0.0.2:80
",
    );
    let tls = plan.services[0].tls.as_ref().expect("TLS");
    assert_eq!(tls.pairs[0], (PathBuf::from("a.crt"), PathBuf::from("a.key")));
    assert_eq!(tls.client, crate::plan::ClientCertificate::Optional);
    assert_eq!(tls.alpn, ["h2", "http/1.1"]);

    for (text, says) in [
        (
            "tls_cert: [a, b]\ntls_key: a\nbackends: 10.0.0.2:80",
            "there are 2 of `tls_cert` and 1 of `tls_key`",
        ),
        ("tls_client_ca: a\nbackends: 10.0.0.2:80", "needs `tls_cert`"),
        ("tls_cert: a\nmode: udp\nbackends: 10.0.0.2:80", "needs connections"),
        (
            "backend_tls: true\nmode: udp\nbackends: 10.0.0.2:80",
            "needs connections",
        ),
        (
            "backend_tls: true\nbackend_ca: a\nbackend_insecure: true\nbackends: 10.0.0.2:80",
            "is the contrary",
        ),
        ("backend_name: 'a b'\nbackends: 10.0.0.2:80", "is not a name"),
        ("sni: a.example=g\nbackends: 10.0.0.2:80", "there is no group `g`"),
        ("sni: a.example\nbackends: 10.0.0.2:80", "names no group"),
        (
            "sni: a*=g\ngroups: {g: 10.0.0.3:80}\nbackends: 10.0.0.2:80",
            "is not a server name",
        ),
        (
            "sni: a=g\nmode: http\ngroups: {g: 10.0.0.3:80}\nbackends: 10.0.0.2:80",
            "in mode http write `routes`",
        ),
    ] {
        let problems = file(text).expect_err(text).to_string();
        assert!(
            problems.contains(says) && problems.starts_with("balancer.yaml:"),
            "{text}: {problems}"
        );
    }
}
