//! Logging in and out, who is logged in, and how clients of the router may identify themselves.

use serde_json::json;

use super::auth::{Caller, shown};
use super::context::Call;
use super::error::Refusal;
use super::reply::{Reply, SessionChange};
use super::router::Answer;
use crate::model::json;
use crate::model::role::Permission;

/// `GET /me`: the user of the session; headers do not count.
pub(super) async fn me(call: Call) -> Answer {
    match call.session.user() {
        Some(user) => Ok(Reply::ok(
            &json!({"user": json::to_value(&shown(&call.api, user).into())}),
        )),
        None => Err(Refusal::NotFound("Not authenticated".into())),
    }
}

/// `GET /logout`
pub(super) async fn log_out(_call: Call, _caller: Caller) -> Answer {
    Ok(Reply::phrase(http::StatusCode::OK).with_session(SessionChange::End))
}

/// `GET /authentication/types`: how clients of the router may identify themselves.
pub(super) async fn types(call: Call, caller: Caller) -> Answer {
    caller.require("getAuthType", Permission::ClientManageAll)?;
    let enabled = &call.api.settings.authentication;
    let types: Vec<&str> = [
        (enabled.enable_mutual_tls, "mutual-tls-auth"),
        (enabled.enable_basic, "basic-auth"),
        (enabled.enable_custom_token, "custom-token-auth"),
        (enabled.enable_jwt, "jwt-auth"),
    ]
    .into_iter()
    .filter_map(|(enabled, name)| enabled.then_some(name))
    .collect();
    Ok(Reply::ok(&types))
}
