//! Prometheus' text format, version 0.0.4. All names begin with `openhim_balancer_` and end with their unit.

use std::fmt::{Display, Write};

use super::{BackendReport, NameReport, Report, ServiceReport};
use crate::backend::requests::{BOUNDS, RequestCounts};

/// Media type of [`render`]'s text.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type OfService = (&'static str, &'static str, &'static str, fn(&ServiceReport) -> f64);
type OfName = (&'static str, &'static str, &'static str, fn(&NameReport) -> f64);
type OfBackend = (&'static str, &'static str, &'static str, fn(&BackendReport) -> f64);

/// Name, kind, help, value.
const SERVICE: &[OfService] = &[
    (
        "connections_total",
        "counter",
        "Connections accepted from clients.",
        |it| num(it.accepted),
    ),
    ("connections_active", "gauge", "Connections under way.", |it| {
        num(it.active as u64)
    }),
    (
        "connections_limit",
        "gauge",
        "Connections that may be under way; 0 is no limit of the service's own.",
        |it| num(it.limit as u64),
    ),
    (
        "connections_denied_total",
        "counter",
        "Connections turned away by allow and deny.",
        |it| num(it.denied),
    ),
    (
        "connections_rate_limited_total",
        "counter",
        "Connections turned away by rate.",
        |it| num(it.rate_limited),
    ),
    (
        "proxy_header_errors_total",
        "counter",
        "Connections ended for their PROXY header.",
        |it| num(it.bad_proxy_header),
    ),
    (
        "tls_handshakes_total",
        "counter",
        "TLS handshakes with clients.",
        |it| num(it.tls_handshakes),
    ),
    (
        "tls_resumed_total",
        "counter",
        "TLS handshakes that went on from an earlier connection.",
        |it| num(it.tls_resumed),
    ),
    (
        "tls_failed_total",
        "counter",
        "TLS handshakes that failed, and first messages of clients that are none.",
        |it| num(it.tls_failed),
    ),
    (
        "connections_without_backend_total",
        "counter",
        "Connections turned away for want of a backend.",
        |it| num(it.no_backend),
    ),
    (
        "connections_redispatched_total",
        "counter",
        "Connections carried by another backend than the first chosen.",
        |it| num(it.redispatched),
    ),
    ("accept_errors_total", "counter", "Accepts that failed.", |it| {
        num(it.accept_errors)
    }),
    (
        "dropped_datagrams_total",
        "counter",
        "Datagrams that no flow could take.",
        |it| num(it.dropped_datagrams),
    ),
    (
        "queue_length",
        "gauge",
        "Clients waiting for a backend with room.",
        |it| num(it.waiting as u64),
    ),
    (
        "queued_total",
        "counter",
        "Connections that had to wait for a backend with room.",
        |it| num(it.queued),
    ),
    (
        "queue_overflow_total",
        "counter",
        "Connections turned away because the line was full or did not move.",
        |it| num(it.queue_overflow),
    ),
    (
        "received_bytes_total",
        "counter",
        "Bytes from clients to backends.",
        |it| num(it.bytes_in),
    ),
    ("sent_bytes_total", "counter", "Bytes from backends to clients.", |it| {
        num(it.bytes_out)
    }),
    (
        "panic",
        "gauge",
        "1 while failing backends get traffic because too few are healthy.",
        |it| flag(it.panicking),
    ),
];

const BACKEND: &[OfBackend] = &[
    ("backend_up", "gauge", "1 if the backend may get new clients.", |it| {
        flag(it.usable)
    }),
    ("backend_weight", "gauge", "Weight as configured.", |it| {
        f64::from(it.weight)
    }),
    ("backend_connections_active", "gauge", "Connections under way.", |it| {
        f64::from(it.active)
    }),
    ("backend_connections_total", "counter", "Connections made.", |it| {
        num(it.connections)
    }),
    (
        "backend_connect_errors_total",
        "counter",
        "Connects that failed.",
        |it| num(it.connect_errors),
    ),
    (
        "backend_connect_timeouts_total",
        "counter",
        "Connects not answered in time.",
        |it| num(it.connect_timeouts),
    ),
    (
        "backend_connect_seconds_total",
        "counter",
        "Time that successful connects took.",
        |it| it.connect_seconds,
    ),
    (
        "backend_redispatched_total",
        "counter",
        "Clients that went to another backend.",
        |it| num(it.redispatched),
    ),
    (
        "backend_aborted_total",
        "counter",
        "Connections the backend broke.",
        |it| num(it.aborted),
    ),
    (
        "backend_received_bytes_total",
        "counter",
        "Bytes sent to the backend.",
        |it| num(it.bytes_in),
    ),
    ("backend_sent_bytes_total", "counter", "Bytes the backend sent.", |it| {
        num(it.bytes_out)
    }),
    (
        "backend_checks_passed_total",
        "counter",
        "Health checks that passed.",
        |it| num(it.probes_passed),
    ),
    (
        "backend_checks_failed_total",
        "counter",
        "Health checks that failed.",
        |it| num(it.probes_failed),
    ),
    (
        "backend_state_changes_total",
        "counter",
        "Changes between up and down.",
        |it| num(it.changes),
    ),
];

const NAME: &[OfName] = &[
    (
        "name_addresses",
        "gauge",
        "Addresses that the name of a backend stands for.",
        |it| num(it.addresses as u64),
    ),
    (
        "name_resolved",
        "gauge",
        "1 while name servers give an answer for the name; without one the last good answer holds for resolver_hold.",
        |it| flag(it.failing_seconds.is_none()),
    ),
    (
        "name_lookups_total",
        "counter",
        "Questions to name servers that were answered.",
        |it| num(it.lookups_good),
    ),
    (
        "name_lookups_failed_total",
        "counter",
        "Questions to name servers that were denied, failed or not answered.",
        |it| num(it.lookups_failed),
    ),
];

fn num(value: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "Prometheus knows only floating point numbers")]
    let value = value as f64;
    value
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The report as Prometheus reads it.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = Out(String::with_capacity(16 * 1024));
    out.head("info", "gauge", "Version of the balancer.");
    out.line("info", &[("version", report.version)], 1.0);
    for (name, kind, help, value) in [
        (
            "uptime_seconds",
            "gauge",
            "Time since start.",
            num(report.uptime_seconds),
        ),
        ("threads", "gauge", "Data threads.", num(report.threads as u64)),
        (
            "process_connections_active",
            "gauge",
            "Connections under way in all services.",
            num(report.active as u64),
        ),
        (
            "process_connections_limit",
            "gauge",
            "Connections that may be under way.",
            num(report.limit as u64),
        ),
        (
            "log_lines_dropped_total",
            "counter",
            "Log lines that nobody read fast enough.",
            num(report.log_dropped),
        ),
        (
            "config_last_reload_successful",
            "gauge",
            "1 if what is written is what runs.",
            flag(report.reloads.problems.is_empty()),
        ),
    ] {
        out.head(name, kind, help);
        out.line(name, &[], value);
    }
    out.head("config_reloads_total", "counter", "Reloads by result.");
    out.line(
        "config_reloads_total",
        &[("result", "success")],
        num(report.reloads.good),
    );
    out.line(
        "config_reloads_total",
        &[("result", "failure")],
        num(report.reloads.bad),
    );
    for (name, kind, help, value) in NAME {
        out.head(name, kind, help);
        for report in &report.names {
            out.line(name, &[("name", &report.name)], value(report));
        }
    }
    for (name, kind, help, value) in SERVICE {
        out.head(name, kind, help);
        for service in &report.services {
            out.line(name, &[("service", &service.name)], value(service));
        }
    }
    out.head(
        "certificate_not_after_seconds",
        "gauge",
        "When a certificate ends, since 1970.",
    );
    for service in &report.services {
        for certificate in &service.certificates {
            let labels = [("service", &*service.name), ("file", &certificate.file)];
            out.line("certificate_not_after_seconds", &labels, certificate.not_after);
        }
    }
    for (name, kind, help, value) in BACKEND {
        out.head(name, kind, help);
        for (service, backend) in backends(report) {
            out.line(
                name,
                &[("service", &service.name), ("backend", &backend.address)],
                value(backend),
            );
        }
    }
    requests(&mut out, report);
    out.head("backend_state", "gauge", "1 for the state the backend is in.");
    for (service, backend) in backends(report) {
        let labels = [
            ("service", &*service.name),
            ("backend", &backend.address),
            ("state", backend.state),
        ];
        out.line("backend_state", &labels, 1.0);
    }
    out.0
}

