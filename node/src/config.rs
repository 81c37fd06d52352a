//! What the node was told to do: OpenHIM's settings and ours, typed.
//!
//! Each section is handed down by value to the part that uses it; nobody below [`crate::app`] sees the whole.
//! The field names are OpenHIM's keys (camel case in files, `a_b_c` in the environment); the defaults are in
//! `config/default.json`, embedded into the binary. This file has the shapes only: where a value came from and how
//! layers are merged and checked is [`mod@load`]'s job.

mod check;
mod document;
mod keys;
pub mod load;
mod origin;
mod settings;

pub use document::Place;
pub use keys::LOG_LEVELS;
pub use load::{Flag, Loaded, Sources, load};
pub use origin::{Origin, Problem, Refused};
pub use settings::Setting;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Every setting with its effective value.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    pub bind_address: IpAddr,
    pub mongo: Mongo,
    pub store: Store,
    pub trusted_proxies: Vec<IpNet>,
    #[serde(default)]
    pub retention: Retention,
    pub limits: Limits,
    pub logger: Logger,
    pub mongo_logger: serde_json::Value,
    pub router: Router,
    pub body_cull: BodyCull,
    pub api: Api,
    pub rerun: Rerun,
    pub tcp_adapter: TcpAdapter,
    pub polling: Polling,
    pub authentication: Authentication,
    pub email: Option<Email>,
    /// Legacy alternative to `email.nodemailer`.
    pub nodemailer: Option<serde_json::Value>,
    pub sms_gateway: SmsGateway,
    pub alerts: Alerts,
    pub reports: Reports,
    pub events: Events,
    /// Legacy stand-in for `events`.
    pub visualizer: Option<serde_json::Value>,
    pub new_user_expiry: Expiry,
    pub user_password_reset_expiry: Expiry,
    pub auditing: Auditing,
    pub caching: Caching,
    pub tls_client_lookup: TlsClientLookup,
    pub agenda: Agenda,
    pub certificate_management: CertificateManagement,
    pub openhim_console_base_url: String,
    /// Number of instances, or `auto`; absent means one.
    pub cluster: Option<Cluster>,
}

/// `mongo.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mongo {
    pub url: String,
    pub atna_url: String,
    pub connection_options: serde_json::Value,
    #[serde(rename = "openHIMApiReadPreference")]
    pub api_read_preference: String,
    #[serde(rename = "openHIMApiWriteConcern")]
    pub api_write_concern: serde_json::Value,
    #[serde(rename = "openHIMApiReadConcern")]
    pub api_read_concern: String,
}

/// `store.*`: where documents live, and when a message counts as recorded.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// `sqlite://PATH` or `mongodb://…`. Filled in by [`mod@load`] when absent: `mongo.url` if that was given, else
    /// `sqlite://openhim-data/openhim.db`.
    pub url: Option<String>,
    pub durability: Durability,
}

/// When a transaction's end has to be in the store.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The request is stored before a byte of it is forwarded; its end within 50 ms after the answer.
    Standard,
    /// The client's answer also waits for the end to be stored.
    Strict,
}

/// `retention.*`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    #[serde(default)]
    pub transactions: RetentionRule,
}

/// Delete whole transactions by age and by size of the store.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionRule {
    pub max_age_days: Option<f64>,
    #[serde(rename = "maxSizeMB")]
    pub max_size_mb: Option<f64>,
}

/// `limits.*`: ceilings that protect the node; 0 means none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    #[serde(rename = "requestBodyMB")]
    pub request_body_mb: u64,
    #[serde(rename = "responseBodyMB")]
    pub response_body_mb: u64,
    /// Bodies larger than this are not searched by content-matching channels.
    #[serde(rename = "matchBodyMB")]
    pub match_body_mb: u64,
    pub header_bytes: usize,
    pub header_count: usize,
    pub url_bytes: usize,
    pub header_timeout_millis: u64,
    pub concurrent_transactions: usize,
    pub connections: usize,
    /// Bytes of transactions that may wait for the store.
    #[serde(rename = "queuedRecordMB")]
    pub queued_record_mb: usize,
    pub client_requests_per_second: u32,
    pub channel_requests_per_second: u32,
    /// Back-tracking steps a pattern may take on one input before it counts as not matching.
    pub pattern_steps: usize,
}

/// `logger.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logger {
    pub level: String,
    #[serde(rename = "logToDB")]
    pub log_to_db: bool,
    #[serde(rename = "capDBLogs")]
    pub cap_db_logs: bool,
    pub cap_size: u64,
}

/// `router.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Router {
    pub external_hostname: String,
    pub http_port: u16,
    pub https_port: u16,
    /// Milliseconds; the idle time after which a route counts as silent.
    pub timeout: u64,
    pub kafka_brokers: String,
}

impl Router {
    /// The route timeout where a channel sets none.
    pub fn route_timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

/// `bodyCull.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BodyCull {
    pub enabled: bool,
    pub poll_period_mins: u64,
}

