//! A mail server that plays its part in a real conversation, well or badly, and keeps what it got.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// How the server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Takes every mail, each after this time.
    Takes(Duration),
    /// Hangs up at once.
    IsDown,
    /// Says that it cannot take a mail now.
    Refuses,
    /// Has the whole mail and hangs up without a word.
    DropsTheMail,
}

/// A mail as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// From and to, as the envelope has them.
    pub from: String,
    pub to: String,
    /// Header and body, with line ends as in a file.
    pub whole: String,
}

impl Letter {
    /// A field of the header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (head, _) = self.whole.split_once("\n\n")?;
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The part for readers of plain text.
    pub fn text(&self) -> String {
        self.part("text/plain")
    }

    /// The part for everybody else.
    pub fn html(&self) -> String {
        self.part("text/html")
    }

    fn part(&self, kind: &str) -> String {
        let marker = self
            .whole
            .split("boundary=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        let marker = format!("--{}", marker.expect("the mail has parts"));
        let part = self.whole.split(&marker).find(|part| part.contains(kind));
        let (head, body) = part
            .and_then(|part| part.trim_start().split_once("\n\n"))
            .unwrap_or_else(|| panic!("no {kind} in {}", self.whole));
        decoded(&head.to_ascii_lowercase(), body)
    }
}

/// A part's body as its encoding has it.
fn decoded(head: &str, body: &str) -> String {
    if head.contains("base64") {
        let bytes = STANDARD.decode(body.split_whitespace().collect::<String>());
        return String::from_utf8(bytes.expect("base64")).expect("UTF-8");
    }
    if !head.contains("quoted-printable") {
        return body.to_owned();
    }
    let mut bytes = Vec::new();
    let mut rest = body.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'=', [b'\n', tail @ ..]) => tail,
            (b'=', [high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("ASCII");
                bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8(bytes).expect("UTF-8")
}

#[derive(Debug)]
struct Counter {
    manner: Mutex<Manner>,
    letters: Mutex<Vec<Letter>>,
}

/// A running mail server; clones are the same one.
#[derive(Clone, Debug)]
pub struct PostOffice {
    port: u16,
    counter: Arc<Counter>,
}

impl PostOffice {
    /// Opens it on a free port of this machine.
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let counter = Arc::new(Counter {
            manner: Mutex::new(Manner::Takes(Duration::ZERO)),
            letters: Mutex::default(),
        });
        let inside = Arc::clone(&counter);
        thread::spawn(move || {
            for caller in listener.incoming().map_while(Result::ok) {
                let counter = Arc::clone(&inside);
                // A caller that dies in the middle is no concern of the others.
                thread::spawn(move || counter.serve(&caller));
            }
        });
        Self { port, counter }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes how it behaves from the next step of each conversation on.
    pub fn behaves(&self, manner: Manner) {
        *self.counter.manner.lock().expect("no panic inside") = manner;
    }

    /// Every mail of which it got the last byte, whether it said so or not.
    pub fn letters(&self) -> Vec<Letter> {
        self.counter.letters.lock().expect("no panic inside").clone()
    }

    /// What a node's `email.nodemailer` has to be.
    pub fn settings(&self) -> serde_json::Value {
        serde_json::json!({
            "host": "127.0.0.1", "port": self.port, "secure": false, "ignoreTLS": true,
            "auth": {"user": "him@example.org", "pass": "secret"},
        })
    }
}

impl Counter {
    fn manner(&self) -> Manner {
        *self.manner.lock().expect("no panic inside")
    }

    /// One conversation; it ends when either side has enough.
    fn serve(&self, caller: &TcpStream) -> Option<()> {
        let mut say = caller.try_clone().ok()?;
        let mut say = move |text: &str| say.write_all(text.as_bytes()).ok();
        if self.manner() == Manner::IsDown {
            return None;
        }
        say("220 post.example.org ready\r\n")?;
        let mut lines = BufReader::new(caller).lines().map_while(Result::ok);
        let (mut from, mut to) = (String::new(), String::new());
        while let Some(line) = lines.next() {
            let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            match line.split([' ', ':']).next()? {
                "EHLO" => say("250-post.example.org\r\n250 AUTH PLAIN LOGIN\r\n")?,
                "AUTH" => say("235 welcome\r\n")?,
                "MAIL" => {
                    from = address();
                    say("250 fine\r\n")?;
                }
                "RCPT" if self.manner() == Manner::Refuses => say("451 come back later\r\n")?,
                "RCPT" => {
                    to = address();
                    say("250 fine\r\n")?;
                }
                "DATA" => {
                    say("354 go on\r\n")?;
                    let mut whole = String::new();
                    loop {
                        let line = lines.next()?;
                        if line == "." {
                            break;
                        }
                        whole.push_str(line.strip_prefix('.').unwrap_or(&line));
                        whole.push('\n');
                    }
                    let (from, to) = (std::mem::take(&mut from), std::mem::take(&mut to));
                    let letter = Letter { from, to, whole };
                    self.letters.lock().expect("no panic inside").push(letter);
                    match self.manner() {
                        Manner::Takes(after) => thread::sleep(after),
                        _ => return None,
                    }
                    say("250 taken\r\n")?;
                }
                "QUIT" => return say("221 bye\r\n"),
                _ => say("250 fine\r\n")?,
            }
        }
        Some(())
    }
}
