//! The proxies, each started with one thread on one processor.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::load::{Identity, Load, Mode};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Ours,
    Haproxy,
    HaproxySplice,
    Nginx,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Ours, Self::Haproxy, Self::HaproxySplice, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Haproxy => "haproxy",
            Self::HaproxySplice => "haproxy splice",
            Self::Nginx => "nginx",
        }
    }
}

/// A running proxy; killed when dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    child: Child,
    pid: u32,
    _folder: TempDir,
}

impl Proxy {
    /// Starts a proxy in front of a backend; `None`: it is not installed.
    pub(crate) async fn start(
        kind: Kind,
        mode: Mode,
        identity: &Identity,
        ours: &str,
        load: &Load,
        cpu: usize,
    ) -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let backend = load.backend().await?;
        fs::write(folder.path().join("crt"), &identity.certificate)?;
        fs::write(folder.path().join("key"), &identity.key)?;
        fs::write(
            folder.path().join("pair"),
            format!("{}{}", identity.certificate, identity.key),
        )?;
        let Some(command) = command(kind, mode, ours, address, backend, folder.path())? else {
            return Ok(None);
        };
        let mut child = Command::new("taskset")
            .arg("--cpu-list")
            .arg(cpu.to_string())
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("stderr"))?)
            .spawn()
            .context("taskset (util-linux) is needed to pin the proxies")?;
        if let Err(error) = until_it_answers(load, address, &mut child).await {
            let said = fs::read_to_string(folder.path().join("stderr")).unwrap_or_default();
            let _ = child.kill();
            return Err(error.context(format!("{}: {said}", kind.name())));
        }
        // nginx has a master beside the worker.
        let pid = if kind == Kind::Nginx {
            only_child(child.id())?
        } else {
            child.id()
        };
        Ok(Some(Self {
            address,
            child,
            pid,
            _folder: folder,
        }))
    }

    /// The process that does the work.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.pid != self.child.id() {
            // The worker does not outlive its master for long, but the address must be free at once.
            let _ = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<SocketAddr> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

/// Program and arguments.
fn command(
    kind: Kind,
    mode: Mode,
    ours: &str,
    address: SocketAddr,
    backend: SocketAddr,
    folder: &Path,
) -> Result<Option<Vec<String>>> {
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Ok(match kind {
        Kind::Ours => {
            let (address, backend) = (address.to_string(), backend.to_string());
            let mut command = words(&[ours, "balancer", "--listen", &address, "--backends", &backend]);
            command.extend(words(&["--threads", "1", "--admin", "off"]));
            // In http mode all of them write a line for each request.
            command.extend(match mode {
                Mode::Tcp => words(&["--metrics", "off", "--log", "off"]),
                Mode::Http => words(&["--mode", "http", "--metrics", "127.0.0.1:0", "--log", "json"]),
                Mode::Tls => {
                    let file = |name: &str| folder.join(name).display().to_string();
                    let mut words = words(&["--metrics", "off", "--log", "off"]);
                    words.extend([
                        "--tls-cert".to_owned(),
                        file("crt"),
                        "--tls-key".to_owned(),
                        file("key"),
                    ]);
                    words
                }
            });
            Some(command)
        }
        Kind::Haproxy if mode == Mode::Http => {
            let config = write(
                "haproxy.cfg",
                format!(
                    "global\n  nbthread 1\n  maxconn 4000\n  log stdout format raw local0\ndefaults\n  mode http\n  log \
                     global\n  option httplog\n  option forwardfor\n  http-reuse always\n  timeout connect 5s\n  \
                     timeout client 300s\n  timeout server 300s\nlisten bench\n  bind {address}\n  server one \
                     {backend}\n"
                ),
            )?;
            let program = find("haproxy");
            program.map(|program| words(&[&program, "-db", "-f", &config]))
        }
        Kind::HaproxySplice if mode != Mode::Tcp => None,
        Kind::Nginx if mode == Mode::Http => {
            let folder = folder.display();
            let config = write(
                "nginx.conf",
                format!(
                    "daemon off;\nworker_processes 1;\nworker_rlimit_nofile 16000;\npid {folder}/pid;\nerror_log stderr \
                     crit;\nevents {{ worker_connections 8192; }}\nhttp {{\n  access_log {folder}/access;\n  \
                     client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path \
                     {folder}/f;\n  uwsgi_temp_path {folder}/u;\n  scgi_temp_path {folder}/s;\n  upstream one {{ server \
                     {backend}; keepalive 64; keepalive_requests 100000000; }}\n  server {{\n    listen {address} \
                     backlog=4096;\n    keepalive_requests 100000000;\n    keepalive_timeout 300s;\n    location / {{ \
                     proxy_pass http://one; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header \
                     X-Forwarded-For $remote_addr; }}\n  }}\n}}\n"
                ),
            )?;
            find("nginx").map(|program| words(&[&program, "-e", "stderr", "-c", &config]))
        }
        Kind::Haproxy | Kind::HaproxySplice => {
            let splice = match kind {
                Kind::HaproxySplice => "  option splice-request\n  option splice-response\n",
                _ => "",
            };
            let tls = match mode {
                Mode::Tls => format!(" ssl crt {}/pair", folder.display()),
                _ => String::new(),
            };
            let config = write(
                "haproxy.cfg",
                format!(
                    "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n{splice}  timeout connect 5s\n  \
                     timeout client 300s\n  timeout server 300s\nlisten bench\n  bind {address}{tls}\n  server one \
                     {backend}\n"
                ),
            )?;
            let program = find("haproxy");
            program.map(|program| words(&[&program, "-db", "-q", "-f", &config]))
        }
        Kind::Nginx => {
            let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
            if !Path::new(module).exists() {
                return Ok(None);
            }
            let folder = folder.display();
            let (tls, files) = match mode {
                Mode::Tls => (
                    " ssl",
                    format!("ssl_certificate {folder}/crt; ssl_certificate_key {folder}/key; ssl_protocols TLSv1.3;"),
                ),
                _ => ("", String::new()),
            };
            let config = write(
                "nginx.conf",
                format!(
                    "load_module {module};\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile 16000;\npid \
                     {folder}/pid;\nerror_log stderr crit;\nevents {{ worker_connections 8192; }}\nstream {{\n  \
                     server {{ listen {address}{tls} backlog=4096; {files} proxy_pass {backend}; proxy_timeout 300s; \
                     }}\n}}\n"
                ),
            )?;
            find("nginx").map(|program| words(&[&program, "-e", "stderr", "-c", &config]))
        }
    })
}

fn find(program: &str) -> Option<String> {
    let folders = ["/usr/sbin", "/usr/local/sbin", "/usr/bin", "/usr/local/bin"];
    folders
        .iter()
        .map(|folder| format!("{folder}/{program}"))
        .find(|path| Path::new(path).exists())
}

/// Waits until a connection through the proxy carries something.
async fn until_it_answers(load: &Load, address: SocketAddr, child: &mut Child) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait()? {
            bail!("ended at once: {status}");
        }
        if load.requests(address, 1, 1, 100).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("does not answer")
}

fn only_child(parent: u32) -> Result<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
    Ok(children.trim().parse()?)
}
