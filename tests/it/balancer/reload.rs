//! Changes while it runs: nothing is refused, nothing is cut, a bad file changes nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use openhim_balancer::Config;
use tokio::task::JoinSet;

use super::support::{Backend, Client, DEADLINE, Running, balancer, list, run, within};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// Replaces a file the careful way.
    fn rename_into(&self, name: &str, text: &str) {
        let new = self.write(&format!(".{name}.new"), text);
        fs::rename(new, self.path(name)).expect("renamed");
    }
}

fn lines(backends: &[&Backend]) -> String {
    backends.iter().map(|it| format!("{}\n", it.address)).collect()
}

async fn with_file(path: &Path, options: &[(&str, &str)]) -> Running {
    let path = path.to_str().expect("plain");
    let all: Vec<(&str, &str)> = [("backends-file", path)]
        .into_iter()
        .chain(options.iter().copied())
        .collect();
    balancer(&all).await
}

/// Waits until exactly these backends are up.
async fn until_up(balancer: &Running, backends: &[&Backend]) {
    let mut wanted: Vec<String> = backends.iter().map(|it| it.address.to_string()).collect();
    wanted.sort_unstable();
    balancer
        .until(&format!("{wanted:?} up"), |report| {
            let all = &report.services[0].backends;
            let mut up: Vec<String> = all
                .iter()
                .filter(|it| it.state == "up")
                .map(|it| it.address.clone())
                .collect();
            up.sort_unstable();
            up == wanted
        })
        .await;
}

#[tokio::test]
async fn a_backends_file_is_followed_however_it_is_written() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&[&one]));
    let balancer = with_file(&file, &[]).await;
    until_up(&balancer, &[&one]).await;

    folder.rename_into("nodes", &lines(&[&one, &two]));
    until_up(&balancer, &[&one, &two]).await;

    folder.write("nodes", &lines(&[&two]));
    until_up(&balancer, &[&two]).await;

    fs::remove_file(&file).expect("removed");
    folder.write("nodes", &lines(&[&one, &two]));
    until_up(&balancer, &[&one, &two]).await;

    folder.write("other", &lines(&[&one]));
    symlink("other", folder.path("link")).expect("linked");
    fs::rename(folder.path("link"), &file).expect("swapped");
    until_up(&balancer, &[&one]).await;
}

#[tokio::test]
async fn a_backends_file_that_is_empty_or_wrong_changes_nothing_and_says_so() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&[&one]));
    let balancer = with_file(&file, &[]).await;

    for (content, complaint) in [
        ("", "has no backend in it"),
        ("10.0.0.1:80\nnonsense\n", "nodes:2:1: backend `nonsense`"),
    ] {
        folder.write("nodes", content);
        let has_complaint = |text: &String| text.contains(complaint);
        balancer
            .until(complaint, |report| report.reloads.problems.iter().any(has_complaint))
            .await;
        assert_eq!(balancer.ask().await, Some(one.address));
        until_up(&balancer, &[&one]).await;
    }

    folder.write("nodes", &lines(&[&two]));
    until_up(&balancer, &[&two]).await;
    assert!(balancer.report().await.reloads.problems.is_empty());
}

#[tokio::test]
async fn a_configuration_is_applied_as_a_whole_or_not_at_all() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let text = |backend: &Backend, more: &str| {
        format!(
            "metrics: 127.0.0.1:0\nadmin: off\nlog: off\nservices:\n  - name: a\n    listen: 127.0.0.1:0\n    backends: [{}]\n{more}",
            backend.address
        )
    };
    let file = folder.write("balancer.yaml", &text(&one, ""));
    let balancer = run(Config::from_file(&file).expect("readable")).await;
    assert_eq!(balancer.ask().await, Some(one.address));

    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = other.local_addr().expect("bound");
    for (more, complaint) in [
        (
            "    interval: soon\n".to_owned(),
            "balancer.yaml:8:15: services[0].interval: `soon` is not a time",
        ),
        (
            format!("  - {{ name: b, listen: '{taken}', backends: ['127.0.0.1:1'] }}\n"),
            "cannot listen on",
        ),
    ] {
        folder.rename_into("balancer.yaml", &text(&two, &more));
        let problems = within("a reload", balancer.balancer.reload())
            .await
            .expect_err("a bad file")
            .to_string();
        assert!(problems.contains(complaint), "{problems}");
        assert_eq!(balancer.ask().await, Some(one.address));
        assert_eq!(balancer.report().await.services.len(), 1);
    }

    folder.rename_into("balancer.yaml", &text(&two, ""));
    within("a reload", balancer.balancer.reload())
        .await
        .expect("a good file");
    balancer.until_state(two.address, "up").await;
    assert_eq!(balancer.ask().await, Some(two.address));
}

