//! Input that nobody means well with: wrong types in every field, operators, patterns and shapes that cost. Each is
//! answered soon, with a 4xx, and leaves lists that can be read. On both stores.

use std::time::{Duration, Instant};

use bson::doc;
use bson::oid::ObjectId;
use http::Method;
use serde_json::{Value, json};

use super::{Answer, PASSWORD, ROOT, Session, TestApi};
use crate::model::schema::{Schema, tables};
use crate::store::Collection;
use crate::testing::mongod::Mongod;

/// Longest answer to one hostile request.
const SOON: Duration = Duration::from_secs(5);

/// Runs a test on the embedded store and, where there is a server, on MongoDB.
async fn on_both_stores(test: impl AsyncFn(TestApi)) {
    test(TestApi::start().await).await;
    if let Some(server) = Mongod::start() {
        test(TestApi::start_on_mongodb(&server).await).await;
    }
}

/// Asks as somebody who wants to know whose fault it was.
async fn ask(root: &Session<'_>, method: Method, path: &str, body: &Value) -> Answer {
    let begun = Instant::now();
    let ask = root.ask(method.clone(), path).header("prefer", "handling=strict");
    let answer = ask.json(body).send().await;
    assert!(begun.elapsed() < SOON, "{method} {path} took {:?}", begun.elapsed());
    answer
}

/// One kind of document: where it lives, what makes one, and which.
struct Kind {
    path: &'static str,
    schema: &'static Schema,
    valid: Value,
    collection: Collection,
    /// The field that the API finds it by, if that is not `_id`.
    key: Option<&'static str>,
}

fn kinds() -> Vec<Kind> {
    let route = json!({"name": "r", "host": "localhost", "port": 80, "primary": true});
    let kind = |path, schema, valid, collection, key| Kind {
        path,
        schema,
        valid,
        collection,
        key,
    };
    vec![
        kind(
            "/channels",
            &tables::CHANNEL,
            json!({"name": "c", "urlPattern": "/", "routes": [route.clone()]}),
            Collection::Channels,
            None,
        ),
        kind(
            "/clients",
            &tables::CLIENT,
            json!({"clientID": "c", "name": "c", "roles": []}),
            Collection::Clients,
            None,
        ),
        kind(
            "/users",
            &tables::USER,
            json!({"email": "a@hie.org", "firstname": "A", "surname": "B"}),
            Collection::Users,
            Some("email"),
        ),
        kind(
            "/roles",
            &tables::ROLE,
            json!({"name": "r"}),
            Collection::Roles,
            Some("name"),
        ),
        kind(
            "/transactions",
            &tables::TRANSACTION,
            json!({"status": "Successful", "request": {"timestamp": "2026-11-22T11:00:00Z"}}),
            Collection::Transactions,
            None,
        ),
        kind(
            "/groups",
            &tables::CONTACT_GROUP,
            json!({"group": "g"}),
            Collection::ContactGroups,
            None,
        ),
        kind(
            "/apps",
            &tables::APP,
            json!({"name": "a", "url": "http://a"}),
            Collection::Apps,
            None,
        ),
        kind(
            "/visualizers",
            &tables::VISUALIZER,
            json!({"name": "v"}),
            Collection::Visualizers,
            None,
        ),
        kind(
            "/mediators",
            &tables::MEDIATOR,
            json!({"urn": "u", "version": "1.0.0", "name": "m", "endpoints": [route]}),
            Collection::Mediators,
            Some("urn"),
        ),
        kind("/audits", &tables::AUDIT, json!({}), Collection::Audits, None),
    ]
}

/// The dotted paths of all fields that a schema describes.
fn fields(described: &Value, prefix: &str, found: &mut Vec<String>) {
    let inner = if described["items"].is_object() {
        &described["items"]
    } else {
        described
    };
    for (name, field) in inner["properties"].as_object().into_iter().flatten() {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}.{name}")
        };
        fields(field, &path, found);
        found.push(path);
    }
}

