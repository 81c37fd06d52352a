//! The API over a real store, asked in HTTP through pipes in memory: no port, no certificate, every byte of the protocol.

mod apps;
mod audits;
mod channels;
mod clients;
mod groups;
mod hostile;
mod jobs;
mod keystore;
mod login;
mod mediators;
mod metadata;
mod metrics;
mod observing;
mod openid;
mod protocol;
mod roles;
mod sockets;
mod tasks;
mod transactions;
mod users;
mod visualizers;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bson::oid::ObjectId;
use bson::{Document, doc};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::context::{Api, Parts, Settings};
use super::server::{self, Peer, Service};
use crate::audit::Auditor;
use crate::clock::{Clock, ManualClock, Millis};
use crate::config::{AuditEvents, Config};
use crate::crypto::certificate::{Pair, SelfSigned};
use crate::keystore::{Keystore, LiveKeystore, cert_document};
use crate::model::role::Permission;
use crate::notify::email::{Mail, MailError};
use crate::notify::{Message, Notify, NotifyError};
use crate::store::mongo::{MongoOptions, MongoStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Collection, Find, SharedStore, Write};
use crate::tables::{self, Keeper};
use crate::testing::mongod::Mongod;

/// 2026-11-22T11:39:08Z
const NOW: Millis = 1_795_347_548_000;
const PASSWORD: &str = "openhim-password";
const ROOT: &str = "root@openhim.org";

/// An API with a store of its own.
struct TestApi {
    service: Service,
    store: SharedStore,
    clock: Arc<ManualClock>,
    mailbox: Arc<Mailbox>,
    peer: Peer,
    _folder: tempfile::TempDir,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        let media_type = self.header("content-type").unwrap_or_default();
        assert_eq!(media_type, "application/json; charset=utf-8", "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The cookies it set, in order.
    fn cookies(&self) -> Vec<&str> {
        let cookies = self.headers.get_all("set-cookie").iter();
        cookies.map(|cookie| cookie.to_str().unwrap()).collect()
    }

    /// The cookies as a client sends them back.
    fn cookie_header(&self) -> String {
        let pairs = self
            .cookies()
            .into_iter()
            .map(|cookie| cookie.split(';').next().unwrap());
        pairs.collect::<Vec<_>>().join("; ")
    }

    #[track_caller]
    fn is(&self, status: u16, text: &str) {
        assert_eq!((self.status.as_u16(), self.text()), (status, text));
    }
}

/// A request in the making.
struct Ask<'a> {
    api: &'a TestApi,
    request: http::request::Builder,
    body: Bytes,
}

impl<'a> Ask<'a> {
    fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    fn basic(self, email: &str, password: &str) -> Self {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{email}:{password}"));
        self.header("authorization", &format!("Basic {encoded}"))
    }

    fn json(self, value: &Value) -> Self {
        self.raw("application/json", value.to_string())
    }

    fn raw(mut self, media_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", media_type)
    }

    async fn send(self) -> Answer {
        let request = self.request.body(Full::new(self.body)).unwrap();
        self.api.exchange(request).await
    }
}

/// A logged-in user.
struct Session<'a> {
    api: &'a TestApi,
    cookie: String,
}

impl<'a> Session<'a> {
    fn ask(&self, method: Method, path: &str) -> Ask<'a> {
        self.api.ask(method, path).header("cookie", &self.cookie)
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).send().await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.ask(Method::DELETE, path).send().await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path).json(body).send().await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::PUT, path).json(body).send().await
    }
}

