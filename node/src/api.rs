//! The management API: what consoles, mediators and scripts call.
//!
//! This page is the table of its routes. [`server`] takes a request through its steps, [`router`] finds the line of the
//! table, one file per resource has the handlers, [`error`] decides statuses and words. It never touches a message in
//! flight: it reads and writes the store, and has the tables renewed after a change.

mod about;
mod apps;
mod audits;
mod auth;
mod authentication;
mod body;
mod bulkrerun;
mod certificates;
mod channels;
mod clients;
mod context;
mod cors;
mod documents;
mod error;
mod events;
mod groups;
mod heartbeat;
mod jobs;
mod keystore;
mod logs;
mod mediators;
mod metadata;
mod metrics;
mod openapi;
mod page;
mod reply;
mod restart;
mod roles;
mod router;
mod server;
mod stream;
mod tasks;
#[cfg(test)]
mod tests;
mod transactions;
mod users;
mod visualizers;

use std::sync::Arc;

use http::Method;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use context::{Api, Parts, Settings};
use router::{Route, delete, get, post, public, put};
use server::Service;
pub use server::TlsSource;

/// Serves the API on `listener` until `shutdown`, then lets the requests in progress finish. Over TLS if `tls` is given.
pub async fn serve(api: Arc<Api>, listener: TcpListener, tls: Option<TlsSource>, shutdown: CancellationToken) {
    let settings = &api.settings.api;
    if tls.is_none() && settings.secure_cookie && !settings.trust_proxy {
        tracing::warn!(
            "Nobody can log in to the API: it is served without TLS, and api.secureCookie is on. Serve it over TLS, or set \
             api.trustProxy behind a proxy that speaks TLS, or api.secureCookie=false"
        );
    }
    let routes = routes().into();
    server::serve(Service { api, routes }, listener, tls, shutdown).await;
}

