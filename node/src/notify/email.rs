//! Mail by SMTP, configured as nodemailer reads `email.nodemailer`: `service` or `host`, `port`, `secure`,
//! `ignoreTLS`, `requireTLS`, `auth`, `tls.rejectUnauthorized`.

use std::time::Duration;

use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use serde_json::Value;

use crate::config;

/// Longer than this no SMTP server may stay silent.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a mail did not go out.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// In OpenHIM's words.
    #[error("No email config found")]
    NotConfigured,
    #[error("`{setting}` is not usable for mail: {why}")]
    BadSetting { setting: &'static str, why: String },
    /// The settings were found wanting when the node started.
    #[error("{0}")]
    Unusable(String),
    #[error("the address `{0}` is malformed")]
    BadAddress(String),
    #[error("the mail could not be put together")]
    BadMessage(#[source] lettre::error::Error),
    /// The server could not be reached or refused; it may take the mail later.
    #[error("the mail server did not take the mail")]
    NotSent(#[source] lettre::transport::smtp::Error),
}

/// One mail to one person, as text and as HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub to: String,
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// Sends mail through the configured server.
#[derive(Debug)]
pub struct Mailer {
    from: Mailbox,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl Mailer {
    /// From `email`, or from the older `nodemailer` block, whose sender is its `auth.user`.
    ///
    /// # Errors
    /// Neither is there, or a setting is unusable.
    pub fn from_config(email: Option<&config::Email>, nodemailer: Option<&Value>) -> Result<Self, MailError> {
        let (from, options) = match (email, nodemailer) {
            (Some(email), _) => (email.from_address.as_str(), &email.nodemailer),
            (None, Some(options)) => (options["auth"]["user"].as_str().unwrap_or_default(), options),
            (None, None) => return Err(MailError::NotConfigured),
        };
        let from = from.parse().map_err(|_| MailError::BadAddress(from.to_owned()))?;
        Ok(Self {
            from,
            transport: transport(&Options::read(options)?)?,
        })
    }

    /// Hands one mail to the server; resolves when the server has taken it.
    ///
    /// # Errors
    /// It was not taken: nothing was sent.
    pub async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let to = mail.to.parse().map_err(|_| MailError::BadAddress(mail.to.clone()))?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(mail.subject)
            .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
            .map_err(MailError::BadMessage)?;
        self.transport.send(message).await.map(drop).map_err(MailError::NotSent)
    }
}

/// nodemailer's options, checked.
#[derive(Debug, PartialEq)]
struct Options {
    host: String,
    port: u16,
    security: Security,
    accepts_any_certificate: bool,
    login: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// TLS from the first byte (`secure`).
    Wrapped,
    /// STARTTLS or nothing (`requireTLS`).
    Required,
    /// STARTTLS where the server offers it.
    Offered,
    /// Never (`ignoreTLS`).
    Off,
}

impl Options {
    fn read(options: &Value) -> Result<Self, MailError> {
        let known = match options["service"].as_str() {
            None => None,
            Some(name) => Some(service(name).ok_or_else(|| MailError::BadSetting {
                setting: "email.nodemailer.service",
                why: format!("`{name}` is not known here; give `host` and `port` instead"),
            })?),
        };
        let is_on = |name: &str| options[name].as_bool().unwrap_or(false) || options[name] == "true";
        let port = port(&options["port"])?;
        let is_secure = known.map_or_else(
            || is_on("secure") || (port == Some(465) && options["secure"].is_null()),
            |k| k.1 == 465,
        );
        let security = match (is_secure, is_on("ignoreTLS"), is_on("requireTLS")) {
            (true, ..) => Security::Wrapped,
            (false, true, _) => Security::Off,
            (false, false, true) => Security::Required,
            (false, false, false) => Security::Offered,
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let default_port = if is_secure { 465 } else { 587 };
        Ok(Self {
            host: known
                .map(|(host, _)| host.to_owned())
                .or(text(&options["host"]))
                .unwrap_or("localhost".to_owned()),
            port: known.map(|(_, port)| port).or(port).unwrap_or(default_port),
            security,
            accepts_any_certificate: options["tls"]["rejectUnauthorized"] == false,
            login: text(&options["auth"]["user"]).zip(text(&options["auth"]["pass"])),
        })
    }
}

fn port(value: &Value) -> Result<Option<u16>, MailError> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let port = number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|&port| port > 0);
    let bad = || MailError::BadSetting {
        setting: "email.nodemailer.port",
        why: format!("{value} is not a port"),
    };
    port.map(Some).ok_or_else(bad)
}

/// Host and port of the services that nodemailer knows by name and that are in use.
fn service(name: &str) -> Option<(&'static str, u16)> {
    let plain: String = name
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    Some(match plain.as_str() {
        "126" => ("smtp.126.com", 465),
        "163" => ("smtp.163.com", 465),
        "aol" => ("smtp.aol.com", 587),
        "brevo" | "sendinblue" => ("smtp-relay.brevo.com", 587),
        "ethereal" => ("smtp.ethereal.email", 587),
        "fastmail" => ("smtp.fastmail.com", 465),
        "gandimail" | "gandi" => ("mail.gandi.net", 587),
        "gmail" | "googlemail" => ("smtp.gmail.com", 465),
        "hotmail" | "outlook" => ("smtp-mail.outlook.com", 587),
        "icloud" | "me" | "mac" => ("smtp.mail.me.com", 587),
        "mailgun" => ("smtp.mailgun.org", 465),
        "mailjet" => ("in.mailjet.com", 587),
        "mailtrap" => ("live.smtp.mailtrap.io", 587),
        "mandrill" => ("smtp.mandrillapp.com", 587),
        "outlook365" | "office365" => ("smtp.office365.com", 587),
        "postmark" => ("smtp.postmarkapp.com", 2525),
        "qq" => ("smtp.qq.com", 465),
        "sendgrid" => ("smtp.sendgrid.net", 587),
        "ses" | "sesuseast1" => ("email-smtp.us-east-1.amazonaws.com", 465),
        "seseuwest1" => ("email-smtp.eu-west-1.amazonaws.com", 465),
        "sparkpost" => ("smtp.sparkpostmail.com", 587),
        "yahoo" => ("smtp.mail.yahoo.com", 465),
        "yandex" => ("smtp.yandex.ru", 465),
        "zoho" => ("smtp.zoho.com", 465),
        _ => return None,
    })
}

fn transport(options: &Options) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
    let parameters = || {
        TlsParameters::builder(options.host.clone())
            .dangerous_accept_invalid_certs(options.accepts_any_certificate)
            .build()
            .map_err(|error| MailError::BadSetting {
                setting: "email.nodemailer.host",
                why: error.to_string(),
            })
    };
    let tls = match options.security {
        Security::Wrapped => Tls::Wrapper(parameters()?),
        Security::Required => Tls::Required(parameters()?),
        Security::Offered => Tls::Opportunistic(parameters()?),
        Security::Off => Tls::None,
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&options.host)
        .port(options.port)
        .tls(tls)
        .timeout(Some(TIMEOUT));
    if let Some((user, password)) = options.login.clone() {
        builder = builder.credentials(Credentials::new(user, password));
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};

    use serde_json::json;

    use super::*;

    /// A server that takes one mail and answers with what it was told.
    fn one_mail_server() -> (u16, std::thread::JoinHandle<Vec<String>>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a client");
            let mut writer = socket.try_clone().expect("a socket");
            let mut told = Vec::new();
            let mut in_data = false;
            writer.write_all(b"220 ready\r\n").expect("a client");
            for line in BufReader::new(socket).lines().map_while(Result::ok) {
                let answer: &[u8] = match line.as_str() {
                    "." => b"250 taken\r\n",
                    _ if in_data => b"",
                    "DATA" => b"354 go on\r\n",
                    _ => b"250 fine\r\n",
                };
                in_data = (in_data || line == "DATA") && line != ".";
                writer.write_all(answer).expect("a client");
                told.push(line.clone());
                if line == "." {
                    break;
                }
            }
            told
        });
        (port, server)
    }

    #[tokio::test]
    async fn a_mail_reaches_the_server_as_text_and_html() {
        let (port, server) = one_mail_server();
        let email = config::Email {
            from_address: "him@example.org".into(),
            nodemailer: json!({ "host": "127.0.0.1", "port": port, "ignoreTLS": true }),
        };
        let mailer = Mailer::from_config(Some(&email), None).expect("usable settings");

        let mail = Mail {
            to: "amina@example.org".into(),
            subject: "OpenHIM Alert".into(),
            text: "plain words".into(),
            html: "<p>marked words</p>".into(),
        };
        mailer.send(mail).await.expect("taken");

        let told = server.join().expect("no panic").join("\n");
        for part in [
            "FROM:<him@example.org>",
            "TO:<amina@example.org>",
            "Subject: OpenHIM Alert",
            "plain words",
            "<p>marked words</p>",
        ] {
            assert!(told.contains(part), "{part} in {told}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error_that_may_pass() {
        let options =
            json!({ "host": "127.0.0.1", "port": 1, "auth": { "user": "him@example.org", "pass": "secret" } });
        let mailer = Mailer::from_config(None, Some(&options)).expect("usable settings");
        let mail = Mail {
            to: "a@example.org".into(),
            subject: String::new(),
            text: String::new(),
            html: String::new(),
        };
        assert!(matches!(mailer.send(mail).await, Err(MailError::NotSent(_))));
    }

    #[test]
    fn settings_mean_what_nodemailer_takes_them_for() {
        let read = |options: Value| Options::read(&options).expect("usable");
        assert_eq!(
            (
                read(json!({"service": "Gmail"})).host.as_str(),
                read(json!({"service": "Gmail"})).port
            ),
            ("smtp.gmail.com", 465)
        );
        assert_eq!(read(json!({"service": "Gmail"})).security, Security::Wrapped);
        assert_eq!(read(json!({"host": "h"})).port, 587);
        assert_eq!(read(json!({"host": "h"})).security, Security::Offered);
        assert_eq!(read(json!({"host": "h", "secure": true})).port, 465);
        assert_eq!(
            read(json!({"host": "h", "port": "2525", "ignoreTLS": true})).security,
            Security::Off
        );
        assert_eq!(
            read(json!({"host": "h", "requireTLS": true})).security,
            Security::Required
        );
        assert!(read(json!({"host": "h", "tls": {"rejectUnauthorized": false}})).accepts_any_certificate);
    }

    #[test]
    fn what_cannot_work_is_said_at_once() {
        assert!(matches!(Mailer::from_config(None, None), Err(MailError::NotConfigured)));
        let bad = |options: Value| Options::read(&options).expect_err("unusable").to_string();
        assert!(bad(json!({"service": "Pigeon"})).contains("`Pigeon`"));
        assert!(bad(json!({"port": 70000})).contains("70000"));
    }
}
