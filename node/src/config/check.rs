//! What single values cannot show: whether the settings fit together.

use std::net::IpAddr;

use super::settings::Settings;
use super::{Config, Protocol};

/// A port that would be listened on.
struct Listener {
    key: &'static str,
    port: u16,
}

/// Notes every pair of settings that contradict each other, and settings that can have no effect.
pub(super) fn together(config: &Config, settings: &mut Settings) {
    shared_ports(config, settings);
    nobody_can_log_in(config, settings);
    tokens_without_a_key(config, settings);
    audits_without_a_port(config, settings);
    reruns_from_elsewhere(config, settings);
}

fn reruns_from_elsewhere(config: &Config, settings: &mut Settings) {
    const KEY: &str = "rerun.host";
    let host = config.rerun.host.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if config.rerun.processor.enabled && config.rerun.http_port != 0 && !is_here {
        let text = format!(
            "`{KEY}`: the rerun port asks nobody who they are, so it is opened for this machine only, not on `{host}`"
        );
        settings.warn(&settings.origin(KEY), text);
    }
}

fn shared_ports(config: &Config, settings: &mut Settings) {
    let servers = &config.auditing.servers;
    let candidates = [
        (true, "router.httpPort", config.router.http_port),
        (true, "router.httpsPort", config.router.https_port),
        (config.api.enabled, "api.port", config.api.port),
        (config.rerun.processor.enabled, "rerun.httpPort", config.rerun.http_port),
        (
            true,
            "tcpAdapter.httpReceiver.httpPort",
            config.tcp_adapter.http_receiver.http_port,
        ),
        (true, "polling.pollingPort", config.polling.polling_port),
        (servers.tls.enabled, "auditing.servers.tls.port", servers.tls.port),
        (servers.tcp.enabled, "auditing.servers.tcp.port", servers.tcp.port),
    ];
    let listening: Vec<Listener> = candidates
        .into_iter()
        .filter(|(enabled, _, port)| *enabled && *port != 0)
        .map(|(_, key, port)| Listener { key, port })
        .collect();
    for (index, second) in listening.iter().enumerate() {
        if let Some(first) = listening[..index].iter().find(|first| first.port == second.port) {
            // The place of the pair is the one that a person wrote.
            let (told, other) = if settings.origin(second.key).is_given() {
                (second, first)
            } else {
                (first, second)
            };
            let text = format!(
                "`{}`: port {} is already taken by `{}`; give each listener its own, or 0 to leave it out",
                told.key, told.port, other.key
            );
            settings.refuse(&settings.origin(told.key), text);
        }
    }
}

fn nobody_can_log_in(config: &Config, settings: &mut Settings) {
    const KEY: &str = "api.authenticationTypes";
    if config.api.enabled && config.api.authentication_types.is_empty() {
        settings.refuse(
            &settings.origin(KEY),
            format!("`{KEY}`: an empty list lets nobody use the API"),
        );
    }
    let over_http = config.api.enabled && config.api.protocol == Protocol::Http && config.api.secure_cookie;
    if over_http && !config.api.trust_proxy && settings.origin("api.protocol").is_given() {
        let text = "`api.secureCookie`: browsers do not send secure cookies to an API over plain HTTP".to_owned();
        settings.warn(&settings.origin("api.protocol"), text);
    }
}

fn tokens_without_a_key(config: &Config, settings: &mut Settings) {
    const KEY: &str = "authentication.enableJWTAuthentication";
    let jwt = &config.authentication.jwt;
    if config.authentication.enable_jwt && jwt.jwks_uri.is_empty() && jwt.secret_or_public_key.is_empty() {
        let text = format!("`{KEY}`: without `jwt.jwksUri` or `jwt.secretOrPublicKey` every token is refused");
        settings.warn(&settings.origin(KEY), text);
    }
}

fn audits_without_a_port(config: &Config, settings: &mut Settings) {
    const KEY: &str = "auditing.auditEvents.port";
    let Some(events) = &config.auditing.audit_events else {
        return;
    };
    if events.interface != "internal" && events.port == 0 {
        settings.refuse(
            &settings.origin(KEY),
            format!("`{KEY}`: audits go out over {}, to which port?", events.interface),
        );
    }
}