/// Classes of statuses; the first is for those who got no answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What became of requests: of each service, then of each backend.
fn requests(out: &mut Out, report: &Report) {
    type Of<'r> = (Vec<(&'static str, &'r str)>, &'r RequestCounts);
    let of_services: Vec<Of<'_>> = report
        .services
        .iter()
        .filter_map(|it| Some((vec![("service", &*it.name)], it.requests.as_ref()?)))
        .collect();
    let of_backends: Vec<Of<'_>> = backends(report)
        .filter_map(|(service, it)| {
            let labels = vec![("service", &*service.name), ("backend", &*it.address)];
            Some((labels, it.requests.as_ref()?))
        })
        .collect();
    for (name, help, value) in [
        (
            "requests_retried_total",
            "Requests sent again after an attempt that came to nothing.",
            (|it| it.retried) as fn(&RequestCounts) -> u64,
        ),
        (
            "requests_client_gone_total",
            "Requests given up because the client was gone.",
            |it| it.client_gone,
        ),
        ("requests_limited_total", "Requests answered with 429.", |it| it.limited),
        (
            "tunnels_total",
            "Requests that another protocol was granted to.",
            |it| it.tunnels,
        ),
    ] {
        out.head(name, "counter", help);
        for (labels, counts) in &of_services {
            out.line(name, labels, value(counts));
        }
    }
    for (prefix, all) in [("", of_services), ("backend_", of_backends)] {
        let name = format!("{prefix}requests_total");
        out.head(&name, "counter", "Requests by class of their status.");
        for (labels, counts) in &all {
            for (class, count) in CLASSES.into_iter().zip(counts.classes) {
                out.line(&name, &with(labels, "class", class), count);
            }
        }
        let name = format!("{prefix}request_duration_seconds");
        out.head(
            &name,
            "histogram",
            "From the whole head of a request to the end of its answer.",
        );
        for (labels, counts) in &all {
            out.histogram(&name, labels, counts);
        }
    }
}

