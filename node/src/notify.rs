//! Tells people: mail by SMTP, text messages through a gateway.
//!
//! Jobs and the API hand over a message and learn whether it was taken; when and to whom is theirs to decide.

pub mod email;
pub mod sms;

use async_trait::async_trait;

use crate::config;
use email::{Mail, MailError, Mailer};
use sms::{Gateway, SmsError};

/// Why somebody was not told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error(transparent)]
    Sms(#[from] SmsError),
}

impl NotifyError {
    /// True if the message may have gone out.
    pub fn is_in_doubt(&self) -> bool {
        match self {
            Self::Mail(error) => error.is_in_doubt(),
            Self::Sms(error) => error.is_in_doubt(),
        }
    }
}

/// A message to one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Mail(Mail),
    Sms {
        /// The telephone number.
        to: String,
        text: String,
    },
}

/// Whoever can tell people.
#[async_trait]
pub trait Notify: Send + Sync + std::fmt::Debug {
    /// Hands the message over; resolves when it was taken.
    ///
    /// # Errors
    /// It was not taken.
    async fn tell(&self, message: Message) -> Result<(), NotifyError>;
}

/// Tells people as the settings say.
#[derive(Debug)]
pub struct Notifier {
    mailer: Result<Mailer, String>,
    gateway: Gateway,
}

impl Notifier {
    /// Settings that cannot work are reported when a message needs them, as OpenHIM does, and logged here.
    pub fn new(
        email: Option<&config::Email>,
        nodemailer: Option<&serde_json::Value>,
        sms: &config::SmsGateway,
    ) -> Self {
        let mailer = Mailer::from_config(email, nodemailer).map_err(|error| error.to_string());
        if let Err(error) = &mailer {
            tracing::warn!(error, "Mail cannot be sent");
        }
        Self {
            mailer,
            gateway: Gateway::new(sms),
        }
    }
}

#[async_trait]
impl Notify for Notifier {
    async fn tell(&self, message: Message) -> Result<(), NotifyError> {
        match message {
            Message::Mail(mail) => {
                let mailer = self.mailer.as_ref().map_err(|why| MailError::Unusable(why.clone()))?;
                Ok(mailer.send(mail).await?)
            }
            Message::Sms { to, text } => Ok(self.gateway.send(&to, &text).await?),
        }
    }
}
