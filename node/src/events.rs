//! What the visualizer sees: short-lived documents, derived from transactions.
//!
//! Pure: a caller asks for the events of what just happened and stores them with its own write. Times are shifted so
//! that a picture drawn from them reads from left to right ([`Normalization`]); nothing here reads a clock.

use bson::oid::ObjectId;
use bson::raw::cstr;
use bson::{DateTime, RawBsonRef, RawDocument, RawDocumentBuf, rawdoc};

use crate::clock::Millis;
use crate::config::Events;

/// Room between a message's start and the first thing that happens inside it, milliseconds.
const BUFFER: Millis = 100;

/// Whether times are shifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Normalization {
    is_on: bool,
}

impl Normalization {
    /// As the settings say.
    pub fn of(events: &Events) -> Self {
        Self {
            is_on: events.enable_ts_normalization,
        }
    }

    fn buffer(self) -> Millis {
        if self.is_on { BUFFER } else { 0 }
    }

    /// What to add to the times of things that happened inside a message of time `base`.
    fn shift<'a>(self, base: Millis, siblings: impl Iterator<Item = &'a RawDocument>) -> Millis {
        if !self.is_on {
            return 0;
        }
        let latest = siblings.filter_map(|item| time(item, "request")).max().unwrap_or(0);
        base - latest + BUFFER
    }
}

/// The message that events belong to.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub channel: ObjectId,
    /// Absent where the management API changes a transaction.
    pub transaction: Option<ObjectId>,
    /// When the request came.
    pub at: Millis,
    pub attempt: Option<i64>,
    pub normalization: Normalization,
}

/// How something ended.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub status: i32,
    pub at: Millis,
}

/// Something that starts or ends.
#[derive(Clone, Copy)]
struct Item<'a> {
    kind: &'static str,
    name: Option<&'a str>,
    mediator: Option<&'a str>,
    attempt: Option<i64>,
}

impl Subject {
    /// A message enters a channel.
    pub fn channel_start(&self, name: &str, created: DateTime) -> RawDocumentBuf {
        self.start(self.item("channel", Some(name), None), self.at, created)
    }

    /// A channel has answered.
    pub fn channel_end(&self, name: &str, end: End, created: DateTime) -> RawDocumentBuf {
        let at = end.at.max(self.at) + self.normalization.buffer();
        self.end(self.item("channel", Some(name), None), end.status, at, created)
    }

    /// The primary route began and answered.
    pub fn primary(
        &self,
        name: Option<&str>,
        mediator: Option<&str>,
        end: End,
        created: DateTime,
    ) -> [RawDocumentBuf; 2] {
        let item = self.item("primary", name, mediator);
        let at = end.at.max(self.at) + self.normalization.buffer();
        [
            self.start(item, self.at, created),
            self.end(item, end.status, at, created),
        ]
    }

    /// What a mediator did on behalf of the message; `orchestrations` as they are stored.
    pub fn orchestrations<D: AsRef<RawDocument>>(
        &self,
        orchestrations: &[D],
        created: DateTime,
    ) -> Vec<RawDocumentBuf> {
        let shift = self
            .normalization
            .shift(self.at, orchestrations.iter().map(AsRef::as_ref));
        let mut events = Vec::with_capacity(orchestrations.len() * 2);
        for orchestration in orchestrations.iter().map(AsRef::as_ref) {
            self.shifted("orchestration", orchestration, None, shift, created, &mut events);
        }
        events
    }

    /// What the secondary routes did; `routes` as they are stored, each with its mediator's URN.
    pub fn routes(&self, routes: &[(RawDocumentBuf, Option<String>)], created: DateTime) -> Vec<RawDocumentBuf> {
        let shift = self
            .normalization
            .shift(self.at, routes.iter().map(|(route, _)| &**route));
        let mut events = Vec::with_capacity(routes.len() * 2);
        for (route, mediator) in routes {
            self.shifted("route", route, mediator.as_deref(), shift, created, &mut events);
            if let Ok(orchestrations) = route.get_array("orchestrations") {
                let inner = orchestrations.into_iter().flatten();
                let inner: Vec<_> = inner.filter_map(|item| item.as_document()).collect();
                events.extend(self.orchestrations(&inner, created));
            }
        }
        events
    }

