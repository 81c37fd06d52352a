//! Metrics, statistics and the status page, over HTTP.
//!
//! It only shows. Whoever can reach it can see addresses and counters, so it listens on this machine alone unless it is
//! told otherwise; it has no way to change anything.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

use super::{Inbox, Message};
use crate::metrics::{Report, haproxy, prometheus};

/// Readers at the same time.
const READERS: usize = 64;
/// How long a reader may take to ask, and how long a connection may stay without asking.
const PATIENCE: Duration = Duration::from_secs(30);

const HTML: &str = include_str!("page/index.html");

/// The server of the page.
#[derive(Debug)]
pub struct Page {
    listener: TcpListener,
    inbox: Inbox,
}

impl Page {
    /// Serves on a bound listener. Call it inside a runtime.
    ///
    /// # Errors
    /// The listener cannot be registered with the event queue.
    pub fn new(listener: std::net::TcpListener, inbox: Inbox) -> std::io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            inbox,
        })
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        let readers = std::sync::Arc::new(Semaphore::new(READERS));
        loop {
            let Ok(permit) = readers.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let inbox = self.inbox.clone();
                    tokio::spawn(async move {
                        serve(stream, inbox).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "Could not accept a reader of the status page");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve(stream: TcpStream, inbox: Inbox) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let inbox = inbox.clone();
        async move { Ok::<_, Infallible>(answer(&request, &inbox).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), answer);
    // A reader that went away is nobody's trouble.
    let _ = connection.await;
}

async fn answer(request: &Request<Incoming>, inbox: &Inbox) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    // HAProxy's own address of its table has a semicolon.
    match request.uri().path() {
        "/" => shown("text/html; charset=utf-8", HTML),
        "/metrics" => reported(inbox, prometheus::MEDIA_TYPE, prometheus::render).await,
        "/stats;csv" | "/;csv" | "/haproxy?stats;csv" => {
            reported(inbox, "text/plain; charset=utf-8", haproxy::render).await
        }
        "/state.json" => {
            reported(inbox, "application/json", |report| {
                serde_json::to_string(report).unwrap_or_default()
            })
            .await
        }
        _ => text(StatusCode::NOT_FOUND, "try /, /metrics, /stats;csv or /state.json\n"),
    }
}

async fn reported(inbox: &Inbox, media_type: &'static str, form: fn(&Report) -> String) -> Response<Full<Bytes>> {
    let (sender, receiver) = oneshot::channel();
    let asked = inbox.send(Message::Report(sender)).await;
    match receiver.await {
        Ok(report) if asked.is_ok() => shown(media_type, form(&report)),
        _ => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
    }
}

fn shown(media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::X_FRAME_OPTIONS, header::HeaderValue::from_static("DENY"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        header::HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
             img-src data:; base-uri 'none'; form-action 'none'",
        ),
    );
    response
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = shown("text/plain; charset=utf-8", body);
    *response.status_mut() = status;
    response
}
