//! The words of an alert: plain, HTML and short, as OpenHIM has them.

use bson::oid::ObjectId;

use super::Subject;
use crate::config;
use crate::model::channel::AlertCondition;

/// What is said about these transactions.
pub(super) struct Words<'a> {
    pub(super) settings: &'a config::Alerts,
    pub(super) subject: &'a Subject<'a>,
    pub(super) transactions: &'a [ObjectId],
}

impl Words<'_> {
    pub(super) fn plain(&self) -> String {
        let instance = &self.settings.him_instance;
        let channel = &self.subject.channel.name;
        let links: String = self.links().map(|link| format!("{link}\n")).collect();
        if self.is_about_retries() {
            format!(
                "OpenHIM Transactions Alert - {instance}\n\n\
                 The following transaction(s) have been retried {} times, but are still failing:\n\n\
                 Channel - {channel}\n{links}\n\
                 Please note that they will not be retried any further by the OpenHIM automatically.\n",
                self.max_attempts()
            )
        } else {
            format!(
                "OpenHIM Transactions Alert\n\n\
                 The following transaction(s) have completed with status {} on the OpenHIM instance running on {instance}:\n\
                 Channel - {channel}\n{links}\n",
                self.subject.status
            )
        }
    }

    pub(super) fn html(&self) -> String {
        let bold = |text: &str| format!("<b>{}</b>", escaped(text));
        let instance = bold(&self.settings.him_instance);
        let (title, sentence, end) = if self.is_about_retries() {
            (
                format!("OpenHIM Transactions Alert - {}", escaped(&self.settings.him_instance)),
                format!(
                    "The following transaction(s) have been retried <b>{}</b> times, but are still failing on the OpenHIM \
                     instance running on {instance}:",
                    self.max_attempts()
                ),
                "<p>Please note that they will not be retried any further by the OpenHIM automatically.</p>",
            )
        } else {
            let status = bold(&self.subject.status);
            (
                "OpenHIM Transactions Alert".to_owned(),
                format!(
                    "The following transaction(s) have completed with status {status} on the OpenHIM instance running on \
                     {instance}:"
                ),
                "",
            )
        };
        let rows: String = self
            .links()
            .map(|link| format!("<tr><td><a href=\"{0}\">{0}</a></td></tr>\n", escaped(&link)))
            .collect();
        format!(
            "<html>\n<head></head>\n<body>\n<h1>{title}</h1>\n<div>\n<p>{sentence}</p>\n<table>\n\
             <tr><td>Channel - {}</td></tr>\n{rows}</table>\n{end}</div>\n</body>\n</html>\n",
            bold(&self.subject.channel.name)
        )
    }

    pub(super) fn sms(&self) -> String {
        let count = match self.transactions.len() {
            0 => "no transactions have".to_owned(),
            1 => "1 transaction has".to_owned(),
            many => format!("{many} transactions have"),
        };
        let instance = &self.settings.him_instance;
        if self.is_about_retries() {
            format!(
                "Alert - {count} been retried {} times but are still failing on the OpenHIM on {instance} ({})",
                self.max_attempts(),
                self.subject.channel.name
            )
        } else {
            format!(
                "Alert - {count} completed with status {} on the OpenHIM running on {instance} ({})",
                self.subject.status, self.subject.channel.name
            )
        }
    }

    fn is_about_retries(&self) -> bool {
        self.subject.alert.condition == AlertCondition::AutoRetryMaxAttempted
    }

    fn max_attempts(&self) -> u64 {
        self.subject.channel.auto_retry_max_attempts.unwrap_or(0)
    }

    fn links(&self) -> impl Iterator<Item = String> {
        self.transactions
            .iter()
            .map(|id| format!("{}/#!/transactions/{id}", self.settings.console_url))
    }
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
