//! The mails that carry a link to choose a password.

use std::sync::Arc;

use bson::Document;

use super::email_of;
use crate::api::context::Api;
use crate::notify::email::Mail;
use crate::notify::{Message, NotifyError};

/// Invites a new user. Nobody waits for it; what goes wrong is logged.
pub(super) fn invite(api: &Arc<Api>, user: &Document, token: &str) {
    let mail = invitation(api, user, token);
    let api = Arc::clone(api);
    tokio::spawn(async move {
        let to = mail.to.clone();
        match api.notifier.tell(Message::Mail(mail)).await {
            Ok(()) => tracing::info!("The email has been sent to the new user {to}"),
            Err(error) => tracing::error!(%error, "The email could not be sent to the user via the API: {error}"),
        }
    });
}

/// Sends the link to a user who forgot the password, and waits until the mail was taken.
pub(super) async fn reset(api: &Api, user: &Document, token: &str) -> Result<(), NotifyError> {
    let facts = Facts::of(api, user, token);
    let mail = facts.mail(
        user,
        "OpenHIM Console Password Reset",
        "Existing User - Reset Password",
        "Reset OpenHIM Password",
        "A request has been made to reset your password on the OpenHIM instance running on",
        "reset your password",
    );
    api.notifier.tell(Message::Mail(mail)).await
}

fn invitation(api: &Api, user: &Document, token: &str) -> Mail {
    let facts = Facts::of(api, user, token);
    facts.mail(
        user,
        "OpenHIM Console Profile",
        "New User - Set Password",
        "New OpenHIM Profile",
        "A profile has been created for you on the OpenHIM instance running on",
        "set your password",
    )
}

struct Facts<'a> {
    name: &'a str,
    instance: &'a str,
    link: String,
}

impl<'a> Facts<'a> {
    fn of(api: &'a Api, user: &'a Document, token: &str) -> Self {
        let alerts = &api.settings.alerts;
        Self {
            name: user.get_str("firstname").unwrap_or_default(),
            instance: &alerts.him_instance,
            link: format!("{}/#!/set-password/{token}", alerts.console_url),
        }
    }

    fn mail(&self, user: &Document, subject: &str, frame: &str, title: &str, news: &str, todo: &str) -> Mail {
        let Self { name, instance, link } = self;
        let (html_name, html_instance, html_link) = (escape(name), escape(instance), escape(link));
        Mail {
            to: email_of(user).to_owned(),
            subject: subject.to_owned(),
            text: format!(
                "<---------- {frame} ---------->\nHi {name},\n\n{news} {instance}\n\
                 Follow the below link to {todo} and log into OpenHIM Console\n{link}\n<---------- {frame} ---------->"
            ),
            html: format!(
                "<h1>{title}</h1>\n<p>Hi {html_name},<br/><br/>{news} {html_instance}</p>\n\
                 <p>Follow the below link to set your password and log into OpenHIM Console</p>\n<p>{html_link}</p>"
            ),
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
