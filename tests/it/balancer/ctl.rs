//! The control socket: ipvsadm's letters and plain words, as `balancer ctl` sends them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use openhim_balancer::{Answer, Config, call};

use super::support::{Backend, Client, Running, balancer, list, run, within};

struct Operated {
    running: Running,
    folder: tempfile::TempDir,
}

impl Operated {
    async fn start(options: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("balancer.sock");
        let admin = [("admin", socket.to_str().expect("plain"))];
        let all: Vec<(&str, &str)> = admin.into_iter().chain(options.iter().copied()).collect();
        let running = balancer(&all).await;
        Self { running, folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("balancer.sock")
    }

    async fn say(&self, words: &str) -> Answer {
        say(&self.socket(), words, "").await
    }

    /// Says something that has to work.
    async fn ctl(&self, words: &str) -> String {
        let answer = self.say(words).await;
        assert!(answer.is_ok, "`{words}`: {}", answer.text);
        answer.text
    }

    async fn fails(&self, words: &str) -> String {
        let answer = self.say(words).await;
        assert!(!answer.is_ok, "`{words}` worked: {}", answer.text);
        answer.text
    }
}

async fn say(socket: &Path, words: &str, input: &str) -> Answer {
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let (socket, input) = (socket.to_owned(), input.to_owned());
    let calling = tokio::task::spawn_blocking(move || call(Some(&socket), &words, &input));
    within("an answer", calling)
        .await
        .expect("no panic")
        .expect("somebody answers")
}

#[tokio::test]
async fn the_socket_is_for_its_owner_alone_and_goes_with_the_balancer() {
    let backend = Backend::start().await;
    let operated = Operated::start(&[("backends", &list(&[&backend]))]).await;
    let socket = operated.socket();

    let mode = std::fs::symlink_metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    operated.running.shutdown.soft.cancel();
    within("the end", operated.running.balancer.wait()).await;
    assert!(!socket.exists());
}

#[tokio::test]
async fn ipvsadms_words_build_a_service_that_serves() {
    let (first, one, two) = (Backend::start().await, Backend::start().await, Backend::start().await);
    let operated = Operated::start(&[("backends", &list(&[&first])), ("threads", "1")]).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");

    operated.ctl(&format!("-A -t {free} -s rr")).await;
    operated.ctl(&format!("-a -t {free} -r {} -m -w 1", one.address)).await;
    operated.ctl(&format!("-a -t {free} -r {} -m -w 1", two.address)).await;
    operated.running.until_state(one.address, "up").await;
    operated.running.until_state(two.address, "up").await;

    let mut names = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(free).await;
        names.push(client.name().await.expect("a backend"));
        client.finish().await;
    }
    assert_eq!((names[0], names[1]), (names[2], names[3]));
    assert_ne!(names[0], names[1]);

    let again = operated.fails(&format!("-a -t {free} -r {} -m", two.address)).await;
    assert!(again.contains("is there already"), "{again}");
    let table = operated.ctl("-L -n").await;
    for line in [format!("TCP  {free} rr"), format!("  -> {}", one.address)] {
        assert!(table.lines().any(|it| it.starts_with(&line)), "no `{line}` in\n{table}");
    }
    operated.ctl(&format!("-d -t {free} -r {}", one.address)).await;
    operated.ctl(&format!("-D -t {free}")).await;
    assert!(
        operated
            .fails(&format!("-D -t {free}"))
            .await
            .contains("there is no service")
    );
}

#[tokio::test]
async fn what_is_saved_can_be_restored() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    // Not a port of the kernel's choice: another test's connection could take it while it is free.
    let listen = format!("127.0.0.1:{}", crate::support::free_port());
    let backends = list(&[&one, &two]);
    let operated = Operated::start(&[("listen", &listen), ("backends", &backends), ("schedule", "wrr")]).await;
    operated
        .ctl(&format!("-e -t {listen} -r {} -m -w 7 -x 50", two.address))
        .await;

    let saved = operated.ctl("-S -n").await;
    let expected = format!(
        "-A -t {listen} -s wrr\n-a -t {listen} -r {} -m -w 1\n-a -t {listen} -r {} -m -w 7 -x 50\n",
        one.address, two.address
    );
    assert_eq!(saved, expected);

    operated.ctl("-C").await;
    assert_eq!(operated.ctl("-S -n").await, "");
    let restored = say(&operated.socket(), "-R", &saved).await;
    assert!(restored.is_ok, "{}", restored.text);
    assert_eq!(operated.ctl("-S -n").await, saved);
    let wrong = say(
        &operated.socket(),
        "-R",
        "-A -t 1.2.3.4:5 -s rr\n-a -t 1.2.3.4:5 -r nonsense -m\n",
    )
    .await;
    assert!(!wrong.is_ok && wrong.text.contains("line 2"), "{}", wrong.text);
    assert_eq!(operated.ctl("-S -n").await, saved, "half of it was done");
}

