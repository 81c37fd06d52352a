//! What our proxy costs, beside HAProxy and nginx, at layer 4, for HTTP and for TLS: `cargo bench --bench balancer`.
//!
//! Each proxy runs one thread, pinned to one processor; load and backend are this process, pinned to another. Measured
//! is the proxy's processor time for each unit of work, not the wall clock: other load on the machine then matters
//! little. All proxies take turns within each round; shown is the median of the rounds.
//!
//! Options after `--`: `--binary PATH` (of `openhim-core`), `--rounds N`, `--only NAME` (of a proxy, repeatable), `--work
//! NAME` (a column's first word, repeatable), `--mode tcp|http|tls` (one of them alone).
//!
//! In mode tls every new connection is a full handshake (TLS 1.3, X25519, ECDSA P-256), and bytes are AES-256-GCM.

mod load;
mod proxies;
mod usage;

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use load::{Identity, Load, Mode};
use proxies::{Kind, Proxy};

const ROUNDS: usize = 5;
/// The processors of the load and of the proxies.
const LOAD_CPU: usize = 0;
const PROXY_CPU: usize = 1;
const IDLE_CONNECTIONS: usize = 2000;

struct Options {
    binary: String,
    rounds: usize,
    only: Vec<String>,
    work: Vec<String>,
    modes: Vec<Mode>,
}

/// A column of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    NewConnection,
    KeepAlive,
    Object,
    Bulk,
}

impl Work {
    const ALL: [Self; 4] = [Self::NewConnection, Self::KeepAlive, Self::Object, Self::Bulk];

    /// Title; processor time is shown in this many nanoseconds.
    fn title(self) -> (&'static str, f64) {
        match self {
            Self::NewConnection => ("connection+request us", 1e3),
            Self::KeepAlive => ("request 100 B us", 1e3),
            Self::Object => ("object 64 KiB us", 1e3),
            Self::Bulk => ("bulk s/GB", 1e9),
        }
    }

    /// Does the work through the proxy; returns how many units it was.
    async fn run(self, load: &Load, proxy: &Proxy) -> Result<f64> {
        let to = proxy.address;
        Ok(match self {
            Self::NewConnection => f64::from(load.connections(to, 3000, 16).await?),
            Self::KeepAlive => f64::from(load.requests(to, 12_000, 8, 100).await?),
            Self::Object => f64::from(load.requests(to, 3000, 8, 64 * 1024).await?),
            Self::Bulk => load.bulk(to, 512 << 20).await? as f64 / 1e9,
        })
    }
}

/// What was measured of one proxy.
struct Row {
    kind: Kind,
    proxy: Proxy,
    /// Nanoseconds a unit, by work and round.
    costs: [Vec<f64>; Work::ALL.len()],
    start_rss: u64,
    per_idle: f64,
}

fn main() -> Result<()> {
    let options = options()?;
    usage::pin_to(LOAD_CPU)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for mode in &options.modes {
        runtime.block_on(measure(&options, *mode))?;
    }
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        binary: env!("CARGO_BIN_EXE_openhim-core").to_owned(),
        rounds: ROUNDS,
        only: Vec::new(),
        work: Vec::new(),
        modes: vec![Mode::Tcp, Mode::Http, Mode::Tls],
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--binary" => options.binary = value()?,
            "--rounds" => options.rounds = value()?.parse()?,
            "--only" => options.only.push(value()?),
            "--work" => options.work.push(value()?),
            "--mode" => {
                options.modes = match value()?.as_str() {
                    "tcp" => vec![Mode::Tcp],
                    "http" => vec![Mode::Http],
                    "tls" => vec![Mode::Tls],
                    other => bail!("mode {other} is not measured"),
                }
            }
            // Given by cargo.
            "--bench" => {}
            _ => bail!("unknown option {argument}"),
        }
    }
    Ok(options)
}

