//! `POST /restart`: has the node renew its instances, if key and certificate fit together.

use std::time::Duration;

use super::auth::Caller;
use super::context::Call;
use super::error::{Doing, Refusal};
use super::keystore::{is_valid, stored};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::Permission;

/// The answer has to arrive before the connections are renewed.
const DELAY: Duration = Duration::from_secs(2);

pub(super) async fn restart(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not restart the servers via the API:";
    caller.require("restartService", Permission::CertificatesManage)?;
    let keystore = stored(&call.api).await.rejected(DOING)?;
    if !is_valid(&keystore).rejected(DOING)? {
        return Err(Refusal::Invalid(
            "Certificates and Key did not match. Cancelling restart...".into(),
        ));
    }
    tracing::info!("User {} has requested a server restart", caller.email());
    let restart = call.api.restart.clone();
    tokio::spawn(async move {
        tokio::time::sleep(DELAY).await;
        restart.notify_one();
    });
    Ok(Reply::ok_text("Server being restarted"))
}
