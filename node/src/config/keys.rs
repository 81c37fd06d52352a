//! Every key that has a meaning, and what may be written there.
//!
//! The table is the one place that knows a key's type: files, environment and flags are all read by it, so text from
//! the environment becomes what the key needs and a wrong value is refused in the same words wherever it came from.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Number, Value};

use super::Cluster;

/// A key and the values it takes.
#[derive(Debug)]
pub(super) struct Key {
    /// In dots: `router.httpPort`.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// May be absent or null.
    pub(super) optional: bool,
}

/// What a value has to be.
#[derive(Debug)]
pub(super) enum Kind {
    Text,
    /// Text that is never shown.
    Secret,
    /// A database's address; its password is never shown.
    DatabaseUrl(&'static [&'static str]),
    Flag,
    Whole {
        min: u64,
        max: u64,
    },
    /// Any number from 0, fractions allowed.
    Amount,
    /// A listener's port; 0 means that it is not started.
    Port,
    OneOf(&'static [&'static str]),
    /// A list of some of these words.
    SomeOf(&'static [&'static str]),
    Address,
    /// A list of networks; a bare address is a network of one.
    Networks,
    Cluster,
    /// Text, number or boolean, handed on as it is.
    Scalar,
    /// An object whose inside is its reader's business.
    Open,
}

const fn key(path: &'static str, kind: Kind) -> Key {
    Key {
        path,
        kind,
        optional: false,
    }
}

const fn optional(path: &'static str, kind: Kind) -> Key {
    Key {
        path,
        kind,
        optional: true,
    }
}

/// A count that protects something; 0 means no ceiling.
const CEILING: Kind = Kind::Whole {
    min: 0,
    max: u32::MAX as u64,
};
/// A period or a number of things of which there has to be one.
const POSITIVE: Kind = Kind::Whole {
    min: 1,
    max: u32::MAX as u64,
};

const MONGO_SCHEMES: &[&str] = &["mongodb://", "mongodb+srv://"];
const STORE_SCHEMES: &[&str] = &["sqlite://", "mongodb://", "mongodb+srv://"];

/// Levels of OpenHIM's logger, the quietest first; `fatal` and `off` print nothing.
pub const LOG_LEVELS: &[&str] = &[
    "off", "fatal", "error", "warn", "info", "http", "verbose", "debug", "silly", "trace",
];
const DURATION_TYPES: &[&str] = &[
    "milliseconds",
    "millisecond",
    "ms",
    "seconds",
    "second",
    "s",
    "minutes",
    "minute",
    "m",
    "hours",
    "hour",
    "h",
    "days",
    "day",
    "d",
    "weeks",
    "week",
    "w",
    "months",
    "month",
    "M",
    "quarters",
    "quarter",
    "Q",
    "years",
    "year",
    "y",
];

