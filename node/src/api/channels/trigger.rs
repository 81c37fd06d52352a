//! `POST /channels/:channelId/trigger`: runs a polling channel now, through the polling port.

use std::time::Duration;

use bytes::Bytes;
use chrono::{Local, TimeZone};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::auth::Caller;
use super::super::context::Call;
use super::super::error::Refusal;
use super::super::reply::Reply;
use super::super::router::Answer;
use super::known;
use crate::clock::Millis;
use crate::config::Polling;
use crate::model::role::{Permission, Specified};

/// A polled route may take its time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Why the poll was not answered.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Connect(#[from] std::io::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Exchange(#[from] hyper::Error),
    #[error("the channel answered with status {0}")]
    Status(StatusCode),
    #[error("no answer in time")]
    Silent,
}

pub(in super::super) async fn trigger(call: Call, caller: Caller) -> Answer {
    let id = call.params.get("channelId");
    caller.require_for(
        "triggerChannel",
        Permission::ChannelManageAll,
        Specified::ChannelManage,
        &id,
    )?;
    let channel = known(&call.api, &id).await?;
    let id = channel.get_object_id("_id").map_or(id, |id| id.to_hex());
    tracing::info!("Manually polling channel {id}");
    let poll = poll(&call.api.settings.polling, &id, call.api.clock.now());
    match tokio::time::timeout(PATIENCE, poll)
        .await
        .unwrap_or(Err(PollError::Silent))
    {
        Ok(()) => Ok(Reply::phrase(StatusCode::OK)),
        Err(error) => {
            tracing::error!(%error, "Channel {id} could not be polled: {error}");
            Err(Refusal::Status(StatusCode::INTERNAL_SERVER_ERROR))
        }
    }
}

async fn poll(polling: &Polling, channel: &str, now: Millis) -> Result<(), PollError> {
    let stream = TcpStream::connect((polling.host.as_str(), polling.polling_port)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let request = Request::get("/trigger")
            .header("host", format!("{}:{}", polling.host, polling.polling_port))
            .header("channel-id", channel)
            .header("X-OpenHIM-LastRunAt", javascript_date(now))
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(PollError::Status(status))
        }
    };
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        // The other side may close as soon as it has answered.
        _ = connection => exchange.await,
    }
}

/// A date as JavaScript's `String(date)` prints it.
fn javascript_date(at: Millis) -> String {
    let local = Local.timestamp_millis_opt(at).earliest().unwrap_or_default();
    let zone = iana_time_zone::get_timezone().unwrap_or_else(|_| "UTC".to_owned());
    format!("{} ({zone})", local.format("%a %b %d %Y %H:%M:%S GMT%z"))
}
