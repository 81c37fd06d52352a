//! A channel: which messages it takes, from whom, and where they go.

use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document};

use super::contact_group::ContactUser;
use super::fields::{self, Fields};
use super::secret::Secret;

/// Minutes between two automatic attempts where the channel says nothing.
const AUTO_RETRY_PERIOD_MINUTES: f64 = 60.0;

/// The default of both ports of a rewrite rule.
const REWRITE_PORT: u16 = 80;

/// A channel with every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Channel {
    pub id: ObjectId,
    pub name: String,
    pub description: Option<String>,
    /// JavaScript regular expression, tested against the path.
    pub url_pattern: String,
    pub kind: ChannelKind,
    pub status: ChannelStatus,
    /// 1 is the strongest; channels without one come last.
    pub priority: Option<f64>,
    /// Methods that match; an empty list matches none.
    pub methods: Vec<String>,
    pub is_asynchronous: bool,
    /// Milliseconds a route may be silent; absent: the router's own setting.
    pub timeout: Option<u64>,
    pub auth_type: AuthType,
    /// Roles and client ids that may use the channel.
    pub allow: Vec<String>,
    /// Addresses that may use the channel; empty: any.
    pub whitelist: Vec<String>,
    /// Media types that match; empty: any.
    pub match_content_types: Vec<String>,
    pub match_content_regex: Option<String>,
    pub match_content_xpath: Option<String>,
    pub match_content_json: Option<String>,
    /// What the expression of `match_content_xpath` or `match_content_json` has to yield.
    pub match_content_value: Option<String>,
    pub routes: Vec<Route>,
    /// Whether request bodies are stored; absent counts as yes.
    pub request_body: Option<bool>,
    /// Whether response bodies are stored; absent counts as yes.
    pub response_body: Option<bool>,
    pub max_body_age_days: Option<f64>,
    pub last_body_cleared: Option<DateTime>,
    pub tcp_port: Option<u16>,
    pub tcp_host: Option<String>,
    /// Five-field cron expression or human interval.
    pub polling_schedule: Option<String>,
    pub rewrite_urls: bool,
    pub add_auto_rewrite_rules: bool,
    pub rewrite_rules: Vec<RewriteRule>,
    pub auto_retry_enabled: bool,
    pub auto_retry_period_minutes: f64,
    /// 0 or absent: no limit.
    pub auto_retry_max_attempts: Option<u64>,
    pub alerts: Vec<Alert>,
    /// Roles that see the channel's transactions with headers but without bodies.
    pub tx_view_acl: Vec<String>,
    /// Roles that see the channel's transactions whole.
    pub tx_view_full_acl: Vec<String>,
    pub tx_rerun_acl: Vec<String>,
    pub properties: Vec<Bson>,
    pub updated_by: Option<UpdatedBy>,
}

/// What brings messages to a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    #[default]
    Http,
    Tcp,
    Tls,
    Polling,
}

/// Whether a channel takes messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelStatus {
    #[default]
    Enabled,
    Disabled,
    /// Kept because transactions refer to it.
    Deleted,
}

/// Whether a channel asks who calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AuthType {
    #[default]
    Private,
    Public,
}

/// The last hand on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdatedBy {
    pub id: Option<ObjectId>,
    pub name: String,
}

/// Why a stored channel cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error("the channel has no usable id")]
    NoId,
    /// Using the channel without this field would let in more than its author wanted.
    #[error("the channel's field `{0}` cannot be read")]
    Unreadable(&'static str),
}

