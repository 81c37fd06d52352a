//! `client_ip: transparent`: backends see the client's address, on a network that brings their answers back.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::process::Process;
use crate::support::netns::Net;
use crate::support::{eventually, parts};

const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 100);

#[test]
fn a_backend_sees_the_clients_address_without_any_header() {
    if !Net::is_possible() {
        return parts::skip("network namespaces (root and the commands `ip`, `tc`, `nft`)");
    }
    let net = Net::build(&[
        ("balancer", &[BALANCER]),
        ("backend", &[BACKEND]),
        ("client", &[CLIENT]),
    ]);
    // As README.md tells: answers to clients go by way of the balancer, which takes them for its own.
    net.set_up("backend", "ip route add 10.0.0.100/32 via 10.0.0.1");
    net.set_up("balancer", "ip rule add fwmark 1 lookup 100");
    net.set_up("balancer", "ip route add local 0.0.0.0/0 dev lo table 100");
    net.set_up(
        "balancer",
        "nft table ip openhim { chain prerouting { type filter hook prerouting priority mangle; \
         ip saddr 10.0.0.2 tcp sport 5000 meta mark set 1; }; }",
    );
    let peers: Arc<Mutex<Vec<IpAddr>>> = Arc::default();
    let seen = Arc::clone(&peers);
    let _detached = net.run_on("backend", move || {
        let listener = TcpListener::bind((BACKEND, 5000)).expect("a free port");
        while let Ok((mut stream, peer)) = listener.accept() {
            let peer = peer.ip();
            seen.lock().expect("no panic").push(peer);
            let _ = stream.write_all(format!("hello {peer}").as_bytes());
        }
    });
    let balancer = Process::start_by(
        |program| {
            let mut command = net.command("balancer", program.get_program());
            command.args(program.get_args());
            command
        },
        "  - { name: s, listen: '10.0.0.1:5000', backends: ['10.0.0.2:5000'], client_ip: transparent }\n",
    );
    balancer.until_state(SocketAddr::from((BACKEND, 5000)), "up");

    let ask = || {
        let mut stream = TcpStream::connect((BALANCER, 5000)).expect("accepted");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("a proper end");
        answer
    };
    let answer = net.run_on("client", ask).join().expect("no panic");

    assert_eq!(answer, format!("hello {CLIENT}"));
    eventually("the backend knows", || {
        peers
            .lock()
            .expect("no panic")
            .contains(&IpAddr::from(CLIENT))
            .then_some(())
    });
}
