use super::*;

fn outcome(primary: u16, secondaries: &[u16]) -> Outcome<'_> {
    Outcome {
        primary,
        secondaries,
        mediator: None,
        is_asynchronous: false,
        current: Status::Processing,
    }
}

#[test]
fn the_final_status_follows_the_observed_table() {
    use Status::{Completed, CompletedWithErrors, Failed, Successful};
    let table = [
        (200, [Successful, Successful, Completed, Completed, CompletedWithErrors]),
        (301, [Completed, Completed, Completed, Completed, CompletedWithErrors]),
        (404, [Completed, Completed, Completed, Completed, CompletedWithErrors]),
        (500, [Failed, Failed, Failed, Failed, Failed]),
    ];
    for (primary, row) in table {
        let secondaries: [&[u16]; 5] = [&[], &[204], &[302], &[400], &[599]];
        for (codes, expected) in secondaries.into_iter().zip(row) {
            assert_eq!(outcome(primary, codes).status(), expected, "{primary} {codes:?}");
        }
    }
}

#[test]
fn one_failed_secondary_among_many_is_an_error() {
    assert_eq!(outcome(200, &[200, 404, 500]).status(), Status::CompletedWithErrors);
}

#[test]
fn an_asynchronous_transaction_stays_pending_unless_it_was_refused_or_failed() {
    let status = |primary, secondaries| {
        Outcome {
            is_asynchronous: true,
            current: Status::PendingAsync,
            ..outcome(primary, secondaries)
        }
        .status()
    };

    assert_eq!(status(202, &[]), Status::PendingAsync);
    assert_eq!(status(404, &[]), Status::Completed);
    assert_eq!(status(503, &[]), Status::Failed);
    assert_eq!(status(202, &[404]), Status::PendingAsync);
    assert_eq!(status(202, &[500]), Status::CompletedWithErrors);
}

#[test]
fn the_mediators_word_wins_if_it_is_a_status() {
    let said = |mediator| {
        Outcome {
            mediator: Some(mediator),
            ..outcome(500, &[500])
        }
        .status()
    };

    assert_eq!(said("Successful"), Status::Successful);
    assert_eq!(said("Pending Async"), Status::PendingAsync);
    assert_eq!(said("Weird"), Status::Failed);
}

#[test]
fn an_opened_transaction_has_every_default_and_no_empty_object() {
    let [id, channel, client] = [1, 2, 3].map(|n| ObjectId::from_bytes([n; 12]));
    let document = Opening {
        id,
        status: Status::Processing,
        client: Some(client),
        client_ip: "127.0.0.1".into(),
        channel,
        parent: None,
        auto_retry_attempt: None,
        can_rerun: true,
        request: RequestPart {
            host: Some("him.example".into()),
            port: Some("15001".into()),
            path: "/echo".into(),
            querystring: Some("x=1&y=%20z".into()),
            method: "GET".into(),
            body: Some(Text::default()),
            timestamp: Some(DateTime::from_millis(5)),
            ..RequestPart::default()
        },
    }
    .stored();

    assert_eq!(
        document,
        rawdoc! {
            "_id": id, "clientID": client, "clientIP": "127.0.0.1", "childIDs": [], "channelID": channel,
            "request": {"host": "him.example", "port": "15001", "path": "/echo", "querystring": "x=1&y=%20z", "body": "",
                        "method": "GET", "timestamp": DateTime::from_millis(5)},
            "routes": [], "orchestrations": [], "canRerun": true, "autoRetry": false, "wasRerun": false,
            "status": "Processing", "__v": 0,
        }
    );
}

#[test]
fn an_answer_sets_only_what_there_is() {
    let fields = Answer {
        response: ResponsePart {
            status: 201,
            headers: headers([("x-a", "1")]),
            body: Some("ok".into()),
            timestamp: None,
        },
        properties: Some(Bson::Null),
        ..Answer::default()
    }
    .stored();

    assert_eq!(
        fields,
        rawdoc! {"response": {"status": 201, "headers": {"x-a": "1"}, "body": "ok"}, "orchestrations": []}
    );
}

#[test]
fn what_a_mediator_reports_is_repaired_and_only_the_unusable_is_dropped() {
    let received = DateTime::from_millis(9);
    let stored = mediator_orchestrations(
        vec![
            Bson::from(doc! {
                "name": "whole", "group": "g", "queryString": "dropped",
                "request": {"path": "/x", "timestamp": "1970-01-01T00:00:00.005Z", "headers": {}},
                "response": {"status": "200", "body": {"a": 1}},
            }),
            Bson::from(
                doc! {"name": "bad parts", "request": {"path": {"no": "path"}}, "response": "none", "error": {"message": "m"}},
            ),
            Bson::from(doc! {"response": {"status": 200}}),
            Bson::from("no document"),
        ],
        received,
    );

    assert_eq!(stored.len(), 2);
    let id_of = |document: &Document| document.get_object_id("_id").unwrap();
    let [first, second] = [0, 1].map(|at| stored[at].get_document("request").unwrap());
    assert_eq!(
        stored,
        [
            doc! {"name": "whole", "group": "g",
            "request": {"path": "/x", "timestamp": DateTime::from_millis(5), "_id": id_of(first)},
            "response": {"status": 200, "body": r#"{"a":1}"#}, "_id": id_of(&stored[0])},
            doc! {"name": "bad parts", "request": {"timestamp": received, "_id": id_of(second)}, "error": {"message": "m"},
            "_id": id_of(&stored[1])},
        ]
    );
}

#[test]
fn a_failed_secondary_route_is_stored_with_its_error() {
    let id = ObjectId::from_bytes([1; 12]);
    let entry = route_entry(
        id,
        &RouteResult {
            name: "r".into(),
            response: ResponsePart {
                status: 500,
                ..ResponsePart::default()
            },
            error: Some(ErrorPart {
                message: "connect ECONNREFUSED".into(),
                stack: "at route".into(),
            }),
            ..RouteResult::default()
        },
    );

    assert_eq!(
        entry,
        rawdoc! {"_id": id, "name": "r", "request": {"path": "", "method": ""}, "response": {"status": 500}, "orchestrations": [],
        "error": {"message": "connect ECONNREFUSED", "stack": "at route"}}
    );
}

#[test]
fn header_names_survive_the_database() {
    assert_eq!(escape_header_name("x.dot$"), "x\u{FF0E}dot\u{FF04}");
    assert_eq!(escape_header_name("a.b.c"), "a\u{FF0E}b.c");
    for name in ["x.dot$", "a.b.c", "plain", "$where"] {
        assert_eq!(unescape_header_name(&escape_header_name(name)), name);
    }
}
