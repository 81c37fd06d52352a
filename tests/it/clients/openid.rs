//! Logging in at a real OpenID Connect provider, in the way of the console: the browser brings a code, the node gets the
//! tokens.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::node::{Node, node};
use crate::support::parts;
use crate::support::plain_http::{self, Answer, Tls};
use crate::support::program::Running;

/// A provider with the addresses of a Keycloak realm, and a browser for it.
struct Provider {
    _running: Running,
    url: String,
    browser: std::net::SocketAddr,
}

impl Provider {
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("tests/.parts/npm/node_modules");
        if !modules.join("oidc-provider").is_dir() {
            parts::skip("oidc-provider (run tests/parts/install)");
            return None;
        }
        let mut command = Command::new("node");
        command.arg(root.join("tests/it/clients/openid.mjs")).arg(modules);
        let mut running = Running::start(&mut command);
        let after = |line: String| line.split_once(' ').unwrap().1.to_owned();
        let url = after(running.says("provider http"));
        let browser = after(running.says("browser http"));
        Some(Self {
            _running: running,
            url,
            browser: browser.trim_start_matches("http://").parse().unwrap(),
        })
    }

    /// What the provider sends back to the page after `user` has logged in for `client`.
    fn visit(&self, user: &str, client: &str, nonce: &str) -> Value {
        let path = format!("/?user={user}&client={client}&nonce={nonce}&state=some-state");
        let answer = plain_http::request(self.browser, None, "GET", &path, None, "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// A node that trusts this realm of the provider.
    fn node(&self, realm: &str) -> Node {
        self.node_with(realm, &[])
    }

    fn node_with(&self, realm: &str, settings: &[(&str, &str)]) -> Node {
        let builder = node()
            .set("api.openid.url", &format!("{}/realms/{realm}", self.url))
            .set("api.openid.issuerUrl", &format!("{}/realms/realm", self.url))
            .set("api.openid.clientId", "openhim-oauth")
            .set("api.openid.clientSecret", "tell-nobody")
            .set("api.openid.callbackUrl", "http://localhost:9000");
        let builder = settings.iter().fold(builder, |it, (key, value)| it.set(key, value));
        builder.start()
    }

    /// Logs `user` in at the provider and then at the node.
    fn log_in(&self, node: &Node, user: &str) -> Answer {
        let sent = self.visit(user, "openhim-oauth", "n-1");
        assert_eq!(sent["state"], "some-state");
        exchange(
            node,
            &json!({"code": sent["code"], "state": sent["state"], "sessionState": "s", "nonce": "n-1"}),
        )
    }
}

fn exchange(node: &Node, body: &Value) -> Answer {
    let tls = Tls::anonymous();
    plain_http::request(
        node.api(),
        Some(&tls),
        "POST",
        "/authenticate/openid",
        None,
        &body.to_string(),
    )
    .unwrap()
}

fn with_cookies(node: &Node, path: &str, cookies: &str) -> Answer {
    let tls = Tls::anonymous();
    plain_http::request_with(node.api(), Some(&tls), "GET", path, &[("cookie", cookies)], "").unwrap()
}

#[test]
fn a_person_logs_in_and_out_with_the_roles_of_the_provider() {
    let Some(provider) = Provider::start() else { return };
    let node = provider.node("realm");

    let answer = provider.log_in(&node, "jane");

    assert_eq!(answer.status, 200, "{}", answer.body);
    let user = serde_json::from_str::<Value>(&answer.body).unwrap()["user"].clone();
    assert_eq!(user["email"], "jane@hie.org");
    assert_eq!((&user["firstname"], &user["surname"]), (&json!("Jane"), &json!("Doe")));
    assert_eq!(user["groups"], json!(["operator", "labs"]));
    assert_eq!(user["provider"], "openid");
    let cookies = answer.cookies();
    assert!(
        cookies.contains("koa.sess=") && cookies.contains("koa.sess.sig="),
        "{cookies}"
    );
    assert_eq!(with_cookies(&node, "/channels", &cookies).status, 200);
    // An operator sees channels and no users.
    assert_eq!(with_cookies(&node, "/users", &cookies).status, 403);

    let again = provider.log_in(&node, "jane");
    assert_eq!(again.status, 200, "{}", again.body);
    let users: Value = serde_json::from_str(&node.ask("GET", "/users", "").body).unwrap();
    assert_eq!(users.as_array().unwrap().len(), 2, "{users}");

    assert_eq!(with_cookies(&node, "/logout", &cookies).status, 200);
    assert_eq!(with_cookies(&node, "/me", &cookies).status, 404);
    assert_eq!(with_cookies(&node, "/channels", &cookies).status, 401);
}

#[test]
fn a_person_without_mail_and_roles_is_known_by_the_user_name() {
    let Some(provider) = Provider::start() else { return };
    let node = provider.node("realm");

    let answer = provider.log_in(&node, "joe");

    assert_eq!(answer.status, 200, "{}", answer.body);
    let user = &serde_json::from_str::<Value>(&answer.body).unwrap()["user"];
    assert_eq!((&user["email"], &user["groups"]), (&json!("joe"), &json!([])));
}

#[test]
fn a_code_serves_once_and_only_its_own_client() {
    let Some(provider) = Provider::start() else { return };
    let node = provider.node("realm");

    let sent = provider.visit("jane", "openhim-oauth", "n");
    assert_eq!(exchange(&node, &json!({"code": sent["code"]})).status, 200);
    assert_eq!(exchange(&node, &json!({"code": sent["code"]})).status, 500);
    let other = provider.visit("jane", "another-app", "n");
    assert_eq!(exchange(&node, &json!({"code": other["code"]})).status, 500);
    assert_eq!(exchange(&node, &json!({"code": "made up"})).status, 500);
}

#[test]
fn tokens_that_were_not_made_for_this_login_are_forbidden() {
    let Some(provider) = Provider::start() else { return };
    let refuses = |node: &Node, body: &Value, why: &str| {
        let answer = exchange(node, body);
        assert_eq!((answer.status, answer.body.as_str()), (403, "Forbidden"), "{why}");
        assert_eq!(answer.cookies(), "", "{why}");
    };
    let code = || provider.visit("jane", "openhim-oauth", "n-1")["code"].clone();

    let node = provider.node("realm");
    refuses(&node, &json!({"code": code(), "nonce": "n-2"}), "another nonce");
    let node = provider.node_with(
        "realm",
        &[("api.openid.issuerUrl", "https://other.example/realms/realm")],
    );
    refuses(&node, &json!({"code": code()}), "another issuer");
    let node = provider.node("forged");
    refuses(&node, &json!({"code": code()}), "another audience");
    let node = provider.node("unsigned");
    refuses(&node, &json!({"code": code()}), "a wrong signature");
    let node = provider.node("promoted");
    refuses(&node, &json!({"code": code()}), "roles that the provider did not give");
}
