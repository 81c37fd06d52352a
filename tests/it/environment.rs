//! A node that is configured by its environment alone, as containers are.

use std::net::SocketAddr;
use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use openhim_node::testing::backend;
use openhim_node::testing::mongod::Mongod;
use serde_json::{Value, json};

use crate::support::backend::host;
use crate::support::node::{Ports, ROOT};
use crate::support::plain_http::{self, Answer, Tls};
use crate::support::program::{Running, program};
use crate::support::{eventually, free_port};

const RSA_KEY: &str = include_str!("../../node/src/crypto/testdata/rsa-pkcs8.pem");
const RSA_CERTIFICATE: &str = include_str!("../../node/src/crypto/testdata/rsa-cert.pem");

/// A running node and where it was told to listen.
struct Contained {
    running: Running,
    http: SocketAddr,
    api: SocketAddr,
    folder: tempfile::TempDir,
}

/// Starts one with these variables besides those for its ports.
fn start(variables: &[(&str, &str)]) -> Contained {
    start_in(tempfile::tempdir().unwrap(), variables)
}

fn start_in(folder: tempfile::TempDir, variables: &[(&str, &str)]) -> Contained {
    let [http, https, api, rerun, tcp, polling] = [(); 6].map(|()| free_port());
    let mut command = program(["node"]);
    command.current_dir(folder.path()).env("bindAddress", "127.0.0.1");
    for (name, port) in [
        ("router_httpPort", http),
        ("router_httpsPort", https),
        ("api_port", api),
        ("rerun_httpPort", rerun),
        ("tcpAdapter_httpReceiver_httpPort", tcp),
        ("polling_pollingPort", polling),
    ] {
        command.env(name, port.to_string());
    }
    command.envs(variables.iter().copied());
    let mut running = Running::start(&mut command);
    running.says("OpenHIM server started");
    let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Contained {
        running,
        http: at(http),
        api: at(api),
        folder,
    }
}