/// In the order in which `check-config` prints them.
pub(super) const KEYS: &[Key] = &[
    key("bindAddress", Kind::Address),
    optional("cluster", Kind::Cluster),
    optional("store.url", Kind::DatabaseUrl(STORE_SCHEMES)),
    key("store.durability", Kind::OneOf(&["standard", "strict"])),
    key("mongo.url", Kind::DatabaseUrl(MONGO_SCHEMES)),
    key("mongo.atnaUrl", Kind::DatabaseUrl(MONGO_SCHEMES)),
    key("mongo.connectionOptions", Kind::Open),
    key("mongo.openHIMApiReadPreference", Kind::Text),
    key("mongo.openHIMApiWriteConcern", Kind::Scalar),
    key("mongo.openHIMApiReadConcern", Kind::Text),
    key("logger.level", Kind::OneOf(LOG_LEVELS)),
    key("logger.logToDB", Kind::Flag),
    key("logger.capDBLogs", Kind::Flag),
    key("logger.capSize", POSITIVE),
    key("mongoLogger", Kind::Open),
    key("router.externalHostname", Kind::Text),
    key("router.httpPort", Kind::Port),
    key("router.httpsPort", Kind::Port),
    key("router.timeout", POSITIVE),
    key("router.kafkaBrokers", Kind::Text),
    key("trustedProxies", Kind::Networks),
    key("bodyCull.enabled", Kind::Flag),
    key("bodyCull.pollPeriodMins", POSITIVE),
    optional("retention.transactions.maxAgeDays", Kind::Amount),
    optional("retention.transactions.maxSizeMB", Kind::Amount),
    key("api.enabled", Kind::Flag),
    key("api.protocol", Kind::OneOf(&["http", "https"])),
    key("api.port", Kind::Port),
    key("api.sessionKey", Kind::Secret),
    key("api.trustProxy", Kind::Flag),
    key("api.secureCookie", Kind::Flag),
    key(
        "api.maxAge",
        Kind::Whole {
            min: 1,
            max: 10_000_000_000_000,
        },
    ),
    key("api.salt", Kind::Whole { min: 4, max: 31 }),
    key("api.authWindowSeconds", POSITIVE),
    key("api.maxBodiesSizeMB", Kind::Amount),
    key("api.maxPayloadSizeMB", Kind::Amount),
    key("api.truncateSize", CEILING),
    key("api.truncateAppend", Kind::Text),
    key(
        "api.authenticationTypes",
        Kind::SomeOf(&["basic", "local", "token", "openid"]),
    ),
    key("api.openid.url", Kind::Text),
    optional("api.openid.issuerUrl", Kind::Text),
    key("api.openid.callbackUrl", Kind::Text),
    key("api.openid.clientId", Kind::Text),
    key("api.openid.clientSecret", Kind::Secret),
    key("api.openid.scope", Kind::Text),
    key("rerun.httpPort", Kind::Port),
    key("rerun.host", Kind::Text),
    key("rerun.processor.enabled", Kind::Flag),
    key("rerun.processor.pollPeriodMillis", POSITIVE),
    key("rerun.taskTransactionsLength", POSITIVE),
    key("rerun.activeConcurrentTasks", POSITIVE),
    key("tcpAdapter.httpReceiver.httpPort", Kind::Port),
    key("tcpAdapter.httpReceiver.host", Kind::Text),
    key("polling.enabled", Kind::Flag),
    key("polling.pollingPort", Kind::Port),
    key("polling.host", Kind::Text),
    key("authentication.enableMutualTLSAuthentication", Kind::Flag),
    key("authentication.enableBasicAuthentication", Kind::Flag),
    key("authentication.enableCustomTokenAuthentication", Kind::Flag),
    key("authentication.enableJWTAuthentication", Kind::Flag),
    key("authentication.jwt.jwksUri", Kind::Text),
    key("authentication.jwt.secretOrPublicKey", Kind::Secret),
    key("authentication.jwt.algorithms", Kind::Text),
    key("authentication.jwt.audience", Kind::Text),
    key("authentication.jwt.issuer", Kind::Text),
    key("email.fromAddress", Kind::Text),
    optional("email.nodemailer.service", Kind::Text),
    optional("email.nodemailer.host", Kind::Text),
    optional("email.nodemailer.port", Kind::Port),
    optional("email.nodemailer.secure", Kind::Flag),
    optional("email.nodemailer.ignoreTLS", Kind::Flag),
    optional("email.nodemailer.auth.user", Kind::Text),
    optional("email.nodemailer.auth.pass", Kind::Secret),
    key("email.nodemailer", Kind::Open),
    optional("nodemailer", Kind::Open),
    key("smsGateway.provider", Kind::Text),
    optional("smsGateway.config.user", Kind::Text),
    optional("smsGateway.config.pass", Kind::Secret),
    optional("smsGateway.config.apiID", Kind::Text),
    key("smsGateway.config", Kind::Open),
    key("alerts.enableAlerts", Kind::Flag),
    key("alerts.pollPeriodMinutes", POSITIVE),
    key("alerts.himInstance", Kind::Text),
    key("alerts.consoleURL", Kind::Text),
    key("reports.enableReports", Kind::Flag),
    key("reports.dailyReportAt", Kind::Text),
    key("reports.weeklyReportAt", Kind::Text),
    optional("reports.utcOffset", Kind::Scalar),
    key("events.enableTSNormalization", Kind::Flag),
    optional("visualizer", Kind::Open),
    key("newUserExpiry.duration", POSITIVE),
    key("newUserExpiry.durationType", Kind::OneOf(DURATION_TYPES)),
    key("userPasswordResetExpiry.duration", POSITIVE),
    key("userPasswordResetExpiry.durationType", Kind::OneOf(DURATION_TYPES)),
    key("auditing.servers.udp.enabled", Kind::Flag),
    key("auditing.servers.udp.port", Kind::Port),
    key("auditing.servers.tls.enabled", Kind::Flag),
    key("auditing.servers.tls.port", Kind::Port),
    key("auditing.servers.tcp.enabled", Kind::Flag),
    key("auditing.servers.tcp.port", Kind::Port),
    key(
        "auditing.auditEvents.interface",
        Kind::OneOf(&["internal", "udp", "tcp", "tls"]),
    ),
    key("auditing.auditEvents.host", Kind::Text),
    key("auditing.auditEvents.port", Kind::Port),
    key("auditing.auditEvents.auditSourceID", Kind::Text),
    key("caching.enabled", Kind::Flag),
    key("caching.refreshMillis", POSITIVE),
    key("tlsClientLookup.type", Kind::OneOf(&["strict", "in-chain"])),
    key("agenda.startupDelay", CEILING),
    key("certificateManagement.watchFSForCert", Kind::Flag),
    key("certificateManagement.certPath", Kind::Text),
    key("certificateManagement.keyPath", Kind::Text),
    key("openhimConsoleBaseUrl", Kind::Text),
    key("limits.requestBodyMB", CEILING),
    key("limits.responseBodyMB", CEILING),
    key("limits.matchBodyMB", CEILING),
    key("limits.headerBytes", CEILING),
    key("limits.headerCount", CEILING),
    key("limits.urlBytes", CEILING),
    key("limits.headerTimeoutMillis", CEILING),
    key("limits.concurrentTransactions", CEILING),
    key("limits.connections", CEILING),
    key("limits.queuedRecordMB", POSITIVE),
    key("limits.clientRequestsPerSecond", CEILING),
    key("limits.channelRequestsPerSecond", CEILING),
    key("limits.patternSteps", CEILING),
];