/// Every route: method, path, handler, and what it does in one sentence. The order decides between paths that fit both.
#[rustfmt::skip]
fn routes() -> Vec<Route> {
    const GET: Method = Method::GET;
    const POST: Method = Method::POST;
    const PUT: Method = Method::PUT;
    vec![
        // Open to everybody.
        public(GET, "/heartbeat", heartbeat::read, "Tells whether the node and its mediators are up"),
        public(GET, "/password-reset-request/:email", users::request_reset, "Mails a link to choose a new password"),
        public(GET, "/token/:token", users::read_by_token, "Reads the user whom a link was mailed to"),
        public(PUT, "/token/:token", users::update_by_token, "Sets the password by a mailed link"),
        public(GET, "/me", authentication::me, "Reads the user who is logged in"),
        public(GET, "/importmaps", apps::import_map, "Tells a browser where the console's parts are"),
        public(GET, "/apps", apps::list, "Lists the console's parts"),
        public(POST, "/authenticate/local", auth::local::log_in, "Logs in with e-mail and password"),
        public(POST, "/authenticate/openid", auth::openid::log_in, "Logs in with the code of an OpenID Connect provider"),
        public(GET, "/authenticate/:username", auth::token::salt, "Reads the salt for token authentication"),
        public(GET, "/metrics", metrics::prometheus, "Shows the counts of this process to Prometheus, if it accepts OpenMetrics"),
        public(GET, "/metrics/prometheus", metrics::prometheus, "Shows the counts of this process to Prometheus"),
        public(GET, "/openapi.json", openapi::document, "Describes this API for programs"),
        public(GET, "/openapi", openapi::page, "Describes this API for people"),
        // Behind the gate.
        get("/authentication/types", authentication::types, "Lists how clients of the router may identify themselves"),
        get("/logout", authentication::log_out, "Ends the session"),
        get("/apps/:appId", apps::read, "Reads a part of the console"),
        post("/apps", apps::create, "Adds a part of the console"),
        put("/apps/:appId", apps::update, "Changes a part of the console"),
        delete("/apps/:appId", apps::delete, "Deletes a part of the console"),
        get("/users", users::list, "Lists the users of the console"),
        get("/users/:email", users::read, "Reads a user"),
        post("/users", users::create, "Adds a user and mails a link to choose a password"),
        put("/users/:email", users::update, "Changes a user"),
        delete("/users/:email", users::delete, "Deletes a user"),
        get("/clients", clients::list, "Lists the clients of the router"),
        post("/clients", clients::create, "Adds a client"),
        get("/clients/:clientId", clients::read, "Reads a client"),
        get("/clients/domain/:clientDomain", clients::by_domain, "Reads the client of a domain"),
        put("/clients/:clientId", clients::update, "Changes a client"),
        delete("/clients/:clientId", clients::delete, "Deletes a client"),
        get("/clients/:clientId/:property", clients::property, "Reads a client's name"),
        get("/roles", roles::list, "Lists roles: what they permit, and whose they are"),
        post("/roles", roles::create, "Adds a role"),
        get("/roles/:name", roles::read, "Reads a role"),
        put("/roles/:name", roles::update, "Changes a role"),
        delete("/roles/:name", roles::delete, "Deletes a role"),
        get("/transactions", transactions::list, "Lists or counts transactions"),
        post("/transactions", transactions::create, "Adds a transaction"),
        get("/transactions/:transactionId", transactions::read, "Reads a transaction"),
        get("/transactions/clients/:clientId", transactions::by_client, "Lists the transactions of a client"),
        put("/transactions/:transactionId", transactions::update, "Changes a transaction, also by update operators"),
        delete("/transactions/:transactionId", transactions::delete, "Deletes a transaction"),
        post("/bulkrerun", bulkrerun::create, "Runs again all transactions that a filter selects"),
        get("/groups", groups::list, "Lists contact groups"),
        get("/groups/:contactGroupId", groups::read, "Reads a contact group"),
        post("/groups", groups::create, "Adds a contact group"),
        put("/groups/:contactGroupId", groups::update, "Changes a contact group"),
        delete("/groups/:contactGroupId", groups::delete, "Deletes a contact group that no channel alerts"),
        get("/channels", channels::list, "Lists the channels that the caller may see"),
        post("/channels", channels::create, "Adds a channel"),
        get("/channels/:channelId", channels::read, "Reads a channel"),
        get("/channels/:channelId/audits", channels::audits, "Lists the changes of a channel, newest first"),
        post("/channels/:channelId/trigger", channels::trigger, "Runs a polling channel now"),
        put("/channels/:channelId", channels::update, "Changes a channel"),
        delete("/channels/:channelId", channels::delete, "Deletes a channel, or marks it if it has transactions"),
        get("/tasks", tasks::list, "Lists rerun tasks"),
        post("/tasks", tasks::create, "Has transactions run again"),
        get("/tasks/:taskId", tasks::read, "Reads a rerun task with a page of its transactions"),
        put("/tasks/:taskId", tasks::update, "Pauses, resumes or cancels a rerun task"),
        delete("/tasks/:taskId", tasks::delete, "Deletes a rerun task"),
        get("/metrics", metrics::total, "Sums up all channels over a span of time"),
        get("/metrics/channels", metrics::by_channel, "Sums up each channel over a span of time"),
        get("/metrics/channels/:channelID", metrics::of_channel, "Sums up one channel over a span of time"),
        get("/metrics/timeseries/:timeSeries", metrics::series, "Sums up all channels, period by period"),
        get("/metrics/timeseries/:timeSeries/channels", metrics::series_by_channel, "Sums up each channel, period by period"),
        get("/metrics/timeseries/:timeSeries/channels/:channelID", metrics::series_of_channel, "Sums up one channel, period by period"),
        get("/keystore/cert", keystore::read_certificate, "Reads the server's certificate"),
        post("/keystore/cert", keystore::set_certificate, "Replaces the server's certificate"),
        get("/keystore/ca", keystore::list_trusted, "Lists the trusted certificates"),
        get("/keystore/ca/:certId", keystore::read_trusted, "Reads a trusted certificate"),
        delete("/keystore/ca/:certId", keystore::delete_trusted, "Ceases to trust a certificate"),
        post("/keystore/key", keystore::set_key, "Replaces the server's key"),
        post("/keystore/ca/cert", keystore::add_trusted, "Trusts one certificate or several"),
        get("/keystore/validity", keystore::validity, "Tells whether the server's key and certificate fit"),
        post("/keystore/passphrase", keystore::set_passphrase, "Sets the passphrase of the server's key"),
        post("/restart", restart::restart, "Renews the servers, if key and certificate fit"),
        post("/certificates", certificates::create, "Makes a self-signed certificate"),
        get("/mediators", mediators::list, "Lists mediators"),
        get("/mediators/:urn", mediators::read, "Reads a mediator"),
        post("/mediators", mediators::register, "Registers a mediator or a newer version of it"),
        delete("/mediators/:urn", mediators::delete, "Forgets a mediator"),
        post("/mediators/:urn/heartbeat", mediators::heartbeat, "Takes a mediator's sign of life, answers with new settings"),
        put("/mediators/:urn/config", mediators::set_config, "Sets a mediator's settings"),
        post("/mediators/:urn/channels", mediators::load_channels, "Adds the channels that a mediator describes"),
        get("/metadata", metadata::export, "Exports channels, clients, mediators, users, groups and keys"),
        post("/metadata", metadata::import, "Imports what was exported"),
        post("/metadata/validate", metadata::validate, "Says what an import would do"),
        post("/audits", audits::create, "Adds an audit record"),
        get("/audits", audits::list, "Lists audit records"),
        get("/audits/:auditId", audits::read, "Reads an audit record, which is audited"),
        get("/audits-filter-options", audits::filter_options, "Lists the values to filter audit records by"),
        get("/logs", logs::list, "Lists what was logged"),
        get("/jobs", jobs::list, "Lists what runs beside the messages, when, and how it ended"),
        get("/retries", jobs::waiting, "Counts the transactions of each channel that wait to be sent again"),
        delete("/retries/:channelId", jobs::purge, "Lets go of a channel's transactions that wait to be sent again"),
        get("/events/:receivedTime", events::read, "Lists events since an instant"),
        get("/visualizers", visualizers::list, "Lists visualizers"),
        get("/visualizers/:visualizerId", visualizers::read, "Reads a visualizer"),
        post("/visualizers", visualizers::create, "Adds a visualizer"),
        put("/visualizers/:visualizerId", visualizers::update, "Changes a visualizer"),
        delete("/visualizers/:visualizerId", visualizers::delete, "Deletes a visualizer"),
        get("/about", about::read, "Reads version and time zone"),
    ]
}

/// False for a public route that shares its path with one behind the gate and is meant for other callers.
fn is_offered(route: &Route, call: &context::Call) -> bool {
    route.pattern != "/metrics" || metrics::is_prometheus(call)
}
