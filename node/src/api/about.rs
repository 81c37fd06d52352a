//! `GET /about`: which version this is, and which time zone it counts in.

use serde_json::json;

use super::auth::Caller;
use super::context::Call;
use super::reply::Reply;
use super::router::Answer;

/// The version of OpenHIM core that this API is compatible with: consoles compare it with what they need.
const COMPATIBLE_WITH: &str = "8.5.0";

/// `GET /about`
pub(super) async fn read(_call: Call, _caller: Caller) -> Answer {
    Ok(Reply::ok(&json!({
        "currentCoreVersion": COMPATIBLE_WITH,
        "serverTimezone": iana_time_zone::get_timezone().unwrap_or_else(|_| "UTC".to_owned()),
        "version": env!("CARGO_PKG_VERSION"),
    })))
}
