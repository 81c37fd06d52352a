//! HTTP/2 from clients: each of its streams becomes a connection with one request of HTTP/1.1.
//!
//! The library speaks HTTP/2 with the client; what it has read is said again as HTTP/1.1 over a pipe in memory, at whose
//! other end the same code answers that serves everybody else. So every rule holds for every client, and the pipe's size
//! bounds what a stream may hold.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::transport::{ClientInfo, Protocol};
use super::{Door, converse};

/// What a stream may hold in each direction.
const PIPE: usize = 64 * 1024;
/// Streams of one connection at the same time.
const STREAMS: u32 = 128;
/// A connection on which nothing moves is asked this often whether anybody is there, and has as long to say so.
const ASK: Duration = Duration::from_secs(30);

/// In a box, for a stream is served by the same code as the connection that it is part of.
pub(super) type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

type Body = BoxBody<Bytes, hyper::Error>;

/// Serves a connection that speaks HTTP/2 to its end.
pub(super) fn serve<C>(door: Arc<Door>, stream: C, info: ClientInfo) -> Serving
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(run(door, stream, info))
}

async fn run<C>(door: Arc<Door>, stream: C, info: ClientInfo)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let rules = door.service().live.load().service.http.clone();
    let closed = door.closed.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let (door, mut info) = (Arc::clone(&door), info.clone());
        info.protocol = Protocol::Http2;
        async move { Ok::<_, Infallible>(answer(door, info, request).await) }
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(u32::try_from(rules.max_header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(ASK))
        .keep_alive_timeout(ASK)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = &mut connection => {}
        () = closed.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // A client that went away is nobody's trouble.
            let _ = connection.await;
        }
    }
}

/// Has one request answered.
async fn answer(door: Arc<Door>, info: ClientInfo, request: Request<Incoming>) -> Response<Body> {
    let (near, far) = tokio::io::duplex(PIPE);
    let Some(request) = as_http_1(request) else {
        return refused(StatusCode::BAD_REQUEST);
    };
    // Ends by itself: with the answer, or with the near end when the client has given the stream up.
    let serving: Serving = Box::pin(converse(door, far, info));
    tokio::spawn(serving);
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_headers(10_000)
        .handshake(TokioIo::new(near));
    let Ok((mut sender, connection)) = handshake.await else {
        return refused(StatusCode::BAD_GATEWAY);
    };
    let carrying = Carried(tokio::spawn(connection));
    match sender.send_request(request).await {
        Ok(response) => as_http_2(response, carrying),
        Err(_) => refused(StatusCode::BAD_GATEWAY),
    }
}

/// The task that moves a stream's bytes; it ends with whoever waits for them.
struct Carried(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The same request for HTTP/1.1; `None` if it cannot be said there.
fn as_http_1(request: Request<Incoming>) -> Option<Request<Incoming>> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|it| it.as_str().to_owned());
    if parts.method == Method::CONNECT || parts.headers.get_all(header::HOST).iter().count() > 1 {
        return None;
    }
    let host = match (authority, parts.headers.get(header::HOST)) {
        (Some(authority), Some(host)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => return None,
        (Some(authority), _) => HeaderValue::from_str(&authority).ok()?,
        (None, Some(host)) => host.clone(),
        (None, None) => return None,
    };
    parts.headers.remove(header::HOST);
    parts.headers.insert(header::HOST, host);
    // Clients may send cookies in crumbs, which is not known to HTTP/1.1 (RFC 9113, section 8.2.3).
    let crumbs: Vec<&[u8]> = parts
        .headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1 {
        let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).ok()?;
        parts.headers.insert(header::COOKIE, whole);
    }
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    parts.uri = path.parse().ok()?;
    parts.version = Version::HTTP_11;
    Some(Request::from_parts(parts, body))
}

fn as_http_2(response: Response<Incoming>, carried: Carried) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        parts.headers.remove(name);
    }
    parts.version = Version::HTTP_2;
    let body = body.map_frame(move |frame| {
        let _ = &carried;
        frame
    });
    Response::from_parts(parts, BoxBody::new(body))
}

fn refused(status: StatusCode) -> Response<Body> {
    let body = Empty::new().map_err(|never: Infallible| match never {});
    let mut response = Response::new(BoxBody::new(body));
    *response.status_mut() = status;
    response
}
