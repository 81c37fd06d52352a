//! The gate before every route that is not public: it finds out who is asking, and has it audited.
//!
//! A session wins over headers, token headers over a Basic header. A refusal never says why.

use super::{Caller, Proof, basic, groups, permission, token};
use crate::api::context::{Api, Call};
use crate::api::error::Refusal;
use crate::audit::{Event, Outcome};

/// Lets an authenticated caller pass, or answers 401.
pub(in crate::api) async fn pass(call: &Call) -> Result<Caller, Refusal> {
    let found = match identify(call).await {
        Ok(found) => found,
        Err(refusal) => {
            audit_failure(call).await;
            return Err(refusal);
        }
    };
    let Some((user, proof)) = found else {
        audit_failure(call).await;
        return Err(Refusal::Unauthenticated);
    };
    let roles = permission::load(call.api.store(), &groups(&user)).await;
    let caller = Caller { user, roles, proof };
    if !is_exempt(call) {
        let event = Event::Login {
            outcome: Outcome::Success,
            user: caller.email().to_owned(),
            groups: caller.groups().join(","),
        };
        call.api.auditor.record(event).await;
    }
    Ok(caller)
}

async fn identify(call: &Call) -> Result<Option<(bson::Document, Proof)>, Refusal> {
    if let Some(user) = call.session.user() {
        return Ok(Some((user.clone(), Proof::Session)));
    }
    if token::HEADERS.iter().any(|name| call.header(name).is_some()) {
        if !is_enabled(&call.api, "token") {
            return Ok(None);
        }
        return Ok(token::authenticate(call).await?.map(|user| (user, Proof::Token)));
    }
    match call.header("authorization") {
        Some(header) if header.contains("Basic") && is_enabled(&call.api, "basic") => {
            let user = basic::authenticate(&call.api, call.origin, header).await?;
            Ok(user.map(|user| (user, Proof::Basic)))
        }
        _ => Ok(None),
    }
}

/// True if `api.authenticationTypes` names the type.
pub(in crate::api) fn is_enabled(api: &Api, kind: &str) -> bool {
    api.settings.api.authentication_types.iter().any(|known| known == kind)
}

async fn audit_failure(call: &Call) {
    let event = Event::Login {
        outcome: Outcome::SeriousFailure,
        user: format!("Unknown with ip {}", call.origin.address),
        groups: String::new(),
    };
    call.api.auditor.record(event).await;
}

/// True for the paths that are polled: their successful logins are not audited.
fn is_exempt(call: &Call) -> bool {
    if call.path == "/transactions" {
        return call.query.get("filterRepresentation").as_deref() != Some("full");
    }
    is_noisy(&call.path)
}

fn is_noisy(path: &str) -> bool {
    let polled = ["/tasks", "/events", "/metrics", "/audits", "/logs"];
    polled.iter().any(|part| path.contains(part))
        || path
            .split_once("/mediators/")
            .is_some_and(|(_, rest)| rest.contains("/heartbeat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polled_paths_are_noisy_as_written_in_lower_case() {
        for path in [
            "/tasks/1",
            "/channels/1/audits",
            "/audits-filter-options",
            "/mediators/urn:x/heartbeat",
            "/logs",
        ] {
            assert!(is_noisy(path), "{path}");
        }
        for path in ["/Tasks", "/mediators/urn:x", "/mediators", "/channels", "/heartbeat"] {
            assert!(!is_noisy(path), "{path}");
        }
    }
}
