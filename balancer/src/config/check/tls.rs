//! TLS of clients and to backends, and ways by server name. Files are read later.

use std::path::Path;

use super::groups::group_name;
use super::{Reader, resolve, values};
use crate::plan::{BackendTls, ClientCertificate, Mode, Service, Sni, Tls, TlsVersion};

const CLIENT: [(&str, ClientCertificate); 2] = [
    ("required", ClientCertificate::Required),
    ("optional", ClientCertificate::Optional),
];
const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
/// What is agreed on when nothing is written: bytes for another program are none of ours.
const ALPN_HTTP: [&str; 2] = ["h2", "http/1.1"];

impl Reader<'_> {
    pub(super) fn tls(&mut self, mode: Mode, folder: Option<&Path>) -> Option<Tls> {
        let files = |it: &mut Self, key: &str| it.list(key, |text| Ok(resolve(folder, text)));
        let (certificates, mut keys) = (files(self, "tls_cert"), files(self, "tls_key"));
        let client_ca = self.text("tls_client_ca").map(|(text, _, _)| resolve(folder, text));
        if keys.is_empty() {
            // Both in one file, as HAProxy has them.
            keys.clone_from(&certificates);
        }
        let problem = if certificates.len() != keys.len() {
            let (certificates, keys) = (certificates.len(), keys.len());
            Some((
                "tls_key",
                format!("there are {certificates} of `tls_cert` and {keys} of `tls_key`; write pairs"),
            ))
        } else if certificates.is_empty() && client_ca.is_some() {
            Some((
                "tls_client_ca",
                "needs `tls_cert`: without it TLS is not ended here".to_owned(),
            ))
        } else if mode == Mode::Udp && !certificates.is_empty() {
            Some(("tls_cert", "needs connections; mode udp has none".to_owned()))
        } else {
            None
        };
        if let Some((key, text)) = problem {
            let at = self.find(key).or_else(|| self.find("tls_cert"));
            if let Some((written, path)) = at {
                self.found.problem(&written.place, &path, text);
            }
        }
        let unsaid: &[&str] = if mode == Mode::Http { &ALPN_HTTP } else { &[] };
        let mut alpn = self.list("alpn", protocol);
        if self.find("alpn").is_none() {
            alpn = unsaid.iter().map(|it| (*it).to_owned()).collect();
        }
        let client = self.parsed("tls_client", ClientCertificate::Required, |text| {
            values::word(text, &CLIENT)
        });
        let least = self.parsed("tls_min", TlsVersion::V1_2, |text| values::word(text, &VERSIONS));
        (!certificates.is_empty()).then(|| Tls {
            pairs: certificates.into_iter().zip(keys).collect(),
            client_ca,
            client,
            alpn,
            least,
        })
    }

    pub(super) fn backend_tls(&mut self, mode: Mode, folder: Option<&Path>) -> Option<BackendTls> {
        let is_on = self.parsed("backend_tls", false, values::boolean);
        let tls = BackendTls {
            ca: self.text("backend_ca").map(|(text, _, _)| resolve(folder, text)),
            insecure: self.parsed("backend_insecure", false, values::boolean),
            name: self.parsed("backend_name", None, |text| {
                rustls_pki_types::ServerName::try_from(text)
                    .map(|_| Some(text.to_owned()))
                    .map_err(|_| format!("`{text}` is not a name; write for example node.example.org"))
            }),
        };
        let problem = if mode == Mode::Udp && is_on {
            Some(("backend_tls", "needs connections; mode udp has none"))
        } else if tls.insecure && tls.ca.is_some() && is_on {
            Some(("backend_insecure", "is the contrary of `backend_ca`; write one of them"))
        } else {
            None
        };
        if let Some((key, text)) = problem
            && let Some((written, path)) = self.find(key)
        {
            self.found.problem(&written.place, &path, text.to_owned());
        }
        is_on.then_some(tls)
    }

    /// Ways by server name, to groups of the service.
    pub(super) fn sni(&mut self, service: &Service, groups: &[Service]) -> Vec<Sni> {
        let mut ways = Vec::new();
        for (text, path, place) in self.texts("sni") {
            let read = match service.mode {
                Mode::Tcp => way(text, service, groups),
                Mode::Http => Err("is for connections that pass through; in mode http write `routes`".to_owned()),
                Mode::Udp => Err("is for connections; mode udp has none".to_owned()),
            };
            match read {
                Ok(way) => ways.push(way),
                Err(text) => self.found.problem(place, &path, text),
            }
        }
        ways
    }
}

fn way(text: &str, service: &Service, groups: &[Service]) -> Result<Sni, String> {
    let (name, group) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` names no group; write NAME=GROUP"))?;
    let plain = name.strip_prefix("*.").unwrap_or(name);
    let is_name = !plain.is_empty()
        && plain
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-._".contains(&it));
    if !is_name {
        return Err(format!("`{name}` is not a server name; write a name, or *.DOMAIN"));
    }
    let full = group_name(&service.name, group);
    if groups.iter().all(|it| it.name != full) {
        return Err(format!("there is no group `{group}`; name its backends in `groups`"));
    }
    Ok(Sni {
        name: name.trim_end_matches('.').to_ascii_lowercase(),
        group: full,
    })
}

fn protocol(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || !text.is_ascii() {
        return Err(format!("`{text}` is not a protocol; write for example h2,http/1.1"));
    }
    Ok(text.to_owned())
}
