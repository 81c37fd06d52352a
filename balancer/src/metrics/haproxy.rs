//! HAProxy's statistics table (`show stat`, `/stats;csv`), so that dashboards made for HAProxy work.
//!
//! The columns stand where HAProxy's manual (9.1) has them; one that means nothing here is empty, as HAProxy does it.

use super::{BackendReport, Report, ServiceReport};
use crate::backend::requests::RequestCounts;

/// Columns of HAProxy 2.0 and later, up to the last that is filled here.
const COLUMNS: &str = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,\
status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,tracked,type,rate,rate_lim,\
rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,\
req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,\
ctime,rtime,ttime,agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,\
agent_rise,agent_fall,agent_health,addr,cookie,mode,algo";

/// The report as HAProxy's CSV.
#[must_use]
pub fn render(report: &Report) -> String {
    let columns: Vec<&str> = COLUMNS.split(',').collect();
    let mut out = format!("# {COLUMNS},\n");
    for (index, service) in report.services.iter().enumerate() {
        let id = (index + 1).to_string();
        push(&mut out, &columns, &frontend(service, &id));
        for (index, backend) in service.backends.iter().enumerate() {
            push(&mut out, &columns, &server(service, backend, &id, index + 1));
        }
        push(&mut out, &columns, &summary(service, &id));
    }
    out
}

