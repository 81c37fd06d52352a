//! Checks: who is found alive, how soon, and what it means for clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openhim_balancer::{Balancer, Config, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::support::{Backend, Client, Refusing, Running, balancer, list, within};

/// Answers health checks with a status that can be changed.
struct Heart {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicU64>,
}

impl Heart {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (status, asked) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU64::new(0)));
        let (current, count) = (Arc::clone(&status), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let status = current.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n");
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self { address, status, asked }
    }
}

async fn checked_on(heart: &Heart, backends: &[&Backend], options: &[(&str, &str)]) -> Running {
    let (list, port) = (list(backends), heart.address.port().to_string());
    let base = [
        ("backends", &*list),
        ("check", "http"),
        ("check-port", &port),
        ("interval", "50ms"),
    ];
    let all: Vec<(&str, &str)> = base.into_iter().chain(options.iter().copied()).collect();
    balancer(&all).await
}

#[tokio::test]
async fn a_check_on_another_port_decides_about_the_traffic() {
    let (backend, heart) = (Backend::start().await, Heart::start().await);
    let balancer = checked_on(&heart, &[&backend], &[("panic-threshold", "0")]).await;
    assert_eq!(balancer.ask().await, Some(backend.address));

    heart.status.store(500, Ordering::SeqCst);
    balancer.until_state(backend.address, "down").await;
    assert_eq!(balancer.ask().await, None);
    let why = balancer.report().await.services[0].backends[0].why.clone();
    assert_eq!(why, "GET /heartbeat answered 500");

    heart.status.store(204, Ordering::SeqCst);
    balancer.until_state(backend.address, "up").await;
    assert_eq!(balancer.ask().await, Some(backend.address));
}

#[tokio::test]
async fn when_the_checks_of_most_backends_fail_but_they_answer_all_are_used() {
    let (backend, heart) = (Backend::start().await, Heart::start().await);
    let balancer = checked_on(&heart, &[&backend], &[]).await;

    heart.status.store(500, Ordering::SeqCst);
    balancer.until_state(backend.address, "down").await;

    assert_eq!(balancer.ask().await, Some(backend.address));
    assert!(balancer.report().await.services[0].panicking);
}

#[tokio::test]
async fn a_backend_gets_nothing_before_its_first_good_check() {
    let (backend, heart) = (Backend::start().await, Heart::start().await);
    heart.status.store(500, Ordering::SeqCst);
    let balancer = checked_on(&heart, &[&backend], &[]).await;

    assert_eq!(balancer.ask().await, None);
    heart.status.store(200, Ordering::SeqCst);
    balancer.until_state(backend.address, "up").await;

    assert_eq!(balancer.ask().await, Some(backend.address));
}

#[tokio::test]
async fn it_is_ready_only_after_the_first_round_of_checks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = listener.local_addr().expect("bound").to_string();
    let options = [
        ("listen", "127.0.0.1:0"),
        ("metrics", "off"),
        ("admin", "off"),
        ("log", "off"),
        ("backends", &silent),
    ];
    let check = [("check", "http"), ("check-timeout", "300ms")];
    let begun = Instant::now();
    let config = Config::from_options(options.into_iter().chain(check));
    let balancer = Balancer::start(config, Shutdown::default()).await.expect("it starts");

    within("ready", balancer.ready()).await;

    assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
    let report = balancer.report().await.expect("it runs");
    assert_eq!(report.services[0].backends[0].state, "down");
}

#[tokio::test]
async fn a_failing_backend_is_noticed_within_fall_checks_at_the_fast_pace() {
    let (backend, heart) = (Backend::start().await, Heart::start().await);
    let pace = [
        ("interval", "300ms"),
        ("fast-interval", "20ms"),
        ("fall", "4"),
        ("panic-threshold", "0"),
    ];
    let (list, port) = (list(&[&backend]), heart.address.port().to_string());
    let base = [("backends", &*list), ("check", "http"), ("check-port", &port)];
    let balancer = balancer(&base.into_iter().chain(pace).collect::<Vec<_>>()).await;

    heart.status.store(503, Ordering::SeqCst);
    let begun = Instant::now();
    balancer.until_state(backend.address, "down").await;

    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert!(heart.asked.load(Ordering::SeqCst) >= 5);
}

#[tokio::test]
async fn live_connections_of_a_backend_that_goes_down_are_kept_or_closed_as_configured() {
    for (on_down, survives) in [("keep", true), ("close", false)] {
        let (backend, heart) = (Backend::start().await, Heart::start().await);
        let balancer = checked_on(&heart, &[&backend], &[("on-down", on_down)]).await;
        let mut client = Client::connect(balancer.address()).await;
        client.name().await.expect("a backend");

        heart.status.store(500, Ordering::SeqCst);
        balancer.until_state(backend.address, "down").await;

        if survives {
            client.echo(b"still here").await;
        } else {
            let end = within("the reset", client.stream.read(&mut [0; 16])).await;
            assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

#[tokio::test]
async fn a_backup_is_used_only_when_no_other_can() {
    let (main, spare) = (Backend::start().await, Backend::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("nodes");
    std::fs::write(&file, format!("{}\n{} backup\n", main.address, spare.address)).expect("written");
    let path = file.to_str().expect("plain");
    let balancer = balancer(&[("backends-file", path), ("interval", "50ms")]).await;
    for _ in 0..4 {
        assert_eq!(balancer.ask().await, Some(main.address));
    }

    let address = main.stop().await;
    for _ in 0..4 {
        assert_eq!(balancer.ask().await, Some(spare.address));
    }
    balancer.until_state(address, "down").await;
    let main = Backend::on(address).await;
    balancer.until_state(main.address, "up").await;

    assert_eq!(balancer.ask().await, Some(main.address));
}

#[tokio::test]
async fn a_backend_nobody_can_reach_is_not_tried_with_clients_again_until_it_answers() {
    let (good, dying) = (Backend::start().await, Backend::start().await);
    let balancer = balancer(&[
        ("backends", &list(&[&good, &dying])),
        ("check", "none"),
        ("threads", "1"),
    ])
    .await;
    let dead = dying.stop().await;
    for _ in 0..4 {
        assert_eq!(balancer.ask().await, Some(good.address));
    }
    balancer.until_state(dead, "ejected").await;
    let errors = |report: &openhim_balancer::Report| {
        report.services[0]
            .backends
            .iter()
            .find(|it| it.address == dead.to_string())
            .expect("listed")
            .connect_errors
    };
    // One client runs into it and is helped; another may be on the way before the word has spread.
    let before = errors(&balancer.report().await);
    assert!((1..=2).contains(&before), "{before}");
    for _ in 0..10 {
        assert_eq!(balancer.ask().await, Some(good.address));
    }
    assert_eq!(errors(&balancer.report().await), before);

    let back = Backend::on(dead).await;
    balancer.until_state(back.address, "up").await;

    let names = [balancer.ask().await, balancer.ask().await];
    assert!(names.contains(&Some(back.address)), "{names:?}");
    assert_eq!(errors(&balancer.report().await), before);
}

#[tokio::test]
async fn all_backends_down_and_one_comes_back() {
    let refusing = Refusing::new();
    let address = refusing.address;
    let balancer = balancer(&[("backends", &address.to_string()), ("interval", "50ms"), ("rise", "1")]).await;
    assert_eq!(balancer.report().await.services[0].backends[0].state, "down");
    drop(refusing);

    let backend = Backend::on(address).await;
    let begun = Instant::now();
    balancer.until_state(address, "up").await;

    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(balancer.ask().await, Some(backend.address));
}
