//! Mail by SMTP, configured as nodemailer reads `email.nodemailer`: `service` or `host`, `port`, `secure`,
//! `ignoreTLS`, `requireTLS`, `auth`, `tls.rejectUnauthorized`.
//!
//! Each step of the conversation has its time. A mail whose last byte has left and whose taking was not confirmed is in
//! doubt: it may be on its way, and sending it again might double it.

use std::time::Duration;

use lettre::Message;
use lettre::address::Address;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail as MailCommand, Rcpt};
use lettre::transport::smtp::extension::{ClientId, MailParameter};
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
    NotSent(#[source] SmtpError),
    /// It said nothing before it had the mail.
    #[error("the mail server does not answer")]
    Silent,
    /// It has the mail and did not say that it took it.
    #[error("the mail server got the mail and did not say what became of it")]
    InDoubt,
}

impl MailError {
    /// True if the mail may have been sent.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::InDoubt)
    }
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
    options: Options,
    /// The longest that the server may stay silent.
    patience: Duration,
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
        let options = Options::read(options)?;
        // What cannot work is said at once.
        options.tls()?;
        Ok(Self {
            from,
            options,
            patience: TIMEOUT,
        })
    }

    /// Hands one mail to the server; resolves when the server has taken it.
    ///
    /// # Errors
    /// It was not taken; unless the error is [in doubt](MailError::is_in_doubt), nothing was sent.
    pub async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let to: Mailbox = mail.to.parse().map_err(|_| MailError::BadAddress(mail.to.clone()))?;
        let receiver = to.email.clone();
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(mail.subject)
            .message_id(None)
            .multipart(MultiPart::alternative_plain_html(mail.text, mail.html))
            .map_err(MailError::BadMessage)?;
        let mut connection = self.connect().await?;
        self.announce(&mut connection, receiver).await?;
        let message = message.formatted();
        let sent = connection.message(&message);
        match tokio::time::timeout(self.patience, sent).await {
            Ok(Ok(_)) => {}
            // It said no.
            Ok(Err(error)) if error.status().is_some() => return Err(MailError::NotSent(error)),
            Ok(Err(_)) | Err(_) => return Err(MailError::InDoubt),
        }
        // Whatever it says now, it has taken the mail.
        let _ = tokio::time::timeout(Duration::from_secs(1), connection.quit()).await;
        Ok(())
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, MailError> {
        let Options {
            host,
            port,
            security,
            login,
            ..
        } = &self.options;
        let hello = ClientId::default();
        let tls = self.options.tls()?;
        let wrapped = (*security == Security::Wrapped).then(|| tls.clone());
        let server = (host.as_str(), *port);
        let opening = AsyncSmtpConnection::connect_tokio1(server, Some(self.patience), &hello, wrapped, None);
        let mut connection = self.step(opening).await?;
        let upgrades = match security {
            Security::Required => true,
            Security::Offered => connection.can_starttls(),
            Security::Wrapped | Security::Off => false,
        };
        if upgrades {
            self.step(connection.starttls(tls, &hello)).await?;
        }
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.clone(), password.clone());
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            self.step(connection.auth(&mechanisms, &credentials)).await?;
        }
        Ok(connection)
    }

    /// Says from whom and to whom, and that the mail follows.
    async fn announce(&self, connection: &mut AsyncSmtpConnection, to: Address) -> Result<(), MailError> {
        let from = self.from.email.clone();
        let is_plain = [&from, &to]
            .iter()
            .all(|address| AsRef::<str>::as_ref(*address).is_ascii());
        let parameters = match is_plain {
            true => vec![],
            false => vec![MailParameter::SmtpUtfEight],
        };
        self.step(connection.command(MailCommand::new(Some(from), parameters)))
            .await?;
        self.step(connection.command(Rcpt::new(to, vec![]))).await?;
        self.step(connection.command(Data)).await?;
        Ok(())
    }

    /// A step before the server has the mail.
    async fn step<T>(&self, step: impl Future<Output = Result<T, SmtpError>>) -> Result<T, MailError> {
        match tokio::time::timeout(self.patience, step).await {
            Ok(outcome) => outcome.map_err(MailError::NotSent),
            Err(_) => Err(MailError::Silent),
        }
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
        let known = match options["service"].as_str().filter(|name| !name.is_empty()) {
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

impl Options {
    fn tls(&self) -> Result<TlsParameters, MailError> {
        TlsParameters::builder(self.host.clone())
            .dangerous_accept_invalid_certs(self.accepts_any_certificate)
            .build()
            .map_err(|error| MailError::BadSetting {
                setting: "email.nodemailer.host",
                why: error.to_string(),
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

    /// A server that plays its part up to the line `until`, and then is silent or hangs up.
    fn failing_server(until: &'static str, hangs_up: bool) -> u16 {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let (socket, _) = listener.accept().expect("a client");
            let mut writer = socket.try_clone().expect("a socket");
            if until != "greeting" {
                let _ = writer.write_all(b"220 ready\r\n");
            }
            for line in BufReader::new(socket).lines().map_while(Result::ok) {
                if line.starts_with(until) && hangs_up {
                    return;
                }
                let answer: &[u8] = match line.as_str() {
                    _ if line.starts_with(until) || until == "greeting" => continue,
                    "DATA" => b"354 go on\r\n",
                    line if line.starts_with("EHLO") || line.starts_with("MAIL") || line.starts_with("RCPT") => {
                        b"250 fine\r\n"
                    }
                    _ => continue,
                };
                let _ = writer.write_all(answer);
            }
        });
        port
    }

    #[tokio::test]
    async fn a_server_that_hangs_costs_only_time_and_is_in_doubt_only_once_it_has_the_mail() {
        for (until, hangs_up, is_in_doubt) in [
            ("greeting", false, false),
            ("EHLO", false, false),
            ("RCPT", false, false),
            ("DATA", true, false),
            (".", false, true),
            (".", true, true),
        ] {
            let email = config::Email {
                from_address: "him@example.org".into(),
                nodemailer: json!({ "host": "127.0.0.1", "port": failing_server(until, hangs_up), "ignoreTLS": true }),
            };
            let mut mailer = Mailer::from_config(Some(&email), None).expect("usable settings");
            mailer.patience = Duration::from_millis(300);
            let mail = Mail {
                to: "a@example.org".into(),
                subject: "s".into(),
                text: "t".into(),
                html: "h".into(),
            };
            let failed = mailer.send(mail).await.expect_err("it fails");
            assert_eq!(failed.is_in_doubt(), is_in_doubt, "{until} {hangs_up}: {failed:?}");
        }
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
