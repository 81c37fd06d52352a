//! Counts for Prometheus: transactions by how they ended, how long they took, and what the process uses.
//!
//! Names, labels and units are OpenHIM's, because dashboards are built on them: the histogram is in milliseconds
//! although its help says seconds. Each process counts for itself. Memory is bounded: past so many combinations of
//! labels, what comes new is counted under `other`.

mod process;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bson::oid::ObjectId;

/// Combinations of labels that are counted apart.
const MOST_SERIES: usize = 10_000;
/// Upper bounds of the histogram's buckets.
const BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What tells one series from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Labels {
    pub method: String,
    /// The transaction's final status.
    pub status: String,
    pub client: Option<ObjectId>,
    pub channel: ObjectId,
    /// Status code of the response.
    pub code: Option<i32>,
}

#[derive(Clone, Debug, Default)]
struct Series {
    count: u64,
    sum: i64,
    /// Observations in each bucket, not cumulated; the last bucket has no upper bound.
    buckets: [u64; BOUNDS.len() + 1],
}

/// The counts of this process.
#[derive(Debug, Default)]
pub struct Prometheus(Mutex<HashMap<Labels, Series>>, Mutex<Beside>);

/// What is known besides transactions.
#[derive(Debug, Default)]
struct Beside {
    /// Runs by job and by how they ended.
    jobs: BTreeMap<(String, &'static str), u64>,
    /// Seconds of each job's latest run.
    took: BTreeMap<String, f64>,
    /// Bytes of each channel's transactions, as this node measured them last.
    occupied: Vec<(String, u64)>,
}

impl Prometheus {
    /// Counts a run of a job.
    pub fn job_ran(&self, job: &str, is_success: bool, took: Duration) {
        let mut beside = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = if is_success { "success" } else { "failure" };
        *beside.jobs.entry((job.to_owned(), outcome)).or_default() += 1;
        beside.took.insert(job.to_owned(), took.as_secs_f64());
    }

    /// Notes what each channel's transactions occupy.
    pub fn occupied(&self, channels: Vec<(String, u64)>) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).occupied = channels;
    }

    /// Counts a transaction that took so many milliseconds.
    pub fn observe(&self, labels: Labels, millis: i64) {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let labels = if series.len() < MOST_SERIES || series.contains_key(&labels) {
            labels
        } else {
            Labels {
                method: "other".to_owned(),
                status: "other".to_owned(),
                client: None,
                ..labels
            }
        };
        let one = series.entry(labels).or_default();
        one.count += 1;
        one.sum += millis;
        let bucket = BOUNDS.iter().position(|bound| millis as f64 <= *bound);
        one.buckets[bucket.unwrap_or(BOUNDS.len())] += 1;
    }

    /// Everything in Prometheus' text format. The names of clients and channels are asked for now.
    pub fn render(
        &self,
        client: impl Fn(ObjectId) -> Option<String>,
        channel: impl Fn(ObjectId) -> Option<String>,
    ) -> String {
        let mut text = process::render();
        let mut rows: Vec<(String, Series)> = {
            let series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = |labels: &Labels| shown(labels, labels.client.and_then(&client), channel(labels.channel));
            series
                .iter()
                .map(|(labels, one)| (shown(labels), one.clone()))
                .collect()
        };
        rows.sort_by(|one, other| one.0.cmp(&other.0));
        header(
            &mut text,
            "openhim_transactions_total",
            "counter",
            "Total transactions processed",
        );
        for (labels, one) in &rows {
            let _ = writeln!(text, "openhim_transactions_total{{{labels}}} {}", one.count);
        }
        header(
            &mut text,
            "openhim_request_duration",
            "histogram",
            "Request response time in seconds",
        );
        for (labels, one) in &rows {
            histogram(&mut text, labels, one);
        }
        self.1.lock().unwrap_or_else(PoisonError::into_inner).render(&mut text);
        text
    }
}

