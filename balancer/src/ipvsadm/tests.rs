use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn parse(line: &str) -> Result<Command, RuleError> {
    parse_command(&line.split(' ').collect::<Vec<_>>())
}

fn tcp(address: &str) -> Virtual {
    Virtual {
        protocol: Protocol::Tcp,
        address: address.parse().unwrap(),
    }
}

fn server(address: &str) -> Endpoint {
    Endpoint::Address(address.parse().unwrap())
}

/// What the guide's user types, with ipvsadm in front as in a script.
const GUIDE: &str = "\
ipvsadm -A -t 10.0.0.1:5000 -s rr
ipvsadm -a -t 10.0.0.1:5000 -r 10.0.0.2:5000 -m
ipvsadm -a -t 10.0.0.1:5000 -r 10.0.0.3:5000 -m
ipvsadm -a -t 10.0.0.1:5000 -r 10.0.0.4:5000 -m
ipvsadm -a -t 10.0.0.1:5000 -r 10.0.0.5:5000 -m
";

/// What `ipvsadm -S -n` prints.
const SAVED: &str = "\
-A -t 10.0.0.1:5000 -s rr -p 300
-a -t 10.0.0.1:5000 -r 10.0.0.2:5000 -m -w 1
-a -t 10.0.0.1:5000 -r 10.0.0.3:5000 -m -w 0
-A -u 10.0.0.1:5050 -s wlc
-a -u 10.0.0.1:5050 -r 10.0.0.2:5050 -m -w 3
-A -t [2001:db8::1]:5001 -s mh
-a -t [2001:db8::1]:5001 -r [2001:db8::2]:5001 -m -w 1
";

#[test]
fn the_commands_of_the_guide_make_its_service() {
    let services = parse_saved(GUIDE).unwrap();

    let [service] = &services[..] else {
        panic!("{services:?}")
    };
    assert_eq!(service.service, tcp("10.0.0.1:5000"));
    assert_eq!(service.options.schedule, Some(Schedule::Rr));
    let servers: Vec<_> = service.servers.iter().map(|(server, _)| server.to_string()).collect();
    assert_eq!(
        servers,
        ["10.0.0.2:5000", "10.0.0.3:5000", "10.0.0.4:5000", "10.0.0.5:5000"]
    );
}

#[test]
fn a_saved_set_of_rules_becomes_services() {
    let services = parse_saved(SAVED).unwrap();

    let shown: Vec<_> = services
        .iter()
        .map(|it| {
            (
                it.service.protocol,
                it.service.address.to_string(),
                it.options,
                it.servers.len(),
            )
        })
        .collect();
    let options = |schedule, persistence: Option<u64>| ServiceOptions {
        schedule: Some(schedule),
        persistence: persistence.map(Duration::from_secs),
    };
    assert_eq!(
        shown,
        [
            (
                Protocol::Tcp,
                "10.0.0.1:5000".to_owned(),
                options(Schedule::Rr, Some(300)),
                2
            ),
            (
                Protocol::Udp,
                "10.0.0.1:5050".to_owned(),
                options(Schedule::Wlc, None),
                1
            ),
            (
                Protocol::Tcp,
                "[2001:db8::1]:5001".to_owned(),
                options(Schedule::Mh, None),
                1
            ),
        ]
    );
    let quiesced = ServerOptions {
        weight: Some(0),
        ..ServerOptions::default()
    };
    assert_eq!(services[0].servers[1], (server("10.0.0.3:5000"), quiesced));
}

