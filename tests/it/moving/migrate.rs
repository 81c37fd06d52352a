//! `migrate` as its users type it.

use bson::oid::ObjectId;
use bson::{Document, doc};
use mongodb::Client;
use openhim_node::testing::backend;
use openhim_node::testing::mongod::Mongod;
use rustix::process::Signal;
use serde_json::Value;

use super::old;
use crate::support::backend::host;
use crate::support::eventually;
use crate::support::node::{Ports, node};
use crate::support::plain_http::{self, Tls};
use crate::support::program::{Outcome, Running, outcome, program, run};

fn migrate(from: &str, to: &str, more: &[&str]) -> Outcome {
    let mut arguments = vec!["migrate", "--from", from, "--to", to];
    arguments.extend(more);
    run(arguments)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

#[test]
fn an_openhim_5_moves_into_the_embedded_store_and_its_people_and_clients_go_on() {
    let Some(mongo) = Mongod::start() else { return };
    let from = mongo.url("openhim");
    block_on(old::openhim_5(&from, 1200));
    let builder = node();
    let to = builder.store_url();

    let moved = migrate(&from, &to, &[]);
    assert_eq!(moved.code, 0, "{}{}", moved.stdout, moved.stderr);
    assert!(
        moved.stdout.contains("all 1205 documents are the same on both sides"),
        "{}",
        moved.stdout
    );
    assert!(moved.stdout.contains("1 upgrade steps"), "{}", moved.stdout);
    assert!(moved.stderr.contains("copying: 1205 documents"), "{}", moved.stderr);

    let registry = host(backend());
    let node = builder.start();
    let ask = |path: &str| {
        let answer =
            plain_http::request(node.api(), Some(&Tls::anonymous()), "GET", path, Some(old::ADMIN), "").unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let listed = ask(
        "/transactions?filterLimit=5&filterPage=0&filterRepresentation=full&filters=%7B%22status%22%3A%22Failed%22%7D",
    );
    assert_eq!(listed.as_array().unwrap().len(), 5);
    assert_eq!(listed[0]["request"]["headers"]["x-dotless"], "ü €");
    assert_eq!(ask("/clients")[0]["clientID"], old::CLIENT.0);
    assert_eq!(node.send("/nowhere", Some(old::CLIENT), "").unwrap().status, 404);
    node.create_channel("/patients", "clinics", &registry);
    let status = |password| {
        let login = Some((old::CLIENT.0, password));
        node.send("/patients", login, "").unwrap().status
    };
    assert_eq!((status(old::CLIENT.1), status("wrong")), (200, 401));
}

#[test]
fn a_database_moves_to_another_mongodb_and_back_and_stays_the_same_to_the_byte() {
    let Some(mongo) = Mongod::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (mongo.url("openhim"), mongo.url("other"));
    let file = format!("sqlite://{}/there.db", folder.path().display());
    block_on(old::openhim_8(&from, 700));

    for (from, to) in [(&from, &to), (&to, &file), (&file, &mongo.url("back"))] {
        let moved = migrate(from, to, &[]);
        assert_eq!(moved.code, 0, "{}{}", moved.stdout, moved.stderr);
    }

    let same = migrate(&from, &mongo.url("back"), &["--check"]);
    assert_eq!(same.code, 0, "{}{}", same.stdout, same.stderr);
    block_on(async {
        let client = Client::with_uri_str(&mongo.url("back")).await.unwrap();
        for name in ["transactions", "channels", "sessions", "keystores"] {
            let of = |database: &str| client.database(database).collection::<Document>(name);
            let mut there = of("back").find(doc! {}).await.unwrap();
            while there.advance().await.unwrap() {
                let document = there.deserialize_current().unwrap();
                let id = document.get("_id").cloned().unwrap();
                assert_eq!(of("openhim").find_one(doc! {"_id": id}).await.unwrap(), Some(document));
            }
        }
    });
}

#[test]
fn a_run_that_is_killed_goes_on_and_meanwhile_no_node_starts_on_the_half() {
    let Some(mongo) = Mongod::start() else { return };
    let from = mongo.url("openhim");
    block_on(old::openhim_5(&from, 20_000));
    let builder = node();
    let to = builder.store_url();
    let path = to.strip_prefix("sqlite://").unwrap().to_owned();

    let mut first = Running::start(&mut program(["migrate", "--from", &from, "--to", &to]));
    eventually("some transactions are there", || {
        let connection = rusqlite::Connection::open(&path).ok()?;
        let count: i64 = connection
            .query_row("SELECT count(*) FROM transactions", [], |row| row.get(0))
            .ok()?;
        (count > 500).then_some(())
    });
    first.signal(Signal::KILL);
    first.exit();

    let refused = outcome(&mut builder.command(&Ports::free()));
    assert_eq!(refused.code, 64, "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("unfinished copy"), "{}", refused.stderr);

    let moved = migrate(&from, &to, &[]);
    assert_eq!(moved.code, 0, "{}{}", moved.stdout, moved.stderr);
    let inserted: u64 = moved
        .stdout
        .lines()
        .find_map(|line| {
            line.split(" documents inserted")
                .next()
                .filter(|it| *it != line)?
                .parse()
                .ok()
        })
        .unwrap();
    assert!(inserted < 20_000, "it began anew: {}", moved.stdout);
    drop(builder.start());
}

#[test]
fn what_the_old_core_still_writes_is_brought_by_a_later_run() {
    let Some(mongo) = Mongod::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = mongo.url("openhim");
    let to = format!("sqlite://{}/new.db", folder.path().display());
    let database = block_on(old::openhim_5(&from, 400));
    assert_eq!(migrate(&from, &to, &[]).code, 0);
    let later = doc! {"_id": ObjectId::new(), "status": "Successful", "request": {"path": "/later"}};
    let runtime = tokio::runtime::Runtime::new().unwrap();
    drop(database);
    runtime.block_on(async {
        let database = Client::with_uri_str(&from).await.unwrap().database("openhim");
        let transactions = database.collection::<Document>("transactions");
        transactions.insert_one(later).await.unwrap();
        transactions
            .update_one(doc! {"status": "Processing"}, doc! {"$set": {"status": "Completed"}})
            .await
            .unwrap();
    });

    let differing = migrate(&from, &to, &["--check"]);
    assert_eq!(differing.code, 1);
    assert!(
        differing
            .stderr
            .contains("transactions differs: 401 documents in the source, 400"),
        "{}",
        differing.stderr
    );

    let again = migrate(&from, &to, &[]);
    assert_eq!(again.code, 0, "{}{}", again.stdout, again.stderr);
    assert!(again.stdout.contains("all 406 documents"), "{}", again.stdout);
}

#[test]
fn what_cannot_be_moved_is_refused_in_words_and_without_passwords() {
    let Some(mongo) = Mongod::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let to = format!("sqlite://{}/new.db", folder.path().display());
    let secret = "mongodb://him:s3cret@127.0.0.1:1/openhim?serverSelectionTimeoutMS=200";
    for (from, to, told) in [
        (
            mongo.url("empty").as_str(),
            to.as_str(),
            "holds no documents of OpenHIM",
        ),
        (secret, &to, "cannot open mongodb://127.0.0.1:1/openhim"),
        ("postgres://x", &to, "sqlite:// or mongodb://"),
        ("sqlite:///no/such/file.db", &to, "there is no file"),
        (&to, &to, "are the same"),
    ] {
        let refused = migrate(from, to, &[]);
        assert_eq!(refused.code, 64, "{from}: {}{}", refused.stdout, refused.stderr);
        assert!(refused.stderr.contains(told), "{from}: {}", refused.stderr);
        assert!(!refused.stderr.contains("s3cret"), "{}", refused.stderr);
    }
    assert_eq!(run(["migrate", "--from", "sqlite://a"]).code, 2);
}

#[test]
fn twins_that_an_old_database_tolerated_are_named() {
    let Some(mongo) = Mongod::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    let from = mongo.url("openhim");
    let to = format!("sqlite://{}/new.db", folder.path().display());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let database = old::openhim_5(&from, 10).await;
        let twin = doc! {"_id": ObjectId::new(), "email": old::ADMIN.0, "groups": []};
        database.collection::<Document>("users").insert_one(twin).await.unwrap();
        let foreign = database.collection::<Document>("notes");
        foreign.insert_one(doc! {"text": "a note"}).await.unwrap();
        old::unique(&database, "clients", "clientID").await;
    });

    let moved = migrate(&from, &to, &[]);

    assert_eq!(moved.code, 1, "{}{}", moved.stdout, moved.stderr);
    assert!(
        moved.stderr.contains("of users cannot be stored: E11000"),
        "{}",
        moved.stderr
    );
    assert!(
        moved
            .stdout
            .contains("notes is no collection of OpenHIM; its 1 documents"),
        "{}",
        moved.stdout
    );
}
