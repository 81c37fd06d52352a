//! An expression and a document: nothing may panic or take longer than its budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openhim_node::pattern::xpath::XPath;

fuzz_target!(|input: (&str, &str)| {
    let (expression, xml) = input;
    if let Ok(expression) = XPath::compile(expression, 10_000) {
        expression.text(xml);
    }
});
