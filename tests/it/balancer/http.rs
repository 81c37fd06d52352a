//! HTTP through the program itself: a node behind it, WebSockets, its log and its counters.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::process::Process;
use crate::support::backend::host;
use crate::support::node::{ROOT, node, send};
use crate::support::program::{Running, program};
use crate::support::{eventually, free_port, plain_http};

fn free() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

#[test]
fn messages_reach_a_node_once_with_the_clients_address() {
    let backend = host(openhim_node::testing::backend().answers(201, "made"));
    let node = node().set("trustedProxies", "[\"127.0.0.0/8\"]").start();
    node.create_client("clinic", "secret", "clinics");
    node.create_channel("/fhir", "clinics", &backend);
    let before = node.transactions().len();
    let listen = free();
    let _balancer = Process::start(&format!(
        "  - {{name: http, listen: '{listen}', mode: http, backends: '{}', trusted_proxies: 127.0.0.1}}\n",
        node.http()
    ));

    for _ in 0..3 {
        let answer = send(listen, "/fhir/Patient", Some(("clinic", "secret")), "{}").expect("an answer");
        assert_eq!((answer.status, &*answer.body), (201, "made"));
    }

    let recorded = node.recorded(before + 3);
    let ours: Vec<&Value> = recorded
        .iter()
        .filter(|it| it["request"]["path"] == "/fhir/Patient")
        .collect();
    assert_eq!(ours.len(), 3);
    assert!(ours.iter().all(|it| it["clientIP"] == "127.0.0.1"), "{ours:?}");
    let seen = backend.seen();
    let forwarded = seen.last().expect("seen").header("x-forwarded-for").map(str::to_owned);
    assert!(forwarded.is_some_and(|it| it.starts_with("127.0.0.1")));
}

#[test]
fn the_nodes_own_api_can_be_used_through_it() {
    let node = node().set("api.protocol", "http").start();
    let listen = free();
    let _balancer = Process::start(&format!(
        "  - {{name: api, listen: '{listen}', mode: http, backends: '{}', check: {{type: http, path: /heartbeat}}}}\n",
        node.api()
    ));
    let ask = |method: &str, path: &str, body: &str| {
        plain_http::request(listen, None, method, path, Some(ROOT), body).expect("an answer")
    };

    let heartbeat = ask("GET", "/heartbeat", "");
    let role = json!({ "name": "clinics", "permissions": {} }).to_string();
    let made = ask("POST", "/roles", &role);
    let users = ask("GET", "/users", "");

    assert_eq!(heartbeat.status, 200, "{}", heartbeat.body);
    assert!((200..500).contains(&made.status), "{}", made.body);
    assert_eq!(users.status, 200, "{}", users.body);
    assert!(users.body.contains(ROOT.0), "{}", users.body);
}

#[test]
fn each_request_is_a_line_of_the_log_and_counted() {
    let backend = host(openhim_node::testing::backend().answers(200, "fine"));
    let (listen, metrics) = (free(), free());
    let mut command = program([
        "balancer",
        "--mode=http",
        "--name=web",
        "--log=json",
        "--admin=off",
        "--check=none",
    ]);
    command.args([
        format!("--listen={listen}"),
        format!("--metrics={metrics}"),
        format!("--backends={}", backend.address()),
    ]);
    let mut running = Running::start(&mut command);
    let answer = eventually("an answer", || plain_http::get(listen, "/Patient?name=secret").ok());
    assert_eq!((answer.status, &*answer.body), (200, "fine"));

    let line = running.says("\"path\":");

    let line: Value = serde_json::from_str(&line).expect("JSON");
    let expected = [
        ("service", json!("web")),
        ("method", json!("GET")),
        ("path", json!("/Patient")),
        ("status", json!(200)),
        ("backend", json!(backend.address().to_string())),
        ("bytes_out", json!(4)),
        ("end", json!("answered")),
    ];
    for (name, value) in expected {
        assert_eq!(line[name], value, "{name} of {line}");
    }
    assert!(!running.stdout.all().contains("secret"));
    let text = plain_http::get(metrics, "/metrics").expect("it answers").body;
    for line in [
        "openhim_balancer_requests_total{service=\"web\",class=\"2xx\"} 1",
        "openhim_balancer_request_duration_seconds_count{service=\"web\"} 1",
    ] {
        assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
    }
    let table = plain_http::get(metrics, "/stats;csv").expect("it answers").body;
    assert!(
        table
            .lines()
            .any(|it| it.starts_with("web,FRONTEND,") && it.contains(",http,")),
        "{table}"
    );
}

