//! Basic authentication: name and password of a client.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use tracing::warn;

use super::Authenticator;
use crate::crypto::password::Stored;
use crate::model::client::Client;
use crate::tables::{ClientEntry, ClientTable};

/// Padding or none, as Node.js reads it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Authenticator {
    /// The client whose name and password these are.
    pub(super) async fn basic(&self, clients: &ClientTable, credentials: &str) -> Option<Arc<ClientEntry>> {
        let decoded = LENIENT.decode(credentials).ok()?;
        let text = String::from_utf8_lossy(&decoded);
        let (name, password) = text.split_once(':')?;
        let entry = clients.by_client_id(name)?;
        let Some(stored) = stored(&entry.client) else {
            warn!(client.id = name, "Client {name} has no password to authenticate with");
            return None;
        };
        if self.remembered.knows(name, &stored, password) {
            return Some(Arc::clone(entry));
        }
        let is_right = if stored.is_slow() {
            self.slowly(entry, password).await
        } else {
            stored.admits(password)
        };
        if !is_right {
            return None;
        }
        self.remembered.remember(name, &stored, password);
        Some(Arc::clone(entry))
    }

    /// Checks a slow hash where it blocks nobody.
    async fn slowly(&self, entry: &Arc<ClientEntry>, password: &str) -> bool {
        let Ok(_place) = self.hashers.acquire().await else {
            return false;
        };
        let (entry, password) = (Arc::clone(entry), password.to_owned());
        let check = move || stored(&entry.client).is_some_and(|stored| stored.admits(&password));
        tokio::task::spawn_blocking(check).await.unwrap_or(false)
    }
}

fn stored(client: &Client) -> Option<Stored<'_>> {
    Some(Stored {
        algorithm: client.password_algorithm.as_deref()?,
        hash: client.password_hash.as_ref()?.expose(),
        salt: client.password_salt.as_ref().map_or("", |salt| salt.expose()),
    })
}
