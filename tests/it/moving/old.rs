//! Documents as the Node.js core of several versions writes them.

use bson::oid::ObjectId;
use bson::spec::BinarySubtype;
use bson::{Binary, Bson, DateTime, Document, doc};
use mongodb::options::IndexOptions;
use mongodb::{Client, Database, IndexModel};
use openhim_node::crypto::digest::Digest;

/// 2019-03-01T08:00:00Z
const THEN: i64 = 1_551_427_200_000;

/// The login of the seeded administrator.
pub(super) const ADMIN: (&str, &str) = ("old@openhim.org", "old-password");
/// The login of the seeded client.
pub(super) const CLIENT: (&str, &str) = ("old-clinic", "secret");

/// A database as OpenHIM 5.2 leaves it: on version 3, password hashes in the users.
pub(super) async fn openhim_5(url: &str, transactions: usize) -> Database {
    let database = Client::with_uri_str(url).await.unwrap().database("openhim");
    put(
        &database,
        "dbversions",
        vec![doc! {"version": 3, "lastUpdated": date(0), "__v": 0}],
    )
    .await;
    put(
        &database,
        "users",
        vec![
            doc! {
                "firstname": "Old", "surname": "Admin", "email": ADMIN.0,
                "passwordAlgorithm": "sha512", "passwordSalt": "pepper",
                "passwordHash": Digest::Sha512.hex(&[b"pepper", ADMIN.1.as_bytes()]),
                "groups": ["admin"], "locked": false, "token": null, "__v": 3,
                "settings": {"filter": {"limit": 10}, "list": {}},
            },
            doc! {"firstname": "No", "surname": "Password", "email": "none@openhim.org", "groups": [], "__v": 0},
        ],
    )
    .await;
    put(&database, "clients", vec![client()]).await;
    put(
        &database,
        "log",
        vec![doc! {"message": "started", "timestamp": date(1), "level": "info", "meta": {}, "label": "server1"}],
    )
    .await;
    let rows = (0..transactions).map(transaction).collect();
    put(&database, "transactions", rows).await;
    let name = IndexModel::builder().keys(doc! {"request.timestamp": 1}).build();
    database
        .collection::<Document>("transactions")
        .create_index(name)
        .await
        .unwrap();
    database
}

/// What later versions add: roles, passports, apps, sessions, and documents with every kind of value.
pub(super) async fn openhim_8(url: &str, transactions: usize) -> Database {
    let database = openhim_5(url, transactions).await;
    database.collection::<Document>("dbversions").drop().await.unwrap();
    put(
        &database,
        "dbversions",
        vec![doc! {"version": 4, "lastUpdated": date(5), "__v": 0}],
    )
    .await;
    database.collection::<Document>("users").drop().await.unwrap();
    let user = doc! {
        "firstname": "Old", "surname": "Admin", "email": ADMIN.0, "provider": "token",
        "groups": ["admin"], "locked": false, "token": null, "passwordHash": null, "__v": 3,
    };
    put(&database, "users", vec![user]).await;
    let passport = doc! {
        "protocol": "token", "email": ADMIN.0, "passwordAlgorithm": "sha512", "passwordSalt": "pepper",
        "passwordHash": Digest::Sha512.hex(&[b"pepper", ADMIN.1.as_bytes()]), "__v": 0,
    };
    put(&database, "passports", vec![passport]).await;
    put(
        &database,
        "roles",
        vec![doc! {
            "name": "admin", "permissions": {"channel-view-all": true, "channel-view-specified": []},
            "createdAt": date(2), "updatedAt": date(2), "__v": 0,
        }],
    )
    .await;
    put(&database, "channels", vec![channel()]).await;
    put(
        &database,
        "channelAudits",
        vec![doc! {"ref": ObjectId::new(), "ops": [{"op": "add", "path": "/name", "value": "Old"}], "__v": 0}],
    )
    .await;
    put(
        &database,
        "apps",
        vec![doc! {"name": "An App", "url": "http://x", "type": "link", "__v": 0}],
    )
    .await;
    let session = doc! {"data": {"passport": {"user": ADMIN.0}}, "updatedAt": date(6)};
    let sessions = database.collection::<Document>("sessions");
    let mut session = session;
    session.insert("_id", "f5e633db-916c-44da-b785-a82658593dff");
    sessions.insert_one(session).await.unwrap();
    put(
        &database,
        "keystores",
        vec![doc! {
            "ca": [{"_id": ObjectId::new(), "commonName": "lab", "data": Binary {subtype: BinarySubtype::Generic, bytes: b"PEM".to_vec()}}],
            "__v": 1,
        }],
    )
    .await;
    database
}

async fn put(database: &Database, name: &str, documents: Vec<Document>) {
    let documents = documents.into_iter().map(|document| {
        let mut whole = doc! {"_id": ObjectId::new()};
        whole.extend(document);
        whole
    });
    database
        .collection::<Document>(name)
        .insert_many(documents)
        .await
        .unwrap();
}

/// An index that OpenHIM makes and that an old database may lack.
pub(super) async fn unique(database: &Database, collection: &str, field: &str) {
    let options = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! {field: 1}).options(options).build();
    let _ = database.collection::<Document>(collection).create_index(index).await;
}

fn date(days: i64) -> DateTime {
    DateTime::from_millis(THEN + days * 86_400_000)
}

fn client() -> Document {
    doc! {
        "clientID": CLIENT.0, "clientDomain": "clinic.example", "name": "An old clinic", "roles": ["clinics"],
        "passwordAlgorithm": "sha512", "passwordSalt": "salt",
        "passwordHash": Digest::Sha512.hex(&[CLIENT.1.as_bytes(), b"salt"]), "__v": 0,
    }
}

fn channel() -> Document {
    doc! {
        "name": "Old patients", "urlPattern": "^/patients$", "type": "http", "priority": Bson::Double(1.0),
        "allow": ["clinics"], "whitelist": [], "authType": "private", "status": "enabled",
        "routes": [{"_id": ObjectId::new(), "name": "Registry", "host": "127.0.0.1", "port": Bson::Double(9.0), "primary": true}],
        "matchContentTypes": [], "requestBody": true, "responseBody": true, "__v": Bson::Int64(2),
    }
}

fn transaction(number: usize) -> Document {
    let at = DateTime::from_millis(THEN + number as i64 * 1000);
    let status = ["Successful", "Failed", "Completed", "Processing"][number % 4];
    doc! {
        "clientID": ObjectId::from_bytes([1; 12]), "clientIP": "10.0.0.9", "channelID": ObjectId::from_bytes([2; 12]),
        "request": {
            "host": "localhost", "port": "5001", "path": "/patients", "querystring": "", "method": "POST",
            "headers": {"content-type": "application/json", "x-dotless": "ü €"}, "timestamp": at,
            "body": format!("{{\"number\":{number},\"text\":\"{}\"}}", "é".repeat(number % 300)),
        },
        "response": {
            "status": if number.is_multiple_of(2) { Bson::Int32(200) } else { Bson::Double(200.0) }, "timestamp": at, "headers": {}, "body": "",
        },
        "routes": [], "orchestrations": [{"_id": ObjectId::new(), "name": "step", "request": {"timestamp": at}}],
        "properties": {"weight": 1.5, "tag": null}, "canRerun": true, "autoRetry": false, "childIDs": [],
        "status": status, "__v": 0,
    }
}
