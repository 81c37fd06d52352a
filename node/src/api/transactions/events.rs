//! What the visualizer shows of a transaction that a mediator adds or completes.
//!
//! A transaction that lacks a part has fewer events; none of this ever fails a request.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};

use crate::api::context::Api;
use crate::events::{End, Normalization, Subject};
use crate::model::number;
use crate::store::{Collection, Write};

/// Stores the events of `transaction`, which may be only the changes to one.
pub(super) async fn store(api: &Api, transaction: &Document, channel: Option<&Bson>) {
    let Some(Bson::ObjectId(id)) = channel else {
        return;
    };
    let channel = match api.store().one(Collection::Channels, doc! {"_id": id}).await {
        Ok(Some(channel)) => channel,
        Ok(None) => return,
        Err(error) => return tracing::error!(%error, "Events could not be stored: {error}"),
    };
    let at = time(transaction, "request").map_or_else(|| api.clock.now(), DateTime::timestamp_millis);
    let subject = Subject {
        channel: *id,
        transaction: transaction.get_object_id("_id").ok(),
        at,
        attempt: transaction
            .get("autoRetryAttempt")
            .and_then(number::of_bson)
            .map(|n| n as i64),
        normalization: Normalization::of(&api.settings.events),
    };
    let batch = events(&subject, transaction, &channel, api.clock.date())
        .into_iter()
        .map(|document| Write::InsertRaw {
            into: Collection::Events,
            document: Arc::new(document),
        })
        .collect::<Vec<_>>();
    if batch.is_empty() {
        return;
    }
    if let Err(error) = api.store().write(&batch).await {
        tracing::error!(%error, "Events could not be stored: {error}");
    }
}

fn events(subject: &Subject, transaction: &Document, channel: &Document, created: DateTime) -> Vec<RawDocumentBuf> {
    let mut events = Vec::new();
    if transaction.get_document("request").is_ok()
        && let Ok(response) = transaction.get_document("response")
    {
        let end = End {
            status: response
                .get("status")
                .and_then(number::of_bson)
                .map_or(0, |status| status as i32),
            at: time(transaction, "response").map_or(subject.at, DateTime::timestamp_millis),
        };
        events.extend(subject.primary(primary_route(channel), None, end, created));
    }
    events.extend(subject.orchestrations(&documents(transaction, "orchestrations"), created));
    let routes = documents(transaction, "routes");
    let routes: Vec<_> = routes.into_iter().map(|route| (route, None)).collect();
    events.extend(subject.routes(&routes, created));
    events
}

/// The name of the channel's primary route.
fn primary_route(channel: &Document) -> Option<&str> {
    let routes = channel.get_array("routes").map_or(&[][..], Vec::as_slice);
    let primary = routes
        .iter()
        .filter_map(Bson::as_document)
        .find(|route| route.get_bool("primary").unwrap_or(false))?;
    primary.get_str("name").ok()
}

fn documents(of: &Document, list: &str) -> Vec<RawDocumentBuf> {
    let items = of.get_array(list).map_or(&[][..], Vec::as_slice);
    let documents = items.iter().filter_map(Bson::as_document);
    documents
        .filter_map(|document| RawDocumentBuf::try_from(document).ok())
        .collect()
}

fn time(transaction: &Document, half: &str) -> Option<DateTime> {
    transaction
        .get_document(half)
        .ok()?
        .get_datetime("timestamp")
        .ok()
        .copied()
}
