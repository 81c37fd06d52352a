//! A configuration and a backends file of the balancer, as an operator may have left them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use openhim_balancer::config::{Config, backends};

fuzz_target!(|text: &str| {
    let path = Path::new("balancer.yaml");
    if let Ok(config) = Config::from_text(text, path) {
        let _ = config.check();
    }
    match backends::parse(text, path) {
        Ok(backends) => assert!(!backends.is_empty()),
        Err(problems) => assert!(problems.iter().next().is_some()),
    }
});
