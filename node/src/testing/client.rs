//! Somebody who calls a node.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::DEADLINE;

/// A caller with the headers that it sends each time.
#[derive(Clone, Debug)]
#[must_use]
pub struct Caller {
    address: SocketAddr,
    headers: HeaderMap,
}

impl Caller {
    pub fn new(address: SocketAddr) -> Self {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(&address.to_string()).expect("an address is a header value");
        headers.insert(header::HOST, host);
        Self { address, headers }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a header value");
        self.headers.append(HeaderName::from_static(name), value);
        self
    }

    pub fn basic(self, name: &str, password: &str) -> Self {
        let credentials = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        self.header("authorization", &credentials)
    }

    pub async fn get(&self, target: &str) -> Reply {
        self.send(Method::GET, target, Bytes::new()).await
    }

    pub async fn post(&self, target: &str, body: impl Into<Bytes>) -> Reply {
        self.send(Method::POST, target, body).await
    }

    /// Sends a request on a connection of its own and reads the whole answer.
    pub async fn send(&self, method: Method, target: &str, body: impl Into<Bytes>) -> Reply {
        tokio::time::timeout(DEADLINE, self.exchange(method, target, body.into()))
            .await
            .expect("an answer within the deadline")
    }

    async fn exchange(&self, method: Method, target: &str, body: Bytes) -> Reply {
        let stream = TcpStream::connect(self.address).await.expect("the node accepts");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().expect("a request target");
        *request.headers_mut() = self.headers.clone();
        let response = sender.send_request(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        Reply {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.expect("a whole answer").to_bytes(),
        }
    }
}

/// A node's answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    /// The value of a header; several are joined as they are sent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// Every value of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        let values = self.headers.get_all(name).iter();
        values.map(|value| value.to_str().expect("ASCII")).collect()
    }

    pub fn body(&self) -> &Bytes {
        &self.body
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }
}