/// `api.*`: the management API.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    pub session_key: String,
    pub trust_proxy: bool,
    pub secure_cookie: bool,
    /// Life of a session, milliseconds.
    pub max_age: u64,
    /// bcrypt cost.
    pub salt: u32,
    pub enabled: bool,
    pub protocol: Protocol,
    pub port: u16,
    pub auth_window_seconds: u64,
    #[serde(rename = "maxBodiesSizeMB")]
    pub max_bodies_size_mb: f64,
    #[serde(rename = "maxPayloadSizeMB")]
    pub max_payload_size_mb: f64,
    pub truncate_size: usize,
    pub truncate_append: String,
    /// Ways to log in: some of `basic`, `local`, `token`, `openid`.
    pub authentication_types: Vec<String>,
    pub openid: Option<OpenId>,
}

/// `api.protocol`
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Http,
    Https,
}

/// `api.openid.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenId {
    pub url: String,
    pub issuer_url: Option<String>,
    pub callback_url: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: String,
}

/// `rerun.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rerun {
    pub http_port: u16,
    pub host: String,
    pub processor: RerunProcessor,
    pub task_transactions_length: u64,
    pub active_concurrent_tasks: u64,
}

/// `rerun.processor.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RerunProcessor {
    pub enabled: bool,
    pub poll_period_millis: u64,
}

/// `tcpAdapter.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpAdapter {
    pub http_receiver: HttpReceiver,
}

/// `tcpAdapter.httpReceiver.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpReceiver {
    pub http_port: u16,
    pub host: String,
}

/// `polling.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Polling {
    pub enabled: bool,
    pub polling_port: u16,
    pub host: String,
}

/// `authentication.*`: how clients of the router may identify themselves.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    #[serde(rename = "enableMutualTLSAuthentication")]
    pub enable_mutual_tls: bool,
    #[serde(rename = "enableBasicAuthentication")]
    pub enable_basic: bool,
    #[serde(rename = "enableCustomTokenAuthentication")]
    pub enable_custom_token: bool,
    #[serde(rename = "enableJWTAuthentication")]
    pub enable_jwt: bool,
    pub jwt: Jwt,
}

/// `authentication.jwt.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    pub jwks_uri: String,
    pub secret_or_public_key: String,
    pub algorithms: String,
    pub audience: String,
    pub issuer: String,
}

/// `email.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Email {
    pub from_address: String,
    pub nodemailer: serde_json::Value,
}

/// `smsGateway.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SmsGateway {
    pub provider: String,
    pub config: serde_json::Value,
}

/// `alerts.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alerts {
    pub enable_alerts: bool,
    pub poll_period_minutes: u64,
    pub him_instance: String,
    #[serde(rename = "consoleURL")]
    pub console_url: String,
}

/// `reports.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reports {
    pub enable_reports: bool,
    pub daily_report_at: String,
    pub weekly_report_at: String,
    pub utc_offset: serde_json::Value,
}

/// `events.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Events {
    #[serde(rename = "enableTSNormalization")]
    pub enable_ts_normalization: bool,
}

/// A span of time in words: `duration` of `durationType` (`days`, `hours`, `minutes`, …).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    pub duration: u64,
    pub duration_type: String,
}

/// `auditing.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Auditing {
    pub servers: AuditServers,
    pub audit_events: Option<AuditEvents>,
}

/// `auditing.servers.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AuditServers {
    pub udp: AuditServer,
    pub tls: AuditServer,
    pub tcp: AuditServer,
}

/// One audit listener.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AuditServer {
    pub enabled: bool,
    pub port: u16,
}

/// `auditing.auditEvents.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEvents {
    pub interface: String,
    pub host: String,
    pub port: u16,
    #[serde(rename = "auditSourceID")]
    pub audit_source_id: String,
}

/// `caching.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caching {
    pub enabled: bool,
    pub refresh_millis: u64,
}

/// `tlsClientLookup.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct TlsClientLookup {
    /// `strict` or `in-chain`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// `agenda.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Agenda {
    pub startup_delay: u64,
}

/// `certificateManagement.*`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateManagement {
    #[serde(rename = "watchFSForCert")]
    pub watch_fs_for_cert: bool,
    pub cert_path: PathBuf,
    pub key_path: PathBuf,
}

/// `cluster`: how many instances serve the ports.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(try_from = "serde_json::Value", into = "serde_json::Value")]
pub enum Cluster {
    /// One for each logical processor.
    Auto,
    /// This many, at least one.
    Count(usize),
}

impl Cluster {
    /// Reads what an operator typed.
    ///
    /// # Errors
    /// Anything but a whole number from 1 or `auto`, in OpenHIM's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            number => match number.parse::<usize>() {
                Ok(count) if count >= 1 => Ok(Self::Count(count)),
                _ => Err(format!(
                    "invalid --cluster argument entered: {text}. Please enter a positive number or 'auto'."
                )),
            },
        }
    }

    /// The number of instances to start.
    pub fn instances(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            Self::Count(count) => count,
        }
    }
}

impl TryFrom<serde_json::Value> for Cluster {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        match value {
            serde_json::Value::String(text) => Self::parse(&text),
            other => Self::parse(&other.to_string()),
        }
    }
}

impl From<Cluster> for serde_json::Value {
    fn from(cluster: Cluster) -> Self {
        match cluster {
            Cluster::Auto => "auto".into(),
            Cluster::Count(count) => count.into(),
        }
    }
}