impl Channel {
    /// Reads a stored channel.
    ///
    /// A field that cannot be read gets its default, unless the channel would then match or admit more than before.
    ///
    /// # Errors
    /// There is no id or no URL pattern, or a restricting field cannot be read.
    pub fn from_document(document: &Document) -> Result<Self, ChannelError> {
        let fields = Fields(document);
        let id = fields.id("_id").ok_or(ChannelError::NoId)?;
        Ok(Self {
            id,
            name: fields.text("name").unwrap_or_default(),
            description: fields.text("description"),
            url_pattern: fields
                .text("urlPattern")
                .ok_or(ChannelError::Unreadable("urlPattern"))?,
            kind: kind(fields)?,
            status: status(fields),
            priority: fields.number("priority"),
            methods: fields.texts("methods"),
            is_asynchronous: fields.flag("isAsynchronousProcess").unwrap_or(false),
            timeout: fields.number("timeout").filter(|ms| *ms >= 1.0).map(|ms| ms as u64),
            auth_type: match fields.text("authType").as_deref() {
                Some("public") => AuthType::Public,
                _ => AuthType::Private,
            },
            allow: fields.texts("allow"),
            whitelist: restricting_texts(fields, "whitelist")?,
            match_content_types: restricting_texts(fields, "matchContentTypes")?,
            match_content_regex: restricting_text(fields, "matchContentRegex")?,
            match_content_xpath: restricting_text(fields, "matchContentXpath")?,
            match_content_json: restricting_text(fields, "matchContentJson")?,
            match_content_value: fields.text("matchContentValue"),
            routes: fields.documents("routes").map(Route::read).collect(),
            request_body: fields.flag("requestBody"),
            response_body: fields.flag("responseBody"),
            max_body_age_days: fields.number("maxBodyAgeDays"),
            last_body_cleared: fields.date("lastBodyCleared"),
            tcp_port: fields.port("tcpPort"),
            tcp_host: fields.text("tcpHost").filter(|host| !host.is_empty()),
            polling_schedule: fields.text("pollingSchedule").filter(|text| !text.is_empty()),
            rewrite_urls: fields.flag("rewriteUrls").unwrap_or(false),
            add_auto_rewrite_rules: fields.flag("addAutoRewriteRules").unwrap_or(true),
            rewrite_rules: fields
                .documents("rewriteUrlsConfig")
                .filter_map(RewriteRule::read)
                .collect(),
            auto_retry_enabled: fields.flag("autoRetryEnabled").unwrap_or(false),
            auto_retry_period_minutes: fields
                .number("autoRetryPeriodMinutes")
                .unwrap_or(AUTO_RETRY_PERIOD_MINUTES),
            auto_retry_max_attempts: fields.count("autoRetryMaxAttempts"),
            alerts: fields.documents("alerts").map(Alert::read).collect(),
            tx_view_acl: fields.texts("txViewAcl"),
            tx_view_full_acl: fields.texts("txViewFullAcl"),
            tx_rerun_acl: fields.texts("txRerunAcl"),
            properties: fields.list("properties").to_vec(),
            updated_by: fields.document("updatedBy").map(|by| UpdatedBy {
                id: by.id("id"),
                name: by.text("name").unwrap_or_default(),
            }),
        })
    }

    /// True if the channel takes messages.
    pub fn is_enabled(&self) -> bool {
        self.status == ChannelStatus::Enabled
    }

    /// True unless request bodies must not be stored.
    pub fn stores_request_bodies(&self) -> bool {
        self.request_body != Some(false)
    }

    /// True unless response bodies must not be stored.
    pub fn stores_response_bodies(&self) -> bool {
        self.response_body != Some(false)
    }

    /// The routes that take part, in list order.
    pub fn enabled_routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| route.is_enabled)
    }
}

fn kind(fields: Fields<'_>) -> Result<ChannelKind, ChannelError> {
    match fields.value("type") {
        None => Ok(ChannelKind::Http),
        Some(value) => match fields::text(value).as_deref() {
            Some("http") => Ok(ChannelKind::Http),
            Some("tcp") => Ok(ChannelKind::Tcp),
            Some("tls") => Ok(ChannelKind::Tls),
            Some("polling") => Ok(ChannelKind::Polling),
            _ => Err(ChannelError::Unreadable("type")),
        },
    }
}

fn status(fields: Fields<'_>) -> ChannelStatus {
    match fields.value("status") {
        None => ChannelStatus::Enabled,
        Some(value) => match fields::text(value).as_deref() {
            Some("enabled") => ChannelStatus::Enabled,
            Some("deleted") => ChannelStatus::Deleted,
            _ => ChannelStatus::Disabled,
        },
    }
}

/// A list whose emptiness means "no restriction", so that a full list must not become empty by misreading.
fn restricting_texts(fields: Fields<'_>, key: &'static str) -> Result<Vec<String>, ChannelError> {
    let texts = fields.texts(key);
    if texts.is_empty() && !fields.list(key).is_empty() {
        return Err(ChannelError::Unreadable(key));
    }
    Ok(texts)
}

/// A condition whose absence means "no restriction". An empty text is no condition.
fn restricting_text(fields: Fields<'_>, key: &'static str) -> Result<Option<String>, ChannelError> {
    match fields.value(key) {
        None => Ok(None),
        Some(value) => fields::text(value)
            .map(|text| Some(text).filter(|text| !text.is_empty()))
            .ok_or(ChannelError::Unreadable(key)),
    }
}

