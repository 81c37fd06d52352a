//! What an administrator pastes: certificates and keys in PEM form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::crypto::{certificate, chain, private_key};

fuzz_target!(|text: &str| {
    certificate::split_pem(text);
    if let Ok(certificates) = certificate::chain_from_pem(text) {
        for der in &certificates {
            assert!(certificate::Certificate::from_der(der).is_ok());
        }
        let _ = chain::verify(&certificates, &certificates, chain::Purpose::Client, 1_893_456_000_000);
    }
    if let Ok(key) = private_key::from_pem(text, Some("secret")) {
        let _ = private_key::fits(&key, b"");
    }
});
