//! How a report looks: a table in HTML, blocks in plain text.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike as _, FixedOffset, SecondsFormat, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Period, Row, Window};

const CELL: &str = "border: 1px solid black; padding: 6px; text-align: center";
const HEADING: &str = "border: 1px solid black; padding: 6px; background-color: darkgreen; color: white";

/// One reader's report.
pub(super) struct Words<'a> {
    pub(super) period: Period,
    pub(super) instance: &'a str,
    pub(super) console_url: &'a str,
    pub(super) window: Window,
    pub(super) generated: DateTime<FixedOffset>,
    pub(super) rows: &'a [Row],
}

impl Words<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self.period {
            Period::Daily => "Daily",
            Period::Weekly => "Weekly",
        }
    }

    pub(super) fn plain(&self) -> String {
        let mut text = format!(
            "Generated on: {}\nReport period: {} to {}\n\n",
            long_date(self.generated),
            long_date(self.window.from),
            long_date(self.window.to)
        );
        for row in self.rows {
            let _infallible = write!(
                text,
                " \r\n \r\n <---------- Start Channel  {0} ---------------------------> \r\n \r\n\
                 Channel Name: {0} \r\nChannel total: {1} transactions \r\nAve response time: {2} \r\n\
                 Failed: {3}  \r\nSuccessful: {4}  \r\nProcessing: {5}  \r\nCompleted: {6}  \r\n\
                 Completed with errors: {7} \r\n \r\n\
                 <---------- End Channel -------------------------------------------------> \r\n \r\n \r\n",
                row.name,
                row.total,
                row.average_response,
                row.failed,
                row.successful,
                row.processing,
                row.completed,
                row.completed_with_errors
            );
        }
        text
    }

    pub(super) fn html(&self) -> String {
        let headings = [
            "Channel",
            "Total",
            "Average Response (s)",
            "Failed",
            "Successful",
            "Processing",
            "Completed",
            "Completed with errors",
        ];
        let head: String = headings
            .iter()
            .map(|name| format!("<th style=\"{HEADING}\" scope=\"col\">{name}</th>"))
            .collect();
        let rows: String = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| self.row(index, row))
            .collect();
        format!(
            "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>Transaction Report</title></head>\n\
             <body style=\"background-color: #eeeeee; font-family: sans-serif\">\n<center>\n\
             <h1 style=\"color: darkgreen\">{} Transaction  Report for {}</h1>\n\
             <h2 style=\"color: darkgreen\">from - &nbsp; {}</h2>\n<h2 style=\"color: darkgreen\">to - &nbsp; {}</h2>\n\
             <table style=\"border-collapse: collapse\">\n<tr>{head}</tr>\n{rows}</table>\n\
             <p>Report generated on {}</p>\n<p>Powered by OpenHIM</p>\n</center>\n</body>\n</html>\n",
            self.kind(),
            escaped(self.instance),
            long_date(self.window.from),
            long_date(self.window.to),
            long_date(self.generated)
        )
    }

    fn row(&self, index: usize, row: &Row) -> String {
        let background = if index.is_multiple_of(2) { "#d9ead3" } else { "#b6d7a8" };
        let channel = format!("{}/#!/channels/{}", self.console_url, row.channel);
        let cell = |number: u64, colour: &str, link: &str| {
            let colour = if number == 0 { "grey" } else { colour };
            format!(
                "<td style=\"{CELL}\"><a style=\"color: {colour}\" href=\"{}\">{number}</a></td>",
                escaped(link)
            )
        };
        let list = |status: Option<&str>| self.list_link(row, status);
        format!(
            "<tr style=\"background-color: {background}\"><td style=\"{CELL}\"><b><a href=\"{}\">{}</a></b></td>{}{}{}{}{}{}{}</tr>\n",
            escaped(&channel),
            escaped(&row.name),
            cell(row.total, "black", &list(None)),
            cell(row.average_response, "black", &channel),
            cell(row.failed, "red", &list(Some("Failed"))),
            cell(row.successful, "black", &list(Some("Successful"))),
            cell(row.processing, "black", &list(Some("Processing"))),
            cell(row.completed, "orange", &list(Some("Completed"))),
            cell(
                row.completed_with_errors,
                "orangered",
                &list(Some("Completed with error(s)"))
            ),
        )
    }

    /// The console's list of just these transactions.
    fn list_link(&self, row: &Row, status: Option<&str>) -> String {
        let status = status.map_or(String::new(), |status| {
            format!("txStatus={}&", utf8_percent_encode(status, NON_ALPHANUMERIC))
        });
        let iso = |date: DateTime<FixedOffset>| date.with_timezone(&Utc).to_rfc3339_opts(SecondsFormat::Millis, true);
        format!(
            "{}/#!/transactions?{status}txChannel={}&startDate={}&endDate={}",
            self.console_url,
            row.channel,
            iso(self.window.from),
            iso(self.window.to)
        )
    }
}

/// `Saturday 21st November 2026 12:00:00 AM +00:00`
fn long_date(date: DateTime<FixedOffset>) -> String {
    let day = date.day();
    let suffix = match (day % 10, day / 10) {
        (1, tens) if tens != 1 => "st",
        (2, tens) if tens != 1 => "nd",
        (3, tens) if tens != 1 => "rd",
        _ => "th",
    };
    format!(
        "{} {day}{suffix} {}",
        date.format("%A"),
        date.format("%B %Y %-I:%M:%S %p %:z")
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
