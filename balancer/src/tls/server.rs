//! Ends TLS of clients: which certificate, whose certificates are believed, which sessions go on.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::ahead::Ahead;
use super::files::{self, FileError};
use super::provider;
use crate::plan::{ClientCertificate, Tls, TlsVersion};

/// Ends TLS of the clients of one service.
pub struct Terminator {
    acceptor: TlsAcceptor,
    tickets: Arc<dyn ProducesTickets>,
    /// Whom tickets speak for: they are worth nothing once other clients' certificates are believed.
    trust: (Option<Vec<u8>>, ClientCertificate),
    /// What it shows.
    pub certificates: Vec<Shown>,
}

/// A certificate that is shown to clients.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its file.
    pub file: PathBuf,
    /// Names it is for.
    pub names: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: i64,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let certificates = &self.certificates;
        f.debug_struct("Terminator")
            .field("certificates", certificates)
            .finish_non_exhaustive()
    }
}

impl Terminator {
    /// Reads the files; `before` is what the service had.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(plan: &Tls, before: Option<&Self>) -> Result<Self, FileError> {
        let mut choice = Choice::default();
        let mut certificates = Vec::new();
        for (certificate, key) in &plan.pairs {
            let pair = files::pair(certificate, key)?;
            certificates.push(Shown {
                file: certificate.clone(),
                names: pair.names.clone(),
                not_after: pair.not_after,
            });
            choice.add(Arc::new(pair.certified), &pair.names);
        }
        let trust = (plan.client_ca.as_deref().map(files::read).transpose()?, plan.client);
        let tickets = match before.filter(|it| it.trust == trust) {
            Some(before) => Arc::clone(&before.tickets),
            None => rustls::crypto::aws_lc_rs::Ticketer::new()?,
        };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions(plan.least))?;
        let builder = match &plan.client_ca {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let roots = Arc::new(files::authorities(file)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
                let verifier = match plan.client {
                    ClientCertificate::Required => verifier,
                    ClientCertificate::Optional => verifier.allow_unauthenticated(),
                };
                let verifier = verifier.build().map_err(|error| FileError::Content {
                    file: file.clone(),
                    problem: format!("cannot be used to verify clients: {error}"),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(choice));
        config.alpn_protocols = plan.alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        config.ticketer = Arc::clone(&tickets);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            tickets,
            trust,
            certificates,
        })
    }

    /// Does the handshake with a client, within a time limit.
    ///
    /// # Errors
    /// It was broken off by either side, or took too long.
    pub async fn accept(&self, client: TcpStream, limit: Duration) -> io::Result<TlsStream<Ahead>> {
        // In a box: a handshake has much to remember, and a connection is there for long after it.
        let handshake = Box::pin(self.acceptor.accept(Ahead::new(client)));
        match tokio::time::timeout(limit, handshake).await {
            Ok(result) => result,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn versions(least: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match least {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

/// Which certificate a client is shown: one for the name it asks for, with a key it can check; else the first.
#[derive(Debug, Default)]
struct Choice {
    all: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By what follows the `*.`.
    wildcards: HashMap<String, Vec<usize>>,
}

impl Choice {
    fn add(&mut self, key: Arc<CertifiedKey>, names: &[String]) {
        let index = self.all.len();
        self.all.push(key);
        for name in names {
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcards.entry(parent.to_owned()).or_default().push(index),
                None => self.exact.entry(name.clone()).or_default().push(index),
            }
        }
    }

    /// The places of those for a name, best first.
    fn for_name(&self, name: &str) -> impl Iterator<Item = usize> + use<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let exact = self.exact.get(&name).into_iter().flatten().copied();
        let parent = name.split_once('.').map_or("", |(_, parent)| parent);
        let wildcard = self.wildcards.get(parent).into_iter().flatten().copied();
        exact.chain(wildcard)
    }
}

impl ResolvesServerCert for Choice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let named = hello.server_name().into_iter().flat_map(|name| self.for_name(name));
        let mut in_order = named.chain(0..self.all.len()).map(|index| &self.all[index]);
        let suitable = in_order.find(|it| it.key.choose_scheme(schemes).is_some());
        suitable.or(self.all.first()).cloned()
    }
}