impl Beside {
    fn render(&self, text: &mut String) {
        header(text, "openhim_job_runs_total", "counter", "Runs of jobs on this node");
        for ((job, outcome), count) in &self.jobs {
            let _ = writeln!(
                text,
                "openhim_job_runs_total{{job=\"{}\",outcome=\"{outcome}\"}} {count}",
                escape(job)
            );
        }
        header(
            text,
            "openhim_job_last_duration_seconds",
            "gauge",
            "How long a job's latest run on this node took",
        );
        for (job, seconds) in &self.took {
            let _ = writeln!(
                text,
                "openhim_job_last_duration_seconds{{job=\"{}\"}} {seconds}",
                escape(job)
            );
        }
        header(
            text,
            "openhim_channel_bytes",
            "gauge",
            "Bytes of a channel's stored transactions",
        );
        for (channel, bytes) in &self.occupied {
            let _ = writeln!(text, "openhim_channel_bytes{{channel=\"{}\"}} {bytes}", escape(channel));
        }
    }
}

fn histogram(text: &mut String, labels: &str, one: &Series) {
    let mut below = 0;
    for (bound, count) in BOUNDS.iter().zip(one.buckets) {
        below += count;
        let _ = writeln!(
            text,
            "openhim_request_duration_bucket{{le=\"{bound}\",{labels}}} {below}"
        );
    }
    let _ = writeln!(
        text,
        "openhim_request_duration_bucket{{le=\"+Inf\",{labels}}} {}",
        one.count
    );
    let _ = writeln!(text, "openhim_request_duration_sum{{{labels}}} {}", one.sum);
    let _ = writeln!(text, "openhim_request_duration_count{{{labels}}} {}", one.count);
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The labels in OpenHIM's order; what is not known is written as JavaScript would.
fn shown(labels: &Labels, client: Option<String>, channel: Option<String>) -> String {
    let unknown = || "undefined".to_owned();
    let code = labels.code.map_or_else(unknown, |code| code.to_string());
    format!(
        "status=\"{}\",method=\"{}\",client=\"{}\",channel=\"{}\",code=\"{code}\"",
        escape(&labels.status),
        escape(&labels.method),
        escape(&client.unwrap_or_else(unknown)),
        escape(&channel.unwrap_or_else(unknown)),
    )
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(method: &str) -> Labels {
        Labels {
            method: method.to_owned(),
            status: "Successful".to_owned(),
            client: Some(ObjectId::from_bytes([1; 12])),
            channel: ObjectId::from_bytes([2; 12]),
            code: Some(200),
        }
    }

    fn text(metrics: &Prometheus) -> String {
        metrics.render(|_| Some("Clinic \"A\"".to_owned()), |_| Some("Lab".to_owned()))
    }

    #[test]
    fn both_families_are_there_before_anything_is_counted() {
        let text = text(&Prometheus::default());
        assert!(text.contains("# TYPE openhim_transactions_total counter\n"));
        assert!(text.contains("# TYPE openhim_request_duration histogram\n"));
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn transactions_are_counted_by_their_labels() {
        let metrics = Prometheus::default();
        metrics.observe(labels("GET"), 3);
        metrics.observe(labels("GET"), 200);
        let text = text(&metrics);
        let labels = r#"status="Successful",method="GET",client="Clinic \"A\"",channel="Lab",code="200""#;
        for line in [
            format!("openhim_transactions_total{{{labels}}} 2"),
            format!("openhim_request_duration_bucket{{le=\"2.5\",{labels}}} 0"),
            format!("openhim_request_duration_bucket{{le=\"5\",{labels}}} 1"),
            format!("openhim_request_duration_bucket{{le=\"+Inf\",{labels}}} 2"),
            format!("openhim_request_duration_sum{{{labels}}} 203"),
            format!("openhim_request_duration_count{{{labels}}} 2"),
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn labels_that_a_client_makes_up_do_not_fill_the_memory() {
        let metrics = Prometheus::default();
        for number in 0..MOST_SERIES + 100 {
            metrics.observe(labels(&format!("M{number}")), 1);
        }
        let text = text(&metrics);
        assert!(text.contains("method=\"other\""));
        assert!(metrics.0.lock().unwrap().len() <= MOST_SERIES + 1);
    }
}
