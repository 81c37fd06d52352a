//! Upstream's way to override settings on the command line, in ours.
//!
//! OpenHIM takes `--router:httpPort=5001`, `--router:httpPort 5001` and `--bindAddress=::`; clap knows options by name
//! only, so these become `--set router.httpPort=5001` before it looks. What belongs to another command is let be.

use std::ffi::OsString;

/// Keys without a section, which upstream takes as plain options.
const TOP_LEVEL: [&str; 3] = ["bindAddress", "openhimConsoleBaseUrl", "trustedProxies"];

/// Commands that take no settings.
const OTHERS: [&str; 9] = [
    "balancer",
    "completions",
    "man",
    "demo",
    "migrate",
    "backup",
    "restore",
    "export",
    "import",
];

/// Rewrites overrides among the arguments; the first argument is the program's name.
pub(super) fn translate(arguments: Vec<OsString>) -> Vec<OsString> {
    let foreign = arguments
        .iter()
        .skip(1)
        .find_map(|argument| argument.to_str().filter(|text| !text.starts_with('-')));
    if foreign.is_some_and(|command| OTHERS.contains(&command)) {
        return arguments;
    }
    let mut translated = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let Some((key, value)) = argument.to_str().and_then(override_of) else {
            translated.push(argument);
            continue;
        };
        let value = value.map(OsString::from).or_else(|| rest.next());
        translated.push("--set".into());
        let mut setting = OsString::from(key.replace(':', "."));
        if let Some(value) = value {
            setting.push("=");
            setting.push(value);
        }
        translated.push(setting);
    }
    translated
}

/// Key and value of `--a:b=value`; without a value it is the next argument.
fn override_of(argument: &str) -> Option<(String, Option<String>)> {
    let option = argument.strip_prefix("--")?;
    let (key, value) = match option.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (option, None),
    };
    let is_key = key.contains(':') || TOP_LEVEL.contains(&key);
    let is_plain = key
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == ':');
    (is_key && is_plain).then(|| (key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(arguments: &[&str]) -> Vec<String> {
        let all = std::iter::once("openhim-core")
            .chain(arguments.iter().copied())
            .map(OsString::from)
            .collect();
        translate(all)
            .into_iter()
            .skip(1)
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    #[test]
    fn overrides_become_set_options() {
        assert_eq!(
            translated(&[
                "--cluster=auto",
                "--router:httpPort=1",
                "--api:port",
                "2",
                "--bindAddress=::"
            ]),
            [
                "--cluster=auto",
                "--set",
                "router.httpPort=1",
                "--set",
                "api.port=2",
                "--set",
                "bindAddress=::"
            ]
        );
        assert_eq!(
            translated(&["node", "--mongo:url=mongodb://a:1/b"]),
            ["node", "--set", "mongo.url=mongodb://a:1/b"]
        );
    }

    #[test]
    fn other_arguments_stay_as_they_are() {
        for arguments in [
            &["balancer", "ctl", "-A", "-t", "10.0.0.1:80"][..],
            &["balancer", "--listen", "[::]:5000"],
            &["--conf=a:b.json"],
            &["--set", "a.b=c:d"],
            &["--odd name:x=1"],
        ] {
            assert_eq!(translated(arguments), arguments);
        }
    }
}
