//! The `/visualizers` routes.

use bson::doc;
use http::Method;
use serde_json::json;

use super::{ROOT, TestApi};
use crate::model::role::Permission;

#[tokio::test]
async fn a_visualizer_is_added_read_changed_and_deleted() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;
    let body = json!({"name": "v", "components": [{"eventType": "primary", "eventName": "OpenHIE", "display": "x", "rect": {}}]});

    root.post("/visualizers", &body)
        .await
        .is(201, "Visualizer successfully created");

    let listed = root.get("/visualizers").await.json();
    let id = listed[0]["_id"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["color"]["active"], "#4cae4c");
    assert_eq!(
        listed[0]["size"],
        json!({"responsive": true, "width": 1000, "height": 400, "padding": 20})
    );
    assert!(listed[0]["components"][0].get("rect").is_none());
    root.put(
        &format!("/visualizers/{id}"),
        &json!({"_id": "x", "color": {"active": "#000"}}),
    )
    .await
    .is(200, &format!("Successfully updated visualizer with _id {id}"));
    let read = root.get(&format!("/visualizers/{id}")).await.json();
    assert_eq!(
        read["color"],
        json!({"active": "#000", "inactive": "#cccccc", "error": "#d43f3a", "text": "#000000"})
    );
    root.delete(&format!("/visualizers/{id}"))
        .await
        .is(200, &format!("Successfully removed visualizer with _id {id}"));
    root.delete(&format!("/visualizers/{id}"))
        .await
        .is(404, &format!("Could not find visualizer with _id {id}"));
    root.put(&format!("/visualizers/{id}"), &body)
        .await
        .is(404, &format!("Cannot Update Visualizer with _id {id}, does not exist"));
    root.get(&format!("/visualizers/{id}"))
        .await
        .is(404, &format!("Visualizer with _id {id} could not be found."));
}

#[tokio::test]
async fn a_request_without_a_body_is_not_found() {
    let api = TestApi::start().await;
    let root = api.log_in(ROOT).await;

    root.ask(Method::POST, "/visualizers")
        .send()
        .await
        .is(404, "Cannot Add Visualizer, no request object");
    root.ask(Method::PUT, "/visualizers/x")
        .raw("text/plain", "{}")
        .send()
        .await
        .is(404, "Cannot Update Visualizer with _id x, no request object");
    root.post("/visualizers", &json!({})).await.is(
        500,
        "Could not add visualizer via the API: ValidationError: name: Path `name` is required.",
    );
}

#[tokio::test]
async fn the_permission_comes_first() {
    let api = TestApi::start().await;
    let viewer = api.log_in_with(&[Permission::VisualizerView], doc! {}).await;

    assert_eq!(viewer.get("/visualizers").await.status, 200);
    let answer = viewer.ask(Method::POST, "/visualizers").send().await;
    assert_eq!(answer.status, 403);
}