#[tokio::test]
async fn a_watched_configuration_adds_and_removes_services_without_being_told() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let service = |name: &str, backend: &Backend| {
        format!(
            "  - {{ name: {name}, listen: '127.0.0.1:0', backends: ['{}'] }}\n",
            backend.address
        )
    };
    let head = "metrics: off\nadmin: off\nlog: off\nservices:\n";
    let file = folder.write("balancer.yaml", &format!("{head}{}", service("a", &one)));
    let balancer = run(Config::from_file(&file).expect("readable")).await;
    let mut held = Client::connect(balancer.address()).await;
    held.name().await.expect("a backend");

    folder.rename_into(
        "balancer.yaml",
        &format!("{head}{}{}", service("a", &one), service("b", &two)),
    );
    let report = balancer
        .until("b up", |report| {
            report.services.iter().any(|it| it.name == "b" && it.backends[0].usable)
        })
        .await;
    let b = report.services.iter().find(|it| it.name == "b").expect("there").listen[0];
    assert_eq!(Client::connect(b).await.name().await, Some(two.address));

    folder.rename_into("balancer.yaml", &format!("{head}{}", service("b", &two)));
    balancer
        .until("a closed", |report| {
            report.services.iter().all(|it| it.name != "a" || it.listen.is_empty())
        })
        .await;
    assert_eq!(Client::connect(b).await.name().await, Some(two.address));
    held.echo(b"a connection of a removed service goes on").await;
}

#[tokio::test]
async fn no_request_fails_and_no_counter_is_reset_by_a_hundred_reloads_under_load() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let all: Vec<&Backend> = backends.iter().collect();
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&all));
    let balancer = Arc::new(with_file(&file, &[("interval", "100ms")]).await);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (balancer, stop, asked) = (Arc::clone(&balancer), Arc::clone(&stop), Arc::clone(&asked));
        clients.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                assert!(balancer.ask().await.is_some(), "a connection was not served");
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut held = Client::connect(balancer.address()).await;
    held.name().await.expect("a backend");

    let mut last_accepted = 0;
    for round in 0.. {
        if round >= 100 && asked.load(Ordering::SeqCst) >= 200 {
            break;
        }
        let chosen: Vec<&Backend> = all
            .iter()
            .copied()
            .cycle()
            .skip(round % 3)
            .take(1 + round % 3)
            .collect();
        folder.rename_into("nodes", &lines(&chosen));
        within("a reload", balancer.balancer.reload())
            .await
            .expect("a good file");
        let accepted = balancer.report().await.services[0].accepted;
        assert!(accepted >= last_accepted, "{accepted} after {last_accepted}");
        last_accepted = accepted;
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(client) = tokio::time::timeout(DEADLINE, clients.join_next())
        .await
        .expect("clients end")
    {
        client.expect("every connection was served");
    }

    held.echo(b"still here").await;
    let expected = asked.load(Ordering::SeqCst) + 1;
    let report = balancer.report().await;
    assert_eq!(report.services[0].accepted, expected);
}

#[tokio::test]
async fn a_removed_backend_keeps_its_connections_until_the_drain_timeout() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&[&one, &two]));
    let balancer = with_file(&file, &[("threads", "1"), ("drain-timeout", "700ms")]).await;
    let mut held = Client::connect(balancer.address()).await;
    let name = held.name().await.expect("a backend");
    let (leaving, staying) = if name == one.address {
        (&one, &two)
    } else {
        (&two, &one)
    };

    folder.rename_into("nodes", &lines(&[staying]));
    balancer.until_state(leaving.address, "removed").await;
    for _ in 0..4 {
        assert_eq!(balancer.ask().await, Some(staying.address));
    }
    held.echo(b"not yet").await;

    assert_eq!(held.name().await, None, "ended by the drain timeout");
    balancer
        .until("it is forgotten", |report| report.services[0].backends.len() == 1)
        .await;
}

#[tokio::test]
async fn a_backend_that_returns_finds_its_counters() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&[&one, &two]));
    let balancer = with_file(&file, &[("threads", "1")]).await;
    for _ in 0..6 {
        balancer.ask().await.expect("a backend");
    }

    folder.rename_into("nodes", &lines(&[&two]));
    balancer
        .until("it is forgotten", |report| report.services[0].backends.len() == 1)
        .await;
    folder.rename_into("nodes", &lines(&[&one, &two]));

    let address = one.address.to_string();
    balancer
        .until("it is back", |report| {
            report.services[0]
                .backends
                .iter()
                .any(|it| it.address == address && it.connections == 3)
        })
        .await;
}

#[tokio::test]
async fn equal_options_given_by_list_and_by_file_mean_the_same() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    let file = folder.write("nodes", &format!("{} weight=3\n", backend.address));
    let by_file = with_file(&file, &[]).await.report().await;
    let by_list = balancer(&[("backends", &format!("{}@3", list(&[&backend])))])
        .await
        .report()
        .await;

    let shown = |report: &openhim_balancer::Report| {
        let backend = &report.services[0].backends[0];
        (backend.address.clone(), backend.weight, backend.state)
    };
    assert_eq!(shown(&by_file), shown(&by_list));
}

#[tokio::test]
async fn when_all_backends_are_replaced_clients_wait_for_the_first_check_of_the_new_ones() {
    let (old, new) = (Backend::start().await, Backend::start().await);
    let folder = Folder::new();
    let file = folder.write("nodes", &lines(&[&old]));
    let balancer = with_file(&file, &[]).await;

    for (round, backend) in [&new, &old].into_iter().cycle().take(20).enumerate() {
        folder.rename_into("nodes", &lines(&[backend]));
        within("a reload", balancer.balancer.reload())
            .await
            .expect("a good file");
        assert_eq!(balancer.ask().await, Some(backend.address), "round {round}");
    }
}
