//! Custom tokens: a word that a client was given.

use std::sync::Arc;

use crate::tables::{ClientEntry, ClientTable};

/// The client that holds this token.
pub(super) fn client(clients: &ClientTable, token: &str) -> Option<Arc<ClientEntry>> {
    clients.by_token(token).cloned()
}
