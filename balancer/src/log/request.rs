//! The line of a request.

use std::fmt::{Result, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::{End, Form, Stamp};

/// One request, answered or not. Of its target only the path is told: queries carry what is nobody's business.
#[derive(Debug)]
pub struct RequestLine<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Name of the service or group whose backends it went to.
    pub group: &'a str,
    /// The client, as far as it can be believed; port 0 is not known.
    pub client: SocketAddr,
    /// `GET`; empty if the request could not be read.
    pub method: &'a str,
    /// Host it asked for.
    pub host: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    /// `TLSv1.3`; empty without TLS.
    pub tls: &'a str,
    /// Status that the client got; 0 if it got none.
    pub status: u16,
    /// The backend that it was last sent to.
    pub backend: Option<SocketAddr>,
    /// Time until a backend with room was found.
    pub queue: Duration,
    /// Time until it was connected, failed attempts included; zero on a connection that was there.
    pub connect: Duration,
    /// Time from the whole head to the beginning of the answer.
    pub answer: Option<Duration>,
    /// Time from the whole head to the end of the answer.
    pub total: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Backends that were tried in vain.
    pub retries: u32,
    /// Id it has here and at the backend.
    pub request_id: &'a str,
    /// Trace it belongs to (W3C), if it says so.
    pub trace_id: &'a str,
    /// What the client says of itself.
    pub user_agent: &'a str,
    /// Where it came from.
    pub referer: &'a str,
    /// How it ended.
    pub end: End,
}

pub(super) fn write(out: &mut String, form: Form, stamp: Stamp<'_>, line: &RequestLine<'_>) -> Result {
    match form {
        Form::Json => json(out, stamp, line),
        Form::Text => text(out, stamp, line),
        Form::Combined => combined(out, stamp, line),
        Form::Haproxy => httplog(out, stamp, line),
    }
}

fn json(out: &mut String, stamp: Stamp<'_>, line: &RequestLine<'_>) -> Result {
    write!(out, r#"{{"time":"{}.{:03}Z""#, stamp.iso, stamp.millis)?;
    let mut word = |name: &str, value: &str| {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        quoted(out, value);
    };
    word("service", line.service);
    if line.group != line.service {
        word("group", line.group);
    }
    word("method", line.method);
    word("host", line.host);
    word("path", line.path);
    word("protocol", line.protocol);
    if !line.tls.is_empty() {
        word("tls", line.tls);
    }
    word("request_id", line.request_id);
    if !line.trace_id.is_empty() {
        word("trace_id", line.trace_id);
    }
    word("user_agent", line.user_agent);
    write!(
        out,
        r#","client":"{}","status":{},"backend":"#,
        Client(line.client),
        line.status
    )?;
    match line.backend {
        Some(backend) => write!(out, "\"{backend}\"")?,
        None => out.push_str("null"),
    }
    for (name, time) in [
        ("queue_ms", Some(line.queue)),
        ("connect_ms", Some(line.connect)),
        ("answer_ms", line.answer),
        ("total_ms", Some(line.total)),
    ] {
        out.push_str(",\"");
        out.push_str(name);
        out.push_str("\":");
        match time {
            Some(time) => millis(out, time)?,
            None => out.push_str("null"),
        }
    }
    writeln!(
        out,
        r#","bytes_in":{},"bytes_out":{},"retries":{},"by":"{}","end":"{}","code":"{}"}}"#,
        line.bytes_in,
        line.bytes_out,
        line.retries,
        line.end.by.name(),
        line.end.word,
        line.end.code,
    )
}

fn text(out: &mut String, stamp: Stamp<'_>, line: &RequestLine<'_>) -> Result {
    write!(
        out,
        "{}.{:03}Z {} {} -> ",
        stamp.iso,
        stamp.millis,
        line.group,
        Client(line.client)
    )?;
    match line.backend {
        Some(backend) => write!(out, "{backend}")?,
        None => out.push('-'),
    }
    write!(out, " {} {} {} ", line.status, or_dash(line.method), line.host)?;
    clean(out, line.path);
    out.push(' ');
    millis(out, line.total)?;
    writeln!(
        out,
        " ms, {} B in, {} B out, {} retries, {} {} by {}, {}",
        line.bytes_in,
        line.bytes_out,
        line.retries,
        line.end.code,
        line.end.word,
        line.end.by.name(),
        line.request_id,
    )
}

fn combined(out: &mut String, stamp: Stamp<'_>, line: &RequestLine<'_>) -> Result {
    write!(out, "{} - - [{} +0000] \"", line.client.ip(), stamp.clf)?;
    request_line(out, line);
    write!(out, "\" {} {} \"", line.status, line.bytes_out)?;
    clean(out, or_dash(line.referer));
    out.push_str("\" \"");
    clean(out, or_dash(line.user_agent));
    out.push_str("\"\n");
    Ok(())
}

/// What HAProxy counts and this balancer does not is 0.
fn httplog(out: &mut String, stamp: Stamp<'_>, line: &RequestLine<'_>) -> Result {
    write!(
        out,
        "{} [{}.{:03}] {} {}/",
        Client(line.client),
        stamp.clf,
        stamp.millis,
        line.service,
        line.group
    )?;
    match line.backend {
        Some(backend) => write!(out, "{backend}")?,
        None => out.push_str("<NOSRV>"),
    }
    write!(out, " 0/{}/{}/", line.queue.as_millis(), line.connect.as_millis())?;
    match line.answer {
        Some(answer) => write!(out, "{}", answer.as_millis())?,
        None => out.push_str("-1"),
    }
    write!(
        out,
        "/{} {} {} - - {}-- 0/0/0/0/{} 0/0 \"",
        line.total.as_millis(),
        line.status,
        line.bytes_out,
        line.end.code,
        line.retries
    )?;
    request_line(out, line);
    out.push_str("\"\n");
    Ok(())
}

fn request_line(out: &mut String, line: &RequestLine<'_>) {
    if line.method.is_empty() {
        out.push_str("<BADREQ>");
        return;
    }
    clean(out, line.method);
    out.push(' ');
    clean(out, line.path);
    out.push(' ');
    out.push_str(line.protocol);
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Without anything that could be taken for another field or line.
fn clean(out: &mut String, text: &str) {
    if text
        .bytes()
        .all(|it| matches!(it, b' '..=b'~') && it != b'"' && it != b'\\')
    {
        out.push_str(text);
        return;
    }
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            _ if letter.is_control() => out.push('?'),
            _ => out.push(letter),
        }
    }
}

