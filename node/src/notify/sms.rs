//! Text messages through Clickatell's HTTP gateway, the one that OpenHIM knows.

use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpStream;

use crate::config::SmsGateway;

const HOST: &str = "api.clickatell.com";
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than this of the gateway's answer is not read.
const ANSWER_BYTES: usize = 64 * 1024;

/// Why a text message did not go out.
#[derive(Debug, thiserror::Error)]
pub enum SmsError {
    /// In OpenHIM's words.
    #[error("Unknown SMS gateway provider '{0}'")]
    UnknownProvider(String),
    #[error("the SMS gateway could not be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the SMS gateway did not answer within {} s", TIMEOUT.as_secs())]
    Silent,
    #[error("the SMS gateway got the message and did not say what became of it")]
    InDoubt,
    /// What the gateway said, which holds no credentials.
    #[error("the SMS gateway refused the message: {0}")]
    Refused(String),
}

impl SmsError {
    /// True if the message may have gone out.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::InDoubt)
    }
}

/// The configured gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    provider: String,
    /// The request's query up to the recipient; holds the credentials.
    login: Secret,
    address: (String, u16),
}

#[derive(Clone)]
struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("…")
    }
}

impl Gateway {
    /// From `smsGateway`.
    pub fn new(settings: &SmsGateway) -> Self {
        let value = |name: &str| encoded(settings.config[name].as_str().unwrap_or_default());
        let login = format!(
            "api_id={}&user={}&password={}",
            value("apiID"),
            value("user"),
            value("pass")
        );
        Self {
            provider: settings.provider.clone(),
            login: Secret(login),
            address: (HOST.to_owned(), 80),
        }
    }

    /// Sends one text; resolves when the gateway has taken it.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&self, to: &str, text: &str) -> Result<(), SmsError> {
        if self.provider != "clickatell" {
            return Err(SmsError::UnknownProvider(self.provider.clone()));
        }
        let path = format!(
            "/http/sendmsg?{}&to={}&text={}",
            self.login.0,
            encoded(to),
            encoded(text)
        );
        let connecting = TcpStream::connect((self.address.0.as_str(), self.address.1));
        let socket = tokio::time::timeout(TIMEOUT, connecting)
            .await
            .map_err(|_| SmsError::Silent)?
            .map_err(|error| SmsError::Unreachable(error.into()))?;
        let (status, body) = match tokio::time::timeout(TIMEOUT, Self::get(socket, &path)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => return Err(SmsError::InDoubt),
        };
        // The gateway answers 200 also when it refuses; then the body begins with `ERR`.
        match status.is_success() && !body.trim_start().starts_with("ERR") {
            true => Ok(()),
            false => Err(SmsError::Refused(format!(
                "{status} {}",
                body.chars().take(200).collect::<String>()
            ))),
        }
    }

    async fn get(
        socket: TcpStream,
        path: &str,
    ) -> Result<(http::StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let request = http::Request::get(path)
            .header("host", HOST)
            .body(Empty::<Bytes>::new())?;
        // The connection has to be driven while the answer is awaited; it ends when the sender is dropped.
        let exchange = async move {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES)
                .collect()
                .await?
                .to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        let (answer, _connection) = tokio::join!(exchange, connection);
        answer
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use serde_json::json;

    use super::*;

    fn gateway(answer: &'static str) -> (Gateway, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut bytes = vec![0; 4096];
            let length = socket.read(&mut bytes).expect("a request");
            write!(
                socket,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            )
            .expect("a client");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        });
        let config = json!({ "user": "him", "pass": "p&ss", "apiID": "7" });
        let mut gateway = Gateway::new(&SmsGateway {
            provider: "clickatell".into(),
            config,
        });
        gateway.address = ("127.0.0.1".into(), port);
        (gateway, server)
    }

    #[tokio::test]
    async fn a_text_is_encoded_whole() {
        let (gateway, server) = gateway("ID: 1");
        gateway.send("27001", "Alert - 2 failed & more").await.expect("taken");
        let request = server.join().expect("no panic");
        let expected =
            "GET /http/sendmsg?api_id=7&user=him&password=p%26ss&to=27001&text=Alert%20%2D%202%20failed%20%26%20more ";
        assert!(request.starts_with(expected), "{request}");
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_without_the_password() {
        let (gateway, server) = gateway("ERR: 001, Authentication failed");
        let error = gateway.send("27001", "x").await.expect_err("refused");
        assert!(error.to_string().contains("Authentication failed"));
        assert!(!format!("{gateway:?} {error:?}").contains("p%26ss"));
        server.join().expect("no panic");
    }

    #[tokio::test]
    async fn other_providers_are_not_known() {
        let gateway = Gateway::new(&SmsGateway {
            provider: "pigeon".into(),
            config: json!({}),
        });
        assert_eq!(
            gateway.send("1", "x").await.expect_err("unknown").to_string(),
            "Unknown SMS gateway provider 'pigeon'"
        );
    }
}
