//! The schemas of channels, of their history, and of mediators, which describe channels.

use super::{CONTACT_USER, REQUIRED_TEXT};
use crate::model::schema::{
    Field, Kind, Schema, date, documents, field, flag, group, id, list, mixed, number, text, texts,
};

/// `channels`.
pub static CHANNEL: Schema = Schema {
    model: "Channel",
    fields: CHANNEL_FIELDS,
};

const CHANNEL_FIELDS: &[Field] = &[
    text("name").required(),
    text("description"),
    text("urlPattern").required(),
    flag("isAsynchronousProcess").or_flag(false),
    number("maxBodyAgeDays").at_least(1).at_most(36_500),
    date("lastBodyCleared"),
    // Ours: which whole transactions are deleted.
    group("retention", RETENTION),
    number("timeout").at_least(1).at_most(3_600_000),
    list("methods", &METHOD),
    text("type").one_of(&["http", "tcp", "tls", "polling"]).or("http"),
    number("priority").at_least(1),
    number("tcpPort").at_least(0).at_most(65_536),
    text("tcpHost"),
    text("pollingSchedule"),
    flag("requestBody"),
    flag("responseBody"),
    list("allow", &REQUIRED_TEXT),
    texts("whitelist"),
    text("authType").one_of(&["private", "public"]).or("private"),
    documents("routes", ROUTE),
    texts("matchContentTypes"),
    text("matchContentRegex"),
    text("matchContentXpath"),
    text("matchContentJson"),
    text("matchContentValue"),
    list("properties", &ANYTHING),
    texts("txViewAcl"),
    texts("txViewFullAcl"),
    texts("txRerunAcl"),
    documents("alerts", ALERT),
    text("status").one_of(&["enabled", "disabled", "deleted"]).or("enabled"),
    flag("rewriteUrls").or_flag(false),
    flag("addAutoRewriteRules").or_flag(true),
    documents("rewriteUrlsConfig", REWRITE_RULE),
    flag("autoRetryEnabled").or_flag(false),
    number("autoRetryPeriodMinutes").or_number(60).at_least(1),
    number("autoRetryMaxAttempts").at_least(0),
    group("updatedBy", &[id("id"), text("name")]),
];

const RETENTION: &[Field] = &[
    number("maxAgeDays").at_least(0).at_most(36_500),
    number("maxSizeMB").at_least(0),
];

const METHOD: Field = text("").one_of(&[
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
]);

const ANYTHING: Field = mixed("");

const ROUTE: &[Field] = &[
    text("name").required(),
    // `tcp` and `mllp` are ours.
    text("type").one_of(&["http", "kafka", "tcp", "mllp"]).or("http"),
    id("cert"),
    text("status").one_of(&["enabled", "disabled"]).or("enabled"),
    flag("secured"),
    text("host"),
    number("port").at_least(0).at_most(65_536),
    text("path"),
    text("pathTransform"),
    flag("primary"),
    text("username"),
    text("password"),
    flag("forwardAuthHeader").or_flag(false),
    flag("waitPrimaryResponse"),
    text("statusCodesCheck"),
    text("kafkaClientId"),
    text("kafkaTopic"),
];

const ALERT: &[Field] = &[
    text("condition")
        .one_of(&["status", "auto-retry-max-attempted"])
        .or("status"),
    text("status"),
    number("failureRate"),
    list("groups", &GROUP_ID),
    documents("users", CONTACT_USER),
];

const GROUP_ID: Field = id("");

const REWRITE_RULE: &[Field] = &[
    text("fromHost").required(),
    text("toHost").required(),
    number("fromPort").required().or_number(80),
    number("toPort").required().or_number(80),
    text("pathTransform"),
];

/// `channelAudits`.
pub static CHANNEL_AUDIT: Schema = Schema {
    model: "ChannelAudits",
    fields: &[
        date("date").required().or_now(),
        list("ops", &ANYTHING),
        id("ref").required(),
        field("updatedBy", Kind::SubDocument(&[text("name")])).required(),
    ],
};

/// `mediators`.
pub static MEDIATOR: Schema = Schema {
    model: "Mediator",
    fields: &[
        text("urn").required(),
        text("version").required(),
        text("name").required(),
        text("description"),
        documents("endpoints", ROUTE),
        documents("defaultChannelConfig", CHANNEL_FIELDS),
        documents(
            "configDefs",
            &[
                text("param"),
                text("displayName"),
                text("description"),
                text("type").one_of(&[
                    "string",
                    "bool",
                    "number",
                    "option",
                    "bigstring",
                    "map",
                    "struct",
                    "password",
                ]),
                texts("values"),
                list("template", &ANYTHING),
                flag("array"),
            ],
        ),
        mixed("config"),
        date("_configModifiedTS"),
        number("_uptime"),
        date("_lastHeartbeat"),
    ],
};
