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