#[test]
fn every_command_is_understood() {
    let service = || tcp("10.0.0.1:80");
    let cases = [
        (
            "-A -t 10.0.0.1:80",
            Command::AddService(service(), ServiceOptions::default()),
        ),
        (
            "-E -t 10.0.0.1:80 -s wrr -p",
            Command::EditService(
                service(),
                ServiceOptions {
                    schedule: Some(Schedule::Wrr),
                    persistence: Some(DEFAULT_PERSISTENCE),
                },
            ),
        ),
        ("-D -t 10.0.0.1:80", Command::DeleteService(service())),
        ("-C", Command::Clear),
        ("--clear", Command::Clear),
        (
            "-e -t 10.0.0.1:80 -r node:81 -m -w 7 -x 100 -y 80",
            Command::EditServer(
                service(),
                "node:81".parse().unwrap(),
                ServerOptions {
                    weight: Some(7),
                    upper: Some(100),
                    lower: Some(80),
                },
            ),
        ),
        (
            "-d -t 10.0.0.1:80 -r 10.0.0.2:81",
            Command::DeleteServer(service(), server("10.0.0.2:81")),
        ),
        ("-S -n", Command::Save),
        ("-Sn", Command::Save),
        ("-R", Command::Restore),
        ("-Z", Command::Zero(None)),
        ("-Z -t 10.0.0.1:80", Command::Zero(Some(service()))),
        ("--set 900 120 300", Command::SetTimeouts([900, 120, 300])),
        ("-Ln", Command::List(Listing::default())),
        ("-l", Command::List(Listing::default())),
        (
            "-L -n --stats --exact",
            Command::List(Listing {
                table: Table::Stats,
                exact: true,
                ..Listing::default()
            }),
        ),
        (
            "-L --rate",
            Command::List(Listing {
                table: Table::Rate,
                ..Listing::default()
            }),
        ),
        (
            "-Lnc",
            Command::List(Listing {
                table: Table::Connections,
                ..Listing::default()
            }),
        ),
        (
            "-L --timeout",
            Command::List(Listing {
                table: Table::Timeouts,
                ..Listing::default()
            }),
        ),
        (
            "-L --sort --json",
            Command::List(Listing {
                sort: true,
                json: true,
                ..Listing::default()
            }),
        ),
        (
            "-L -t 10.0.0.1:80",
            Command::List(Listing {
                service: Some(service()),
                ..Listing::default()
            }),
        ),
    ];
    for (line, command) in cases {
        assert_eq!(parse(line), Ok(command), "{line}");
    }
}

#[test]
fn long_names_joined_letters_and_attached_values_mean_the_same() {
    let plain = parse("-A -t 10.0.0.1:80 -s sh -p 60").unwrap();
    for line in [
        "--add-service --tcp-service 10.0.0.1:80 --scheduler sh --persistent 60",
        "--add-service --tcp-service=10.0.0.1:80 --scheduler=sh --persistent=60",
        "-At 10.0.0.1:80 -ssh -p60",
        "-A -p 60 -s sh -t 10.0.0.1:http",
        "-A -t 10.0.0.1:80 -s sh -p 60 -b sh-fallback -M 255.255.255.255",
    ] {
        assert_eq!(parse(line), Ok(plain.clone()), "{line}");
    }
}

#[test]
fn names_are_understood_where_they_can_be() {
    assert_eq!(
        parse("-Z -t localhost:commplex-main"),
        Ok(Command::Zero(Some(tcp("127.0.0.1:5000"))))
    );
    assert_eq!(parse("-Z -t :5000"), Ok(Command::Zero(Some(tcp("0.0.0.0:5000")))));
    let named = parse("-d -t 10.0.0.1:80 -r node-1.clinic.example:webcache").unwrap();
    assert_eq!(
        named,
        Command::DeleteServer(tcp("10.0.0.1:80"), "node-1.clinic.example:8080".parse().unwrap())
    );
}

#[test]
fn schedulers_of_ipvs_without_a_twin_become_the_nearest_or_say_what_to_use() {
    let schedule = |name: &str| match parse(&format!("-A -t 10.0.0.1:80 -s {name}")) {
        Ok(Command::AddService(_, options)) => Ok(options.schedule.unwrap()),
        other => Err(other.unwrap_err().reason),
    };
    assert_eq!(schedule("sed"), Ok(Schedule::Wlc));
    assert_eq!(schedule("twos"), Ok(Schedule::P2c));
    assert_eq!(schedule("ovf"), Ok(Schedule::First));
    assert_eq!(schedule("p2c"), Ok(Schedule::P2c));
    assert_eq!(schedule("lblcr"), Err(Reason::CacheSchedule("lblcr".to_owned())));
    assert_eq!(schedule("fo"), Err(Reason::FailoverSchedule));
    assert_eq!(schedule("robin"), Err(Reason::Schedule("robin".to_owned())));
}

