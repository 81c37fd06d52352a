//! Finds the channel a request belongs to.
//!
//! Channels are tried in priority order; the first that accepts path, method, media type and content wins. The body is
//! read only if a channel that accepts the rest asks for its content. Content that cannot be read as asked does not
//! match; it never fails the request.

mod content;

use std::sync::Arc;

use http::header;

use self::content::Body;
use super::stages::Received;
use super::{Identified, Matched, Refused, Rejection};
use crate::tables::{ChannelEntry, ChannelTable, Content};

/// Finds the channel; bodies larger than `searched` bytes are not searched.
///
/// # Errors
/// No channel takes the request, or its body does not come.
pub(super) async fn match_channel(
    channels: &ChannelTable,
    mut it: Identified,
    searched: usize,
) -> Result<Matched, Box<Refused>> {
    match first_match(channels, &mut it.received, searched).await {
        Ok(channel) => Ok(Matched {
            identified: it,
            channel,
        }),
        Err(rejection) => Err(it.received.refused(rejection)),
    }
}

async fn first_match(
    channels: &ChannelTable,
    received: &mut Received,
    searched: usize,
) -> Result<Arc<ChannelEntry>, Rejection> {
    let payload = &mut received.body;
    let content_type = received.headers.text(header::CONTENT_TYPE);
    let mut body = None;
    for channel in channels.matching(received.target.path(), received.method.as_str(), content_type) {
        match (&channel.content, &body) {
            (Content::Anything, _) => return Ok(Arc::clone(channel)),
            (Content::Never, _) | (_, Some(_)) => {}
            (_, None) => {
                payload.fill(searched).await.map_err(Rejection::of_body)?;
                body = Some(Body::new(payload.is_complete().then(|| payload.contiguous())));
            }
        }
        if body.as_ref().is_some_and(|body| body.satisfies(&channel.content)) {
            return Ok(Arc::clone(channel));
        }
    }
    Err(Rejection::NoChannel)
}
