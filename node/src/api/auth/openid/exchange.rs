//! The exchange of a code for tokens with the provider, and its keys, over HTTP or HTTPS.
//!
//! Besides the public authorities, the certificates that the keystore trusts are trusted here: providers often stand
//! in the same house.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, doc};
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::signature::ProviderKeys;
use super::text;
use crate::api::context::Api;
use crate::api::error::Fault;
use crate::config::OpenId;
use crate::crypto::certificate::chain_from_pem;
use crate::store::Collection;

const PATIENCE: Duration = Duration::from_secs(15);
const PATIENCE_FOR_KEYS: Duration = Duration::from_secs(3);
/// Longest answer, bytes.
const LONGEST: usize = 1024 * 1024;

/// What is escaped in a form.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');

/// What the provider answered.
#[derive(Clone)]
pub(super) struct Tokens {
    pub(super) id_token: String,
    pub(super) access_token: String,
    all: Value,
}

impl Tokens {
    fn of(answer: Value) -> Result<Self, Fault> {
        let token = |name: &str| text(&answer, name).map(str::to_owned);
        let (Some(id_token), Some(access_token)) = (token("id_token"), token("access_token")) else {
            return Err(failed("the provider answered without tokens"));
        };
        Ok(Self {
            id_token,
            access_token,
            all: answer,
        })
    }

    /// The answer as it is stored: without the refresh token.
    pub(super) fn kept(&self) -> Value {
        let mut kept = self.all.clone();
        if let Value::Object(fields) = &mut kept {
            fields.shift_remove("refresh_token");
        }
        kept
    }
}

fn failed(text: impl std::fmt::Display) -> Fault {
    Fault::Provider(format!("OpenID Connect: {text}"))
}

/// Exchanges a code for tokens.
///
/// # Errors
/// The provider cannot be reached or refuses.
pub(super) async fn tokens(api: &Api, settings: &OpenId, code: &str) -> Result<Tokens, Fault> {
    let url = format!("{}/protocol/openid-connect/token", settings.url.trim_end_matches('/'));
    let form = [
        ("grant_type", "authorization_code"),
        ("redirect_uri", &settings.callback_url),
        ("client_id", &settings.client_id),
        ("client_secret", &settings.client_secret),
        ("code", code),
    ];
    let pairs = form.map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, &ESCAPED)));
    let form = pairs.join("&").replace("%20", "+");
    let answer = tokio::time::timeout(PATIENCE, ask(api, &url, Some(form))).await;
    let bytes = answer.map_err(|_| failed("the provider did not answer in time"))??;
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| crate::api::body::form_value(&String::from_utf8_lossy(&bytes)));
    Tokens::of(value)
}

/// The keys that the provider signs with; none if it shows none.
pub(super) async fn keys(api: &Api, settings: &OpenId) -> ProviderKeys {
    let url = format!("{}/protocol/openid-connect/certs", settings.url.trim_end_matches('/'));
    match tokio::time::timeout(PATIENCE_FOR_KEYS, ask(api, &url, None)).await {
        Ok(Ok(answer)) => ProviderKeys::of(&answer),
        _ => {
            tracing::debug!("The OpenID Connect provider shows no keys at {url}");
            ProviderKeys::none()
        }
    }
}

/// Posts a form, or gets what is there.
async fn ask(api: &Api, url: &str, form: Option<String>) -> Result<Bytes, Fault> {
    let uri: Uri = url.parse().map_err(failed)?;
    let host = uri.host().ok_or_else(|| failed("api.openid.url names no host"))?;
    let host = host.trim_matches(['[', ']']);
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    let method = if form.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder()
        .method(method)
        .uri(uri.path())
        .header(
            header::HOST,
            uri.authority().map_or(host, |authority| authority.as_str()),
        )
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json")
        .body(Full::<Bytes>::from(form.unwrap_or_default()))
        .map_err(failed)?;
    if !is_secure {
        return send(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(failed)?;
    let connector = TlsConnector::from(Arc::new(client_config(api).await?));
    send(connector.connect(name, stream).await.map_err(failed)?, request).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, Fault> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if !(status.is_success() || matches!(status.as_u16(), 301 | 302)) {
            return Err(failed(format!("the provider answered with status {status}")));
        }
        let body = Limited::new(response.into_body(), LONGEST);
        Ok(body.collect().await.map_err(failed)?.to_bytes())
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // The other side may close as soon as it has answered.
        _ = connection => exchange.await,
    }
}

async fn client_config(api: &Api) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let keystore = api
        .store()
        .one(Collection::Keystores, doc! {})
        .await?
        .unwrap_or_default();
    let trusted = keystore.get_array("ca").map_or(&[][..], Vec::as_slice);
    for entry in trusted.iter().filter_map(Bson::as_document) {
        let chain = chain_from_pem(entry.get_str("data").unwrap_or_default());
        roots.add_parsable_certificates(chain.unwrap_or_default());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