/// What a path stands for.
#[derive(Debug)]
pub(super) enum Meaning {
    Key(&'static Key),
    /// Somewhere inside an [`Kind::Open`] object.
    Inside,
    /// An object with keys below it.
    Section,
    Unknown,
}

/// Looks a path up.
pub(super) fn meaning(path: &[String]) -> Meaning {
    let dotted = path.join(".");
    if let Some(key) = KEYS.iter().find(|key| key.path == dotted) {
        return Meaning::Key(key);
    }
    if KEYS
        .iter()
        .any(|key| is_below(&dotted, key.path) && matches!(key.kind, Kind::Open))
    {
        return Meaning::Inside;
    }
    if KEYS.iter().any(|key| is_below(key.path, &dotted)) {
        Meaning::Section
    } else {
        Meaning::Unknown
    }
}

/// True when `path` is strictly inside `above`.
pub(super) fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.starts_with('.'))
}

/// How a key is written in the environment.
pub(super) fn environment_form(path: &str) -> String {
    path.replace('.', "_")
}

/// The known key or section that an unknown one was probably meant to be.
pub(super) fn suggestion(unknown: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.65;
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let sections = KEYS
        .iter()
        .flat_map(|key| key.path.match_indices('.').map(|(dot, _)| &key.path[..dot]));
    let likeness = |known: &str| {
        let whole = strsim::normalized_damerau_levenshtein(&unknown.to_ascii_lowercase(), &known.to_ascii_lowercase());
        if last(unknown) == last(known) {
            whole.max(ALIKE)
        } else {
            whole
        }
    };
    KEYS.iter()
        .map(|key| key.path)
        .chain(sections)
        .map(|known| (likeness(known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, known)| known)
}

impl Kind {
    /// What an operator is told to write.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Text | Self::Secret => "text".to_owned(),
            Self::DatabaseUrl(schemes) => format!("an address that begins with {}", list(schemes)),
            Self::Flag => "true or false".to_owned(),
            Self::Whole { min, max } if *max >= u64::from(u32::MAX) => format!("a whole number from {min}"),
            Self::Whole { min, max } => format!("a whole number from {min} to {max}"),
            Self::Amount => "a number from 0".to_owned(),
            Self::Port => "a port from 0 to 65535".to_owned(),
            Self::OneOf(words) => format!("one of {}", list(words)),
            Self::SomeOf(words) => format!("a list of some of {}", list(words)),
            Self::Address => "an IP address".to_owned(),
            Self::Networks => "a list of networks such as 10.0.0.0/8".to_owned(),
            Self::Cluster => "a positive number or 'auto'".to_owned(),
            Self::Scalar => "text or a number".to_owned(),
            Self::Open => "an object".to_owned(),
        }
    }

    /// True when the value has to stay out of logs and terminals.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret)
    }

    /// The value as the node uses it, or `None` when it is not one.
    pub(super) fn read(&self, value: &Value) -> Option<Value> {
        match value {
            Value::String(text) => self.read_text(text),
            Value::Number(number) => self.read_number(number),
            Value::Bool(_) => matches!(self, Self::Flag | Self::Scalar).then(|| value.clone()),
            Value::Array(items) => self.read_list(items),
            Value::Object(_) => matches!(self, Self::Open).then(|| value.clone()),
            Value::Null => None,
        }
    }

    fn read_text(&self, text: &str) -> Option<Value> {
        let word = text.trim();
        match self {
            Self::Text | Self::Secret | Self::Scalar => Some(Value::from(text)),
            Self::DatabaseUrl(schemes) => {
                let scheme = schemes.iter().find(|scheme| word.starts_with(**scheme))?;
                (word.len() > scheme.len()).then(|| Value::from(word))
            }
            Self::Flag => match word.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => Some(Value::Bool(true)),
                "false" | "0" | "no" => Some(Value::Bool(false)),
                _ => None,
            },
            Self::Whole { .. } | Self::Amount | Self::Port => self.read_number(&word.parse::<Number>().ok()?),
            Self::OneOf(words) => words.contains(&word).then(|| Value::from(word)),
            Self::Address => word
                .parse::<IpAddr>()
                .ok()
                .map(|address| Value::from(address.to_string())),
            Self::Cluster => Cluster::parse(word).ok().map(Value::from),
            Self::SomeOf(_) | Self::Networks if word.starts_with('[') => {
                self.read_list(&serde_json::from_str::<Vec<Value>>(word).ok()?)
            }
            Self::SomeOf(_) | Self::Networks => {
                let items: Vec<Value> = word
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(Value::from)
                    .collect();
                self.read_list(&items)
            }
            Self::Open => serde_json::from_str(word).ok().filter(Value::is_object),
        }
    }

    fn read_number(&self, number: &Number) -> Option<Value> {
        let whole = || {
            number.as_u64().or_else(|| {
                let float = number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && (0.0..9e15).contains(float))?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a whole number in range"
                )]
                Some(float as u64)
            })
        };
        match self {
            Self::Whole { min, max } => whole().filter(|number| (min..=max).contains(&number)).map(Value::from),
            Self::Port => whole().filter(|port| *port <= u64::from(u16::MAX)).map(Value::from),
            Self::Amount => number
                .as_f64()
                .filter(|amount| *amount >= 0.0)
                .map(|_| Value::Number(number.clone())),
            Self::Flag => whole().filter(|flag| *flag <= 1).map(|flag| Value::Bool(flag == 1)),
            Self::Cluster => Cluster::parse(&number.to_string()).ok().map(Value::from),
            Self::Scalar => Some(Value::Number(number.clone())),
            Self::Text | Self::Secret => Some(Value::from(number.to_string())),
            _ => None,
        }
    }

    fn read_list(&self, items: &[Value]) -> Option<Value> {
        let words = || items.iter().map(Value::as_str);
        match self {
            Self::SomeOf(known) => words()
                .all(|word| word.is_some_and(|word| known.contains(&word)))
                .then(|| items.into()),
            Self::Networks => words()
                .map(|word| network(word?))
                .collect::<Option<Vec<_>>>()
                .map(Value::from),
            _ => None,
        }
    }
}

