//! The repository on a whole node: what is sent arrives, over each transport.

use bson::{Document, doc};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::store::{Collection, Find};
use crate::testing::mongod::Mongod;
use crate::testing::{NodeBuilder, TestNode, eventually, node};
use crate::wire::syslog_frame::frame;

/// What a repository has to take.
const MANY: usize = 10_000;

fn listening() -> NodeBuilder {
    node().audits()
}

fn message(id: &str, text: &str) -> String {
    format!(
        "<85>1 2026-11-25T07:00:00.000Z clinic app 1 IHE+RFC-3881 - <AuditMessage><EventIdentification \
         EventActionCode=\"E\" EventDateTime=\"2026-11-25T07:00:00.000Z\" EventOutcomeIndicator=\"0\"><EventID \
         code=\"110100\" displayName=\"Application Activity\" codeSystemName=\"DCM\"/></EventIdentification>\
         <AuditSourceIdentification AuditSourceID=\"{id}\" AuditEnterpriseSiteID=\"{text}\"/></AuditMessage>"
    )
}

fn from_source(source: &str) -> Document {
    doc! {"auditSourceIdentification.auditSourceID": source}
}

async fn count(node: &TestNode, source: &str) -> u64 {
    node.store()
        .count(Collection::Audits, from_source(source))
        .await
        .unwrap()
}

/// Waits for all of them, and sees that each is there once.
async fn arrive(node: &TestNode, source: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        let found = count(node, source).await;
        if found >= MANY as u64 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found} of {MANY} arrived");
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    let mut find = Find::by(from_source(source));
    find.projection = doc! {"auditSourceIdentification": 1};
    let found = node.store().all(Collection::Audits, find).await.unwrap();
    let sites: std::collections::HashSet<_> = found
        .iter()
        .map(|audit| {
            let source = audit.get_document("auditSourceIdentification").unwrap();
            source.get_str("auditEnterpriseSiteID").unwrap().to_owned()
        })
        .collect();
    assert_eq!((sites.len(), found.len()), (MANY, MANY), "each once");
}

async fn tls(node: &TestNode) -> impl AsyncWrite + Unpin + use<> {
    let config = node.node.keystore().load().unverified_client_config().unwrap();
    let stream = TcpStream::connect(node.node.addresses().audit_tls.unwrap())
        .await
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap()
}

async fn tcp(node: &TestNode) -> TcpStream {
    TcpStream::connect(node.node.addresses().audit_tcp.unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_arrive_over_each_transport() {
    let node = listening().start().await;

    let mut plain = tcp(&node).await;
    let mut secured = tls(&node).await;
    for n in 0..MANY {
        let site = format!("é {n}");
        plain.write_all(&frame(message("tcp", &site).as_bytes())).await.unwrap();
        secured
            .write_all(&frame(message("tls", &site).as_bytes()))
            .await
            .unwrap();
    }
    secured.flush().await.unwrap();
    arrive(&node, "tcp").await;
    arrive(&node, "tls").await;

    // UDP promises nothing; a sender that leaves the kernel's buffer room loses nothing.
    let sender = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    sender.connect(node.node.addresses().audit_udp.unwrap()).await.unwrap();
    for n in 1..=MANY {
        sender.send(message("udp", &format!("é {n}")).as_bytes()).await.unwrap();
        if n % 100 == 0 {
            eventually("the repository keeps up", async || {
                (count(&node, "udp").await >= n as u64).then_some(())
            })
            .await;
        }
    }
    arrive(&node, "udp").await;
    drop((plain, secured));
    node.stop().await;
}

#[tokio::test]
async fn frames_may_be_cut_anywhere_and_come_together() {
    for with_mongo in [false, true] {
        let mongod = if with_mongo { Mongod::start() } else { None };
        if with_mongo && mongod.is_none() {
            return;
        }
        let builder = match &mongod {
            Some(mongod) => listening().store(&mongod.url("openhim")),
            None => listening(),
        };
        let node = builder.start().await;
        let mut stream = tcp(&node).await;
        stream.set_nodelay(true).unwrap();

        let three: Vec<u8> = ["a", "b", "c"]
            .iter()
            .flat_map(|id| frame(message("cut", &format!("Müller — 保健 {id}")).as_bytes()))
            .collect();
        // Every seventh byte its own segment: characters of several bytes are cut as well.
        for piece in three.chunks(7) {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        stream.write_all(&three.repeat(1)).await.unwrap();
        let bad = frame(b"<85>1 2026-11-25T07:00:00.000Z clinic app 1 IHE+RFC-3881 - <AuditMessage><Event");
        stream.write_all(&bad).await.unwrap();

        eventually("six records", async || (count(&node, "cut").await == 6).then_some(())).await;
        for id in ["a", "b", "c"] {
            let site = doc! {"auditSourceIdentification.auditEnterpriseSiteID": format!("Müller — 保健 {id}")};
            assert_eq!(node.store().count(Collection::Audits, site).await.unwrap(), 2);
        }
        let bad = doc! {"rawMessage": {"$regex": "<Event$"}};
        let bad = eventually("the one with bad XML", async || {
            node.store().one(Collection::Audits, bad.clone()).await.unwrap()
        })
        .await;
        assert_eq!(bad.get_document("syslog").unwrap().get_str("host").unwrap(), "clinic");
        node.stop().await;
    }
}

#[tokio::test]
async fn what_has_no_length_ends_its_connection_and_no_other() {
    use tokio::io::AsyncReadExt;
    let node = listening().start().await;
    let mut good = tcp(&node).await;
    let mut bad = tcp(&node).await;

    bad.write_all(message("bad", "").as_bytes()).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(crate::testing::DEADLINE, bad.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it is closed");

    good.write_all(&frame(message("good", "").as_bytes())).await.unwrap();
    eventually("the other one is served", async || {
        (count(&node, "good").await == 1).then_some(())
    })
    .await;
    assert_eq!(count(&node, "bad").await, 0);
    node.stop().await;
}

#[tokio::test]
async fn a_trusted_proxy_may_say_for_whom_it_speaks() {
    let node = listening()
        .set(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()])
        .start()
        .await;
    let mut stream = tcp(&node).await;
    stream
        .write_all(b"PROXY TCP4 10.1.2.3 10.0.0.1 5000 5052\r\n")
        .await
        .unwrap();
    stream
        .write_all(&frame(message("proxied", "").as_bytes()))
        .await
        .unwrap();

    eventually("it is stored", async || {
        (count(&node, "proxied").await == 1).then_some(())
    })
    .await;
    node.stop().await;
}
