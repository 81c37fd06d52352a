//! The `/metrics` routes.

use bson::oid::ObjectId;
use bson::{DateTime, doc};
use http::Method;
use serde_json::json;

use super::{ROOT, TestApi};
use crate::metrics::prometheus::Labels;
use crate::store::Collection;

const SEEN: [u8; 12] = [2; 12];
const OTHER: [u8; 12] = [3; 12];

async fn with_buckets() -> TestApi {
    let api = TestApi::start().await;
    for (id, requests) in [(SEEN, 10), (OTHER, 1)] {
        let channel = doc! {"_id": ObjectId::from_bytes(id), "name": format!("c{}", id[0]), "urlPattern": "x"};
        api.insert(Collection::Channels, channel).await;
        for kind in ["m", "h", "d"] {
            let bucket = doc! {
                "_id": ObjectId::new(), "type": kind, "channelID": ObjectId::from_bytes(id),
                "startTime": DateTime::parse_rfc3339_str("2014-07-15T00:00:00Z").unwrap(),
                "requests": requests, "responseTime": requests * 150, "minResponseTime": 100, "maxResponseTime": 200,
                "failed": 1, "successful": 1, "processing": 1, "completed": 6, "completedWithErrors": 1,
            };
            api.insert(Collection::Metrics, bucket).await;
        }
    }
    api
}

const SPAN: &str = "startDate=2014-07-15T00:00:00.000Z&endDate=2014-07-19T00:00:00.000Z";

#[tokio::test]
async fn buckets_are_summed_up_as_asked() {
    let api = with_buckets().await;
    let root = api.log_in(ROOT).await;
    let get = async |path: &str| root.get(&format!("{path}?{SPAN}")).await.json();
    assert_eq!(get("/metrics").await[0]["total"], 11);
    assert_eq!(get("/metrics/channels").await.as_array().unwrap().len(), 2);
    let day = &get("/metrics/timeseries/day/channels/020202020202020202020202").await[0];
    assert_eq!(
        (&day["total"], &day["avgResp"], &day["completedWErrors"]),
        (&json!(10), &json!(150), &json!(1))
    );
    assert_eq!(day["timestamp"], "2014-07-15T00:00:00.000Z");
    assert_eq!(day["_id"]["channelID"], "020202020202020202020202");
    assert_eq!(get("/metrics/timeseries/minute").await[0]["total"], 11);
    assert_eq!(
        root.get("/metrics?startDate=2015-01-01&endDate=2015-01-02")
            .await
            .json(),
        json!([])
    );
}

#[tokio::test]
async fn both_dates_are_required_and_unseen_channels_refused() {
    let api = with_buckets().await;
    let some = api
        .log_in_with(&[], doc! {"channel-view-specified": ["020202020202020202020202"]})
        .await;
    some.get("/metrics?startDate=2014-07-15")
        .await
        .is(400, "Both start and end date are required");
    some.get("/metrics/channels/030303030303030303030303")
        .await
        .is(401, "Unauthorized");
    some.get(&format!("/metrics/channels/nonsense?{SPAN}"))
        .await
        .is(401, "Unauthorized");
    assert_eq!(some.get(&format!("/metrics?{SPAN}")).await.json()[0]["total"], 10);
}

#[tokio::test]
async fn prometheus_is_served_to_who_accepts_its_format_without_login() {
    let api = with_buckets().await;
    let labels = Labels {
        method: "GET".into(),
        status: "Successful".into(),
        client: None,
        channel: ObjectId::from_bytes(SEEN),
        code: Some(200),
    };
    api.service.api.prometheus.observe(labels, 5);
    let ask = |path: &str| {
        api.ask(Method::GET, path)
            .header("accept", "application/openmetrics-text; version=1.0.0,*/*")
    };
    let by_header = ask("/metrics").send().await;
    assert_eq!(by_header.status, 200);
    assert_eq!(by_header.header("content-type"), Some("text/plain; charset=utf-8"));
    let line = "openhim_transactions_total{status=\"Successful\",method=\"GET\",client=\"undefined\",channel=\"c2\",code=\"200\"} 1\n";
    assert!(by_header.text().contains(line), "{}", by_header.text());
    assert!(api.get("/metrics/prometheus").await.text().contains(line));

    assert_eq!(ask("/metrics/").send().await.status, 401);
    assert_eq!(api.get("/metrics").await.status, 401);
}