fn network(text: &str) -> Option<String> {
    let text = text.trim();
    let network = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    Some(network.to_string())
}

fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::load::DEFAULTS;

    fn path(dotted: &str) -> Vec<String> {
        dotted.split('.').map(str::to_owned).collect()
    }

    /// Calls `each` with every leaf of the tree.
    fn leaves(value: &Value, above: &mut Vec<String>, each: &mut impl FnMut(&[String], &Value)) {
        match value {
            Value::Object(members) if !matches!(meaning(above), Meaning::Key(_)) => {
                for (name, inner) in members {
                    above.push(name.clone());
                    leaves(inner, above, each);
                    above.pop();
                }
            }
            _ => each(above, value),
        }
    }

    #[test]
    fn every_default_is_a_declared_key_with_a_value_it_takes() {
        let defaults: Value = serde_json::from_str(DEFAULTS).unwrap();
        leaves(&defaults, &mut Vec::new(), &mut |path, value| match meaning(path) {
            Meaning::Key(key) if value.is_null() => assert!(key.optional, "{path:?} is null"),
            Meaning::Key(key) => assert!(key.kind.read(value).is_some(), "{path:?}: {value}"),
            _ => assert_eq!(value, &json!({}), "{path:?} is not declared"),
        });
    }

    #[test]
    fn every_required_key_has_a_default() {
        let defaults: Value = serde_json::from_str(DEFAULTS).unwrap();
        for key in KEYS.iter().filter(|key| !key.optional) {
            let found = key.path.split('.').try_fold(&defaults, |value, name| value.get(name));
            assert!(found.is_some(), "{} has no default", key.path);
        }
    }

    #[test]
    fn text_becomes_what_the_key_needs() {
        let read = |kind: Kind, text: &str| kind.read(&json!(text));
        for (text, flag) in [
            ("true", true),
            ("YES", true),
            ("1", true),
            ("false", false),
            ("no", false),
            ("0", false),
        ] {
            assert_eq!(read(Kind::Flag, text), Some(json!(flag)));
        }
        assert_eq!(read(Kind::Flag, "on"), None);
        assert_eq!(read(Kind::Port, "5001"), Some(json!(5001)));
        assert_eq!(read(Kind::Port, "65536"), None);
        assert_eq!(read(Kind::Port, "-1"), None);
        assert_eq!(read(POSITIVE, "0"), None);
        assert_eq!(read(Kind::Amount, "0.5"), Some(json!(0.5)));
        assert_eq!(
            read(Kind::Networks, "10.0.0.0/8, ::1"),
            Some(json!(["10.0.0.0/8", "::1/128"]))
        );
        assert_eq!(read(Kind::Networks, "10.0.0.0/33"), None);
        assert_eq!(
            read(Kind::SomeOf(&["token", "basic"]), r#"["token", "basic"]"#),
            Some(json!(["token", "basic"]))
        );
        assert_eq!(read(Kind::SomeOf(&["token"]), r#"["tokens"]"#), None);
        assert_eq!(read(Kind::Cluster, "auto"), Some(json!("auto")));
        assert_eq!(read(Kind::Cluster, "0"), None);
        assert_eq!(read(Kind::Open, r#"{"a": 1}"#), Some(json!({"a": 1})));
        assert_eq!(read(Kind::DatabaseUrl(STORE_SCHEMES), "postgres://x"), None);
        assert_eq!(read(Kind::DatabaseUrl(STORE_SCHEMES), "sqlite://"), None);
    }

    #[test]
    fn numbers_in_files_may_be_written_as_floats_but_not_be_cut() {
        assert_eq!(Kind::Port.read(&json!(5001.0)), Some(json!(5001)));
        assert_eq!(Kind::Port.read(&json!(5001.5)), None);
        assert_eq!(POSITIVE.read(&json!(6e4)), Some(json!(60000)));
    }

    #[test]
    fn near_misses_are_suggested_and_nonsense_is_not() {
        assert_eq!(suggestion("router.httpPrt"), Some("router.httpPort"));
        assert_eq!(suggestion("routr"), Some("router"));
        assert_eq!(suggestion("Router.HttpPort"), Some("router.httpPort"));
        assert_eq!(suggestion("logging.capSize"), Some("logger.capSize"));
        assert_eq!(suggestion("somethingElse"), None);
    }

    #[test]
    fn a_path_is_a_key_inside_an_open_object_a_section_or_unknown() {
        assert!(matches!(meaning(&path("router.httpPort")), Meaning::Key(_)));
        assert!(matches!(meaning(&path("email.nodemailer.auth.pass")), Meaning::Key(key) if key.kind.is_secret()));
        assert!(matches!(
            meaning(&path("email.nodemailer.tls.ciphers")),
            Meaning::Inside
        ));
        assert!(matches!(meaning(&path("auditing.servers")), Meaning::Section));
        assert!(matches!(meaning(&path("router.httpPort.x")), Meaning::Unknown));
    }
}