impl TestApi {
    /// An API over TLS (as far as it can tell) with the root user and the default roles.
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let options = SqliteOptions {
            clock: clock.clone(),
            sweep_every: Duration::ZERO,
            readers: 2,
            ..SqliteOptions::default()
        };
        let store: SharedStore = SqliteStore::open(folder.path().join("test.db"), options).unwrap();
        Self::start_on(store, clock, folder, adjust).await
    }

    /// The same, over MongoDB.
    async fn start_on_mongodb(server: &Mongod) -> Self {
        let connected = MongoStore::connect(&server.url("openhim"), None, MongoOptions::default()).await;
        let store: SharedStore = connected.unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        Self::start_on(store, clock, tempfile::tempdir().unwrap(), |_| {}).await
    }

    async fn start_on(
        store: SharedStore,
        clock: Arc<ManualClock>,
        folder: tempfile::TempDir,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::defaults();
        adjust(&mut config);
        let mailbox = Arc::<Mailbox>::default();
        let api = Self {
            service: service(&store, &clock, &mailbox, config).await,
            store,
            clock,
            mailbox,
            peer: Peer {
                address: [127, 0, 0, 1].into(),
                encrypted: true,
            },
            _folder: folder,
        };
        for (name, permissions) in crate::model::role::Role::defaults() {
            api.add_role(name, &permissions, doc! {}).await;
        }
        api.add_user(ROOT, &["admin"]).await;
        api
    }

    async fn add_role(&self, name: &str, granted: &[Permission], listed: Document) {
        let mut permissions = listed;
        for permission in granted {
            permissions.insert(permission.name(), true);
        }
        let role = doc! {"_id": ObjectId::new(), "name": name, "permissions": permissions, "__v": 0};
        self.store.insert(Collection::Roles, role).await.unwrap();
    }

    /// Adds a user with the password that all have here.
    async fn add_user(&self, email: &str, groups: &[&str]) -> ObjectId {
        let id = ObjectId::new();
        let user = doc! {
            "_id": id, "email": email, "firstname": "Super", "surname": "User", "provider": "local", "groups": groups, "__v": 0,
        };
        let hash = crate::crypto::password::hash_bcrypt(PASSWORD, 4).unwrap();
        let salt = "d9bcb40e-ae65-478f-962e-5e5e5e7d0a01";
        let digest = crate::crypto::password::token_hash("sha512", salt, PASSWORD).unwrap();
        let local = doc! {"_id": ObjectId::new(), "protocol": "local", "email": email, "password": hash};
        let token = doc! {
            "_id": ObjectId::new(), "protocol": "token", "email": email,
            "passwordAlgorithm": "sha512", "passwordSalt": salt, "passwordHash": digest,
        };
        let insert = |into, document| Write::Insert { into, document };
        let batch = vec![
            insert(Collection::Users, user),
            insert(Collection::Passports, local),
            insert(Collection::Passports, token),
        ];
        for outcome in self.store.write(&batch).await.unwrap() {
            outcome.unwrap();
        }
        id
    }

    fn ask(&self, method: Method, path: &str) -> Ask<'_> {
        Ask {
            api: self,
            request: Request::builder().method(method).uri(path).header("host", "localhost"),
            body: Bytes::new(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path).send().await
    }

    /// Logs in; the password is everybody's.
    async fn log_in(&self, email: &str) -> Session<'_> {
        let body = serde_json::json!({"username": email, "password": PASSWORD});
        let answer = self.ask(Method::POST, "/authenticate/local").json(&body).send().await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        Session {
            api: self,
            cookie: answer.cookie_header(),
        }
    }

    /// A session of a new user with these permissions.
    async fn log_in_with(&self, granted: &[Permission], listed: Document) -> Session<'_> {
        self.add_role("tested", granted, listed).await;
        self.add_user("tested@openhim.org", &["tested"]).await;
        self.log_in("tested@openhim.org").await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Answer {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let serving = tokio::spawn(server::http(
            self.service.clone(),
            far,
            self.peer,
            CancellationToken::new(),
        ));
        let exchange = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
            let driving = tokio::spawn(connection);
            let response = sender.send_request(request).await.unwrap();
            let (parts, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            driving.abort();
            Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        };
        let answer = tokio::time::timeout(Duration::from_secs(20), exchange).await;
        serving.abort();
        answer.expect("the API did not answer in time")
    }

    async fn insert(&self, into: Collection, document: Document) {
        self.store.insert(into, document).await.unwrap();
    }

    async fn stored(&self, from: Collection, filter: Document) -> Vec<Document> {
        self.store.all(from, Find::by(filter)).await.unwrap()
    }

    /// The audits so far.
    async fn audits(&self) -> Vec<Document> {
        self.service.api.auditor.flush().await;
        self.stored(Collection::Audits, doc! {}).await
    }
}

async fn service(store: &SharedStore, clock: &Arc<ManualClock>, mailbox: &Arc<Mailbox>, config: Config) -> Service {
    let shared_clock: Arc<dyn Clock> = clock.clone();
    let auditing: Option<AuditEvents> = config.auditing.audit_events;
    let (auditor, delivering) = Auditor::new(auditing, store.clone(), shared_clock.clone(), Arc::new(|| None));
    tokio::spawn(delivering);
    let tables = Keeper::open(store.clone(), tables::Settings::new(&config.caching, 1000))
        .await
        .unwrap();
    let settings = Settings {
        api: config.api,
        authentication: config.authentication,
        certificate_management: config.certificate_management,
        events: config.events,
        rerun: config.rerun,
        alerts: config.alerts,
        logger: config.logger,
        new_user_expiry: config.new_user_expiry,
        password_reset_expiry: config.user_password_reset_expiry,
        console_base_url: config.openhim_console_base_url,
        external_hostname: config.router.external_hostname,
        header_bytes: config.limits.header_bytes,
    };
    Service {
        api: Api::new(Parts {
            store: store.clone(),
            clock: shared_clock,
            settings,
            auditor,
            prometheus: Arc::default(),
            notifier: mailbox.clone(),
            started: Instant::now(),
            restart: Arc::default(),
            presence: Arc::default(),
            tables: Arc::new(tables),
            keystore: live_keystore(clock),
            // Nobody does errands here.
            errands: crate::pipeline::Errands::new().0,
        }),
        routes: super::routes().into(),
    }
}

/// A keystore in use; its pair is made once for all tests, because that takes a while.
fn live_keystore(clock: &Arc<ManualClock>) -> Arc<LiveKeystore> {
    static PAIR: OnceLock<Pair> = OnceLock::new();
    let pair = PAIR.get_or_init(|| SelfSigned::default().generate(NOW).unwrap());
    let stored = doc! {"cert": cert_document(&pair.certificate).unwrap(), "key": &pair.key, "ca": []};
    let keystore = Keystore::from_stored(&crate::model::keystore::Keystore::from_document(&stored)).unwrap();
    Arc::new(LiveKeystore::new(keystore, clock.clone()).unwrap())
}

/// Keeps the messages that would have been sent.
#[derive(Debug, Default)]
struct Mailbox {
    messages: std::sync::Mutex<Vec<Message>>,
    is_closed: std::sync::atomic::AtomicBool,
}

impl Mailbox {
    fn mails(&self) -> Vec<Mail> {
        let messages = self.messages.lock().unwrap();
        let mails = messages.iter().filter_map(|message| match message {
            Message::Mail(mail) => Some(mail.clone()),
            Message::Sms { .. } => None,
        });
        mails.collect()
    }

    /// The first mail, once it is there.
    async fn first(&self) -> Mail {
        for _ in 0..500 {
            if let Some(mail) = self.mails().into_iter().next() {
                return mail;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no mail was sent in time");
    }

    fn close(&self) {
        self.is_closed.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Notify for Mailbox {
    async fn tell(&self, message: Message) -> Result<(), NotifyError> {
        if self.is_closed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(MailError::NotConfigured.into());
        }
        self.messages.lock().unwrap().push(message);
        Ok(())
    }
}
