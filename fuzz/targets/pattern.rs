//! A pattern, a text and a template: nothing may panic or take longer than its budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::pattern::Pattern;

fuzz_target!(|input: (&str, &str, &str)| {
    let (pattern, text, template) = input;
    if let Ok(pattern) = Pattern::compile(pattern, 10_000) {
        pattern.is_match(text);
        pattern.replace(text, template, true);
    }
});
