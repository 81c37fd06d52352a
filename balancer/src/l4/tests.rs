use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::config::Config;
use crate::plan::Schedule;
use crate::snapshot::Pool;

#[tokio::test]
async fn a_connection_at_rest_takes_little_memory() {
    let service = Config::from_options([("backends", "127.0.0.1:1")])
        .check()
        .expect("good")
        .plan
        .services
        .remove(0);
    let pool = || Pool::new(Schedule::Rr, Vec::new());
    let snapshot = Snapshot {
        tls: Default::default(),
        version: 1,
        service: Arc::new(service),
        primary: pool(),
        backup: pool(),
        is_pending: false,
    };
    let (reports, _) = mpsc::channel(1);
    let service = Arc::new(ServiceState::new(snapshot, reports));
    let door = Arc::new(Door::new(service, Arc::default(), None));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let client = TcpStream::connect(address).await.expect("connected");

    let future = serve(door, client, address, ());

    let size = std::mem::size_of_val(&future) + std::mem::size_of::<sessions::Session>();
    assert!(size <= 640, "{size} bytes");
}

async fn running(config: Config) -> crate::Balancer {
    let balancer = crate::Balancer::start(config, crate::Shutdown::default())
        .await
        .expect("it starts");
    balancer.ready().await;
    balancer
}

/// A client's first message, which asks for `name`.
fn hello(name: &'static str) -> Vec<u8> {
    let config = crate::tls::client::lax().expect("a client");
    let name = name.try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("written");
    bytes
}

#[tokio::test]
async fn a_group_by_server_name_has_as_many_connections_as_it_may_and_the_next_waits_for_one() {
    let (own, lab) = (
        TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
        TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
    );
    let text = format!(
        "threads: 1\nmetrics: off\nadmin: off\nlog: off\nlisten: 127.0.0.1:0\ncheck: none\nbackends: {}\n\
         groups: {{lab: {{backends: '{}', maxconn: 1}}}}\nsni: lab.example=lab\n",
        own.local_addr().expect("bound"),
        lab.local_addr().expect("bound")
    );
    let config = Config::from_text(&text, std::path::Path::new("balancer.yaml")).expect("read");
    let balancer = running(config).await;
    let to = balancer.addresses()[0].address;
    let ask = async |name: &'static str| {
        let mut client = TcpStream::connect(to).await.expect("accepted");
        client.write_all(&hello(name)).await.expect("sent");
        client
    };
    let within = |what| tokio::time::timeout(Duration::from_secs(10), what);
    let first = ask("lab.example").await;
    let (_served, _) = within(Box::pin(lab.accept()))
        .await
        .expect("in time")
        .expect("accepted");

    let _second = ask("lab.example").await;

    tokio::time::timeout(Duration::from_secs(10), async {
        while balancer
            .report()
            .await
            .expect("runs")
            .services
            .iter()
            .all(|it| it.queued == 0)
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("in line");
    let none = tokio::time::timeout(Duration::ZERO, lab.accept()).await;
    assert!(none.is_err(), "a second one got in");
    // Others are not held up.
    let _other = ask("other.example").await;
    within(Box::pin(own.accept()))
        .await
        .expect("in time")
        .expect("accepted");
    drop((first, _served));
    within(Box::pin(lab.accept()))
        .await
        .expect("in time")
        .expect("accepted");
}

#[tokio::test]
async fn names_are_asked_of_the_name_servers_of_a_changed_file() {
    use crate::testing::name_server::NameServer;
    let (one, two) = (
        NameServer::start().await.expect("a free port"),
        NameServer::start().await.expect("a free port"),
    );
    one.set_addresses("node.example", 1, &[IpAddr::from([127, 0, 0, 1])]);
    two.set_addresses("node.example", 1, &[IpAddr::from([127, 0, 0, 2])]);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("balancer.yaml");
    let write = |server: &NameServer| {
        let text = format!(
            "threads: 1\nmetrics: off\nadmin: off\nlog: off\nlisten: 127.0.0.1:0\ncheck: none\nresolver: {}\n\
             backends: node.example:80\n",
            server.address
        );
        std::fs::write(&file, text).expect("written");
    };
    write(&one);
    let balancer = running(Config::from_file(&file).expect("read")).await;
    let first = async || {
        balancer.report().await.expect("runs").services[0].backends[0]
            .address
            .clone()
    };
    assert_eq!(first().await, "127.0.0.1:80");

    write(&two);
    balancer.reload().await.expect("sound");

    assert_eq!(first().await, "127.0.0.2:80");
    // The same server is asked from then on.
    two.set_addresses("node.example", 1, &[IpAddr::from([127, 0, 0, 3])]);
    let followed = async {
        while first().await != "127.0.0.3:80" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), followed)
        .await
        .expect("followed");
}
