//! `demo`: the guide's cluster on one machine, with traffic, to look at and to break.
//!
//! Nodes and balancer are processes of this very binary, so what is shown is what is installed, and a node can be killed
//! to see what happens. The mediator is the repository's example, in this process. Nothing is left behind.

mod cluster;
#[path = "../../examples/mediator/service.rs"]
mod mediator;
mod traffic;

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime;

use crate::cli::DemoArgs;
use crate::failure::Failure;

use cluster::Cluster;
use mediator::Mediator;
use mediator::client::Target;
use traffic::Round;

/// Messages of the first round.
const FIRST_ROUND: usize = 200;
/// Time between the messages that follow.
const PACE: Duration = Duration::from_millis(500);

/// The login that every fresh OpenHIM has.
const ROOT: (&str, &str) = ("root@openhim.org", "openhim-password");

/// Runs until Ctrl-C; with `--exit`, for one round.
///
/// # Errors
/// Something did not start, or a message was not delivered and recorded exactly once.
pub(super) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let outcome = runtime.block_on(async {
        let folder = tempfile::Builder::new()
            .prefix("openhim-demo-")
            .tempdir()
            .context("cannot make a folder")?;
        let mut cluster = Cluster::plan(folder.path())?;
        let outcome = tokio::select! {
            outcome = story(&mut cluster, args.exit) => outcome,
            stop = tokio::signal::ctrl_c() => stop.context("cannot wait for Ctrl-C"),
        };
        say("\nStopping.\n")?;
        cluster.stop().await;
        outcome
    });
    outcome.map_err(Failure::Running)
}

async fn story(cluster: &mut Cluster, exit: bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mediator = bind_mediator().await?;
    let mediator_address = mediator.address();
    say(&format!("{}  mediator  {mediator_address}\n", cluster.described()))?;
    cluster.start().await?;
    say(&format!("  all up after {:.1} s\n\n", begun.elapsed().as_secs_f64()))?;

    let api = Target::parse(&cluster.api_url())
        .map_err(anyhow::Error::msg)?
        .with_basic(ROOT.0, ROOT.1);
    tokio::spawn(mediator.serve(Some(api.clone())));
    traffic::prepare(&api, cluster, mediator_address).await?;
    say(&format!(
        "made       a client, `{}`, and a channel to the mediator\n",
        traffic::CLIENT.0
    ))?;

    let router = traffic::sender(&cluster.https_url())?;
    let round = Round::send(&router, FIRST_ROUND).await?;
    say(&format!("delivered  {round}\n"))?;
    let recorded = round.find_recorded(&api).await?;
    say(&format!("recorded   {recorded}\n"))?;
    if exit {
        return Ok(());
    }
    say(&look_around(cluster))?;
    keep_sending(cluster, &router).await
}

async fn bind_mediator() -> anyhow::Result<Mediator> {
    let usual = SocketAddr::from(([127, 0, 0, 1], 3000));
    match Mediator::bind(usual).await {
        Ok(mediator) => Ok(mediator),
        Err(_) => Mediator::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .context("the mediator cannot listen"),
    }
}

/// A little traffic to see things move by; a failure is told and no reason to stop, for nodes may be killed here.
async fn keep_sending(cluster: &mut Cluster, router: &Target) -> anyhow::Result<()> {
    let mut number = FIRST_ROUND;
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                number += 1;
                if let Err(error) = traffic::deliver(router, number).await {
                    say(&format!("message {number} was not delivered: {error:#}\n"))?;
                }
            }
            ended = cluster.ended() => say(&format!("{ended} has ended; the others go on\n"))?,
        }
    }
}

fn look_around(cluster: &Cluster) -> String {
    let (user, password) = ROOT;
    let (client, secret) = traffic::CLIENT;
    let api = cluster.api_url();
    let mut text = String::from("\nLook around:\n");
    let mut line = |what: &str, how: &str| {
        let _ = writeln!(text, "  {what:<22} {how}");
    };
    line("the balancer", &cluster.status_url());
    line("the API", &format!("{api} (login {user}, password {password})"));
    line(
        "the last five records",
        &format!("curl -k -u {user}:{password} '{api}/transactions?filterLimit=5'"),
    );
    let message = "-H 'Content-Type: application/json' -d '{\"name\":\"Amina\"}'";
    line(
        "send a message",
        &format!(
            "curl -k -u {client}:{secret} {message} {}/patients",
            cluster.https_url()
        ),
    );
    line(
        "kill a node",
        &format!("kill -9 {}", cluster.node_ids().join("   or   kill -9 ")),
    );
    line("logs and data", &cluster.folder().display().to_string());
    text.push_str("\nMessages go on, two a second. Ctrl-C ends it all.\n");
    text
}

fn say(text: &str) -> anyhow::Result<()> {
    super::print(text.as_bytes()).map_err(|_| anyhow::anyhow!("standard output is closed"))
}
