//! What an operator sees: metrics, HAProxy's table, the status page in a real browser.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::{Backend, Refusing, Running, balancer, within};

async fn get(running: &Running, path: &str) -> String {
    request(
        running,
        &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
    )
    .await
}

async fn request(running: &Running, text: &str) -> String {
    let address: SocketAddr = running.balancer.metrics_address().expect("metrics are on");
    let conversation = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    within("an answer", conversation).await.expect("it answers")
}

/// A service with one backend that is up and one that is down.
async fn half_up() -> (Running, Backend, Refusing) {
    let (up, down) = (Backend::start().await, Refusing::new());
    let running = balancer(&[
        ("name", "https"),
        ("backends", &format!("{},{}", up.address, down.address)),
    ])
    .await;
    (running, up, down)
}

#[tokio::test]
async fn metrics_are_what_clients_saw() {
    let (running, up, down) = half_up().await;
    for _ in 0..5 {
        assert_eq!(running.ask().await, Some(up.address));
    }

    running.until("connections ended", |report| report.active == 0).await;
    let text = get(&running, "/metrics").await;

    let backend = |address: SocketAddr| format!("{{service=\"https\",backend=\"{address}\"}}");
    let greeting = up.address.to_string().len() + 1;
    for line in [
        "openhim_balancer_connections_total{service=\"https\"} 5".to_owned(),
        format!("openhim_balancer_backend_up{} 1", backend(up.address)),
        format!("openhim_balancer_backend_up{} 0", backend(down.address)),
        format!("openhim_balancer_backend_connections_total{} 5", backend(up.address)),
        format!(
            "openhim_balancer_sent_bytes_total{{service=\"https\"}} {}",
            5 * greeting
        ),
    ] {
        assert!(text.lines().any(|it| it == line), "no `{line}` in\n{text}");
    }
}

#[tokio::test]
async fn haproxys_table_is_at_haproxys_address() {
    let (running, up, down) = half_up().await;

    let text = get(&running, "/stats;csv").await;

    assert!(text.contains("\r\n\r\n# pxname,svname,qcur,"), "{text}");
    assert!(text.contains(&format!("\nhttps,{},0,", up.address)), "{text}");
    assert!(text.contains(&format!("\nhttps,{},0,", down.address)), "{text}");
}

#[tokio::test]
async fn the_page_only_shows() {
    let (running, _up, _down) = half_up().await;

    let posted = request(
        &running,
        "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    )
    .await;

    assert!(posted.starts_with("HTTP/1.1 405 "), "{posted}");
    assert!(get(&running, "/nothing").await.starts_with("HTTP/1.1 404 "));
    assert!(
        get(&running, "/")
            .await
            .to_lowercase()
            .contains("content-security-policy: default-src 'none'")
    );
}

#[tokio::test]
async fn a_browser_shows_who_is_up_and_why_the_other_is_down() {
    let (running, up, down) = half_up().await;
    let url = format!(
        "http://{}/",
        running.balancer.metrics_address().expect("metrics are on")
    );
    let Some(page) = browse(&url).await else {
        println!("skipped: no chromium here");
        return;
    };

    let row = |address: SocketAddr| {
        let start = page
            .find(&format!("data-backend=\"{address}\""))
            .unwrap_or_else(|| panic!("no {address} in {page}"));
        page[start..].split("</tr>").next().expect("a row").to_owned()
    };
    assert!(row(up.address).contains("class=\"state up\""), "{}", row(up.address));
    assert!(
        row(down.address).contains("class=\"state down\""),
        "{}",
        row(down.address)
    );
    assert!(
        row(down.address).contains("Connection refused"),
        "{}",
        row(down.address)
    );
    assert!(page.contains("<title>1 down · Balancer</title>"), "{page}");
}

/// What a real browser makes of a page; `None` where there is no browser.
pub(super) async fn browse(url: &str) -> Option<String> {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| has(name))
    else {
        assert!(
            std::env::var_os("OPENHIM_TEST_PARTS").is_none_or(|it| it != "required"),
            "a browser is required: apt-get install chromium"
        );
        return None;
    };
    let profile = tempfile::tempdir().expect("a folder");
    let browse = tokio::process::Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=3000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(90), browse)
        .await
        .expect("in time")
        .expect("it runs");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has(program: &str) -> bool {
    let found = std::process::Command::new(program)
        .arg("--version")
        .stdout(std::process::Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}
