//! A small mediator to stand behind OpenHIM: `cargo run --example mediator`.
//!
//! It takes patients on `/patients`, gives each a number, and answers as mediators do, so that the transaction's record
//! shows what happened inside. With `--core` it also registers with an OpenHIM and reports that it lives.

// By its path, as the demo includes it too: `service` then finds `client` beside it from both places.
#[path = "service.rs"]
mod service;

use std::net::SocketAddr;

use clap::Parser;

use service::Mediator;
use service::client::Target;

#[derive(Debug, Parser)]
#[command(about = "A small mediator to stand behind OpenHIM")]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// API of the OpenHIM to register with, such as https://localhost:8080
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    core: Option<Target>,
    #[arg(long, default_value = "root@openhim.org")]
    user: String,
    #[arg(long, default_value = "openhim-password")]
    password: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mediator = Mediator::bind(arguments.listen).await?;
    #[expect(clippy::print_stderr, reason = "an example talks to whoever runs it")]
    {
        eprintln!("The mediator listens on http://{}/patients", mediator.address());
    }
    let core = arguments
        .core
        .map(|core| core.with_basic(&arguments.user, &arguments.password));
    tokio::select! {
        () = mediator.serve(core) => {}
        stop = tokio::signal::ctrl_c() => stop?,
    }
    Ok(())
}
