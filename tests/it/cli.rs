//! The command line: what it takes, what it refuses, and with which exit code.

use crate::support::program::{outcome, program, run};

/// Every command a user can type, as the help names it.
const COMMANDS: [&str; 11] = [
    "node",
    "balancer",
    "check-config",
    "migrate",
    "backup",
    "restore",
    "export",
    "import",
    "demo",
    "completions",
    "man",
];

#[test]
fn version_speaks_of_openhim_first_and_of_itself_second() {
    for flag in ["--version", "-v", "-V"] {
        let version = run([flag]);
        assert_eq!(version.code, 0);
        let lines: Vec<&str> = version.stdout.lines().collect();
        assert_eq!(
            lines,
            [
                "OpenHIM Core version 8.5.0",
                concat!("openhim-core ", env!("CARGO_PKG_VERSION"))
            ]
        );
    }
}

#[test]
fn help_names_every_command_and_every_exit_code() {
    let help = run(["--help"]);
    assert_eq!(help.code, 0);
    for word in COMMANDS
        .into_iter()
        .chain(["0 done", "1 failed", "2 bad command line", "64 bad configuration"])
    {
        assert!(help.stdout.contains(word), "no {word} in\n{}", help.stdout);
    }
    for command in COMMANDS {
        assert_eq!(run([command, "--help"]).code, 0, "{command}");
    }
    assert_eq!(run(["balancer", "doctor", "--help"]).code, 0);
    assert_eq!(run(["balancer", "ctl", "--help"]).code, 0);
}

#[test]
fn the_balancers_help_has_every_option_of_its_file() {
    let help = run(["balancer", "--help"]).stdout;
    for key in openhim_balancer::config::keys::KEYS
        .iter()
        .filter(|key| key.name != "services")
    {
        assert!(
            help.contains(&format!("--{}", key.name.replace('_', "-"))),
            "no {} in\n{help}",
            key.name
        );
    }
}

#[test]
fn a_bad_command_line_ends_with_two_and_names_what_is_wrong() {
    for (arguments, told) in [
        (&["--no-such-option"][..], "--no-such-option"),
        (&["nod"], "nod"),
        (&["node", "--set", "router.httpPort"], "expected KEY=VALUE"),
        (&["node", "--conf"], "--conf"),
        (&["balancer", "--no-such-option"], "--no-such-option"),
        (&["balancer", "--schedule", "fastest"], "schedule"),
        (&["balancer", "--backends", "10.0.0.1:99999"], "10.0.0.1:99999"),
        (&["check-config", "proxy", "file"], "proxy"),
        (&["completions", "dos"], "dos"),
    ] {
        let refused = run(arguments);
        assert_eq!(refused.code, 2, "{arguments:?}: {}", refused.stderr);
        assert!(refused.stderr.contains(told), "{arguments:?}: {}", refused.stderr);
    }
}

#[test]
fn an_impossible_number_of_instances_is_refused_in_openhims_words() {
    for value in ["0", "-1", "2.5", "many", ""] {
        for arguments in [
            vec![format!("--cluster={value}")],
            vec!["node".to_owned(), format!("--cluster={value}")],
        ] {
            let refused = run(&arguments);
            assert_eq!(refused.code, 2, "{arguments:?}");
            let words =
                format!("invalid --cluster argument entered: {value}. Please enter a positive number or 'auto'.");
            assert_eq!(
                refused.stderr.trim_end(),
                format!("openhim-core: {words}"),
                "{arguments:?}"
            );
        }
    }
    let bare = run(["--cluster"]);
    assert!(
        bare.stderr.contains("invalid --cluster argument entered: true."),
        "{}",
        bare.stderr
    );
    let apart = run(["--cluster", "-3"]);
    assert!(
        apart.stderr.contains("invalid --cluster argument entered: -3."),
        "{}",
        apart.stderr
    );
}

#[test]
fn completions_know_every_command_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(["completions", shell]);
        assert_eq!(script.code, 0);
        for command in COMMANDS {
            assert!(script.stdout.contains(command), "{shell} does not know {command}");
        }
    }
}

#[test]
fn the_manual_covers_every_command() {
    let page = run(["man"]);
    assert_eq!(page.code, 0);
    for command in COMMANDS {
        assert!(
            page.stdout
                .contains(&format!("OPENHIM-CORE {}", command.to_uppercase())),
            "no section for {command}"
        );
    }

    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run([std::ffi::OsStr::new("man"), folder.path().join("pages").as_os_str()]).code,
        0
    );
    for command in COMMANDS {
        let page = folder.path().join(format!("pages/openhim-core-{command}.1"));
        assert!(
            std::fs::read_to_string(&page).unwrap().contains(".SH"),
            "{}",
            page.display()
        );
    }
}

#[test]
fn a_reader_that_goes_away_early_is_no_failure() {
    let pipe = std::io::pipe().unwrap();
    drop(pipe.0);
    let status = program(["completions", "bash"]).stdout(pipe.1).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_option_that_is_no_text_is_refused_and_not_a_crash() {
    use std::os::unix::ffi::OsStrExt;
    let refused = outcome(program(["--set"]).arg(std::ffi::OsStr::from_bytes(b"router.httpPort=\xff")));
    assert_eq!(refused.code, 2, "{}", refused.stderr);
}