#[test]
fn what_is_wrong_is_said_with_its_column() {
    let text = str::to_owned;
    let cases = [
        ("", 1, Reason::NoCommand),
        ("-t 10.0.0.1:80", 1, Reason::NoCommand),
        ("-A -D -t 10.0.0.1:80", 4, Reason::SecondCommand(text("-D"))),
        ("-A -t 10.0.0.1:80 -K", 19, Reason::UnknownOption(text("-K"))),
        ("-A --tcp 10.0.0.1:80", 4, Reason::UnknownOption(text("--tcp"))),
        ("-A -t 10.0.0.1:80 rr", 19, Reason::NoOption(text("rr"))),
        ("-A -t 10.0.0.1:80 -w 3", 19, Reason::Misplaced(text("-w"))),
        ("-A -t 10.0.0.1:80 -s rr -s rr", 25, Reason::Twice(text("-s"))),
        ("-A -t", 4, Reason::NoValue(text("-t"))),
        ("-C --clear=1", 4, Reason::NeedlessValue(text("--clear=1"))),
        ("-A -s rr", 1, Reason::NoService),
        ("-a -t 10.0.0.1:80", 1, Reason::NoServer),
        ("-A -t 10.0.0.1", 7, Reason::AllPorts),
        ("-A -t 10.0.0.1:0 -p", 7, Reason::AllPorts),
        ("-A -t 10.0.0.1:99999", 7, Reason::Address(text("10.0.0.1:99999"))),
        ("-A -t 10.0.0.1:+80", 7, Reason::Address(text("10.0.0.1:+80"))),
        ("-At 10.0.0.1:80 -wxx", 17, Reason::Misplaced(text("-w"))),
        ("-A -t10.0.0.1", 6, Reason::AllPorts),
        ("-A -t 2001:db8::1:80", 7, Reason::Address(text("2001:db8::1:80"))),
        ("-A -t [2001:db8::1:80", 7, Reason::Address(text("[2001:db8::1:80"))),
        ("-A -t vip.example:80", 7, Reason::ServiceName(text("vip.example"))),
        ("-A -t 10.0.0.1:finger", 7, Reason::PortName(text("finger"))),
        ("-A -t 10.0.0.1:80 -u 10.0.0.1:80", 22, Reason::Misplaced(text("-u"))),
        ("-a -t 10.0.0.1:80 -r 1.2.3:80", 22, Reason::Address(text("1.2.3:80"))),
        (
            "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -w 65536",
            37,
            Reason::Number {
                value: text("65536"),
                least: 0,
                most: 65_535,
            },
        ),
        (
            "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -x +1",
            37,
            Reason::Number {
                value: text("+1"),
                least: 0,
                most: 2_147_483_647,
            },
        ),
        (
            "-A -t 10.0.0.1:80 -p 0",
            22,
            Reason::Number {
                value: text("0"),
                least: 1,
                most: 2_678_400,
            },
        ),
        ("-A -f 1 -s rr", 4, Reason::FirewallMark),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g -w 1", 34, Reason::DirectRouting),
        ("-a -t 10.0.0.1:80 -r 10.0.0.2:80 -i", 34, Reason::Tunnelling),
        ("-A -t 10.0.0.1:80 -p -M 255.255.255.0", 22, Reason::Netmask),
        ("-A -u 10.0.0.1:53 -o", 19, Reason::PacketOption(text("-o"))),
        (
            "-A -t 10.0.0.1:80 -s mh -b mh-port",
            25,
            Reason::PacketOption(text("-b")),
        ),
        ("--start-daemon master", 1, Reason::SyncDaemon),
        ("--set 1 2", 1, Reason::NoValue(text("--set"))),
        ("--set 1 2 3 4", 13, Reason::NoValue(text("--set"))),
    ];
    for (line, column, reason) in cases {
        assert_eq!(
            parse(line),
            Err(RuleError {
                line: 1,
                column,
                reason
            }),
            "{line}"
        );
    }
}

#[test]
fn all_errors_of_a_text_are_told_with_their_lines() {
    let text = "# by hand\n-A -t 10.0.0.1:80 -s rr\n\n-a -t 10.0.0.1:80 -r 10.0.0.2:80 -g\n  -A -t x:80 # later\n";

    let errors = parse_rules(text).unwrap_err();

    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "line 4, column 34: direct routing (-g) hands packets on as they are, which a proxy cannot; use -m",
            "line 5, column 9: the name `x` cannot be looked up here; write the address as a number, as `ipvsadm -S -n` does",
        ]
    );
}

#[test]
fn a_saved_set_that_does_not_fit_together_is_refused() {
    let text = "\
-A -t 10.0.0.1:80 -s rr
-a -t 10.0.0.1:81 -r 10.0.0.2:80 -m
-A -t 10.0.0.1:80 -s wlc
-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m
-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m
-C
";
    let told: Vec<_> = parse_saved(text)
        .unwrap_err()
        .into_iter()
        .map(|error| (error.line, error.reason))
        .collect();
    assert_eq!(
        told,
        [
            (2, Reason::UnknownService),
            (3, Reason::SecondService(1)),
            (5, Reason::SecondServer),
            (6, Reason::NotSaved),
        ]
    );
}

