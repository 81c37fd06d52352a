//! Who sends a request: the data plane's clients, never the management API's users.
//!
//! The mechanisms are tried in order (token, custom token, Basic, client certificate) and the first that knows the
//! client wins. Wrong credentials are not an error: the request goes on without a client, and authorisation decides.

mod basic;
mod custom_token;
mod mutual_tls;

use std::sync::Arc;

use http::header;
use tokio::sync::Semaphore;

use tracing::debug;

use super::jwt::JwtVerifier;
use super::{Identified, stages::Received};
use crate::config::{Authentication, TlsClientLookup};
use crate::crypto::password::Remembered;
use crate::keystore::LiveKeystore;
use crate::tables::{ClientEntry, ClientTable, Tables};

/// The mechanisms that are switched on.
#[derive(Debug)]
pub struct Authenticator {
    settings: Authentication,
    lookup: mutual_tls::Lookup,
    keystore: Arc<LiveKeystore>,
    jwt: Option<Arc<JwtVerifier>>,
    remembered: Remembered,
    /// Slow hashes that may be computed at once; a flood of them must not take every thread.
    hashers: Semaphore,
}

impl Authenticator {
    /// As the settings say.
    pub fn new(
        settings: Authentication,
        lookup: &TlsClientLookup,
        keystore: Arc<LiveKeystore>,
        jwt: Option<Arc<JwtVerifier>>,
    ) -> Self {
        Self {
            settings,
            lookup: mutual_tls::Lookup::named(&lookup.kind),
            keystore,
            jwt,
            remembered: Remembered::new(),
            hashers: Semaphore::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
        }
    }

    /// True if a request without credentials is told to try Basic authentication.
    pub(super) fn offers_basic(&self) -> bool {
        self.settings.enable_basic
    }

    /// Finds out who sends the request.
    pub(super) async fn authenticate(&self, tables: &Tables, mut received: Received) -> Identified {
        let client = self.client(tables, &received).await;
        received.annotate(client.as_deref());
        Identified { received, client }
    }

    async fn client(&self, tables: &Tables, received: &Received) -> Option<Arc<ClientEntry>> {
        if let Some(credentials) = received.headers.text(header::AUTHORIZATION).and_then(Credentials::read) {
            let found = match credentials.scheme {
                Scheme::Bearer => self.bearer(&tables.clients, credentials.value).await,
                Scheme::Custom if self.settings.enable_custom_token => {
                    custom_token::client(&tables.clients, credentials.value)
                }
                Scheme::Basic if self.settings.enable_basic => self.basic(&tables.clients, credentials.value).await,
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        let certificate = received
            .certificate
            .as_ref()
            .filter(|_| self.settings.enable_mutual_tls)?;
        mutual_tls::client(&tables.clients, certificate, self.lookup, &self.keystore.load())
    }
}

impl Authenticator {
    /// The client that a JSON Web Token speaks for.
    async fn bearer(&self, clients: &ClientTable, token: &str) -> Option<Arc<ClientEntry>> {
        match self.jwt.as_ref()?.verify(token).await {
            Ok(subject) => clients.by_client_id(&subject).cloned(),
            Err(error) => {
                debug!(%error, "A JSON Web Token was refused");
                None
            }
        }
    }
}

/// An `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
struct Credentials<'a> {
    scheme: Scheme,
    value: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
    Custom,
}

impl<'a> Credentials<'a> {
    /// Scheme in any letter case, spaces, one word.
    fn read(header: &'a str) -> Option<Self> {
        let (scheme, value) = header.trim_matches(' ').split_once(' ')?;
        let value = value.trim_start_matches(' ');
        let scheme = [
            ("basic", Scheme::Basic),
            ("bearer", Scheme::Bearer),
            ("custom", Scheme::Custom),
        ]
        .into_iter()
        .find(|(name, _)| scheme.eq_ignore_ascii_case(name))?
        .1;
        is_token(value).then_some(Self { scheme, value })
    }
}

/// RFC 6750's `b64token`.
fn is_token(text: &str) -> bool {
    let word = text.trim_end_matches('=');
    !word.is_empty()
        && word
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_read_in_any_letter_case() {
        let read = |header| Credentials::read(header).map(|credentials| (credentials.scheme, credentials.value));

        assert_eq!(read(" bAsIc  YTpi= "), Some((Scheme::Basic, "YTpi=")));
        assert_eq!(read("Custom a-b.c_d~e+f/g"), Some((Scheme::Custom, "a-b.c_d~e+f/g")));
        assert_eq!(read("Bearer a b"), None);
        assert_eq!(read("Basic"), None);
        assert_eq!(read("Digest abc"), None);
        assert_eq!(read("Custom =="), None);
    }
}
