//! The schema of transactions.

use crate::model::schema::{Field, Kind, Schema, date, documents, field, flag, group, id, list, mixed, number, text};

/// `transactions`.
pub static TRANSACTION: Schema = Schema {
    model: "Transaction",
    fields: &[
        id("clientID"),
        text("clientIP"),
        id("parentID"),
        list("childIDs", &ID_ELEMENT),
        id("channelID"),
        group("request", REQUEST),
        group("response", RESPONSE),
        documents(
            "routes",
            &[
                text("name").required(),
                group("request", REQUEST),
                group("response", RESPONSE),
                documents("orchestrations", ORCHESTRATION),
                mixed("properties"),
                group("error", ERROR),
            ],
        ),
        documents("orchestrations", ORCHESTRATION),
        mixed("properties"),
        flag("canRerun").or_flag(true),
        flag("autoRetry").or_flag(false),
        number("autoRetryAttempt"),
        flag("wasRerun").or_flag(false),
        group("error", ERROR),
        text("status").required().one_of(&[
            "Processing",
            "Pending Async",
            "Successful",
            "Completed",
            "Completed with error(s)",
            "Failed",
        ]),
    ],
};

const ID_ELEMENT: Field = id("");

const REQUEST: &[Field] = &[
    text("host"),
    text("port"),
    text("path"),
    mixed("headers"),
    text("querystring"),
    text("body"),
    text("method"),
    date("timestamp").required(),
];

const RESPONSE: &[Field] = &[number("status"), mixed("headers"), text("body"), date("timestamp")];

const ERROR: &[Field] = &[text("message"), text("stack")];

const ORCHESTRATION: &[Field] = &[
    text("name").required(),
    text("group"),
    field("request", Kind::SubDocument(REQUEST)),
    group("response", RESPONSE),
    group("error", ERROR),
];