/// The body with this value at the path; lists on the way get one element.
fn put(body: &mut Value, schema: &Value, path: &[&str], value: &Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        body[*first] = value.clone();
        return;
    }
    let field = &schema["properties"][*first];
    if field["items"].is_object() {
        if body[*first].as_array().is_none_or(Vec::is_empty) {
            body[*first] = json!([{}]);
        }
        put(&mut body[*first][0], &field["items"], rest, value);
    } else {
        if !body[*first].is_object() {
            body[*first] = json!({});
        }
        put(&mut body[*first], field, rest, value);
    }
}

fn wrong_values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(-1e308),
        json!("\u{0} no such thing"),
        json!([[[1]], {"a": []}]),
        json!({"$gt": ""}),
        json!({"a": {"b": [null]}}),
    ]
}

#[tokio::test]
async fn a_wrong_type_in_any_field_is_the_callers_mistake() {
    on_both_stores(async |api: TestApi| {
        let root = api.log_in(ROOT).await;
        for kind in kinds() {
            let described = kind.schema.describe_new();
            let mut paths = Vec::new();
            fields(&described, "", &mut paths);
            let made = ask(&root, Method::POST, kind.path, &kind.valid).await;
            assert_eq!(made.status, 201, "{}: {}", kind.path, made.text());
            let stored = api.stored(kind.collection, doc! {}).await;
            let stored = stored.last().unwrap();
            let key = match kind.key {
                Some(key) => kind.valid[key].as_str().unwrap().to_owned(),
                None => stored.get_object_id("_id").unwrap().to_hex(),
            };
            let one = format!("{}/{key}", kind.path);
            // One value a field, another one for its neighbour.
            for (path, value) in paths.iter().zip(wrong_values().into_iter().cycle()) {
                let segments: Vec<&str> = path.split('.').collect();
                let mut whole = kind.valid.clone();
                put(&mut whole, &described, &segments, &value);
                let answer = ask(&root, Method::POST, kind.path, &whole).await;
                let status = answer.status.as_u16();
                assert!(status < 500, "POST {} {path}={value}: {}", kind.path, answer.text());
                // These cannot be changed, and what a document is found by stays.
                if ["/audits", "/mediators"].contains(&kind.path) || kind.key == Some(path.as_str()) {
                    continue;
                }
                let mut change = json!({});
                put(&mut change, &described, &segments, &value);
                let answer = ask(&root, Method::PUT, &one, &change).await;
                let status = answer.status.as_u16();
                assert!(status < 500, "PUT {one} {path}={value}: {}", answer.text());
            }
            let listed = root.get(kind.path).await;
            assert_eq!(listed.status, 200, "{}: {}", kind.path, listed.text());
            assert!(listed.json().is_array(), "{}", kind.path);
        }
    })
    .await;
}

