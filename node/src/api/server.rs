//! Connections to the API: TLS or plain, HTTP/1.1, each request through the same steps.
//!
//! cross-origin rules → session → body → public routes → gate → routes → session's end → answer. A request that was
//! begun is carried to its end even if the client goes away, so that a change is never left half done.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::{Caller, Proof, basic, gate, session};
use super::body::{self, Stream};
use super::context::{Api, Call, Origin, Query};
use super::cors;
use super::error::{Fault, Handling, Refusal};
use super::reply::{Chunk, Content, Reply, SessionChange};
use super::router::{self, Route};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// How long requests in progress may take after the order to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// Pause after an accept that failed for want of file descriptors.
const BREATH: Duration = Duration::from_millis(50);
const MOST_CONNECTIONS: usize = 2048;

/// Gives the TLS configuration of the moment: the keystore may change while the API serves.
pub type TlsSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;
type ResponseBody = BoxBody<Bytes, io::Error>;

/// The API with its table of routes, ready to answer.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) api: Arc<Api>,
    pub(super) routes: Arc<[Route]>,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) encrypted: bool,
}

/// Accepts connections until `shutdown`, then lets the requests in progress finish.
pub(super) async fn serve(
    service: Service,
    listener: TcpListener,
    tls: Option<TlsSource>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, address, place)) = accepted else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let (service, tls, shutdown) = (service.clone(), tls.clone(), shutdown.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = connection(service, stream, address.ip(), tls, shutdown).await {
                tracing::debug!(%error, %address, "API connection from {address} ended: {error}");
            }
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(LAST_ANSWERS, connections.wait()).await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, address)) => Some((stream, address, place)),
        Err(error) => {
            tracing::warn!(%error, "API could not accept a connection: {error}");
            None
        }
    }
}

async fn connection(
    service: Service,
    stream: TcpStream,
    address: IpAddr,
    tls: Option<TlsSource>,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let peer = Peer {
        address: address.to_canonical(),
        encrypted: tls.is_some(),
    };
    match tls {
        None => http(service, stream, peer, shutdown).await?,
        Some(source) => {
            let acceptor = TlsAcceptor::from(source());
            let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await??;
            http(service, stream, peer, shutdown).await?;
        }
    }
    Ok(())
}