#[tokio::test]
async fn a_backend_can_be_drained_taken_out_and_given_back() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let operated = Operated::start(&[("backends", &list(&[&one, &two])), ("threads", "1")]).await;
    let mut held = Client::connect(operated.running.address()).await;
    let name = held.name().await.expect("a backend");
    let (held_by, other) = if name == one.address {
        (&one, &two)
    } else {
        (&two, &one)
    };

    for (word, state) in [("drain", "drain"), ("maint", "maint")] {
        operated.ctl(&format!("{word} {}", held_by.address)).await;
        operated.running.until_state(held_by.address, state).await;
        for _ in 0..4 {
            assert_eq!(operated.running.ask().await, Some(other.address));
        }
        held.echo(b"still here").await;
        operated.ctl(&format!("ready {}", held_by.address)).await;
        operated.running.until_state(held_by.address, "up").await;
    }

    let text = operated.ctl(&format!("kill-sessions {}", held_by.address)).await;
    assert_eq!(text, "1 connections ended\n");
    assert_eq!(held.name().await, None);
    assert!(operated.fails("drain 10.9.8.7").await.contains("there is no backend"));
}

#[tokio::test]
async fn a_drain_with_a_time_ends_what_is_left_when_it_is_over() {
    let backend = Backend::start().await;
    let operated = Operated::start(&[("backends", &list(&[&backend])), ("threads", "1")]).await;
    let mut held = Client::connect(operated.running.address()).await;
    held.name().await.expect("a backend");

    let begun = std::time::Instant::now();
    let text = operated.ctl(&format!("drain {} 400ms", backend.address)).await;
    assert!(text.contains("draining, 400ms at most"), "{text}");
    held.echo(b"not yet").await;

    assert_eq!(held.name().await, None);
    assert!(begun.elapsed() >= std::time::Duration::from_millis(400));
    assert!(operated.fails("drain x soon").await.contains("`soon` is not a time"));
}

#[tokio::test]
async fn a_weight_of_0_sends_nothing_new_and_outlives_a_reload() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("balancer.yaml");
    let socket = folder.path().join("sock");
    let text = format!(
        "{{metrics: off, log: off, admin: '{}', listen: '127.0.0.1:0', backends: ['{}', '{}']}}",
        socket.display(),
        one.address,
        two.address
    );
    std::fs::write(&file, &text).expect("written");
    let running = run(Config::from_file(&file).expect("readable")).await;

    assert!(say(&socket, &format!("weight {} 0", one.address), "").await.is_ok);
    for _ in 0..2 {
        for _ in 0..4 {
            assert_eq!(running.ask().await, Some(two.address));
        }
        let reloaded = say(&socket, "reload", "").await;
        assert!(reloaded.is_ok, "{}", reloaded.text);
    }

    std::fs::write(&file, "nonsense: [").expect("written");
    let refused = say(&socket, "reload", "").await;
    assert!(
        !refused.is_ok && refused.text.contains("balancer.yaml:2:1: is not valid YAML"),
        "{}",
        refused.text
    );
}

#[tokio::test]
async fn statistics_are_ipvsadms_and_begin_again_at_an_operators_word() {
    let backend = Backend::start().await;
    let operated = Operated::start(&[("backends", &list(&[&backend])), ("threads", "1")]).await;
    for _ in 0..3 {
        operated.running.ask().await.expect("a backend");
    }
    operated
        .running
        .until("the end of all", |report| report.active == 0)
        .await;

    let line = |table: &str| {
        let server = format!("  -> {}", backend.address);
        let line = table
            .lines()
            .find(|it| it.starts_with(&server))
            .expect("a line")
            .to_owned();
        line.split_whitespace().skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let stats = line(&operated.ctl("-L -n --stats").await);
    assert_eq!((&*stats[0], &*stats[3]), ("3", "0"), "{stats:?}");
    assert_eq!(stats[4], (3 * (backend.address.to_string().len() + 1)).to_string());

    operated.ctl("-Z").await;
    assert_eq!(line(&operated.ctl("-L -n --stats").await)[0], "0");
    assert_eq!(
        operated.running.report().await.services[0].accepted,
        3,
        "programs read on"
    );
}

#[tokio::test]
async fn the_state_can_be_read_by_people_and_by_programs() {
    let backend = Backend::start().await;
    let operated = Operated::start(&[("backends", &list(&[&backend])), ("name", "https")]).await;

    let text = operated.ctl("state").await;
    assert!(
        text.contains("https") && text.contains(&backend.address.to_string()),
        "{text}"
    );
    let json: serde_json::Value = serde_json::from_str(&operated.ctl("state --json").await).expect("json");
    assert_eq!(json["services"][0]["backends"][0]["state"], "up");
    let unknown = operated.fails("drian 10.0.0.1").await;
    assert!(
        unknown.contains("`drian` is not a command; there are drain, maint"),
        "{unknown}"
    );
}

#[tokio::test]
async fn edits_at_the_same_time_are_done_one_after_the_other() {
    let backend = Backend::start().await;
    let operated = Operated::start(&[("backends", &list(&[&backend])), ("check", "none")]).await;
    let listen = operated.running.address();

    let mut edits = tokio::task::JoinSet::new();
    for port in 1..=12 {
        let (socket, words) = (operated.socket(), format!("-a -t {listen} -r 127.0.0.1:{port} -m"));
        edits.spawn(async move { assert!(say(&socket, &words, "").await.is_ok) });
    }
    while let Some(edit) = within("an edit", edits.join_next()).await {
        edit.expect("it worked");
    }

    assert_eq!(operated.running.report().await.services[0].backends.len(), 13);
}