#[test]
fn a_text_without_end_is_not_read_to_its_end() {
    let line = "-A -t 10.0.0.1:80 ".repeat(1000);
    assert_eq!(parse_rules(&line).unwrap_err()[0].reason, Reason::LineLength(4096));
    let lines = "#\n".repeat(100_001);
    assert_eq!(parse_rules(&lines).unwrap_err()[0].reason, Reason::TooMany(100_000));
}

fn shown() -> Vec<Service> {
    let numbers = |connections, bytes_in, bytes_out| Numbers {
        connections,
        bytes_in,
        bytes_out,
        ..Numbers::default()
    };
    let node = |address: &str, weight, active| Server {
        address: address.parse().unwrap(),
        weight,
        upper: 0,
        lower: 0,
        active,
        inactive: 1,
        persistent: 2,
        totals: numbers(u64::from(active) * 10, 123_456_789, 1_234_567_890_123),
        rates: numbers(3, 4000, 5_000_000),
    };
    vec![
        Service {
            service: tcp("10.0.0.1:5000"),
            schedule: Schedule::Rr,
            persistence: Some(Duration::from_secs(300)),
            totals: numbers(110, 99_999_999, 100_000_000),
            rates: numbers(6, 8000, 10_000_000),
            unresolved: Vec::new(),
            servers: vec![node("10.0.0.12:5000", 1, 11), node("10.0.0.2:5000", 100, 0)],
        },
        Service {
            service: Virtual {
                protocol: Protocol::Udp,
                address: "[::1]:5050".parse().unwrap(),
            },
            schedule: Schedule::P2c,
            persistence: None,
            totals: Numbers::default(),
            rates: Numbers::default(),
            unresolved: Vec::new(),
            servers: vec![Server {
                upper: 100,
                lower: 80,
                ..node("[2001:db8::2]:5050", 1, 0)
            }],
        },
    ]
}

#[test]
fn tables_are_ipvsadms_to_the_column() {
    let version = format!("IP Virtual Server version {} (size=0)\n", env!("CARGO_PKG_VERSION"));
    let table = |table| {
        list(
            &shown(),
            &Listing {
                table,
                ..Listing::default()
            },
        )
    };

    let expected = "\
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.0.1:5000 rr persistent 300
  -> 10.0.0.12:5000               Proxy   1      11         1         \n  -> 10.0.0.2:5000                Proxy   100    0          1         \nUDP  [::1]:5050 twos
  -> [2001:db8::2]:5050           Proxy   1      0          1         \n";
    assert_eq!(table(Table::Servers), version.clone() + expected);

    let expected = "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  10.0.0.1:5000                     110        0        0 99999999  100000K
  -> 10.0.0.12:5000                    110        0        0  123456K 1234567M
  -> 10.0.0.2:5000                       0        0        0  123456K 1234567M
UDP  [::1]:5050                          0        0        0        0        0
  -> [2001:db8::2]:5050                  0        0        0  123456K 1234567M
";
    // 1 234 567 890 123 is beyond the millions that ipvsadm shows as such.
    assert_eq!(
        table(Table::Stats),
        version.clone() + &expected.replace(" 1234567M", "    1234G")
    );

    let expected = "\
Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS
  -> RemoteAddress:Port
TCP  10.0.0.1:5000                       6        0        0     8000 10000000
  -> 10.0.0.12:5000                      3        0        0     4000  5000000
";
    assert!(
        table(Table::Rate).starts_with(&(version.clone() + expected)),
        "{}",
        table(Table::Rate)
    );

    let expected = "\
Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  -> RemoteAddress:Port
TCP  10.0.0.1:5000 rr persistent 300
  -> 10.0.0.12:5000               0          0          11         1         \n";
    assert!(
        table(Table::Thresholds).starts_with(&(version.clone() + expected)),
        "{}",
        table(Table::Thresholds)
    );

    let expected = "\
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  -> RemoteAddress:Port
TCP  10.0.0.1:5000 rr persistent 300
  -> 10.0.0.12:5000               1         2           11         1         \n";
    assert!(table(Table::PersistentConnections).starts_with(&(version + expected)));
}

#[test]
fn one_service_is_shown_alone_exactly_and_in_order() {
    let listing = Listing {
        table: Table::Stats,
        service: Some(tcp("10.0.0.1:5000")),
        exact: true,
        sort: true,
        ..Listing::default()
    };
    let expected = "\
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  10.0.0.1:5000                     110        0        0 99999999 100000000
  -> 10.0.0.2:5000                       0        0        0 123456789 1234567890123
  -> 10.0.0.12:5000                    110        0        0 123456789 1234567890123
";
    assert_eq!(list(&shown(), &listing), expected);
}

