//! The mediator itself: a listener, one kind of message, and its talk with the core.

pub(crate) mod client;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use client::Target;

/// The mediator's name among all mediators.
const URN: &str = "urn:mediator:openhim-example";
/// Largest message it takes.
const LARGEST: usize = 1024 * 1024;
/// OpenHIM expects a sign of life at least every 30 seconds.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// A mediator that is bound and not yet serving.
#[derive(Debug)]
pub(crate) struct Mediator {
    listener: TcpListener,
    address: SocketAddr,
}

impl Mediator {
    /// Binds; port 0 is any free port.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves for ever. An unreachable core is no reason to stop: messages come from elsewhere.
    pub(crate) async fn serve(self, core: Option<Target>) {
        let patients = Arc::new(Patients::default());
        let address = self.address;
        tokio::join!(accept(self.listener, patients), stay_registered(core, address));
    }
}

async fn accept(listener: TcpListener, patients: Arc<Patients>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let patients = Arc::clone(&patients);
                tokio::spawn(async move { connection(stream, &patients).await });
            }
            // Out of files, most likely: let some connections end.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, patients: &Patients) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(request, patients).await));
    // A caller that goes away is its own business.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, patients: &Patients) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    if !head.uri.path().starts_with("/patients") {
        return plain(StatusCode::NOT_FOUND, "only /patients is known here");
    }
    let begun = now();
    let (status, patient) = match head.method {
        Method::GET => (StatusCode::OK, json!({ "registered": patients.registered() })),
        Method::POST => match Limited::new(body, LARGEST).collect().await {
            Ok(body) => patients.register(&body.to_bytes()),
            Err(_) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                json!({ "error": "at most 1 MB, please" }),
            ),
        },
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            json!({ "error": "GET or POST, please" }),
        ),
    };
    let path = head.uri.path();
    envelope(
        status,
        &patient,
        &json!([lookup(begun, head.method.as_str(), path, status, &patient)]),
    )
}

/// The patients so far. A registry of the real kind would be a database.
#[derive(Debug, Default)]
struct Patients(AtomicU64);

impl Patients {
    fn registered(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn register(&self, body: &[u8]) -> (StatusCode, Value) {
        let Ok(Value::Object(mut patient)) = serde_json::from_slice(body) else {
            return (
                StatusCode::BAD_REQUEST,
                json!({ "error": "a patient is a JSON object" }),
            );
        };
        patient.insert("number".to_owned(), (self.0.fetch_add(1, Ordering::Relaxed) + 1).into());
        (StatusCode::CREATED, Value::Object(patient))
    }
}

/// The form that mediators answer in: the client gets `response`, the record keeps the rest.
fn envelope(status: StatusCode, body: &Value, orchestrations: &Value) -> Response<Full<Bytes>> {
    let outcome = if status.is_success() { "Successful" } else { "Failed" };
    let envelope = json!({
        "x-mediator-urn": URN,
        "status": outcome,
        "response": {
            "status": status.as_u16(),
            "headers": { "content-type": "application/json" },
            "body": body.to_string(),
            "timestamp": text(now()),
        },
        "orchestrations": orchestrations,
        "properties": { "mediator": "example" },
    });
    let mut response = Response::new(Full::from(envelope.to_string()));
    let kind = header::HeaderValue::from_static("application/json+openhim");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What the mediator did on the way, for the record.
fn lookup(begun: DateTime<Utc>, method: &str, path: &str, status: StatusCode, result: &Value) -> Value {
    json!({
        "name": "Look the patient up in the registry",
        "request": { "method": method, "path": path, "timestamp": text(begun) },
        "response": { "status": status.as_u16(), "body": result.to_string(), "timestamp": text(now()) },
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// Registers, then sends heartbeats; registers again whenever the core does not know the mediator.
async fn stay_registered(core: Option<Target>, address: SocketAddr) {
    let Some(core) = core else { return };
    let started = Instant::now();
    let mut outcome = Err(String::new());
    loop {
        let before = outcome.clone();
        outcome = match outcome {
            Ok(()) => heartbeat(&core, started.elapsed()).await,
            Err(_) => register(&core, address).await,
        };
        if outcome != before {
            report(&outcome);
        }
        sleep(if outcome.is_ok() {
            HEARTBEAT
        } else {
            Duration::from_secs(1)
        })
        .await;
    }
}

async fn register(core: &Target, address: SocketAddr) -> Result<(), String> {
    let endpoint = json!({ "name": "Patients", "host": address.ip().to_string(), "port": address.port(),
                           "path": "/patients", "primary": true, "type": "http" });
    let mediator = json!({
        "urn": URN,
        "version": "1.0.0",
        "name": "Example mediator",
        "description": "Takes patients and gives each a number",
        "endpoints": [endpoint],
        "defaultChannelConfig": [],
        "configDefs": [],
    });
    tell(core, "/mediators", &mediator).await
}

async fn heartbeat(core: &Target, uptime: Duration) -> Result<(), String> {
    tell(
        core,
        &format!("/mediators/{URN}/heartbeat"),
        &json!({ "uptime": uptime.as_secs_f64() }),
    )
    .await
}

async fn tell(core: &Target, path: &str, body: &Value) -> Result<(), String> {
    match client::send(core, Method::POST, path, Some(body)).await {
        Ok(answer) if answer.status.is_success() => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body))),
        Err(error) => Err(error.to_string()),
    }
}

#[expect(clippy::print_stderr, reason = "a mediator's own log, for whoever runs it")]
fn report(outcome: &Result<(), String>) {
    match outcome {
        Ok(()) => eprintln!("The core knows the mediator"),
        Err(reason) => eprintln!("The core did not take the mediator: {reason}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, not part of the node")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
