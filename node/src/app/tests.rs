use super::Ports;
use crate::config::Config;
use crate::testing::{backend, node, path};

#[test]
fn the_rerun_port_is_on_this_machine_and_can_be_left_closed() {
    let mut config = Config::defaults();
    let port = |config: &Config| Ports::of(config).rerun.map(|address| address.to_string());
    assert_eq!(port(&config).as_deref(), Some("127.0.0.1:7786"));
    config.rerun.host = "0.0.0.0".into();
    assert_eq!(port(&config).as_deref(), Some("127.0.0.1:7786"));
    config.rerun.http_port = 0;
    assert_eq!(port(&config), None);
    config = Config::defaults();
    config.rerun.processor.enabled = false;
    assert_eq!(port(&config), None);
}

#[tokio::test]
async fn a_request_is_carried_answered_and_recorded() {
    let backend = backend()
        .answers(201, "made")
        .header("content-type", "text/plain")
        .start()
        .await;
    let node = node()
        .client("clinic", "secret", &["fhir"])
        .channel(path("^/fhir$").private(&["fhir"]).primary(&backend))
        .start()
        .await;

    let answer = node.as_client("clinic", "secret").post("/fhir?x=1", "{}").await;

    assert_eq!((answer.status(), answer.text()), (201, "made"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(backend.only().target, "/fhir?x=1");
    assert_eq!(backend.only().header("x-openhim-clientid"), Some("clinic"));
    let tx = node.recorded().only().await;
    assert_eq!(tx.status(), "Successful");
    assert_eq!(tx.text("request.body"), Some("{}"));
    assert_eq!(tx.text("response.body"), Some("made"));
    assert_eq!(
        answer.header("x-openhim-transactionid"),
        Some(tx.0.get_object_id("_id").unwrap().to_hex().as_str())
    );
}