#[test]
fn connections_and_timeouts_are_listed() {
    let connection = Connection {
        protocol: Protocol::Tcp,
        expires: Duration::from_secs(899),
        state: "ESTABLISHED",
        client: "192.0.2.77:41000".parse().unwrap(),
        service: "10.0.0.1:5000".parse().unwrap(),
        server: "10.0.0.2:5000".parse().unwrap(),
    };
    let expected = "\
IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:59  ESTABLISHED 192.0.2.77:41000   10.0.0.1:5000      10.0.0.2:5000
";
    assert_eq!(list_connections(&[connection]), expected);
    assert_eq!(
        list_timeouts([900, 120, 300]),
        "Timeout (tcp tcpfin udp): 900 120 300\n"
    );
}

#[test]
fn saved_rules_are_those_of_ipvsadm() {
    let expected = "\
-A -t 10.0.0.1:5000 -s rr -p 300
-a -t 10.0.0.1:5000 -r 10.0.0.12:5000 -m -w 1
-a -t 10.0.0.1:5000 -r 10.0.0.2:5000 -m -w 100
-A -u [::1]:5050 -s twos
-a -u [::1]:5050 -r [2001:db8::2]:5050 -m -w 1 -x 100 -y 80
";
    assert_eq!(save(&shown()), expected);
}

fn any_service() -> impl Strategy<Value = Service> {
    let address = || (any::<IpAddr>(), 1_u16..).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    let server =
        (address(), any::<u16>(), 0_u32..1 << 31, 0_u32..1 << 31).prop_map(|(address, weight, upper, lower)| Server {
            address,
            weight,
            upper,
            lower,
            active: 0,
            inactive: 0,
            persistent: 0,
            totals: Numbers::default(),
            rates: Numbers::default(),
        });
    let schedules: Vec<_> = Schedule::NAMES
        .iter()
        .map(|(_, it)| *it)
        .filter(|it| *it != Schedule::Random)
        .collect();
    (
        any::<bool>(),
        address(),
        prop::sample::select(schedules),
        prop::option::of(1_u64..2_678_400),
        prop::collection::btree_map(address(), server, 0..5),
    )
        .prop_map(|(is_tcp, address, schedule, persistence, servers)| Service {
            service: Virtual {
                protocol: if is_tcp { Protocol::Tcp } else { Protocol::Udp },
                address,
            },
            schedule,
            persistence: persistence.map(Duration::from_secs),
            totals: Numbers::default(),
            rates: Numbers::default(),
            unresolved: Vec::new(),
            servers: servers
                .into_iter()
                .map(|(address, server)| Server { address, ..server })
                .collect(),
        })
}

proptest! {
    #[test]
    fn what_is_saved_is_restored(services in prop::collection::vec(any_service(), 0..4)) {
        let mut services = services;
        services.sort_by_key(|service| service.service);
        services.dedup_by_key(|service| service.service);

        let restored = parse_saved(&save(&services)).map_err(|errors| TestCaseError::fail(format!("{errors:?}")))?;

        prop_assert_eq!(restored.len(), services.len());
        for (restored, service) in restored.iter().zip(&services) {
            prop_assert_eq!(restored.service, service.service);
            prop_assert_eq!(restored.options.schedule, Some(service.schedule));
            prop_assert_eq!(restored.options.persistence, service.persistence);
            let limit = |limit: u32| (limit > 0).then_some(limit);
            let servers: Vec<_> = service
                .servers
                .iter()
                .map(|it| {
                    let (upper, lower) = (limit(it.upper), limit(it.lower));
                    (Endpoint::Address(it.address), ServerOptions { weight: Some(it.weight), upper, lower })
                })
                .collect();
            prop_assert_eq!(&restored.servers, &servers);
        }
    }

    #[test]
    fn nothing_makes_the_parser_panic(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "-", "--", "-A", "-a", "-L", "t", "-t", "p", "=", ":", "[", "]", "::1", "80", " ", "\t", "#", "é", "--set",
                "--stats", "ipvsadm", "\n", "10.0.0.1:80", "\u{2003}", "-r",
            ]),
            0..20,
        ),
    ) {
        let text = pieces.concat();
        let _ = parse_saved(&text);
        let _ = parse_command(&pieces);
        if let Err(errors) = parse_rules(&text) {
            for error in errors {
                let line = text.lines().nth(error.line - 1).unwrap_or_default();
                prop_assert!(error.column >= 1 && error.column <= line.chars().count() + 1, "{} in {:?}", error, line);
            }
        }
    }
}
