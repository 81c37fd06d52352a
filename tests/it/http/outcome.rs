//! What the client gets and how the transaction ends.

use bson::doc;
use openhim_node::store::Collection;
use openhim_node::testing::{backend, node, path};

#[tokio::test]
async fn a_backend_that_refuses_is_a_failed_transaction_that_may_be_tried_again() {
    let gone = {
        let backend = backend().start().await;
        backend.address().port()
    };
    let node = node()
        .channel(path("^/x").route("r1", gone, doc! {"primary": true}))
        .start()
        .await;

    let answer = node.get("/x?a=1").await;

    assert_eq!(
        (answer.status(), answer.text()),
        (500, "An internal server error occurred")
    );
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    assert_eq!(answer.header("x-openhim-transactionid"), None);
    let tx = node.recorded().only().await;
    let message = format!("connect ECONNREFUSED 127.0.0.1:{gone}");
    assert_eq!(tx.status(), "Failed");
    assert_eq!(tx.flag("autoRetry"), Some(true));
    assert_eq!(tx.text("error.message"), Some(message.as_str()));
    assert_eq!(tx.number("response.status"), Some(500));
    assert_eq!(tx.text("orchestrations.0.name"), Some("r1"));
    assert_eq!(tx.text("orchestrations.0.error.message"), Some(message.as_str()));
    assert_eq!(tx.text("orchestrations.0.request.path"), Some("/x?a=1"));
    let queued = node.recorded().documents(Collection::AutoRetries, 1).await;
    assert_eq!(queued[0].get("transactionID"), tx.at("_id"));
}

#[tokio::test]
async fn a_backend_slower_than_its_channel_allows_is_a_failure() {
    let silent = backend().never_answers().start().await;
    let node = node()
        .channel(path("^/x").with("timeout", 20).primary(&silent))
        .start()
        .await;

    let answer = node.get("/x").await;

    assert_eq!(answer.status(), 500);
    let tx = node.recorded().only().await;
    assert_eq!(tx.text("error.message"), Some("Request took longer than 20ms"));
}