#[test]
fn a_file_with_routes_is_checked_and_followed() {
    let own = host(openhim_node::testing::backend().answers(200, "own"));
    let api = host(openhim_node::testing::backend().answers(200, "api"));
    let listen = free();
    let services = format!(
        "  - name: web\n    listen: {listen}\n    mode: http\n    backends: '{}'\n    groups:\n      api: {{backends: '{}', \
         schedule: lc}}\n    routes:\n      - {{path: /api, group: api}}\n",
        own.address(),
        api.address()
    );
    let process = Process::start(&services);
    let get = |path: &str| plain_http::get(listen, path).expect("an answer").body;

    assert_eq!((get("/x"), get("/api/x")), ("own".to_owned(), "api".to_owned()));
    // A group is seen and handled like a service.
    process.until("the group is there", |report| {
        report["services"]
            .as_array()
            .is_some_and(|all| all.iter().any(|it| it["name"] == "web/api" && it["schedule"] == "lc"))
    });

    process.configure(&services.replace("/api,", "/other,"));

    eventually("the change is followed", || {
        (get("/api/x") == "own" && get("/other") == "api").then_some(())
    });
}

/// A page that shows what it hears from a WebSocket of its own server.
const PAGE: &str = r#"<!doctype html><title>waiting</title><p id="said">nothing</p><script>
const socket = new WebSocket("ws://" + location.host + "/chat");
socket.onopen = () => socket.send("hello through the balancer");
socket.onmessage = (it) => { document.getElementById("said").textContent = it.data; document.title = "heard"; };
</script>"#;

/// A server of [`PAGE`] that says everything back to WebSockets.
async fn chat() -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut begin = [0; 2048];
                let length = stream.peek(&mut begin).await.expect("a request");
                if String::from_utf8_lossy(&begin[..length]).contains("Upgrade: websocket") {
                    return echo(stream).await;
                }
                let _ = stream.read(&mut begin).await;
                let length = PAGE.len();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                );
                stream.write_all((head + PAGE).as_bytes()).await.expect("sent");
            });
        }
    });
    address
}

async fn echo(stream: tokio::net::TcpStream) {
    use futures_util::{SinkExt as _, StreamExt as _};

    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
    while let Some(Ok(message)) = socket.next().await {
        if message.is_text() {
            socket.send(message).await.expect("sent");
        }
    }
}

#[tokio::test]
async fn a_browser_gets_pages_and_websockets_through_it() {
    let backend = chat().await;
    let options = [("mode", "http"), ("backends", &*backend), ("check", "none")];
    let balancer = super::support::balancer(&options).await;

    let mut page = String::new();
    // The browser's own clock may run out before a busy machine has carried a word there and back.
    for _ in 0..5 {
        let Some(seen) = super::page::browse(&format!("http://{}/", balancer.address())).await else {
            println!("skipped: no chromium here");
            return;
        };
        page = seen;
        if page.contains("<p id=\"said\">hello through the balancer</p>") {
            return;
        }
    }
    panic!("{page}");
}

#[tokio::test]
async fn a_websocket_speaks_through_it() {
    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::tungstenite::Message;

    let backend = chat().await;
    let options = [("mode", "http"), ("backends", &*backend), ("check", "none")];
    let balancer = super::support::balancer(&options).await;
    let address = format!("ws://{}/chat", balancer.address());

    let (mut socket, answer) = tokio_tungstenite::connect_async(address).await.expect("a handshake");
    assert_eq!(answer.status(), 101);
    for length in [1_usize, 70_000] {
        let text = "x".repeat(length);
        socket.send(Message::text(text.clone())).await.expect("sent");
        let back = super::support::within("an echo", socket.next())
            .await
            .expect("open")
            .expect("whole");
        assert_eq!(back.into_text().expect("text").as_str(), text);
    }
}