impl Contained {
    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        plain_http::request(self.api, Some(&Tls::anonymous()), method, path, Some(ROOT), &body).unwrap()
    }

    /// A private channel for a client with a password, and the status of a request by it.
    fn set_up(&self, port: u16) {
        let digest = |text: &str| {
            use sha2::Digest as _;
            let hash = sha2::Sha512::digest(text);
            hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let client = json!({"clientID": "clinic", "name": "clinic", "roles": ["clinics"], "passwordAlgorithm": "sha512",
                            "passwordSalt": "salt", "passwordHash": digest("secretsalt"), "customTokenID": "a-token"});
        let route = json!({"name": "primary", "host": "127.0.0.1", "port": port, "primary": true});
        let channel = json!({"name": "x", "urlPattern": "^/x$", "methods": ["GET"], "allow": ["clinics"],
                             "routes": [route]});
        assert_eq!(self.ask("POST", "/clients", &client).status, 201);
        assert_eq!(self.ask("POST", "/channels", &channel).status, 201);
        eventually("the channel is in force", || (self.get("").0 == 401).then_some(()));
    }

    /// Status and head of an answer to a request with this `Authorization`.
    fn get(&self, authorization: &str) -> (u16, String) {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(self.http).unwrap();
        let header = match authorization {
            "" => String::new(),
            value => format!("authorization: {value}\r\n"),
        };
        write!(
            stream,
            "GET /x HTTP/1.1\r\nhost: h\r\n{header}connection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.to_ascii_lowercase())
    }
}

const BASIC: &str = "Basic Y2xpbmljOnNlY3JldA==";

fn token(secret: &str, issuer: &str) -> String {
    let claims = json!({"sub": "clinic", "iss": issuer});
    let key = EncodingKey::from_secret(secret.as_bytes());
    format!(
        "Bearer {}",
        encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    )
}

#[test]
fn the_variables_of_openhims_compose_file_are_understood() {
    let backend = host(backend());
    let node = start(&[
        ("NODE_ENV", "development"),
        ("api_authenticationTypes", r#"["token", "basic", "openid", "local"]"#),
        ("authentication_enableCustomTokenAuthentication", "true"),
        ("authentication_enableJWTAuthentication", "true"),
        ("authentication_jwt_secretOrPublicKey", "secret"),
        ("authentication_jwt_algorithms", "HS256"),
        ("authentication_jwt_issuer", "openhim"),
        ("openhimConsoleBaseUrl", "http://localhost:9000"),
        // The development profile would take the well-known ports.
        ("auditing_servers_udp_enabled", "false"),
        ("auditing_servers_tls_enabled", "false"),
        ("auditing_servers_tcp_enabled", "false"),
    ]);
    node.set_up(backend.address().port());

    assert_eq!(node.get(&token("secret", "openhim")).0, 200);
    assert_eq!(node.get(&token("secret", "other")).0, 401);
    assert_eq!(node.get("Custom a-token").0, 200);
    assert_eq!(node.get(BASIC).0, 200);
}

#[test]
fn a_key_of_openhims_folder_is_found_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("resources/certs/jwt");
    std::fs::create_dir_all(&keys).unwrap();
    std::fs::write(keys.join("authority.pem"), RSA_CERTIFICATE).unwrap();
    let backend = host(backend());
    let node = start_in(
        folder,
        &[
            ("authentication_enableJWTAuthentication", "yes"),
            ("authentication_jwt_secretOrPublicKey", "authority.pem"),
            ("authentication_jwt_algorithms", "RS256"),
        ],
    );
    node.set_up(backend.address().port());
    let key = EncodingKey::from_rsa_pem(RSA_KEY.as_bytes()).unwrap();
    let signed = encode(&Header::new(Algorithm::RS256), &json!({"sub": "clinic"}), &key).unwrap();

    assert_eq!(node.get(&format!("Bearer {signed}")).0, 200);
    assert_eq!(node.get(&token("authority.pem", "")).0, 401);
}

#[test]
fn false_means_false_and_numbers_are_numbers() {
    let backend = host(backend());
    let node = start(&[
        ("cluster", "2"),
        ("authentication_enableBasicAuthentication", "false"),
        ("authentication_enableCustomTokenAuthentication", "1"),
        ("logger_logToDB", "true"),
        ("logger_level", "info"),
        ("events_enableTSNormalization", "true"),
        ("polling_enabled", "0"),
        ("rerun_processor_enabled", "no"),
        ("caching_refreshMillis", "50"),
        ("api_maxBodiesSizeMB", "0.5"),
        ("router_timeout", "250"),
    ]);
    node.set_up(backend.address().port());

    let (status, head) = node.get(BASIC);
    assert_eq!((status, head.contains("www-authenticate")), (401, false), "{head}");
    assert_eq!(node.get("Custom a-token").0, 200);
    let said = node.running.stdout.all();
    assert!(said.contains("Clustering the OpenHIM with 2 workers"), "{said}");
    eventually("the log is kept", || {
        let kept = node.ask("GET", "/logs?level=info", &Value::Null);
        assert_eq!(kept.status, 200, "{}", kept.body);
        (kept.body.len() > 2).then_some(())
    });
}

#[test]
fn a_route_is_given_up_after_the_time_that_the_environment_says() {
    let backend = host(backend().never_answers());
    let node = start(&[
        ("router_timeout", "300"),
        ("authentication_enableCustomTokenAuthentication", "true"),
    ]);
    node.set_up(backend.address().port());
    let begun = std::time::Instant::now();

    assert_eq!(node.get("Custom a-token").0, 500);

    assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    let recorded = eventually("the failure is recorded", || {
        let list = node.ask(
            "GET",
            "/transactions?filterLimit=1&filterPage=0&filterRepresentation=full",
            &Value::Null,
        );
        let list: Value = serde_json::from_str(&list.body).unwrap();
        (list[0]["status"] == "Failed").then(|| list[0].clone())
    });
    assert_eq!(recorded["error"]["message"], "Request took longer than 300ms");
}

#[test]
fn an_api_that_is_off_is_not_there_and_the_router_is() {
    let node = start(&[("api_enabled", "false")]);

    assert_eq!(node.get("").0, 404);
    assert!(std::net::TcpStream::connect(node.api).is_err());
    assert!(node.folder.path().join("openhim-data/openhim.db").exists());
}

#[test]
fn documents_are_kept_in_the_database_that_the_environment_names() {
    let Some(server) = Mongod::start() else { return };
    let url = server.url("contained");
    let node = start(&[("mongo_url", &url), ("mongo_atnaUrl", &url), ("api_protocol", "http")]);
    let listed = plain_http::request(node.api, None, "GET", "/users", Some(ROOT), "").unwrap();

    assert_eq!(listed.status, 200);
    assert!(!node.folder.path().join("openhim-data").exists());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let users = runtime.block_on(async {
        let database = mongodb::Client::with_uri_str(&url).await.unwrap().database("contained");
        let users = database.collection::<bson::Document>("users");
        users.count_documents(bson::doc! {}).await.unwrap()
    });
    assert_eq!(users, 1);
}

#[test]
fn a_variable_of_the_wrong_type_stops_the_start_and_a_foreign_one_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let ports = Ports::free();
    let command = |name: &str, value: &str| -> Command {
        let mut command = program(["node"]);
        command
            .current_dir(folder.path())
            .env("bindAddress", "127.0.0.1")
            .env("router_httpPort", ports.http.to_string())
            .env(name, value);
        command
    };
    for (name, value) in [
        ("router_timeout", "soon"),
        ("caching_enabled", "perhaps"),
        ("api_authenticationTypes", r#"["fingerprint"]"#),
        ("cluster", "0"),
    ] {
        let refused = crate::support::program::outcome(&mut command(name, value));
        assert_eq!(refused.code, 64, "{name}: {}", refused.stderr);
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains(name), "{name}: {said}");
    }
    start(&[("HOSTNAME", "c0ffee"), ("KUBERNETES_PORT", "tcp://10.0.0.1:443")]);
}
