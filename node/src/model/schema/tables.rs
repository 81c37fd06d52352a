//! The collections' schemas: names, types, defaults and limits, in OpenHIM's order.

mod channel;
mod transaction;

pub use channel::{CHANNEL, CHANNEL_AUDIT, MEDIATOR};
pub use transaction::TRANSACTION;

use super::{Field, Schema, date, documents, flag, group, id, list, mixed, number, text, texts};

/// `contactgroups`.
pub static CONTACT_GROUP: Schema = Schema {
    model: "ContactGroup",
    fields: &[text("group").required(), documents("users", CONTACT_USER)],
};

const CONTACT_USER: &[Field] = &[
    text("user").required(),
    text("method").required().one_of(&["email", "sms"]),
    text("maxAlerts")
        .one_of(&["no max", "1 per hour", "1 per day"])
        .or("no max"),
];

/// `clients`.
pub static CLIENT: Schema = Schema {
    model: "Client",
    fields: &[
        text("clientID").required(),
        text("clientDomain"),
        text("name").required(),
        list("roles", &REQUIRED_TEXT),
        text("customTokenID"),
        text("passwordAlgorithm"),
        text("passwordHash"),
        text("passwordSalt"),
        text("certFingerprint"),
        text("organization"),
        text("location"),
        text("softwareName"),
        text("description"),
        text("contactPerson"),
        text("contactPersonEmail"),
    ],
};

const REQUIRED_TEXT: Field = text("").required();

/// `users`.
pub static USER: Schema = Schema {
    model: "User",
    fields: &[
        text("firstname").required(),
        text("surname").required(),
        text("email").required(),
        id("passports"),
        text("passwordAlgorithm"),
        text("passwordHash"),
        text("passwordSalt"),
        text("provider").one_of(&["openid", "local", "token"]).or("local"),
        texts("groups"),
        text("msisdn"),
        flag("dailyReport"),
        flag("weeklyReport"),
        mixed("settings"),
        text("token"),
        text("tokenType").one_of(&["newUser", "existingUser"]).or_null(),
        date("expiry"),
        flag("locked"),
    ],
};

/// `passports`.
pub static PASSPORT: Schema = Schema {
    model: "Passport",
    fields: &[
        text("protocol").required(),
        text("password"),
        text("accessToken"),
        text("issuer"),
        text("identifier"),
        mixed("tokens"),
        text("passwordAlgorithm"),
        text("passwordHash"),
        text("passwordSalt"),
        text("email").required(),
    ],
};

/// `roles`.
pub static ROLE: Schema = Schema {
    model: "Role",
    fields: &[text("name").required(), group("permissions", PERMISSIONS)],
};

const fn denied(name: &'static str) -> Field {
    flag(name).or_flag(false)
}

const PERMISSIONS: &[Field] = &[
    denied("channel-view-all"),
    texts("channel-view-specified"),
    denied("channel-manage-all"),
    texts("channel-manage-specified"),
    denied("client-view-all"),
    texts("client-view-specified"),
    denied("client-manage-all"),
    texts("client-manage-specified"),
    denied("client-role-view-all"),
    texts("client-role-view-specified"),
    denied("client-role-manage-all"),
    texts("client-role-manage-specified"),
    denied("transaction-view-all"),
    texts("transaction-view-specified"),
    denied("transaction-view-body-all"),
    texts("transaction-view-body-specified"),
    denied("transaction-rerun-all"),
    texts("transaction-rerun-specified"),
    denied("user-view"),
    denied("user-manage"),
    denied("user-role-view"),
    denied("user-role-manage"),
    denied("audit-trail-view"),
    denied("audit-trail-manage"),
    denied("contact-list-view"),
    denied("contact-list-manage"),
    denied("mediator-view-all"),
    texts("mediator-view-specified"),
    denied("mediator-manage-all"),
    texts("mediator-manage-specified"),
    denied("certificates-view"),
    denied("certificates-manage"),
    denied("logs-view"),
    denied("import-export"),
    denied("app-view-all"),
    texts("app-view-specified"),
    denied("app-manage-all"),
    texts("app-manage-specified"),
    denied("visualizer-manage"),
    denied("visualizer-view"),
];

/// `tasks`.
pub static TASK: Schema = Schema {
    model: "Task",
    fields: &[
        text("status")
            .required()
            .one_of(&[
                "Queued",
                "Processing",
                "Paused",
                "Cancelled",
                "Completed",
                "Pending Async",
            ])
            .or("Queued"),
        documents(
            "transactions",
            &[
                text("tid").required(),
                text("tstatus")
                    .required()
                    .one_of(&["Queued", "Processing", "Completed", "Failed"])
                    .or("Queued"),
                text("error"),
                text("rerunID"),
                text("rerunStatus"),
            ],
        ),
        date("created").required().or_now(),
        date("completedDate"),
        text("user").required(),
        number("remainingTransactions").required(),
        number("totalTransactions").required(),
        number("batchSize").or_number(1),
    ],
};

/// `autoretries`.
pub static AUTO_RETRY: Schema = Schema {
    model: "AutoRetry",
    fields: &[
        id("transactionID").required(),
        id("channelID").required(),
        date("requestTimestamp").required(),
    ],
};