fn quoted(out: &mut String, text: &str) {
    if text
        .bytes()
        .all(|it| matches!(it, b' '..=b'~') && it != b'"' && it != b'\\')
    {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Milliseconds with three decimals, without the cost of floating point.
fn millis(out: &mut String, time: Duration) -> Result {
    let micros = time.as_micros();
    write!(out, "{}.{:03}", micros / 1000, micros % 1000)
}

/// An address of which the port may be unknown.
struct Client(SocketAddr);

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> Result {
        match self.0.port() {
            0 => write!(f, "{}", self.0.ip()),
            _ => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::By;

    fn written(form: Form, change: impl FnOnce(&mut RequestLine<'_>)) -> String {
        let stamp = Stamp {
            iso: "2025-11-25T12:00:00",
            clf: "25/Nov/2025:12:00:00",
            millis: 7,
        };
        let mut line = RequestLine {
            service: "web",
            group: "web/api",
            client: SocketAddr::from(([192, 0, 2, 7], 4000)),
            method: "GET",
            host: "a",
            path: "/fhir",
            protocol: "HTTP/1.1",
            tls: "",
            status: 200,
            backend: Some(SocketAddr::from(([10, 0, 0, 2], 5001))),
            queue: Duration::ZERO,
            connect: Duration::from_micros(1250),
            answer: Some(Duration::from_millis(30)),
            total: Duration::from_millis(31),
            bytes_in: 1,
            bytes_out: 2000,
            retries: 1,
            request_id: "id",
            trace_id: "",
            user_agent: "curl/8",
            referer: "",
            end: End {
                by: By::Client,
                word: "answered",
                code: "--",
            },
        };
        change(&mut line);
        let mut out = String::new();
        write(&mut out, form, stamp, &line).expect("a string takes everything");
        out
    }

    #[test]
    fn a_json_line_is_json() {
        let line = written(Form::Json, |line| line.user_agent = "a\"b\u{e9}");

        let json: serde_json::Value = serde_json::from_str(&line).expect("json");
        let expected = serde_json::json!({
            "time": "2025-11-25T12:00:00.007Z", "service": "web", "group": "web/api", "method": "GET", "host": "a",
            "path": "/fhir", "protocol": "HTTP/1.1", "request_id": "id", "user_agent": "a\"b\u{e9}",
            "client": "192.0.2.7:4000", "status": 200, "backend": "10.0.0.2:5001", "queue_ms": 0.0, "connect_ms": 1.25,
            "answer_ms": 30.0, "total_ms": 31.0, "bytes_in": 1, "bytes_out": 2000, "retries": 1, "by": "client",
            "end": "answered", "code": "--",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_other_forms_are_those_of_ncsa_and_haproxy() {
        assert_eq!(
            written(Form::Combined, |line| line.user_agent = "x\" y"),
            "192.0.2.7 - - [25/Nov/2025:12:00:00 +0000] \"GET /fhir HTTP/1.1\" 200 2000 \"-\" \"x\\\" y\"\n"
        );
        assert_eq!(
            written(Form::Haproxy, |_| ()),
            "192.0.2.7:4000 [25/Nov/2025:12:00:00.007] web web/api/10.0.0.2:5001 0/0/1/30/31 200 2000 - - ---- \
             0/0/0/0/1 0/0 \"GET /fhir HTTP/1.1\"\n"
        );
        let unread = written(Form::Haproxy, |line| {
            (line.method, line.backend, line.answer, line.status) = ("", None, None, 400);
        });
        assert!(
            unread.ends_with("web/api/<NOSRV> 0/0/1/-1/31 400 2000 - - ---- 0/0/0/0/1 0/0 \"<BADREQ>\"\n"),
            "{unread}"
        );
    }
}