#[tokio::test]
async fn operators_that_run_code_or_mean_nothing_are_refused() {
    on_both_stores(async |api: TestApi| {
        let root = api.log_in(ROOT).await;
        let hostile = [
            json!({"$where": "sleep(10000)"}),
            json!({"$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}}}),
            json!({"$or": [{"$where": "1"}]}),
            json!({"$and": [{"$nor": [{"$expr": {"$gt": ["$a", "$b"]}}]}]}),
            json!({"status": {"$where": "1"}}),
            json!({"status": {"$not": {"$function": {}}}}),
            json!({"properties": {"a": {"$where": "1"}}}),
            json!({"$jsonSchema": {}}),
            json!({"$text": {"$search": "a"}}),
        ];
        for filters in hostile {
            let text = percent_encoding::utf8_percent_encode(&filters.to_string(), percent_encoding::NON_ALPHANUMERIC)
                .to_string();
            for list in ["/transactions", "/tasks", "/audits"] {
                let answer = root
                    .get(&format!("{list}?filterLimit=5&filterPage=0&filters={text}"))
                    .await;
                // A key that the list does not know is dropped.
                let is_unknown = list != "/transactions" && filters["properties"].is_object();
                let is_unknown = is_unknown || (list == "/audits" && filters["status"].is_object());
                let wanted = if is_unknown { 200 } else { 400 };
                assert_eq!(answer.status, wanted, "{list} {filters}: {}", answer.text());
            }
            let bulk = root.post("/bulkrerun", &json!({"filters": filters})).await;
            assert_eq!(bulk.status, 400, "{filters}: {}", bulk.text());
        }
        let id = ObjectId::new().to_hex();
        for path in [
            "/clients",
            "/groups",
            "/visualizers",
            "/apps",
            "/tasks",
            "/roles",
            "/users",
            "/transactions",
        ] {
            let key = match path {
                "/roles" => "manager".to_owned(),
                "/users" => ROOT.to_owned(),
                _ => id.clone(),
            };
            for operator in ["$where", "$rename", "$expr"] {
                let answer = ask(
                    &root,
                    Method::PUT,
                    &format!("{path}/{key}"),
                    &json!({operator: {"name": "x"}}),
                )
                .await;
                let status = answer.status.as_u16();
                assert!(
                    (400..500).contains(&status) || (path == "/users" && status == 200),
                    "{path} {operator}: {status} {}",
                    answer.text()
                );
            }
        }
        // A login that asks for anybody is nobody's.
        for credential in [
            json!({"$gt": ""}),
            json!({"$ne": null}),
            json!([ROOT]),
            json!({"$regex": ".*"}),
        ] {
            let body = json!({"username": credential.clone(), "password": PASSWORD});
            let answer = api.ask(Method::POST, "/authenticate/local").json(&body).send().await;
            assert_eq!(answer.status, 401, "{credential}");
            let body = json!({"username": ROOT, "password": credential});
            let answer = api.ask(Method::POST, "/authenticate/local").json(&body).send().await;
            assert_eq!(answer.status, 401);
        }
    })
    .await;
}

#[tokio::test]
async fn patterns_and_shapes_without_measure_cost_little() {
    on_both_stores(async |api: TestApi| {
        let root = api.log_in(ROOT).await;
        let path = format!("/{}!", "a".repeat(200));
        let transaction =
            json!({"status": "Successful", "request": {"path": path, "timestamp": "2026-11-22T11:00:00Z"}});
        assert_eq!(root.post("/transactions", &transaction).await.status, 201);
        let encoded = |filters: &Value| {
            percent_encoding::utf8_percent_encode(&filters.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        for pattern in [
            "(a+)+$",
            "(a|aa)+$",
            "(a*)*b",
            "(?=(a+))\\1+$",
            "((a{1,50}){1,50}){1,50}$",
            "(",
            "[",
            "\\",
        ] {
            let begun = Instant::now();
            let filters = encoded(&json!({"request.path": pattern}));
            let answer = root.get(&format!("/transactions?filters={filters}")).await;
            assert!(begun.elapsed() < SOON, "{pattern} took {:?}", begun.elapsed());
            assert!(
                [200, 400, 500].contains(&answer.status.as_u16()),
                "{pattern}: {}",
                answer.text()
            );
        }
        let long = encoded(&json!({"request.path": "a".repeat(2_001)}));
        assert_eq!(root.get(&format!("/transactions?filters={long}")).await.status, 400);
        let many: Vec<String> = (0..6_000).map(|n| n.to_string()).collect();
        let bulk = root
            .post("/bulkrerun", &json!({"filters": {"status": {"$in": many}}}))
            .await;
        assert_eq!(bulk.status, 400, "{}", bulk.text());

        for deep in [
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
            format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000)),
        ] {
            let begun = Instant::now();
            let answer = root
                .ask(Method::POST, "/channels")
                .raw("application/json", deep)
                .send()
                .await;
            answer.is(400, "Bad Request");
            assert!(begun.elapsed() < SOON);
        }
        let zeros = format!("[{}0]", "0,".repeat(3_000_000));
        let begun = Instant::now();
        let answer = root
            .ask(Method::POST, "/tasks")
            .raw("application/json", zeros)
            .send()
            .await;
        answer.is(400, "Bad Request");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        // A key that no document can have.
        let nul = json!({"name": "x", "settings": {"a\u{0}b": 1}});
        for path in [
            "/channels",
            "/clients",
            "/users",
            "/transactions",
            "/mediators",
            "/visualizers",
            "/groups",
            "/audits",
        ] {
            let answer = root.post(path, &nul).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        }
        assert_eq!(api.get("/heartbeat").await.status, 200);
    })
    .await;
}
