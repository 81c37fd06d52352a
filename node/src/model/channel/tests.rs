use bson::doc;

use super::*;

fn id() -> ObjectId {
    ObjectId::from_bytes([7; 12])
}

#[test]
fn a_channel_with_only_the_mandatory_fields_has_every_default() {
    let channel = Channel::from_document(&doc! {"_id": id(), "name": "c", "urlPattern": "/x"}).unwrap();

    assert_eq!(channel.kind, ChannelKind::Http);
    assert!(channel.is_enabled());
    assert_eq!(channel.auth_type, AuthType::Private);
    assert_eq!(channel.auto_retry_period_minutes, 60.0);
    assert!(channel.add_auto_rewrite_rules && !channel.rewrite_urls && !channel.auto_retry_enabled);
    assert!(channel.methods.is_empty() && channel.routes.is_empty() && channel.alerts.is_empty());
    assert!(channel.stores_request_bodies() && channel.stores_response_bodies());
    assert_eq!(channel.timeout, None);
}

#[test]
fn every_field_is_read() {
    let cert = ObjectId::from_bytes([9; 12]);
    let mut document = doc! {
        "_id": id(), "name": "c", "description": "d", "urlPattern": "^/x$", "type": "tls", "status": "disabled",
        "priority": 2.0, "methods": ["GET", "POST"], "isAsynchronousProcess": true, "timeout": 20_i64,
        "authType": "public", "allow": ["a"], "whitelist": ["10.0.0.1"], "matchContentTypes": ["text/xml"],
        "matchContentRegex": "r", "matchContentXpath": "x", "matchContentJson": "j", "matchContentValue": 7,
    };
    document.extend(doc! {
        "requestBody": false, "responseBody": true, "maxBodyAgeDays": 3, "lastBodyCleared": DateTime::from_millis(5),
        "tcpPort": 4000, "tcpHost": "0.0.0.0", "pollingSchedule": "1 minute", "rewriteUrls": true,
        "addAutoRewriteRules": false, "autoRetryEnabled": true, "autoRetryPeriodMinutes": 5,
        "autoRetryMaxAttempts": 2, "txViewAcl": "one", "txViewFullAcl": ["b"], "txRerunAcl": ["c"],
        "properties": [{"k": "v"}], "updatedBy": {"id": id(), "name": "Super User"},
    });
    document.extend(doc! {
        "rewriteUrlsConfig": [{"fromHost": "a", "toHost": "b", "toPort": 8080, "pathTransform": "s/a/b"}, {"fromHost": "x"}],
        "alerts": [{"condition": "auto-retry-max-attempted", "status": "5xx", "failureRate": 50, "groups": [cert],
                    "users": [{"user": "u@x", "method": "sms", "maxAlerts": "1 per day"}]}],
        "routes": [{"_id": cert, "name": "r", "type": "kafka", "status": "disabled", "primary": true, "secured": true,
                    "host": "h", "port": "80", "path": "/p", "pathTransform": "s/a/b", "cert": cert, "username": "u",
                    "password": "secret", "forwardAuthHeader": true, "waitPrimaryResponse": true,
                    "statusCodesCheck": "2**", "kafkaClientId": "k", "kafkaTopic": "t"}],
    });
    let channel = Channel::from_document(&document).unwrap();

    assert_eq!(
        (
            channel.kind,
            channel.status,
            channel.auth_type,
            channel.priority,
            channel.timeout
        ),
        (
            ChannelKind::Tls,
            ChannelStatus::Disabled,
            AuthType::Public,
            Some(2.0),
            Some(20)
        )
    );
    assert_eq!(channel.methods, ["GET", "POST"]);
    assert_eq!(channel.match_content_value.as_deref(), Some("7"));
    assert!(!channel.stores_request_bodies());
    assert_eq!(channel.last_body_cleared, Some(DateTime::from_millis(5)));
    assert_eq!(channel.tx_view_acl, ["one"]);
    assert_eq!(channel.auto_retry_max_attempts, Some(2));
    assert_eq!(
        channel.rewrite_rules,
        [RewriteRule {
            from_host: "a".into(),
            from_port: 80,
            to_host: "b".into(),
            to_port: 8080,
            path_transform: Some("s/a/b".into())
        }]
    );
    let alert = &channel.alerts[0];
    assert_eq!(alert.condition, AlertCondition::AutoRetryMaxAttempted);
    assert_eq!(alert.groups, [cert]);
    let route = &channel.routes[0];
    assert_eq!(
        (route.kind, route.is_enabled, route.is_primary),
        (RouteKind::Kafka, false, true)
    );
    assert_eq!((route.port, route.cert), (Some(80), Some(cert)));
    assert!(!format!("{channel:?}").contains("secret"));
}

#[test]
fn a_bad_field_does_not_lose_the_channel() {
    let channel = Channel::from_document(&doc! {
        "_id": id(), "urlPattern": "/x", "timeout": "soon", "priority": {}, "methods": {"a": 1}, "alerts": "none",
        "routes": [1, {"name": "r", "port": 70_000}], "updatedBy": 4, "status": 9,
    })
    .unwrap();

    assert_eq!(channel.routes.len(), 1);
    assert_eq!(channel.routes[0].port, None);
    assert_eq!(channel.status, ChannelStatus::Disabled);
}

#[test]
fn a_restriction_that_cannot_be_read_takes_the_channel_out_of_service() {
    for (key, value) in [
        ("whitelist", Bson::Document(doc! {"a": 1})),
        ("matchContentTypes", Bson::Array(vec![Bson::Document(doc! {})])),
        ("matchContentRegex", Bson::Array(vec![])),
        ("type", Bson::String("carrier pigeon".into())),
    ] {
        let mut document = doc! {"_id": id(), "urlPattern": "/x"};
        document.insert(key, value);

        assert_eq!(Channel::from_document(&document), Err(ChannelError::Unreadable(key)));
    }
    assert_eq!(
        Channel::from_document(&doc! {"urlPattern": "/x"}),
        Err(ChannelError::NoId)
    );
    assert_eq!(
        Channel::from_document(&doc! {"_id": id()}),
        Err(ChannelError::Unreadable("urlPattern"))
    );
}

#[test]
fn an_unreadable_certificate_pin_trusts_nobody() {
    let channel = Channel::from_document(&doc! {
        "_id": id(), "urlPattern": "/x", "routes": [{"name": "a", "cert": "??"}, {"name": "b", "cert": ""}, {"name": "c", "cert": null}],
    })
    .unwrap();

    assert_eq!(channel.routes[0].cert, Some(ObjectId::from_bytes([0; 12])));
    assert_eq!(channel.routes[1].cert, None);
    assert_eq!(channel.routes[2].cert, None);
}