async fn measure(options: &Options, mode: Mode) -> Result<()> {
    let mut out = std::io::stdout();
    let identity = Identity::new()?;
    let load = Load::new(mode, &identity)?;
    writeln!(
        out,
        "mode {mode:?}, the log and metrics {}",
        if mode == Mode::Http { "on" } else { "off" }
    )?;
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        if !options.only.is_empty() && !options.only.iter().any(|only| kind.name().contains(only.as_str())) {
            continue;
        }
        let Some(proxy) = Proxy::start(kind, mode, &identity, &options.binary, &load, PROXY_CPU).await? else {
            writeln!(out, "{}: not installed, left out", kind.name())?;
            continue;
        };
        let start_rss = usage::resident(proxy.pid())?;
        rows.push(Row {
            kind,
            proxy,
            costs: Default::default(),
            start_rss,
            per_idle: 0.0,
        });
    }
    for round in 0..options.rounds {
        for (place, work) in Work::ALL.into_iter().enumerate() {
            if !options.work.is_empty()
                && !options
                    .work
                    .iter()
                    .any(|name| work.title().0.starts_with(name.as_str()))
            {
                continue;
            }
            // Whoever comes first in one round comes last in the next.
            let count = rows.len();
            for turn in 0..count {
                let row = &mut rows[(turn + round) % count];
                let before = usage::processor_time(row.proxy.pid())?;
                let units = work.run(&load, &row.proxy).await?;
                // What closing costs belongs to it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let spent = usage::processor_time(row.proxy.pid())? - before;
                row.costs[place].push(spent.as_nanos() as f64 / units);
            }
        }
        writeln!(out, "round {} of {} done", round + 1, options.rounds)?;
    }
    for row in &mut rows {
        // A fresh process: what the work before left behind is not the idle connections'.
        if let Some(proxy) = Proxy::start(row.kind, mode, &identity, &options.binary, &load, PROXY_CPU).await? {
            row.per_idle = idle_cost(&load, &proxy).await?;
        }
    }
    show(&rows, &mut out)?;
    if mode == Mode::Tls {
        for row in &rows {
            let each = median(&row.costs[0]);
            writeln!(
                out,
                "{}: {:.0} full handshakes per CPU second",
                row.kind.name(),
                1e9 / each
            )?;
        }
    }
    Ok(())
}

/// Private memory of the proxy for each connection that has carried a request and is idle.
async fn idle_cost(load: &Load, proxy: &Proxy) -> Result<f64> {
    let few = load.idle(proxy.address, 100).await?;
    let before = usage::private_memory(proxy.pid())?;
    let many = load.idle(proxy.address, IDLE_CONNECTIONS).await?;
    let after = usage::private_memory(proxy.pid())?;
    drop((few, many));
    Ok(after.saturating_sub(before) as f64 / IDLE_CONNECTIONS as f64)
}

fn show(rows: &[Row], out: &mut impl std::io::Write) -> Result<()> {
    write!(out, "\n{:<18}", "median (best)")?;
    for work in Work::ALL {
        write!(out, " {:>22}", work.title().0)?;
    }
    writeln!(out, " {:>18} {:>14}", "idle connection B", "RSS start KiB")?;
    for row in rows {
        write!(out, "{:<18}", row.kind.name())?;
        for (work, costs) in Work::ALL.iter().zip(&row.costs) {
            let unit = work.title().1;
            let (median, best) = (
                median(costs) / unit,
                costs.iter().copied().fold(f64::INFINITY, f64::min) / unit,
            );
            write!(out, " {:>22}", format!("{median:.2} ({best:.2})"))?;
        }
        writeln!(out, " {:>18.0} {:>14}", row.per_idle, row.start_rss / 1024)?;
    }
    let of = |kind: Kind| rows.iter().find(|row| row.kind == kind);
    let Some(ours) = of(Kind::Ours) else { return Ok(()) };
    for other in [Kind::Haproxy, Kind::HaproxySplice, Kind::Nginx]
        .into_iter()
        .filter_map(of)
    {
        write!(out, "{:<18}", format!("/ {}", other.kind.name()))?;
        for (one, another) in ours.costs.iter().zip(&other.costs) {
            write!(out, " {:>22.2}", median(one) / median(another))?;
        }
        let start = ours.start_rss as f64 / other.start_rss as f64;
        writeln!(out, " {:>18.2} {:>14.2}", ours.per_idle / other.per_idle, start)?;
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