    fn item<'a>(&self, kind: &'static str, name: Option<&'a str>, mediator: Option<&'a str>) -> Item<'a> {
        Item {
            kind,
            name,
            mediator,
            attempt: self.attempt,
        }
    }

    fn shifted(
        &self,
        kind: &'static str,
        item: &RawDocument,
        mediator: Option<&str>,
        shift: Millis,
        created: DateTime,
        events: &mut Vec<RawDocumentBuf>,
    ) {
        let (Some(start), Some(end)) = (time(item, "request"), time(item, "response")) else {
            return;
        };
        let end = end + shift;
        let start = (start + shift).min(end);
        let status = item
            .get_document("response")
            .ok()
            .and_then(|response| response.get("status").ok().flatten())
            .and_then(number)
            .unwrap_or_default();
        let item = Item {
            attempt: None,
            ..self.item(kind, item.get_str("name").ok(), mediator)
        };
        events.push(self.start(item, start, created));
        events.push(self.end(item, status, end, created));
    }

    fn start(&self, item: Item<'_>, at: Millis, created: DateTime) -> RawDocumentBuf {
        let mut event = self.event(item, "start", created);
        self.finish(&mut event, item, at);
        event
    }

    fn end(&self, item: Item<'_>, status: i32, at: Millis, created: DateTime) -> RawDocumentBuf {
        let mut event = self.event(item, "end", created);
        event.append(cstr!("status"), status);
        let kind = match (500..=599).contains(&status) {
            true => "error",
            false => "success",
        };
        event.append(cstr!("statusType"), kind);
        self.finish(&mut event, item, at);
        event
    }

    fn event(&self, item: Item<'_>, event: &str, created: DateTime) -> RawDocumentBuf {
        rawdoc! {
            "_id": ObjectId::new(),
            "created": created,
            "channelID": self.channel,
            "transactionID": or_null(self.transaction),
            "type": item.kind,
            "event": event,
            "name": or_null(item.name),
        }
    }

    fn finish(&self, event: &mut RawDocumentBuf, item: Item<'_>, at: Millis) {
        event.append(cstr!("normalizedTimestamp"), at);
        event.append(cstr!("mediator"), or_null(item.mediator));
        event.append(cstr!("autoRetryAttempt"), or_null(item.attempt));
    }
}

fn or_null<'a>(value: Option<impl Into<RawBsonRef<'a>>>) -> RawBsonRef<'a> {
    value.map_or(RawBsonRef::Null, Into::into)
}

/// When an item's request or response was.
fn time(item: &RawDocument, half: &str) -> Option<Millis> {
    let at = item.get_document(half).ok()?.get_datetime("timestamp").ok()?;
    Some(at.timestamp_millis())
}

fn number(value: RawBsonRef<'_>) -> Option<i32> {
    match value {
        RawBsonRef::Int32(number) => Some(number),
        RawBsonRef::Int64(number) => i32::try_from(number).ok(),
        RawBsonRef::Double(number) => Some(number as i32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bson::RawArrayBuf;

    use super::*;

    fn subject(is_on: bool) -> Subject {
        Subject {
            channel: ObjectId::from_bytes([1; 12]),
            transaction: Some(ObjectId::from_bytes([2; 12])),
            at: 1000,
            attempt: None,
            normalization: Normalization { is_on },
        }
    }

    fn at(event: &RawDocument) -> i64 {
        event.get_i64("normalizedTimestamp").unwrap()
    }

    fn done(name: &str, start: i64, end: i64, status: i32) -> RawDocumentBuf {
        rawdoc! {
            "name": name,
            "request": {"timestamp": DateTime::from_millis(start)},
            "response": {"timestamp": DateTime::from_millis(end), "status": status},
        }
    }

    #[test]
    fn an_end_is_never_before_its_start_and_leaves_room_for_what_is_inside() {
        let end = End { status: 503, at: 900 };
        let created = DateTime::from_millis(5000);

        let event = subject(true).channel_end("c", end, created);

        assert_eq!(at(&event), 1100);
        assert_eq!(event.get_str("statusType").unwrap(), "error");
        assert_eq!(at(&subject(false).channel_end("c", end, created)), 1000);
    }

    #[test]
    fn what_an_event_does_not_know_is_null() {
        let event = subject(true).channel_start("c", DateTime::from_millis(0));

        assert_eq!(event.get("mediator").unwrap(), Some(RawBsonRef::Null));
        assert_eq!(event.get("autoRetryAttempt").unwrap(), Some(RawBsonRef::Null));
        assert_eq!(event.get("status").unwrap(), None);
    }

    #[test]
    fn siblings_are_shifted_together() {
        let items = [done("a", 4000, 4100, 200), done("b", 5000, 4900, 500)];

        let events = subject(true).orchestrations(&items, DateTime::from_millis(0));

        // Shift: 1000 - 5000 + 100.
        assert_eq!(
            events.iter().map(|event| at(event)).collect::<Vec<_>>(),
            [100, 200, 1000, 1000]
        );
    }

    #[test]
    fn a_route_brings_its_own_orchestrations_and_incomplete_items_are_skipped() {
        let mut route = done("r", 1000, 1200, 201);
        let steps: RawArrayBuf = [done("o", 1100, 1150, 200), rawdoc! {"name": "no times"}]
            .into_iter()
            .collect();
        route.append(cstr!("orchestrations"), steps);

        let events = subject(false).routes(&[(route, Some("urn:m".into()))], DateTime::from_millis(0));

        let kinds: Vec<_> = events.iter().map(|event| event.get_str("type").unwrap()).collect();
        assert_eq!(kinds, ["route", "route", "orchestration", "orchestration"]);
        assert_eq!(events[0].get_str("mediator").unwrap(), "urn:m");
        assert_eq!(events[2].get("mediator").unwrap(), Some(RawBsonRef::Null));
    }
}
