//! The log: one line a connection, which tells how it was and by whose doing it ended.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;

use serde_json::Value;

use super::messages::Taker;
use super::process::Process;
use crate::support::{SOON, eventually, free_port};

/// A client that has had its message answered.
fn served(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("accepted");
    stream.set_read_timeout(Some(SOON)).expect("an option");
    stream.write_all(b"message 5\nhello").expect("sent");
    stream.read_exact(&mut [0; 10]).expect("an answer");
    stream
}

#[test]
fn each_connection_has_one_line_with_its_end_and_whose_doing_that_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let local = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let (mut taker, listen) = (Taker::start(Command::new, local(), folder.path()), local());
    eventually("the backend listens", || TcpStream::connect(taker.address).ok());
    let balancer = Process::start_by(
        |mut program| {
            program.args(["--log", "json"]);
            program
        },
        &format!(
            "  - {{ name: s, listen: '{listen}', backends: ['{}'], retries: 0 }}\n",
            taker.address
        ),
    );
    balancer.until_state(taker.address, "up");
    let line_of = |client: SocketAddr| -> Value {
        let about = format!("\"client\":\"{client}\"");
        let line = eventually("the connection has its line", || {
            let all = balancer.running.stdout.all();
            all.lines().find(|line| line.contains(&about)).map(str::to_owned)
        });
        assert_eq!(balancer.running.stdout.all().matches(&about).count(), 1, "{line}");
        serde_json::from_str(&line).expect("JSON")
    };
    let end_of = |line: &Value| [line["by"].clone(), line["end"].clone()];

    let mut client = served(listen);
    let me = client.local_addr().expect("connected");
    client.shutdown(Shutdown::Write).expect("it stands");
    client.read_to_end(&mut Vec::new()).expect("a proper end");
    let line = line_of(me);
    let answer = taker.address.to_string().len() + 1 + 5;
    assert_eq!(
        (
            &line["service"],
            &line["backend"],
            &line["bytes_in"],
            &line["bytes_out"],
            &line["retries"]
        ),
        (
            &"s".into(),
            &taker.address.to_string().into(),
            &15.into(),
            &answer.into(),
            &0.into()
        )
    );
    assert_eq!(end_of(&line), ["client", "closed"]);
    for time in ["queue_ms", "connect_ms", "total_ms"] {
        assert!(
            line[time].as_f64().is_some_and(|it| (0.0..20_000.0).contains(&it)),
            "{line}"
        );
    }

    let client = served(listen);
    let me = client.local_addr().expect("connected");
    assert!(balancer.say("kill-sessions").is_ok);
    assert_eq!(end_of(&line_of(me)), ["operator", "killed"]);

    let mut client = served(listen);
    let me = client.local_addr().expect("connected");
    taker.kill();
    client
        .read_to_end(&mut Vec::new())
        .expect("what a process leaves behind is closed");
    drop(client);
    assert_eq!(end_of(&line_of(me)), ["backend", "closed"]);

    let client = TcpStream::connect(listen);
    if let Some(me) = client.as_ref().ok().and_then(|it| it.local_addr().ok()) {
        let line = line_of(me);
        assert_eq!(
            (&line["by"], &line["bytes_in"]),
            (&"backend".into(), &0.into()),
            "{line}"
        );
        assert_eq!(line["end"], "connect-failed", "{line}");
    }
}