pub(super) async fn http(
    service: Service,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    shutdown: CancellationToken,
) -> hyper::Result<()> {
    let buffer = service.api.settings.header_bytes.max(16 * 1024);
    let answers = service_fn(move |request: Request<Incoming>| {
        let service = service.clone();
        async move {
            let work = tokio::spawn(async move { service.answer(request, peer).await });
            Ok::<_, Infallible>(work.await.unwrap_or_else(|error| {
                tracing::error!(%error, "API request handler died: {error}");
                render(
                    Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
                    HeaderMap::new(),
                )
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(buffer)
        .serve_connection(TokioIo::new(stream), answers);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// How far a request got: what the session's end and Basic's residue depend on.
struct Outcome {
    reply: Reply,
    proof: Option<Proof>,
    /// The request failed in a way after which nothing more is done for it.
    thrown: bool,
}

impl Service {
    pub(super) async fn answer(&self, request: Request<impl Stream>, peer: Peer) -> Response<ResponseBody> {
        let (parts, incoming) = request.into_parts();
        if cors::is_preflight(&parts.method, &parts.headers) {
            return render(Reply::nothing(), cors::preflight_headers(&parts.headers));
        }
        let mut headers = cors::headers(&parts.headers);
        let reply = self.reply(parts, incoming, peer, &mut headers).await;
        render(reply, headers)
    }

    async fn reply(
        &self,
        parts: http::request::Parts,
        incoming: impl Stream,
        peer: Peer,
        headers: &mut HeaderMap,
    ) -> Reply {
        let handling = Handling::preferred(&parts.headers);
        let call = match self.call(parts, incoming, peer).await {
            Ok(call) => call,
            Err(refusal) => return refusal.into_reply(handling),
        };
        let (origin, session) = (call.origin, call.session.clone());
        let Outcome {
            mut reply,
            proof,
            thrown,
        } = self.route(call).await;
        if proof == Some(Proof::Basic) && matches!(reply.content, Content::Phrase) {
            reply.content = Content::Text(basic::RESIDUE.to_owned());
        }
        if !thrown {
            let change = std::mem::take(&mut reply.session);
            let mut cookies = HeaderMap::new();
            if let Err(refusal) = session::settle(&self.api, origin, &session, change, &mut cookies).await {
                return refusal.into_reply(handling);
            }
            headers.extend(cookies);
        }
        reply
    }

    async fn call(&self, parts: http::request::Parts, incoming: impl Stream, peer: Peer) -> Result<Call, Refusal> {
        let api = &self.api;
        let origin = origin(&parts.headers, peer, api.settings.api.trust_proxy);
        let session = session::load(api, &parts.headers).await?;
        let limit = payload_limit(api.settings.api.max_payload_size_mb);
        let body = body::read(&parts.headers, incoming, limit, &api.bodies).await?;
        Ok(Call {
            api: Arc::clone(api),
            method: parts.method,
            path: parts.uri.path().to_owned(),
            params: router::Params::default(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            headers: parts.headers,
            body,
            origin,
            session,
        })
    }

    async fn route(&self, mut call: Call) -> Outcome {
        let handling = Handling::preferred(&call.headers);
        match router::find(&self.routes, &call.method, &call.path, |route| {
            route.handler.public().filter(|_| super::is_offered(route, &call))
        }) {
            Err(malformed) => return Outcome::malformed(&malformed, handling),
            Ok(Some((handler, params))) => {
                call.params = params;
                return Outcome::of(handler(call).await, None, handling);
            }
            Ok(None) => {}
        }
        match gate::pass(&call).await {
            Ok(caller) => self.route_gated(call, caller).await,
            Err(refusal) => Outcome::of(Err(refusal), None, handling),
        }
    }

    async fn route_gated(&self, mut call: Call, caller: Caller) -> Outcome {
        let handling = Handling::preferred(&call.headers);
        let proof = Some(caller.proof);
        let token_login = (caller.proof == Proof::Token).then(|| caller.email().to_owned());
        let found = router::find(&self.routes, &call.method, &call.path, |route| route.handler.gated());
        let mut outcome = match found {
            Err(malformed) => return Outcome::malformed(&malformed, handling),
            Ok(Some((handler, params))) => {
                call.params = params;
                Outcome::of(handler(call, caller).await, proof, handling)
            }
            Ok(None) if proof == Some(Proof::Basic) => Outcome::of(Ok(Reply::phrase(StatusCode::OK)), proof, handling),
            Ok(None) => Outcome::of(Err(Refusal::Status(StatusCode::NOT_FOUND)), proof, handling),
        };
        if let (Some(email), SessionChange::Keep) = (token_login, &outcome.reply.session) {
            outcome.reply.session = SessionChange::Begin(email);
        }
        outcome
    }
}

impl Outcome {
    fn of(answer: router::Answer, proof: Option<Proof>, handling: Handling) -> Self {
        match answer {
            Ok(reply) => Self {
                reply,
                proof,
                thrown: false,
            },
            Err(refusal) => Self {
                thrown: matches!(refusal, Refusal::Internal(_)),
                reply: refusal.into_reply(handling),
                proof,
            },
        }
    }

    fn malformed(malformed: &router::MalformedPath, handling: Handling) -> Self {
        let fault = Fault::Syntax(malformed.to_string());
        Self::of(Err(Refusal::Internal(fault)), None, handling)
    }
}

/// `api.maxPayloadSizeMB` in bytes; 16 MiB where it is 0.
fn payload_limit(megabytes: f64) -> usize {
    let megabytes = if megabytes > 0.0 { megabytes } else { 16.0 };
    (megabytes * 1_048_576.0) as usize
}

fn origin(headers: &HeaderMap, peer: Peer, trust_proxy: bool) -> Origin {
    let first = |name: &str| {
        let value = headers.get(name).filter(|_| trust_proxy)?.to_str().ok()?;
        value.split(',').next().map(|item| item.trim().to_owned())
    };
    Origin {
        address: first("x-forwarded-for")
            .and_then(|text| text.parse().ok())
            .unwrap_or(peer.address),
        secure: peer.encrypted || first("x-forwarded-proto").is_some_and(|scheme| scheme == "https"),
    }
}

fn render(reply: Reply, headers: HeaderMap) -> Response<ResponseBody> {
    let media_type = reply.media_type();
    let status = reply.status;
    let body = match reply.content {
        Content::Phrase => whole(status.canonical_reason().unwrap_or_else(|| status.as_str()).to_owned()),
        Content::Text(text) => whole(text),
        Content::Json(bytes) => whole(bytes),
        Content::JsonStream(chunks) => streamed(chunks),
        Content::Nothing => Empty::new().map_err(|never| match never {}).boxed(),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().extend(reply.headers);
    if let Some(media_type) = media_type {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    response
}

fn whole(bytes: impl Into<Bytes>) -> ResponseBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

fn streamed(chunks: mpsc::Receiver<Chunk>) -> ResponseBody {
    Chunks(chunks).boxed()
}

/// A body whose parts come through a channel.
struct Chunks(mpsc::Receiver<Chunk>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data)))
    }
}
