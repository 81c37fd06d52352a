//! Backends that are names: a name server that answers, changes, fails and lies.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use openhim_balancer::testing::name_server::{Data, Kind, NameServer, Reply};
use openhim_balancer::{Balancer, Config, Shutdown, StartError};

use super::support::{Backend, Client, Running, balancer, within};

const NAME: &str = "node.example";

async fn name_server() -> NameServer {
    NameServer::start().await.expect("a free port")
}

/// Backends that share a port, as the addresses of one name have to.
async fn backends(count: u8) -> Vec<Backend> {
    let first = Backend::start().await;
    let port = first.address.port();
    let mut all = vec![first];
    for last in 2..=count {
        all.push(Backend::on(SocketAddr::from(([127, 0, 0, last], port))).await);
    }
    all
}

fn ips(backends: &[&Backend]) -> Vec<IpAddr> {
    backends.iter().map(|it| it.address.ip()).collect()
}

async fn following(server: &NameServer, endpoint: &str, more: &[(&str, &str)]) -> Running {
    let resolver = server.address.to_string();
    let mut options = vec![
        ("backends", endpoint),
        ("resolver", &*resolver),
        ("threads", "1"),
        ("interval", "100ms"),
    ];
    options.extend(more);
    balancer(&options).await
}

/// Asks until everyone of `expected`, and nobody else, has answered in one round.
async fn until_served_by(balancer: &Running, expected: &[&Backend]) {
    let mut wanted: Vec<SocketAddr> = expected.iter().map(|it| it.address).collect();
    wanted.sort_unstable();
    within("the right backends", async {
        loop {
            let mut round = Vec::new();
            for _ in 0..wanted.len() * 2 {
                round.extend(balancer.ask().await);
            }
            round.sort_unstable();
            round.dedup();
            if round == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn new_connections_follow_a_change_within_its_time_to_live_and_old_ones_stay() {
    let (server, all) = (name_server().await, backends(3).await);
    server.set_addresses(NAME, 1, &ips(&[&all[0], &all[1]]));
    let endpoint = format!("{NAME}:{}", all[0].address.port());
    let balancer = following(&server, &endpoint, &[("drain-timeout", "100ms")]).await;
    until_served_by(&balancer, &[&all[0], &all[1]]).await;
    let mut held = Client::connect(balancer.address()).await;
    held.name().await.expect("a backend");

    server.set_addresses(NAME, 1, &ips(&[&all[2]]));
    let begun = Instant::now();
    until_served_by(&balancer, &[&all[2]]).await;

    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    held.echo(b"still there").await;
    held.finish().await;
}

#[tokio::test]
async fn whatever_a_name_server_does_the_last_good_answer_holds() {
    let (server, all) = (name_server().await, backends(2).await);
    server.set_addresses(NAME, 0, &ips(&[&all[0]]));
    let endpoint = format!("{NAME}:{}", all[0].address.port());
    let balancer = following(&server, &endpoint, &[]).await;

    for (reply, why) in [
        (Reply::Code(2), "failed"),
        (Reply::Code(3), "no such name"),
        (Reply::Code(5), "failed"),
        (Reply::Records(1, Vec::new()), "no address"),
        (Reply::Silence, "in time"),
        (Reply::Truncated(Box::new(Reply::Silence)), "in time"),
    ] {
        server.set(NAME, Kind::A, reply);
        let report = balancer.until(why, |report| report.names[0].why.contains(why)).await;
        assert_eq!(
            (report.names[0].addresses, balancer.ask().await),
            (1, Some(all[0].address)),
            "{why}"
        );
        assert!(
            report.services[0].backends[0].why.contains("last known address"),
            "{report:#?}"
        );
        server.set_addresses(NAME, 0, &ips(&[&all[0]]));
        balancer.until("well", |report| report.names[0].why.is_empty()).await;
    }

    server.set_addresses(NAME, 1, &ips(&[&all[1]]));
    until_served_by(&balancer, &[&all[1]]).await;
    assert_eq!(balancer.report().await.names[0].failing_seconds, None);
}

#[tokio::test]
async fn after_the_hold_an_old_answer_is_not_believed_any_more() {
    let (server, all) = (name_server().await, backends(1).await);
    server.set_addresses(NAME, 0, &ips(&[&all[0]]));
    let endpoint = format!("{NAME}:{}", all[0].address.port());
    let balancer = following(&server, &endpoint, &[("resolver-hold", "1500ms")]).await;
    assert_eq!(balancer.ask().await, Some(all[0].address));

    server.forget(NAME);
    let report = balancer
        .until("unresolved", |report| report.names[0].addresses == 0)
        .await;

    assert_eq!(balancer.ask().await, None);
    let last = report.services[0].backends.last().expect("listed");
    assert_eq!((last.state, &*last.address), ("unresolved", &*endpoint));
    server.set_addresses(NAME, 1, &ips(&[&all[0]]));
    until_served_by(&balancer, &[&all[0]]).await;
}

#[tokio::test]
async fn without_a_name_server_it_starts_says_so_and_serves_as_soon_as_there_is_an_answer() {
    let (server, all) = (name_server().await, backends(1).await);
    server.set(NAME, Kind::A, Reply::Code(2));
    let endpoint = format!("{NAME}:{}", all[0].address.port());
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("admin");
    let admin = socket.to_str().expect("plain").to_owned();
    let balancer = following(&server, &endpoint, &[("admin", &admin)]).await;

    assert_eq!(balancer.ask().await, None);
    let report = balancer
        .until("asked", |report| report.names[0].lookups_failed > 0)
        .await;
    let shown = &report.services[0].backends[0];
    assert_eq!(shown.state, "unresolved");
    assert!(shown.why.contains("Server Failure"), "{}", shown.why);
    let metrics = openhim_balancer::metrics::prometheus::render(&report);
    let line = format!("openhim_balancer_name_resolved{{name=\"{endpoint}\"}} 0\n");
    assert!(metrics.contains(&line), "{metrics}");
    let list = move || openhim_balancer::call(Some(&socket), &["-L".into(), "-n".into()], "");
    let listed = tokio::task::spawn_blocking(list)
        .await
        .expect("no panic")
        .expect("an answer");
    assert!(listed.text.contains(&format!("  -> {endpoint}")), "{}", listed.text);

    server.set_addresses(NAME, 1, &ips(&[&all[0]]));
    until_served_by(&balancer, &[&all[0]]).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_at_the_start_is_refused_with_its_place() {
    let server = name_server().await;
    let text = format!(
        "listen: 127.0.0.1:0\nresolver: {}\nbackends:\n  - 127.0.0.1:1\n  - nodde.example:80\n",
        server.address
    );
    let config = Config::from_text(&text, std::path::Path::new("balancer.yaml")).expect("read");

    let refused = Balancer::start(config, Shutdown::default())
        .await
        .expect_err("no such name");

    let StartError::Config(problems) = refused else {
        panic!("{refused}")
    };
    let expected = "balancer.yaml:5:5: backends[1]: `nodde.example:80` cannot be resolved: there is no such name; \
                    correct the name, or write the address";
    assert_eq!(problems.to_string(), expected);
}

#[tokio::test]
async fn service_records_give_ports_shares_and_a_second_tier() {
    let (server, all) = (name_server().await, backends(3).await);
    let port = all[0].address.port();
    let record = |priority, weight, target: &str| Data::Service(priority, weight, port, format!("{target}.example"));
    let records = vec![record(1, 3, "one"), record(1, 1, "two"), record(2, 1, "three")];
    server.set("_openhim._tcp.example", Kind::Srv, Reply::Records(1, records));
    for (name, backend) in ["one.example", "two.example", "three.example"].iter().zip(&all) {
        server.set_addresses(name, 1, &ips(&[backend]));
    }
    let balancer = following(&server, "srv:_openhim._tcp.example", &[("schedule", "wrr")]).await;

    let mut served = Vec::new();
    for _ in 0..8 {
        served.push(balancer.ask().await.expect("a backend"));
    }
    let share = |index: usize| served.iter().filter(|it| **it == all[index].address).count();
    assert_eq!([share(0), share(1), share(2)], [6, 2, 0]);

    // When the first tier is gone from the answer, the second is the first.
    server.set(
        "_openhim._tcp.example",
        Kind::Srv,
        Reply::Records(1, vec![record(2, 1, "three")]),
    );
    until_served_by(&balancer, &[&all[2]]).await;
}

#[tokio::test]
async fn a_name_added_by_an_operator_is_followed_too() {
    let (server, all) = (name_server().await, backends(2).await);
    server.set_addresses(NAME, 1, &ips(&[&all[1]]));
    let folder = tempfile::tempdir().expect("a folder");
    let admin = folder.path().join("admin");
    let fixed = all[0].address.to_string();
    let balancer = following(&server, &fixed, &[("admin", admin.to_str().expect("plain"))]).await;
    let (service, endpoint) = (
        balancer.address().to_string(),
        format!("{NAME}:{}", all[0].address.port()),
    );

    let add = move |name: String| {
        let words = ["-a", "-t", &service, "-r", &name].map(str::to_owned);
        openhim_balancer::call(Some(&admin), &words, "").expect("an answer")
    };
    let refused = {
        let add = add.clone();
        tokio::task::spawn_blocking(move || add("nobody.example:1".into()))
            .await
            .expect("no panic")
    };
    assert!(
        !refused.is_ok && refused.text.contains("no such name"),
        "{}",
        refused.text
    );
    let added = tokio::task::spawn_blocking(move || add(endpoint))
        .await
        .expect("no panic");
    assert!(added.is_ok, "{}", added.text);

    until_served_by(&balancer, &[&all[0], &all[1]]).await;
    server.set_addresses(NAME, 1, &ips(&[&all[0]]));
    until_served_by(&balancer, &[&all[0]]).await;
}