fn with<'l>(labels: &[(&'l str, &'l str)], name: &'l str, value: &'l str) -> Vec<(&'l str, &'l str)> {
    labels.iter().copied().chain([(name, value)]).collect()
}

fn backends(report: &Report) -> impl Iterator<Item = (&ServiceReport, &BackendReport)> {
    report
        .services
        .iter()
        .flat_map(|service| service.backends.iter().map(move |backend| (service, backend)))
}

struct Out(String);

// Writing into a String cannot fail.
impl Out {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.0,
            "# HELP openhim_balancer_{name} {help}\n# TYPE openhim_balancer_{name} {kind}"
        );
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], counts: &RequestCounts) {
        let mut so_far = 0;
        let bucket = format!("{name}_bucket");
        for (index, count) in counts.buckets.iter().enumerate() {
            so_far += count;
            let bound = BOUNDS
                .get(index)
                .map_or("+Inf".to_owned(), |it| (num(*it) / 1e6).to_string());
            self.line(&bucket, &with(labels, "le", &bound), so_far);
        }
        self.line(&format!("{name}_sum"), labels, num(counts.micros) / 1e6);
        self.line(&format!("{name}_count"), labels, so_far);
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let _ = write!(self.0, "openhim_balancer_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    _ => self.0.push(letter),
                }
            }
            self.0.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let backend = BackendReport {
            address: "10.0.0.2:5000".into(),
            state: "up",
            usable: true,
            connections: 1 << 53,
            connect_seconds: 0.25,
            ..Default::default()
        };
        let service = ServiceReport {
            name: "a\"b".into(),
            accepted: 7,
            backends: vec![backend],
            ..Default::default()
        };
        Report {
            version: "1",
            services: vec![service],
            ..Default::default()
        }
    }

    #[test]
    fn each_family_has_one_head_and_escaped_labels() {
        let text = render(&report());

        assert!(
            text.contains("\nopenhim_balancer_connections_total{service=\"a\\\"b\"} 7\n"),
            "{text}"
        );
        assert!(
            text.contains("openhim_balancer_backend_up{service=\"a\\\"b\",backend=\"10.0.0.2:5000\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("backend_connections_total{service=\"a\\\"b\",backend=\"10.0.0.2:5000\"} 9007199254740992\n")
        );
        assert!(
            text.contains("openhim_balancer_config_last_reload_successful 1\n"),
            "{text}"
        );
        let mut heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let count = heads.len();
        heads.sort_unstable();
        heads.dedup();
        assert_eq!(heads.len(), count);
    }

    #[test]
    fn durations_of_requests_are_a_histogram() {
        let mut report = report();
        let mut counts = RequestCounts {
            micros: 1_500_000,
            ..Default::default()
        };
        (counts.classes[2], counts.buckets[1], counts.buckets[14]) = (3, 2, 1);
        report.services[0].backends[0].requests = Some(counts);

        let text = render(&report);

        let labels = "{service=\"a\\\"b\",backend=\"10.0.0.2:5000\"";
        for line in [
            format!("requests_total{labels},class=\"2xx\"}} 3\n"),
            format!("request_duration_seconds_bucket{labels},le=\"0.0005\"}} 0\n"),
            format!("request_duration_seconds_bucket{labels},le=\"0.001\"}} 2\n"),
            format!("request_duration_seconds_bucket{labels},le=\"10\"}} 2\n"),
            format!("request_duration_seconds_bucket{labels},le=\"+Inf\"}} 3\n"),
            format!("request_duration_seconds_sum{labels}}} 1.5\n"),
            format!("request_duration_seconds_count{labels}}} 3\n"),
        ] {
            assert!(
                text.contains(&format!("openhim_balancer_backend_{line}")),
                "{line}: {text}"
            );
        }
    }

    #[test]
    fn counters_are_named_as_counters_and_nothing_else_is() {
        for line in render(&report()).lines().filter(|line| line.starts_with("# TYPE")) {
            let (name, kind) = line
                .trim_start_matches("# TYPE ")
                .split_once(' ')
                .expect("name and kind");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        }
    }
}
