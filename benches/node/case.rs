//! What is measured: what clients send, how they identify themselves, and which candidates take part.

use base64::Engine as _;

/// A patient, as small as messages get.
const SMALL: &str = r#"{"resourceType":"Patient","id":"example","active":true,"name":[{"family":"Chalmers"}]}"#;
/// Bytes of a large body.
const LARGE: usize = 100 * 1024;

/// One table of the output.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) connections: usize,
    /// Requests of one round.
    pub(crate) requests: usize,
    /// Bytes of bodies, both ways; 0 for a small JSON document and a smaller answer.
    size: usize,
    pub(crate) client: Client,
    pub(crate) candidates: &'static [Setting],
}

/// How the client makes itself known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// By a password, over plain HTTP.
    Basic,
    /// By its certificate; connections are kept.
    Certificate,
    /// By its certificate, on a new connection for each request.
    NewCertificate,
}

/// A node that takes part, beside nginx.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) store: Store,
    pub(crate) durability: &'static str,
    pub(crate) channels: usize,
    /// How many of them the messages are spread over, evenly along the list.
    pub(crate) used: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Sqlite,
    Mongo,
}

const SQLITE: Setting = Setting {
    name: "node, SQLite, standard",
    store: Store::Sqlite,
    durability: "standard",
    channels: 1,
    used: 1,
};
const SQLITE_STRICT: Setting = Setting {
    name: "node, SQLite, strict",
    durability: "strict",
    ..SQLITE
};
const MONGO: Setting = Setting {
    name: "node, MongoDB, standard",
    store: Store::Mongo,
    ..SQLITE
};
const MONGO_STRICT: Setting = Setting {
    name: "node, MongoDB, strict",
    durability: "strict",
    ..MONGO
};

pub(crate) const ALL: &[Case] = &[
    Case {
        name: "small",
        title: "small JSON, Basic authentication, kept connections",
        connections: 32,
        requests: 8_000,
        size: 0,
        client: Client::Basic,
        candidates: &[SQLITE, SQLITE_STRICT, MONGO, MONGO_STRICT],
    },
    Case {
        name: "tls",
        title: "small JSON over HTTPS, the client known by its certificate, kept connections",
        connections: 32,
        requests: 8_000,
        size: 0,
        client: Client::Certificate,
        candidates: &[SQLITE, MONGO],
    },
    Case {
        name: "handshake",
        title: "the same on a new connection for each request, nothing resumed",
        connections: 8,
        requests: 800,
        size: 0,
        client: Client::NewCertificate,
        candidates: &[SQLITE],
    },
    Case {
        name: "large",
        title: "100 KB there and 100 KB back, Basic authentication, kept connections",
        connections: 32,
        requests: 1_600,
        size: LARGE,
        client: Client::Basic,
        candidates: &[SQLITE, MONGO],
    },
    Case {
        name: "channels",
        title: "small JSON to ten channels of ten, to ten of a thousand, and to a thousand",
        connections: 32,
        requests: 8_000,
        size: 0,
        client: Client::Basic,
        candidates: &[
            Setting {
                name: "node, 10 channels",
                channels: 10,
                used: 10,
                ..SQLITE
            },
            Setting {
                name: "node, 10 of 1000 channels",
                channels: 1000,
                used: 10,
                ..SQLITE
            },
            Setting {
                name: "node, 1000 channels",
                channels: 1000,
                used: 1000,
                ..SQLITE
            },
        ],
    },
    Case {
        name: "memory",
        title: "small JSON, Basic authentication, 256 connections: look at RSS",
        connections: 256,
        requests: 12_800,
        size: 0,
        client: Client::Basic,
        candidates: &[SQLITE, MONGO],
    },
];

/// The case of this name.
///
/// # Panics
/// There is none.
pub(crate) fn named(name: &str) -> &'static Case {
    let names = || ALL.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
    ALL.iter()
        .find(|case| case.name == name)
        .unwrap_or_else(|| panic!("{name} is no case; there are {}", names()))
}

impl Case {
    /// The messages of a client, one for each channel that is used.
    pub(crate) fn messages(&self, channels: usize, used: usize) -> Vec<Vec<u8>> {
        (1..=used)
            .map(|part| self.message(channels * part / used - 1))
            .collect()
    }

    fn message(&self, channel: usize) -> Vec<u8> {
        let body = match self.size {
            0 => SMALL.to_owned(),
            size => large(size),
        };
        let login = base64::engine::general_purpose::STANDARD.encode("bench:bench");
        let authorization = match self.client {
            Client::Basic => format!("Authorization: Basic {login}\r\n"),
            Client::Certificate | Client::NewCertificate => String::new(),
        };
        let length = body.len();
        format!(
            "POST /bench/{channel}/Patient HTTP/1.1\r\nHost: localhost\r\n{authorization}Content-Type: \
             application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// What the backend answers.
    pub(crate) fn answer(&self) -> Vec<u8> {
        let body = match self.size {
            0 => r#"{"stored":true}"#.to_owned(),
            size => large(size),
        };
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// A JSON document of this many bytes.
fn large(size: usize) -> String {
    format!(r#"{{"data":"{}"}}"#, "x".repeat(size - 11))
}