/// A server of WebSockets that says everything back, on a runtime of its own.
fn echo_server() -> String {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            tell.send(chat().await).expect("awaited");
            std::future::pending::<()>().await;
        });
    });
    told.recv().expect("it listens")
}

#[test]
fn a_tunnels_line_comes_at_its_end_with_what_it_carried() {
    use std::io::{Read as _, Write as _};

    let (backend, listen, metrics) = (echo_server(), free(), free());
    let mut command = program(["balancer", "--mode=http", "--log=json", "--admin=off", "--check=none"]);
    command.args([
        format!("--listen={listen}"),
        format!("--metrics={metrics}"),
        format!("--backends={backend}"),
    ]);
    let mut running = Running::start(&mut command);
    let mut client = eventually("the balancer listens", || std::net::TcpStream::connect(listen).ok());
    client.set_read_timeout(Some(crate::support::SOON)).expect("an option");
    let head = "GET /chat?token=secret HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(head.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    // A text of two letters, masked by nothing, and its echo.
    client.write_all(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).expect("sent");
    let mut echo = [0; 4];
    client.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"\x81\x02hi");
    assert!(!running.stdout.all().contains("\"path\":"), "told before its end");

    drop(client);

    let line: Value = serde_json::from_str(&running.says("\"path\":\"/chat\"")).expect("JSON");
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["by"]),
        (&json!(101), &json!(8), &json!("client")),
        "{line}"
    );
    assert!(line["bytes_out"].as_u64().is_some_and(|it| it >= 4), "{line}");
    let text = plain_http::get(metrics, "/metrics").expect("it answers").body;
    let counted = |line: &str| line.starts_with("openhim_balancer_tunnels_total{") && line.ends_with(" 1");
    assert!(text.lines().any(counted), "{text}");
    assert!(!running.stdout.all().contains("secret"));
}

#[test]
fn two_gigabytes_pass_to_a_slow_backend_and_the_balancer_stays_small() {
    use std::io::{Read as _, Write as _};

    const PIECE: usize = 1 << 20;
    const PIECES: u64 = 2048;
    /// KiB; what may be on its way in one process.
    const GROWTH: u64 = 8 * 1024;
    let piece = |number: u64| {
        let mut bytes = vec![b'x'; PIECE];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let backend = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let (address, listen) = (backend.local_addr().expect("bound"), free());
    let process = Process::start(&format!(
        "  - {{name: big, listen: '{listen}', mode: http, backends: '{address}', check: none}}\n"
    ));
    let reading = std::thread::spawn(move || {
        let (mut stream, _) = backend.accept().expect("accepted");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        // The client is held back from the beginning, and again and again.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let (mut bytes, mut expected) = (vec![0; PIECE], piece(0));
        for number in 0..PIECES {
            if number % 64 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            stream.read_exact(&mut bytes).expect("a body");
            expected[..8].copy_from_slice(&number.to_be_bytes());
            assert!(bytes == expected, "piece {number} is another one");
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .expect("sent");
        stream
    });
    let memory = |line: &str| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.running.id())).expect("it runs");
        let found = status.lines().find_map(|text| text.strip_prefix(line));
        let text = found.expect("a number").trim().trim_end_matches(" kB").to_owned();
        text.parse().expect("a number")
    };
    std::fs::write(format!("/proc/{}/clear_refs", process.running.id()), "5").expect("the mark starts anew");
    let before = memory("VmRSS:");

    let mut client = std::net::TcpStream::connect(listen).expect("accepted");
    let length = PIECES * PIECE as u64;
    write!(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").expect("sent");
    let mut bytes = piece(0);
    for number in 0..PIECES {
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        client.write_all(&bytes).expect("sent");
    }
    let mut answer = [0; 15];
    client.read_exact(&mut answer).expect("an answer");

    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let after = memory("VmHWM:");
    assert!(after - before < GROWTH, "it grew by {} KiB", after - before);
    reading.join().expect("every piece arrived");
}
