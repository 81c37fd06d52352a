//! A backend that answers as it is told and remembers what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A backend to be started.
#[derive(Clone, Debug)]
#[must_use]
pub struct BackendBuilder {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    after: Duration,
    is_silent: bool,
    echoes: bool,
    is_kept_alive: bool,
}

/// A backend that answers 200 `ok`.
pub fn backend() -> BackendBuilder {
    BackendBuilder {
        status: StatusCode::OK,
        headers: Vec::new(),
        body: Bytes::from_static(b"ok"),
        after: Duration::ZERO,
        is_silent: false,
        echoes: false,
        is_kept_alive: true,
    }
}

impl BackendBuilder {
    pub fn answers(mut self, status: u16, body: impl Into<Bytes>) -> Self {
        self.status = StatusCode::from_u16(status).expect("a status");
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers
            .push((HeaderName::from_static(name), HeaderValue::from_static(value)));
        self
    }

    /// Answers only after this time.
    pub fn after(mut self, time: Duration) -> Self {
        self.after = time;
        self
    }

    /// Takes requests and says nothing.
    pub fn never_answers(mut self) -> Self {
        self.is_silent = true;
        self
    }

    /// Answers with the request's body.
    pub fn echoes(mut self) -> Self {
        self.echoes = true;
        self
    }

    /// Closes each connection after its answer.
    pub fn closes(mut self) -> Self {
        self.is_kept_alive = false;
        self
    }

    pub async fn start(self) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the backend");
        let address = listener.local_addr().expect("the backend's address");
        let shared = Arc::new(Shared {
            script: self,
            seen: Mutex::default(),
            connections: Mutex::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        Backend {
            address,
            shared,
            _tasks: tasks,
        }
    }
}

/// A request as a backend saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// Path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

#[derive(Debug)]
struct Shared {
    script: BackendBuilder,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<usize>,
}

/// A running backend; it is gone when this is dropped.
#[derive(Debug)]
pub struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Backend {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no panic").clone()
    }

    /// The only request it got.
    pub fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "the backend saw {} requests", seen.len());
        seen.remove(0)
    }

    /// Connections that were opened to it.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().expect("no panic")
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        *shared.connections.lock().expect("no panic") += 1;
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            let is_kept_alive = shared.script.is_kept_alive;
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            let _ = http1::Builder::new()
                .keep_alive(is_kept_alive)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    shared.seen.lock().expect("no panic").push(Seen {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: body.clone(),
    });
    let script = &shared.script;
    if script.is_silent {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(script.after).await;
    let body = if script.echoes { body } else { script.body.clone() };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = script.status;
    for (name, value) in &script.headers {
        response.headers_mut().append(name.clone(), value.clone());
    }
    Ok(response)
}