/// Where a channel sends its messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub id: Option<ObjectId>,
    pub name: String,
    pub kind: RouteKind,
    pub is_enabled: bool,
    /// The one whose answer the client gets.
    pub is_primary: bool,
    /// TLS.
    pub is_secured: bool,
    pub host: Option<String>,
    pub port: Option<u16>,
    /// Replaces the request's path.
    pub path: Option<String>,
    /// `s/from/to[/g]`, applied to the request's path.
    pub path_transform: Option<String>,
    /// The only trusted certificate, by its id in the keystore; absent: the public roots.
    pub cert: Option<ObjectId>,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub forward_auth_header: bool,
    /// Starts when the primary has answered and `status_codes_check` agrees.
    pub waits_for_primary: bool,
    /// Comma separated codes and classes (`404,2**`).
    pub status_codes_check: Option<String>,
    pub kafka_client_id: Option<String>,
    pub kafka_topic: Option<String>,
}

/// What a route speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RouteKind {
    #[default]
    Http,
    Kafka,
    /// The body over a connection of its own.
    Tcp,
    /// HL7 version 2 in frames.
    Mllp,
    /// None that is known; such a route fails.
    Unknown,
}

impl Route {
    fn read(fields: Fields<'_>) -> Self {
        let text = |key| fields.text(key).filter(|text| !text.is_empty());
        Self {
            id: fields.id("_id"),
            name: fields.text("name").unwrap_or_default(),
            kind: match text("type").as_deref() {
                None | Some("http") => RouteKind::Http,
                Some("kafka") => RouteKind::Kafka,
                Some("tcp") => RouteKind::Tcp,
                Some("mllp") => RouteKind::Mllp,
                Some(_) => RouteKind::Unknown,
            },
            is_enabled: status(fields) == ChannelStatus::Enabled,
            is_primary: fields.flag("primary").unwrap_or(false),
            is_secured: fields.flag("secured").unwrap_or(false),
            host: text("host"),
            port: fields.port("port"),
            path: text("path"),
            path_transform: text("pathTransform"),
            cert: pinned_certificate(fields),
            username: text("username"),
            password: text("password").map(Secret::from),
            forward_auth_header: fields.flag("forwardAuthHeader").unwrap_or(false),
            waits_for_primary: fields.flag("waitPrimaryResponse").unwrap_or(false),
            status_codes_check: text("statusCodesCheck"),
            kafka_client_id: text("kafkaClientId"),
            kafka_topic: text("kafkaTopic"),
        }
    }
}

/// A pin that cannot be read names a certificate that does not exist, so that the route fails instead of trusting the
/// public roots.
fn pinned_certificate(fields: Fields<'_>) -> Option<ObjectId> {
    match fields.value("cert") {
        None => None,
        Some(Bson::String(text)) if text.is_empty() => None,
        Some(value) => Some(fields::object_id(value).unwrap_or(ObjectId::from_bytes([0; 12]))),
    }
}

/// When people are told that a channel fails.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub condition: AlertCondition,
    /// A code (`404`) or a class (`5xx`).
    pub status: Option<String>,
    /// Percent of the last hour's transactions.
    pub failure_rate: Option<f64>,
    /// Contact groups.
    pub groups: Vec<ObjectId>,
    pub users: Vec<ContactUser>,
}

/// What an alert watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AlertCondition {
    #[default]
    Status,
    AutoRetryMaxAttempted,
    /// Not one of OpenHIM's; reported when the alert is due.
    Unknown(String),
}

impl Alert {
    fn read(fields: Fields<'_>) -> Self {
        Self {
            condition: match fields.text("condition") {
                None => AlertCondition::Status,
                Some(text) => match text.as_str() {
                    "status" => AlertCondition::Status,
                    "auto-retry-max-attempted" => AlertCondition::AutoRetryMaxAttempted,
                    _ => AlertCondition::Unknown(text),
                },
            },
            status: fields.text("status"),
            failure_rate: fields.number("failureRate"),
            groups: fields.list("groups").iter().filter_map(fields::object_id).collect(),
            users: ContactUser::list(fields, "users"),
        }
    }
}

/// Rewrites addresses in response bodies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteRule {
    pub from_host: String,
    pub from_port: u16,
    pub to_host: String,
    pub to_port: u16,
    pub path_transform: Option<String>,
}

impl RewriteRule {
    fn read(fields: Fields<'_>) -> Option<Self> {
        Some(Self {
            from_host: fields.text("fromHost")?,
            from_port: fields.port("fromPort").unwrap_or(REWRITE_PORT),
            to_host: fields.text("toHost")?,
            to_port: fields.port("toPort").unwrap_or(REWRITE_PORT),
            path_transform: fields.text("pathTransform").filter(|text| !text.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests;
