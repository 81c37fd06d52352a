//! What the benchmarks share: processes whose CPU time is read from the kernel, a backend, a closed-loop load, a table.
//!
//! Wall-clock figures drift on small shared machines. What is reported is the CPU time of the process under test per unit
//! of work, beside others in the same run, interleaved, as the median of several rounds.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A process under test. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` on processor `cpu` alone, without its output.
    pub(crate) fn start(mut command: Command, cpu: usize) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        pin(child.id(), cpu);
        Self(child)
    }

    /// The process' id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// CPU time of all threads of the process and of its children so far.
    pub(crate) fn cpu(&self) -> Duration {
        family(self.id()).into_iter().map(cpu_of).sum()
    }

    /// Resident memory of the process and its children, KiB.
    pub(crate) fn rss_kib(&self) -> u64 {
        family(self.id()).into_iter().map(|id| status_field(id, "VmRSS:")).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for id in family(self.id()).into_iter().rev() {
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
        let _ = self.0.wait();
    }
}

fn family(id: u32) -> Vec<u32> {
    let mut all = vec![id];
    let mut index = 0;
    while index < all.len() {
        let path = format!("/proc/{0}/task/{0}/children", all[index]);
        let children = std::fs::read_to_string(path).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        index += 1;
    }
    all
}

fn cpu_of(id: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{id}/task")) else {
        return Duration::ZERO;
    };
    let nanos = tasks.flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

fn status_field(id: u32, name: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// Asks the kernel to run a process (0: the calling thread) on one processor only.
pub(crate) fn pin(id: u32, cpu: usize) {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu.min(cpus - 1));
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap_or(0));
    let _best_effort = rustix::thread::sched_setaffinity(id, &set);
}

/// Waits until somebody listens.
pub(crate) fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs a backend in a thread of its own on processor 0: it answers every request with `answer`, for ever.
pub(crate) fn start_backend(answer: Vec<u8>) -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.set_nonblocking(true).expect("a socket option");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        pin(0, 0);
        on_this_thread(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let answer: Arc<[u8]> = answer.into();
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                tokio::spawn(answer_all(socket, Arc::clone(&answer)));
            }
        });
    });
    address
}

async fn answer_all(mut socket: TcpStream, answer: Arc<[u8]>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        read_message(&mut socket, &mut buffer).await?;
        socket.write_all(&answer).await?;
    }
}

/// Reads one HTTP message with a `Content-Length` (or none: no body) and removes it from the buffer.
async fn read_message(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<u16> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let (length, status) = head_facts(&buffer[..end]);
            while buffer.len() < end + 4 + length {
                more(socket, buffer).await?;
            }
            buffer.drain(..end + 4 + length);
            return Ok(status);
        }
        more(socket, buffer).await?;
    }
}

async fn more(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    match socket.read_buf(buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

fn head_facts(head: &[u8]) -> (usize, u16) {
    let text = String::from_utf8_lossy(head);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())
            .flatten()
    });
    (length.unwrap_or(0), status)
}

/// Runs a future on the calling thread.
pub(crate) fn on_this_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// What one round of load saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    /// CPU time of the process under test for each request.
    pub(crate) cpu: Duration,
    /// Requests per second of wall-clock time.
    pub(crate) rate: f64,
}

/// Sends `total` requests over `connections` kept-alive connections, one after the other on each, and checks that
/// each is answered with 200.
pub(crate) fn load(process: &Process, address: SocketAddr, request: &[u8], connections: usize, total: usize) -> Round {
    let request: Arc<[u8]> = request.into();
    let (before, started) = (process.cpu(), Instant::now());
    on_this_thread(async {
        let local = tokio::task::LocalSet::new();
        let mut workers = Vec::new();
        for _ in 0..connections {
            let request = Arc::clone(&request);
            workers.push(local.spawn_local(async move {
                let mut socket = TcpStream::connect(address).await?;
                socket.set_nodelay(true)?;
                let mut buffer = Vec::with_capacity(64 * 1024);
                for _ in 0..total / connections {
                    socket.write_all(&request).await?;
                    let status = read_message(&mut socket, &mut buffer).await?;
                    assert_eq!(status, 200, "every request must be answered");
                }
                io::Result::Ok(())
            }));
        }
        local
            .run_until(async {
                for worker in workers {
                    worker.await.expect("no panic").expect("no broken connection");
                }
            })
            .await;
    });
    let requests = (total / connections * connections) as u32;
    Round {
        cpu: (process.cpu() - before) / requests,
        rate: f64::from(requests) / started.elapsed().as_secs_f64(),
    }
}

/// The middle one.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    sorted[sorted.len() / 2]
}

/// nginx as a plain reverse proxy with kept-alive connections to the backend, one worker.
pub(crate) fn start_nginx(folder: &Path, port: u16, backend: SocketAddr, cpu: usize) -> Process {
    let text = format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log /dev/null;
         events {{ worker_connections 4096; }}
         http {{
           access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/f;
           uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; keepalive_requests 10000000; client_max_body_size 0;
           upstream backend {{ server {backend}; keepalive 256; keepalive_requests 10000000; }}
           server {{ listen 127.0.0.1:{port};
             location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, text).expect("a writable folder");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).arg("-p").arg(folder);
    let process = Process::start(command, cpu);
    wait_for(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    process
}