#[tokio::test]
async fn a_backends_own_failure_is_passed_on_and_not_tried_again() {
    let failing = backend().answers(503, "down for lunch").start().await;
    let node = node().channel(path("^/x").primary(&failing)).start().await;

    let answer = node.get("/x").await;

    assert_eq!((answer.status(), answer.text()), (503, "down for lunch"));
    assert!(answer.header("x-openhim-transactionid").is_some());
    let tx = node.recorded().only().await;
    assert_eq!((tx.status(), tx.flag("autoRetry")), ("Failed", Some(false)));
    assert_eq!(node.store().count(Collection::AutoRetries, doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn a_secondary_that_refuses_does_not_concern_the_client() {
    let primary = backend().start().await;
    let gone = backend().start().await.address().port();
    let node = node()
        .channel(path("^/x").primary(&primary).route("second", gone, doc! {}))
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 200);

    let tx = node.recorded().only().await;
    assert_eq!(
        (tx.status(), tx.flag("autoRetry")),
        ("Completed with error(s)", Some(true))
    );
    assert_eq!(tx.text("routes.0.name"), Some("second"));
    assert_eq!(tx.number("routes.0.response.status"), Some(500));
    assert!(
        tx.text("routes.0.error.message")
            .unwrap()
            .starts_with("connect ECONNREFUSED")
    );
    assert_eq!(tx.at("routes.0.response.timestamp"), tx.at("request.timestamp"));
}

#[tokio::test]
async fn a_silent_secondary_route_does_not_delay_the_client() {
    let primary = backend().start().await;
    let silent = backend().never_answers().start().await;
    let node = node()
        .channel(path("^/x").with("timeout", 1000).primary(&primary).secondary(&silent))
        .start()
        .await;
    let started = std::time::Instant::now();

    assert_eq!(node.get("/x").await.status(), 200);

    assert!(
        started.elapsed() < std::time::Duration::from_millis(800),
        "took {:?}",
        started.elapsed()
    );
    let waiting = node.recorded().all().await.remove(0);
    assert_eq!(waiting.status(), "Processing");
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Completed with error(s)");
    assert_eq!(
        tx.text("routes.0.error.message"),
        Some("Request took longer than 1000ms")
    );
}

#[tokio::test]
async fn disabled_routes_take_no_part() {
    let [used, unused] = [backend().start().await, backend().start().await];
    let off = doc! {"status": "disabled"};
    let off_primary = doc! {"status": "disabled", "primary": true};
    let node = node()
        .channel(
            path("^/x")
                .route("off", unused.address().port(), off_primary)
                .primary(&used)
                .route("off too", unused.address().port(), off),
        )
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 200);

    let tx = node.recorded().only().await;
    assert_eq!(tx.at("routes").unwrap().as_array().unwrap().len(), 0);
    assert_eq!((used.seen().len(), unused.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_waiting_route_runs_only_after_the_answers_it_asks_for() {
    let primary = backend().answers(201, "").start().await;
    let [skipped, called] = [backend().start().await, backend().start().await];
    let waits = |codes: &str| doc! {"waitPrimaryResponse": true, "statusCodesCheck": codes};
    let node = node()
        .channel(
            path("^/x")
                .primary(&primary)
                .route("skipped", skipped.address().port(), waits("500"))
                .route("called", called.address().port(), waits("4**, 2**")),
        )
        .start()
        .await;

    assert_eq!(node.get("/x").await.status(), 201);

    let tx = node.recorded().only().await;
    assert_eq!(tx.text("routes.0.name"), Some("called"));
    assert_eq!(tx.at("routes.1"), None);
    assert_eq!((skipped.seen().len(), called.seen().len()), (0, 1));
    assert_eq!(tx.status(), "Successful");
}

#[tokio::test]
async fn an_asynchronous_channel_answers_202_and_stays_pending() {
    for (backend_says, client_gets, status) in [
        (200, 202, "Pending Async"),
        (404, 404, "Completed"),
        (500, 500, "Failed"),
    ] {
        let backend = backend().answers(backend_says, "x").start().await;
        let node = node()
            .channel(path("^/x").with("isAsynchronousProcess", true).primary(&backend))
            .start()
            .await;

        assert_eq!(node.get("/x").await.status(), client_gets);

        let tx = node.recorded().only().await;
        assert_eq!(
            (tx.status(), tx.number("response.status")),
            (status, Some(i64::from(client_gets)))
        );
    }
}

#[tokio::test]
async fn several_primary_routes_are_an_error_and_none_runs() {
    let backend = backend().start().await;
    let node = node()
        .channel(path("^/x").primary(&backend).primary(&backend))
        .start()
        .await;

    let answer = node.get("/x").await;

    assert_eq!((answer.status(), answer.text()), (500, "Internal Server Error"));
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Failed");
    assert!(tx.text("error.message").unwrap().contains("multiple primary routes"));
    assert!(backend.seen().is_empty());
}

#[tokio::test]
async fn without_a_primary_route_the_others_run_and_the_client_is_answered() {
    let secondary = backend().start().await;
    let node = node().channel(path("^/x").secondary(&secondary)).start().await;

    assert_eq!(node.get("/x").await.status(), 500);

    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Failed");
    assert_eq!(tx.number("routes.0.response.status"), Some(200));
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_never_followed() {
    let backend = backend()
        .answers(302, "elsewhere")
        .header("location", "/y")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.get("/x").await;

    assert_eq!((answer.status(), answer.header("location")), (302, Some("/y")));
    assert_eq!(backend.seen().len(), 1);
    assert_eq!(node.recorded().only().await.status(), "Completed");
}

#[tokio::test]
async fn cookies_arrive_as_they_were_set() {
    let backend = backend()
        .header("set-cookie", "a=1; Path=/; Max-Age=5; HttpOnly; SameSite=Lax")
        .header("set-cookie", "b=2; Secure")
        .start()
        .await;
    let node = node().channel(path("^/x").primary(&backend)).start().await;

    let answer = node.get("/x").await;

    assert_eq!(
        answer.headers("set-cookie"),
        ["a=1; Path=/; Max-Age=5; HttpOnly; SameSite=Lax", "b=2; Secure"]
    );
    let tx = node.recorded().only().await;
    assert_eq!(tx.text("response.headers.set-cookie.1"), Some("b=2; Secure"));
}

#[tokio::test]
async fn a_route_with_a_silent_backend_does_not_hold_up_another_channel() {
    let [silent, quick] = [backend().never_answers().start().await, backend().start().await];
    let node = node()
        .channel(path("^/slow").primary(&silent))
        .channel(path("^/quick").primary(&quick))
        .start()
        .await;
    let caller = node.caller();
    let hanging: Vec<_> = (0..50)
        .map(|_| {
            let caller = caller.clone();
            tokio::spawn(async move { caller.get("/slow").await })
        })
        .collect();

    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(node.get("/quick").await.status(), 200);
    }

    assert!(
        started.elapsed() < std::time::Duration::from_secs(2),
        "took {:?}",
        started.elapsed()
    );
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn two_routes_are_six_events_and_one_count_in_each_metric() {
    let [primary, secondary] = [backend().start().await, backend().start().await];
    let node = node()
        .channel(path("^/x").named("c").primary(&primary).secondary(&secondary))
        .start()
        .await;

    node.get("/x").await;

    let events = node.recorded().documents(Collection::Events, 6).await;
    let mut kinds: Vec<_> = events
        .iter()
        .map(|event| format!("{} {}", event.get_str("type").unwrap(), event.get_str("event").unwrap()))
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "channel end",
            "channel start",
            "primary end",
            "primary start",
            "route end",
            "route start"
        ]
    );
    let metrics = node.recorded().documents(Collection::Metrics, 3).await;
    for metric in metrics {
        let count = |field: &str| openhim_node::testing::Transaction(metric.clone()).number(field);
        assert_eq!(
            (count("requests"), count("successful"), count("failed")),
            (Some(1), Some(1), Some(0))
        );
    }
}
