//! The management API: what consoles, mediators and scripts call.
//!
//! This page is the table of its routes. [`server`] takes a request through its steps, [`router`] finds the line of the
//! table, one file per resource has the handlers, [`error`] decides statuses and words. It never touches a message in
//! flight: it reads and writes the store, and has the tables renewed after a change.

mod about;
mod auth;
mod authentication;
mod body;
mod context;
mod cors;
mod error;
mod heartbeat;
mod metrics;
mod page;
mod reply;
mod router;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::Method;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use context::{Api, Settings};
use router::{Route, get, public};
use server::Service;
pub use server::TlsSource;

/// Serves the API on `listener` until `shutdown`, then lets the requests in progress finish. Over TLS if `tls` is given.
pub async fn serve(api: Arc<Api>, listener: TcpListener, tls: Option<TlsSource>, shutdown: CancellationToken) {
    let routes = routes().into();
    server::serve(Service { api, routes }, listener, tls, shutdown).await;
}

/// Every route: method, path, handler, and what it does in one sentence. The order decides between paths that fit both.
#[rustfmt::skip]
fn routes() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    vec![
        // Open to everybody.
        public(GET, "/heartbeat", heartbeat::read, "Tells whether the node and its mediators are up"),
        public(GET, "/me", authentication::me, "Reads the user who is logged in"),
        public(POST, "/authenticate/local", auth::local::log_in, "Logs in with e-mail and password"),
        public(GET, "/authenticate/:username", auth::token::salt, "Reads the salt for token authentication"),
        // Behind the gate.
        get("/authentication/types", authentication::types, "Lists how clients of the router may identify themselves"),
        get("/logout", authentication::log_out, "Ends the session"),
        get("/metrics", metrics::total, "Sums up all channels over a span of time"),
        get("/metrics/channels", metrics::by_channel, "Sums up each channel over a span of time"),
        get("/metrics/channels/:channelID", metrics::of_channel, "Sums up one channel over a span of time"),
        get("/metrics/timeseries/:timeSeries", metrics::series, "Sums up all channels, period by period"),
        get("/metrics/timeseries/:timeSeries/channels", metrics::series_by_channel, "Sums up each channel, period by period"),
        get("/metrics/timeseries/:timeSeries/channels/:channelID", metrics::series_of_channel, "Sums up one channel, period by period"),
        get("/about", about::read, "Reads version and time zone"),
    ]
}

/// False for a route that shares its path with another and is meant for other callers.
fn is_offered(_route: &Route, _call: &context::Call) -> bool {
    true
}