type Row = Vec<(&'static str, String)>;

fn push(out: &mut String, columns: &[&str], row: &Row) {
    for column in columns {
        if let Some((_, value)) = row.iter().find(|(name, _)| name == column) {
            out.push_str(&quoted(value));
        }
        out.push(',');
    }
    out.push('\n');
}

fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

fn count(value: impl ToString) -> String {
    value.to_string()
}

fn rate(value: f64) -> String {
    format!("{value:.0}")
}

fn frontend(service: &ServiceReport, id: &str) -> Row {
    vec![
        ("pxname", service.name.clone()),
        ("svname", "FRONTEND".into()),
        ("scur", count(service.active)),
        ("slim", count(service.limit)),
        ("stot", count(service.accepted)),
        ("bin", count(service.bytes_in)),
        ("bout", count(service.bytes_out)),
        ("dreq", count(service.denied + service.rate_limited)),
        ("ereq", count(service.bad_proxy_header)),
        ("status", "OPEN".into()),
        ("pid", "1".into()),
        ("iid", id.into()),
        ("sid", "0".into()),
        ("type", "0".into()),
        ("rate", rate(service.rates.connections)),
        ("mode", service.mode.into()),
    ]
    .into_iter()
    .chain(requests(service.requests.as_ref()))
    .collect()
}

/// The columns about requests.
fn requests(counts: Option<&RequestCounts>) -> Row {
    let Some(counts) = counts else { return Row::new() };
    let [other, hundreds @ ..] = counts.classes;
    let names = ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"];
    let mean_millis = counts.micros.checked_div(counts.total()).unwrap_or(0) / 1000;
    let mut row: Row = names.into_iter().zip(hundreds.map(count)).collect();
    row.extend([
        ("hrsp_other", count(other)),
        ("req_tot", count(counts.total())),
        ("cli_abrt", count(counts.client_gone)),
        ("wretr", count(counts.retried)),
        ("ttime", count(mean_millis)),
    ]);
    row
}

fn server(service: &ServiceReport, backend: &BackendReport, id: &str, number: usize) -> Row {
    let mean_connect = if backend.connections == 0 {
        0.0
    } else {
        #[expect(clippy::cast_precision_loss, reason = "a mean of milliseconds")]
        let connections = backend.connections as f64;
        backend.connect_seconds * 1000.0 / connections
    };
    vec![
        ("pxname", service.name.clone()),
        ("svname", backend.address.clone()),
        ("qcur", "0".into()),
        ("scur", count(backend.active)),
        (
            "slim",
            if backend.limit == 0 {
                String::new()
            } else {
                count(backend.limit)
            },
        ),
        ("stot", count(backend.connections)),
        ("bin", count(backend.bytes_in)),
        ("bout", count(backend.bytes_out)),
        ("econ", count(backend.connect_errors + backend.connect_timeouts)),
        ("wredis", count(backend.redispatched)),
        ("status", status(backend).into()),
        ("weight", count(backend.weight)),
        ("act", count(u8::from(!backend.backup))),
        ("bck", count(u8::from(backend.backup))),
        ("chkfail", count(backend.probes_failed)),
        ("chkdown", count(backend.changes / 2)),
        ("lastchg", count(backend.since_seconds)),
        ("pid", "1".into()),
        ("iid", id.into()),
        ("sid", count(number)),
        ("lbtot", count(backend.connections)),
        ("type", "2".into()),
        ("rate", rate(backend.rates.connections)),
        (
            "check_duration",
            backend.last_probe_ms.map(|ms| format!("{ms:.0}")).unwrap_or_default(),
        ),
        ("srv_abrt", count(backend.aborted)),
        ("last_chk", backend.why.clone()),
        ("ctime", format!("{mean_connect:.0}")),
        ("addr", backend.address.clone()),
        ("mode", service.mode.into()),
    ]
    .into_iter()
    .chain(requests(backend.requests.as_ref()))
    .collect()
}

fn summary(service: &ServiceReport, id: &str) -> Row {
    let usable = |is_backup: bool| {
        service
            .backends
            .iter()
            .filter(|it| it.usable && it.backup == is_backup)
            .count()
    };
    let all = |value: fn(&BackendReport) -> u64| service.backends.iter().map(value).sum::<u64>();
    vec![
        ("pxname", service.name.clone()),
        ("svname", "BACKEND".into()),
        ("qcur", count(service.waiting)),
        ("scur", count(all(|it| it.active.into()))),
        ("stot", count(all(|it| it.connections))),
        ("bin", count(service.bytes_in)),
        ("bout", count(service.bytes_out)),
        ("econ", count(all(|it| it.connect_errors + it.connect_timeouts))),
        ("wredis", count(service.redispatched)),
        (
            "status",
            if usable(false) + usable(true) > 0 { "UP" } else { "DOWN" }.into(),
        ),
        (
            "weight",
            count(
                service
                    .backends
                    .iter()
                    .filter(|it| it.usable)
                    .map(|it| u32::from(it.weight))
                    .sum::<u32>(),
            ),
        ),
        ("act", count(usable(false))),
        ("bck", count(usable(true))),
        ("pid", "1".into()),
        ("iid", id.into()),
        ("sid", "0".into()),
        ("lbtot", count(all(|it| it.connections))),
        ("type", "1".into()),
        ("rate", rate(service.rates.connections)),
        ("srv_abrt", count(all(|it| it.aborted))),
        ("mode", service.mode.into()),
        ("algo", service.schedule.clone()),
    ]
    .into_iter()
    .chain(requests(service.requests.as_ref()))
    .collect()
}

/// HAProxy's words.
fn status(backend: &BackendReport) -> &'static str {
    match backend.state {
        "up" => "UP",
        "drain" | "removed" => "DRAIN",
        "maint" => "MAINT",
        "unknown" => "no check",
        _ => "DOWN",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let backend = |address: &str, state| BackendReport {
            address: address.into(),
            state,
            usable: state == "up",
            weight: 1,
            connections: 10,
            connect_seconds: 0.02,
            why: "no answer, twice".into(),
            ..Default::default()
        };
        let service = ServiceReport {
            name: "https".into(),
            mode: "tcp",
            schedule: "rr".into(),
            accepted: 20,
            requests: Some(RequestCounts {
                classes: [1, 0, 7, 0, 2, 0],
                micros: 50_000,
                ..Default::default()
            }),
            backends: vec![backend("10.0.0.2:5000", "up"), backend("10.0.0.3:5000", "down")],
            ..Default::default()
        };
        Report {
            services: vec![service],
            ..Default::default()
        }
    }

    /// Rows by column name; the quoted text in these tests has the only comma.
    fn rows() -> Vec<Vec<(String, String)>> {
        let text = render(&report()).replace("\"no answer, twice\"", "why");
        let mut lines = text.lines();
        let head: Vec<String> = lines
            .next()
            .expect("a head")
            .trim_start_matches("# ")
            .split(',')
            .map(str::to_owned)
            .collect();
        lines
            .map(|line| head.iter().cloned().zip(line.split(',').map(str::to_owned)).collect())
            .collect()
    }

    fn cell<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
        row.iter()
            .find(|(column, _)| column == name)
            .map(|(_, value)| value.as_str())
            .expect("a column")
    }

    #[test]
    fn a_service_is_a_frontend_its_servers_and_a_backend() {
        let rows = rows();

        let names: Vec<_> = rows
            .iter()
            .map(|row| (cell(row, "svname"), cell(row, "type"), cell(row, "status")))
            .collect();
        assert_eq!(
            names,
            [
                ("FRONTEND", "0", "OPEN"),
                ("10.0.0.2:5000", "2", "UP"),
                ("10.0.0.3:5000", "2", "DOWN"),
                ("BACKEND", "1", "UP")
            ]
        );
        assert_eq!(
            (cell(&rows[0], "stot"), cell(&rows[3], "stot"), cell(&rows[1], "ctime")),
            ("20", "20", "2")
        );
        let of_requests = ["hrsp_2xx", "hrsp_4xx", "hrsp_other", "req_tot", "ttime"];
        assert_eq!(of_requests.map(|name| cell(&rows[0], name)), ["7", "2", "1", "10", "5"]);
        assert_eq!(of_requests.map(|name| cell(&rows[1], name)), [""; 5]);
        assert_eq!(
            (
                cell(&rows[3], "act"),
                cell(&rows[3], "weight"),
                cell(&rows[2], "last_chk")
            ),
            ("1", "1", "why")
        );
    }

    #[test]
    fn the_columns_stand_where_haproxys_manual_has_them() {
        let columns: Vec<&str> = COLUMNS.split(',').collect();
        for (position, name) in [
            (0, "pxname"),
            (7, "stot"),
            (17, "status"),
            (33, "rate"),
            (59, "ctime"),
            (73, "addr"),
        ] {
            assert_eq!(columns[position], name);
        }
        assert!(render(&report()).lines().all(|line| line.ends_with(',')));
    }
}
