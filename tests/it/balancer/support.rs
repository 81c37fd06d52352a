//! Backends that do as they are told, and a balancer in front of them.

use std::net::SocketAddr;
use std::time::Duration;

use openhim_balancer::{Balancer, Config, Report, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// Longest time anything here may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A backend that says its name to everyone who connects, then echoes until the client has finished.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    pub(crate) async fn start() -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(address).expect("a free port");
        let listener = socket.listen(1024).expect("a listener");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(greet_and_echo(stream, address));
            }
        });
        Self { address, task }
    }

    /// Refuses connections from now on; those that are open stay.
    pub(crate) async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

async fn greet_and_echo(mut stream: TcpStream, address: SocketAddr) {
    if stream.write_all(format!("{address}\n").as_bytes()).await.is_err() {
        return;
    }
    let (mut from, mut to) = stream.split();
    let _ = tokio::io::copy(&mut from, &mut to).await;
    let _ = to.shutdown().await;
}

/// A balancer with these options, without the control socket and with metrics on a free port.
pub(crate) async fn balancer(options: &[(&str, &str)]) -> Running {
    let base = [
        ("listen", "127.0.0.1:0"),
        ("metrics", "127.0.0.1:0"),
        ("admin", "off"),
        ("log", "off"),
    ];
    let given = |name: &str| options.iter().any(|(it, _)| *it == name);
    let all = base
        .into_iter()
        .filter(|(name, _)| !given(name))
        .chain(options.iter().copied());
    run(Config::from_options(all)).await
}

pub(crate) async fn run(config: Config) -> Running {
    let shutdown = Shutdown::default();
    let balancer = Balancer::start(config, shutdown.clone())
        .await
        .expect("the balancer starts");
    within("first checks", balancer.ready()).await;
    Running { balancer, shutdown }
}

pub(crate) struct Running {
    pub(crate) balancer: Balancer,
    pub(crate) shutdown: Shutdown,
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.balancer.addresses()[0].address
    }

    pub(crate) async fn report(&self) -> Report {
        self.balancer.report().await.expect("it runs")
    }

    /// Connects, reads who answers, and leaves; `None` when it is turned away.
    pub(crate) async fn ask(&self) -> Option<SocketAddr> {
        // A reset may come before the connect has returned.
        let stream = within("a connect", TcpStream::connect(self.address())).await.ok()?;
        let mut client = Client { stream };
        let name = client.name().await;
        client.finish().await;
        name
    }

    /// Waits until the report is as it should be.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut(&Report) -> bool) -> Report {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let report = self.report().await;
            if is_so(&report) {
                return report;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{what} did not come to pass: {report:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the backend's state is this word.
    pub(crate) async fn until_state(&self, backend: SocketAddr, state: &str) {
        let address = backend.to_string();
        self.until(&format!("{backend} {state}"), |report| {
            report
                .services
                .iter()
                .flat_map(|it| &it.backends)
                .any(|it| it.address == address && it.state == state)
        })
        .await;
    }
}

/// A client of [`Backend`].
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = within("a connect", TcpStream::connect(to))
            .await
            .expect("the balancer accepts");
        Self { stream }
    }

    /// The name of the backend behind; `None` when the connection was closed or reset instead.
    pub(crate) async fn name(&mut self) -> Option<SocketAddr> {
        let mut line = Vec::new();
        loop {
            match within("a greeting", self.stream.read_u8()).await {
                Ok(b'\n') => return String::from_utf8_lossy(&line).parse().ok(),
                Ok(byte) => line.push(byte),
                Err(_) => return None,
            }
        }
    }

    /// Sends and expects the same back.
    pub(crate) async fn echo(&mut self, text: &[u8]) {
        within("sending", self.stream.write_all(text))
            .await
            .expect("the connection stands");
        let mut back = vec![0; text.len()];
        within("an echo", self.stream.read_exact(&mut back))
            .await
            .expect("the connection stands");
        assert_eq!(back, text);
    }

    /// Finishes and waits for the other side to finish.
    pub(crate) async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = within("the end", self.stream.read_to_end(&mut rest)).await;
    }
}

/// What `future` gives, within the deadline.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {DEADLINE:?}"))
}

/// An address that refuses connections, and that nobody else can get meanwhile.
pub(crate) struct Refusing {
    pub(crate) address: SocketAddr,
    _socket: TcpSocket,
}

impl Refusing {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self {
            address: socket.local_addr().expect("bound"),
            _socket: socket,
        }
    }
}

/// The option `backends` for these.
pub(crate) fn list(backends: &[&Backend]) -> String {
    backends
        .iter()
        .map(|it| it.address.to_string())
        .collect::<Vec<_>>()
        .join(",")
}
