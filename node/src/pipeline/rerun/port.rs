//! The rerun port: how OpenHIM's own task processor, or whoever does its work, has a stored transaction sent again.
//!
//! The request is the message. `parentid` names the transaction that it repeats, and with it the channel; `clientid` says
//! whose it was and `taskid` which task notes the outcome. Nobody is authenticated, as in OpenHIM: the port is open on
//! this machine only, and what does not name a stored transaction goes nowhere.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bson::oid::ObjectId;
use bson::raw::CStr;
use bson::{Document, doc};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{Lineage, MARKS, attempt};
use crate::pipeline::respond::Shape;
use crate::pipeline::stages::Received;
use crate::pipeline::{Admitted, AnswerBody, Entrance, Peer, Pipeline, Refused, Rejection};
use crate::record::OpenError;
use crate::route::RequestHeaders;
use crate::store::Collection;

/// What the request says of the message it repeats.
struct Said {
    client: Option<ObjectId>,
    parent: Option<ObjectId>,
    task: Option<ObjectId>,
    /// The same as it came, to be stored with the request.
    marks: Vec<(&'static CStr, String)>,
}

/// The transaction that is repeated, as it is stored, and its client if that still exists.
struct Named {
    id: ObjectId,
    parent: Document,
    client: Option<ObjectId>,
}

impl Said {
    /// Takes it out of the headers: backends do not get it.
    fn take(headers: &mut HeaderMap) -> Self {
        let marks = MARKS.map(|mark| {
            let value = headers.remove(mark.as_str())?;
            Some((mark, value.to_str().ok()?.to_owned()))
        });
        let [client, parent, task] = marks
            .each_ref()
            .map(|mark| mark.as_ref().and_then(|(_, value)| ObjectId::parse_str(value).ok()));
        Self {
            client,
            parent,
            task,
            marks: marks.into_iter().flatten().collect(),
        }
    }
}

impl Pipeline {
    /// The rerun pipeline: a request at the rerun port.
    pub(in crate::pipeline) async fn repeated(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Response<AnswerBody> {
        let mut shape = Shape::of(&request);
        let mut headers = request.headers().clone();
        let said = Said::take(&mut headers);
        let task = said.task;
        let child = match Received::new(request, peer, &self.settings, self.clock.now()) {
            Ok(received) => self.child(received, headers, said).await,
            Err(refused) => Err(refused),
        };
        let (admitted, lineage) = match child {
            Ok(child) => *child,
            Err(refused) => return self.refuse(*refused, &mut shape).await.into_response(&shape),
        };
        let (parent, child) = (lineage.parent, lineage.id);
        let (answering, answer) = oneshot::channel();
        let carried = Arc::clone(&self).carry(admitted, Some(Box::new(lineage)), answering);
        let carried = self.tracker.spawn(Box::pin(carried));
        let answered = answer.await;
        if matches!(answered, Ok(Ok(_))) {
            // OpenHIM tells parent and task before it answers. The final status may come later.
            self.recorder.link(parent, child).await;
            if let Some(task) = task {
                let fields = doc! {"rerunID": child.to_hex()};
                self.recorder.note_in_task(task, parent, child, fields).await;
                let recorder = self.recorder.clone();
                self.tracker.spawn(async move {
                    if let Ok(Some(status)) = carried.await {
                        let fields = doc! {"rerunStatus": status};
                        recorder.note_in_task(task, parent, child, fields).await;
                    }
                });
            }
        }
        match answered {
            Ok(Ok(answer)) => answer.into_response(&shape),
            Ok(Err(rejection)) => rejection.into_response(&shape),
            Err(_) => Rejection::Internal("a message was lost on its way".into()).into_response(&shape),
        }
    }

    /// The message as a child of what it repeats.
    async fn child(
        &self,
        mut received: Received,
        headers: HeaderMap,
        said: Said,
    ) -> Result<Box<(Admitted, Lineage)>, Box<Refused>> {
        let found = match self.named(&said).await {
            Ok(found) => found,
            Err(rejection) => return Err(received.refused(rejection)),
        };
        let tables = match self.tables.for_message().await {
            Ok(tables) => tables,
            Err(error) => return Err(received.refused(Rejection::Tables(error))),
        };
        let channel = found.parent.get_object_id("channelID").ok();
        let Some(channel) = channel.and_then(|channel| tables.channels.by_id(channel)) else {
            let reason = "the channel of a transaction that is to be rerun does not exist";
            return Err(received.refused(Rejection::Internal(reason.into())));
        };
        received.headers = RequestHeaders::replayed(headers);
        received.address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let original = found.parent.get_document("request");
        let text = |name: &str| Some(original.as_ref().ok()?.get_str(name).ok()?.to_owned());
        let lineage = Lineage {
            id: ObjectId::new(),
            parent: found.id,
            attempt: attempt(&found.parent),
            host: text("host"),
            port: text("port"),
            marks: said.marks,
        };
        let admitted = Admitted {
            received,
            client: found.client,
            channel: Arc::clone(channel),
            entrance: Entrance::Rerun,
            slot: self.gatekeeper.place().await,
        };
        Ok(Box::new((admitted, lineage)))
    }

    async fn named(&self, said: &Said) -> Result<Named, Rejection> {
        let unread = |error| Rejection::Record(OpenError::Store(error));
        let parent = match said.parent {
            Some(id) => self.store.one(Collection::Transactions, doc! {"_id": id}).await,
            None => Ok(None),
        };
        let Some((id, parent)) = said.parent.zip(parent.map_err(unread)?) else {
            let reason = "a rerun named no transaction that exists";
            return Err(Rejection::Internal(reason.into()));
        };
        // A client that is gone is nobody, as with public channels.
        let count = match said.client {
            Some(client) => self.store.count(Collection::Clients, doc! {"_id": client}).await,
            None => Ok(0),
        };
        let is_there = count.map_err(unread)? > 0;
        let client = said.client.filter(|_| is_there);
        Ok(Named { id, parent, client })
    }
}

#[cfg(test)]
mod tests;
