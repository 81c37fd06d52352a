//! Rules in ipvsadm's language: whatever is wrong is inside the text, and what is right survives being saved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_balancer::ipvsadm::{self, DEFAULT_SCHEDULE, Numbers, Server, Service};
use openhim_balancer::plan::Endpoint;

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.lines().collect();
    if let Err(errors) = ipvsadm::parse_rules(text) {
        for error in errors {
            let length = lines[error.line - 1].chars().count();
            assert!((1..=length + 1).contains(&error.column), "{error}");
        }
    }
    let _ = ipvsadm::parse_command(&text.split(' ').collect::<Vec<_>>());
    let Ok(services) = ipvsadm::parse_saved(text) else {
        return;
    };
    let shown: Vec<Service> = services
        .iter()
        .map(|saved| Service {
            service: saved.service,
            schedule: saved.options.schedule.unwrap_or(DEFAULT_SCHEDULE),
            persistence: saved.options.persistence,
            totals: Numbers::default(),
            rates: Numbers::default(),
            servers: saved
                .servers
                .iter()
                .filter_map(|(endpoint, options)| match endpoint {
                    Endpoint::Address(address) => Some(Server {
                        address: *address,
                        weight: options.weight.unwrap_or(1),
                        upper: options.upper.unwrap_or(0),
                        lower: options.lower.unwrap_or(0),
                        active: 0,
                        inactive: 0,
                        persistent: 0,
                        totals: Numbers::default(),
                        rates: Numbers::default(),
                    }),
                    _ => None,
                })
                .collect(),
            unresolved: Vec::new(),
        })
        .collect();
    let once = ipvsadm::save(&shown);
    let again = ipvsadm::parse_saved(&once).expect("what is saved can be restored");
    assert_eq!(again.len(), shown.len());
    for (again, shown) in again.iter().zip(&shown) {
        assert_eq!(again.service, shown.service);
        assert_eq!(again.options.persistence, shown.persistence);
        assert_eq!(again.servers.len(), shown.servers.len());
    }
});
