//! The manual: every key of the file, which is also every option of the command line with `-` for `_`.

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As written in a file.
    pub name: &'static str,
    /// What the value looks like.
    pub value: &'static str,
    /// What holds when it is not written.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Where it may stand.
    pub scope: Scope,
}

/// Where a key may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// At the top of the file only.
    Process,
    /// In a service; at the top of the file it is the default of all services.
    Service,
}

const fn key(name: &'static str, value: &'static str, default: &'static str, help: &'static str, scope: Scope) -> Key {
    Key {
        name,
        value,
        default,
        help,
        scope,
    }
}

use Scope::{Process, Service};

/// All keys.
pub const KEYS: &[Key] = &[
    key(
        "services",
        "list",
        "",
        "several services in one file; without it the file is one service",
        Process,
    ),
    key(
        "threads",
        "auto|N",
        "auto",
        "data threads, each with its own listeners",
        Process,
    ),
    key(
        "admin",
        "PATH|off",
        "/run/openhim/balancer.sock",
        "control socket, mode 0600",
        Process,
    ),
    key(
        "metrics",
        "ADDR|off",
        "127.0.0.1:9101",
        "/metrics, the status page on /, /stats;csv",
        Process,
    ),
    key(
        "log",
        "json|text|combined|haproxy|off",
        "by terminal",
        "one line a connection, in http mode a request",
        Process,
    ),
    key(
        "resolver",
        "ADDRS",
        "",
        "name servers for backends that are names, IP[:PORT]; without it those of /etc/resolv.conf",
        Process,
    ),
    key(
        "resolver_hold",
        "TIME",
        "1d",
        "what a name stood for last holds so long while no name server gives another answer",
        Process,
    ),
    key(
        "name",
        "NAME",
        "the first listen address",
        "what logs, metrics and commands call the service",
        Service,
    ),
    key(
        "listen",
        "ADDR",
        "0.0.0.0:5000",
        "address for clients; a list for several",
        Service,
    ),
    key(
        "backends",
        "LIST",
        "",
        "HOST:PORT[@WEIGHT], comma separated, or a list; a name is all its addresses, srv:NAME a service record",
        Service,
    ),
    key(
        "backends_file",
        "FILE",
        "",
        "one HOST:PORT [weight=N] [backup] [maxconn=N] a line; watched",
        Service,
    ),
    key("mode", "tcp|http|udp", "tcp", "what is balanced", Service),
    key(
        "schedule",
        "NAME",
        "rr",
        "how a backend is chosen: rr wrr lc wlc p2c sh mh random first",
        Service,
    ),
    key(
        "check",
        "tcp|http|https|none",
        "tcp",
        "how backends are found alive, or a map of the keys below; udp without check_port: none",
        Service,
    ),
    key("check_port", "PORT", "the traffic's", "port that is asked", Service),
    key(
        "check_path",
        "PATH",
        "/heartbeat",
        "path of http and https checks",
        Service,
    ),
    key(
        "check_host",
        "NAME",
        "the address",
        "Host header and TLS name of those checks",
        Service,
    ),
    key(
        "check_expect",
        "STATUS,FROM-TO",
        "200-399",
        "statuses that mean healthy",
        Service,
    ),
    key(
        "check_insecure",
        "true|false",
        "false",
        "accept any certificate",
        Service,
    ),
    key(
        "interval",
        "TIME",
        "2s",
        "time between two checks of a backend",
        Service,
    ),
    key(
        "fast_interval",
        "TIME",
        "500ms",
        "the same while its state is changing",
        Service,
    ),
    key(
        "rise",
        "N",
        "2",
        "successes in a row that bring a backend up again",
        Service,
    ),
    key("fall", "N", "3", "failures in a row that take it down", Service),
    key("check_timeout", "TIME", "1s", "after this a check has failed", Service),
    key(
        "connect_timeout",
        "TIME",
        "1s",
        "then another backend is tried for the same client",
        Service,
    ),
    key(
        "idle_timeout",
        "TIME",
        "0",
        "end connections on which nothing moves; 0 is never, for datagrams 60s",
        Service,
    ),
    key(
        "half_close_timeout",
        "TIME",
        "60s",
        "end connections of which one direction has ended",
        Service,
    ),
    key(
        "drain_timeout",
        "TIME",
        "30s",
        "what a removed backend, or a stop, leaves to live connections",
        Service,
    ),
    key(
        "retries",
        "N",
        "3",
        "other backends tried when a connect fails",
        Service,
    ),
    key("maxconn", "N", "from the file limit", "concurrent connections", Service),
    key(
        "tls_cert",
        "FILES",
        "",
        "end TLS of clients with these certificates in PEM, chosen by the name they ask for; watched",
        Service,
    ),
    key(
        "tls_key",
        "FILES",
        "",
        "keys of those certificates, in the same order; without it they are in the same files",
        Service,
    ),
    key(
        "tls_client_ca",
        "FILE",
        "",
        "verify clients' certificates by these authorities",
        Service,
    ),
    key(
        "tls_client",
        "required|optional",
        "required",
        "whether a client has to show a certificate, with tls_client_ca",
        Service,
    ),
    key("tls_min", "1.2|1.3", "1.2", "oldest version of TLS", Service),
    key(
        "alpn",
        "LIST",
        "",
        "protocols agreed on in TLS, best first; mode http: h2,http/1.1",
        Service,
    ),
    key(
        "handshake_timeout",
        "TIME",
        "10s",
        "a client's TLS handshake, or its first message with sni",
        Service,
    ),
    key(
        "sni",
        "NAME=GROUP",
        "",
        "pass TLS through to a group by the server name in it, *.DOMAIN for any below; others stay with backends",
        Service,
    ),
    key(
        "backend_tls",
        "true|false",
        "false",
        "speak TLS to backends, also in checks of the traffic's port",
        Service,
    ),
    key(
        "backend_ca",
        "FILE",
        "",
        "authorities that backends' certificates have to come from, else those of the machine; watched",
        Service,
    ),
    key(
        "backend_name",
        "NAME",
        "",
        "name that is asked for in TLS to backends and that their certificates are for, else the backend's own",
        Service,
    ),
    key(
        "backend_insecure",
        "true|false",
        "false",
        "accept any certificate of backends",
        Service,
    ),
    key(
        "queue",
        "N",
        "1000",
        "clients that may wait while all backends are at their maxconn",
        Service,
    ),
    key("queue_timeout", "TIME", "10s", "how long they wait", Service),
    key(
        "client_ip",
        "none|proxy-v1|proxy-v2|transparent",
        "none",
        "how backends learn the client's address",
        Service,
    ),
    key(
        "accept_proxy",
        "CIDRS",
        "",
        "peers whose PROXY header is required and believed",
        Service,
    ),
    key("allow", "CIDRS", "", "only these clients", Service),
    key("deny", "CIDRS", "", "not these clients", Service),
    key(
        "rate",
        "N",
        "",
        "new connections, in http mode requests, a second from one source",
        Service,
    ),
    key(
        "sticky",
        "source|cookie",
        "",
        "clients stay with the backend they had: by address, or (http) by a cookie",
        Service,
    ),
    key("sticky_timeout", "TIME", "300s", "how long that is remembered", Service),
    key(
        "slow_start",
        "TIME",
        "0",
        "time in which the share of a backend that came up grows to the whole",
        Service,
    ),
    key(
        "on_down",
        "keep|close",
        "keep",
        "live connections of a backend that goes down",
        Service,
    ),
    key(
        "all_down",
        "reset|close|http-503",
        "reset",
        "what a client gets when no backend is left; in http mode always 503",
        Service,
    ),
    key(
        "panic_threshold",
        "PERCENT",
        "50",
        "below this share of healthy backends, failing ones are used too",
        Service,
    ),
    key(
        "groups",
        "NAME=LIST",
        "",
        "http: more backends, by name, for routes; in a file a map whose entries may have a service's keys",
        Service,
    ),
    key(
        "routes",
        "[HOST]/PATH=GROUP",
        "",
        "http: which group serves which requests, first match first; the rest stays with backends",
        Service,
    ),
    key(
        "sticky_cookie",
        "NAME",
        "openhim-backend",
        "name of the cookie of sticky=cookie",
        Service,
    ),
    key(
        "trusted_proxies",
        "CIDRS",
        "",
        "http: peers whose X-Forwarded-For, -Proto, -Host and Forwarded are believed",
        Service,
    ),
    key(
        "client_maxconn",
        "N",
        "",
        "http: requests of one client under way; more get 429",
        Service,
    ),
    key(
        "keep_alive_timeout",
        "TIME",
        "60s",
        "http: a client's connection between two requests",
        Service,
    ),
    key(
        "header_timeout",
        "TIME",
        "10s",
        "http: the whole head of a request; then 408",
        Service,
    ),
    key(
        "body_timeout",
        "TIME",
        "60s",
        "http: the next KiB of a request's body, then 408; a client that takes nothing of its answer",
        Service,
    ),
    key(
        "response_timeout",
        "TIME",
        "300s",
        "http: a backend's answer, then 504, and each next part of it; 0 is never",
        Service,
    ),
    key(
        "backend_idle_timeout",
        "TIME",
        "4s",
        "http: how long unused connections to backends are kept; 0 keeps none",
        Service,
    ),
    key(
        "max_header_bytes",
        "N",
        "65536",
        "http: bytes of a head; more get 431",
        Service,
    ),
    key(
        "max_headers",
        "N",
        "128",
        "http: lines of a head; more get 431",
        Service,
    ),
    key(
        "max_target_bytes",
        "N",
        "16384",
        "http: bytes of a request's target; more get 414",
        Service,
    ),
];

/// Keys inside `check: {…}`, and the flat key each stands for.
pub(super) const CHECK_KEYS: &[(&str, &str)] = &[
    ("type", "check"),
    ("port", "check_port"),
    ("path", "check_path"),
    ("host", "check_host"),
    ("expect", "check_expect"),
    ("insecure", "check_insecure"),
    ("interval", "interval"),
    ("fast_interval", "fast_interval"),
    ("rise", "rise"),
    ("fall", "fall"),
    ("timeout", "check_timeout"),
];

/// Keys of one backend written as a map.
pub(super) const BACKEND_KEYS: &[&str] = &["address", "weight", "backup", "maxconn", "client_ip"];

/// The known name nearest to `name`, if one is near enough to be meant.
pub(super) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|it| (strsim::damerau_levenshtein(name, it), it))
        .filter(|(distance, it)| *distance <= (it.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, it)| it)
}