/// `alerts`.
pub static ALERT: Schema = Schema {
    model: "Alert",
    fields: &[
        text("user").required(),
        text("method").required(),
        date("timestamp").required().or_now(),
        text("channelID").required(),
        text("condition").required(),
        text("status").required(),
        text("alertStatus").required().one_of(&["Failed", "Completed"]),
    ],
};

/// `events`.
pub static EVENT: Schema = Schema {
    model: "Event",
    fields: &[
        date("created").or_now(),
        id("channelID").required(),
        id("transactionID").required(),
        text("type"),
        text("event").one_of(&["start", "end"]),
        text("name"),
        number("status"),
        text("statusType").one_of(&["success", "error"]),
        text("normalizedTimestamp"),
        text("mediator"),
        number("autoRetryAttempt"),
    ],
};

/// `metrics`.
pub static METRIC: Schema = Schema {
    model: "Metric",
    fields: &[
        date("startTime").required(),
        text("type").required().one_of(&["m", "h", "d"]),
        id("channelID").required(),
        number("requests").or_number(0),
        number("responseTime").or_number(0),
        number("minResponseTime").or_number(0),
        number("maxResponseTime").or_number(0),
        number("failed").or_number(0),
        number("successful").or_number(0),
        number("processing").or_number(0),
        number("completed").or_number(0),
        number("completedWithErrors").or_number(0),
    ],
};

/// `apps`.
pub static APP: Schema = Schema {
    model: "App",
    fields: &[
        text("name").required(),
        text("description"),
        text("icon"),
        text("type").one_of(&["internal", "external", "esmodule"]),
        text("category"),
        texts("access_roles"),
        text("url").required(),
        flag("showInPortal").or_flag(true),
        flag("showInSideBar"),
    ],
};

/// `visualizers`.
pub static VISUALIZER: Schema = Schema {
    model: "Visualizer",
    fields: &[
        text("name").required(),
        documents("components", EVENT_LINK),
        documents("channels", EVENT_LINK),
        documents("mediators", &[text("mediator"), text("name"), text("display")]),
        group(
            "color",
            &[
                text("inactive").or("#cccccc"),
                text("active").or("#4cae4c"),
                text("error").or("#d43f3a"),
                text("text").or("#000000"),
            ],
        ),
        group(
            "size",
            &[
                flag("responsive").or_flag(true),
                number("width").or_number(1000),
                number("height").or_number(400),
                number("padding").or_number(20),
            ],
        ),
        group(
            "time",
            &[
                number("updatePeriod").or_number(200),
                number("minDisplayPeriod").or_number(500),
                number("maxSpeed").or_number(5),
                number("maxTimeout").or_number(5000),
            ],
        ),
    ],
};

const EVENT_LINK: &[Field] = &[
    text("eventType").one_of(&["channel", "primary", "route", "orchestration"]),
    text("eventName"),
    text("display"),
];

/// `keystores`.
pub static KEYSTORE: Schema = Schema {
    model: "Keystore",
    fields: &[
        text("key"),
        text("passphrase"),
        group("cert", CERTIFICATE),
        documents("ca", CERTIFICATE),
    ],
};

const CERTIFICATE: &[Field] = &[
    text("country"),
    text("state"),
    text("locality"),
    text("organization"),
    text("organizationUnit"),
    text("commonName"),
    text("emailAddress"),
    group("validity", &[date("start"), date("end")]),
    text("data"),
    text("fingerprint"),
];

/// `audits`.
pub static AUDIT: Schema = Schema {
    model: "Audit",
    fields: &[
        text("rawMessage"),
        group(
            "syslog",
            &[
                number("prival"),
                number("facilityID"),
                number("severityID"),
                text("facility"),
                text("severity"),
                text("type"),
                date("time"),
                text("host"),
                text("appName"),
                text("pid"),
                text("msgID"),
            ],
        ),
        group(
            "eventIdentification",
            &[
                date("eventDateTime").required().or_now(),
                text("eventOutcomeIndicator"),
                text("eventActionCode"),
                group("eventID", CODE),
                group("eventTypeCode", CODE),
            ],
        ),
        documents(
            "activeParticipant",
            &[
                text("userID"),
                text("alternativeUserID"),
                text("userIsRequestor"),
                text("networkAccessPointID"),
                text("networkAccessPointTypeCode"),
                group("roleIDCode", CODE),
            ],
        ),
        group(
            "auditSourceIdentification",
            &[
                text("auditSourceID"),
                text("auditEnterpriseSiteID"),
                group("auditSourceTypeCode", CODE),
            ],
        ),
        documents(
            "participantObjectIdentification",
            &[
                text("participantObjectID"),
                text("participantObjectTypeCode"),
                text("participantObjectTypeCodeRole"),
                group("participantObjectIDTypeCode", CODE),
                text("participantObjectQuery"),
                group("participantObjectDetail", &[text("type"), text("value")]),
            ],
        ),
    ],
};

/// `auditMeta`.
pub static AUDIT_META: Schema = Schema {
    model: "AuditMeta",
    fields: &[
        documents("eventType", CODE),
        documents("eventID", CODE),
        documents("activeParticipantRoleID", CODE),
        documents("participantObjectIDTypeCode", CODE),
        texts("auditSourceID"),
    ],
};

const CODE: &[Field] = &[text("code"), text("displayName"), text("codeSystemName")];

/// `dbversions`.
pub static DB_VERSION: Schema = Schema {
    model: "dbVersion",
    fields: &[number("version"), date("lastUpdated")],
};
