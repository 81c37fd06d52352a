//! What is sent once more, and what never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::peers::{Act, Backend, OK, balancer};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";

#[tokio::test]
async fn a_backend_that_refuses_connections_costs_nobody_a_request() {
    let (good, dead) = (Backend::answering(OK).await, Backend::answering(OK).await);
    let balancer = balancer(&[&good, &dead], &[]).await;
    dead.refuse();

    for request in [GET, POST, PUT, POST] {
        let answer = balancer.talk(request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    assert_eq!(good.seen().len(), 4);
}

#[tokio::test]
async fn what_may_be_repeated_goes_to_another_backend_and_what_may_not_does_not() {
    let (good, silent) = (Backend::answering(OK).await, Backend::start(|_| Act::Close).await);
    let balancer = balancer(
        &[&good, &silent],
        &[
            ("schedule", "first"),
            ("backends", &format!("{},{}", silent.address, good.address)),
        ],
    )
    .await;

    for request in [GET, PUT] {
        let answer = balancer.talk(request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{request}: {answer}");
    }
    assert_eq!((good.seen().len(), silent.seen().len()), (2, 2));
    assert_eq!(good.seen()[1].body, b"abc");

    let answer = balancer.talk(POST).await;

    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert_eq!((good.seen().len(), silent.seen().len()), (2, 3));
}

#[tokio::test]
async fn retries_have_an_end() {
    let silent = [
        Backend::start(|_| Act::Close).await,
        Backend::start(|_| Act::Close).await,
        Backend::start(|_| Act::Close).await,
    ];
    let all: Vec<&Backend> = silent.iter().collect();
    let balancer = balancer(&all, &[("retries", "1")]).await;

    let answer = balancer.talk(GET).await;

    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{answer}");
    assert_eq!(silent.iter().map(|it| it.seen().len()).sum::<usize>(), 2);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_waited_is_not_used() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    // It keeps no connection, and does not say so.
    let backend = Backend::start(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Act::SayAndClose(OK)
    })
    .await;
    let balancer = balancer(&[&backend], &[]).await;
    let mut client = balancer.connect().await;

    for _ in 0..20 {
        client
            .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
            .await;
        assert_eq!(client.until("ok").await, OK);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    assert_eq!((count.load(Ordering::SeqCst), backend.seen().len()), (20, 20));
}

#[tokio::test]
async fn when_nobody_is_there_the_client_hears_when_to_come_again() {
    let dead = Backend::answering(OK).await;
    let balancer = balancer(&[&dead], &[]).await;
    dead.refuse();
    let mut client = balancer.connect().await;
    let mut ids = Vec::new();

    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = client.until("}\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
        assert!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
        let id = answer
            .lines()
            .find_map(|it| it.strip_prefix("X-Request-Id: "))
            .expect("an id")
            .to_owned();
        assert!(id.len() == 32 && !ids.contains(&id), "{answer}");
        ids.push(id);
    }
}

#[tokio::test]
async fn a_backend_that_says_nothing_is_not_waited_for_without_end() {
    let backend = Backend::start(|_| Act::Stall).await;
    let balancer = balancer(&[&backend], &[("response-timeout", "200ms")]).await;

    let answer = balancer.talk(GET).await;

    assert!(answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{answer}");
    assert_eq!(backend.seen().len(), 1);
}
