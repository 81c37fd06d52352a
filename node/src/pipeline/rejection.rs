//! Why a request went no further, and what its sender is told. The only place that turns a cause into a status.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::respond::{AnswerBody, Shape};
use crate::record::OpenError;
use crate::route::payload::BodyFault;
use crate::tables::RefreshError;

/// Why a request went no further.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("no channel takes the request")]
    NoChannel,
    #[error("{address} may not use the channel")]
    NotAllowed {
        address: IpAddr,
        /// The sender may try Basic authentication.
        offers_basic: bool,
    },
    #[error("the request target is too long")]
    UriTooLong,
    #[error("the request body is too large")]
    TooLarge,
    #[error("the request body is incomplete")]
    BodyBroken,
    #[error("the request body did not arrive in time")]
    BodySlow,
    #[error("too many requests of one client or channel")]
    TooMany,
    #[error("too many transactions under way")]
    Busy,
    #[error("channels and clients could not be read")]
    Tables(#[source] RefreshError),
    #[error("the request could not be recorded")]
    Record(#[source] OpenError),
    #[error("{0}")]
    Internal(String),
}

impl Rejection {
    /// A body that did not come.
    pub(super) fn of_body(fault: BodyFault) -> Self {
        match fault {
            BodyFault::TooLarge => Self::TooLarge,
            BodyFault::Broken => Self::BodyBroken,
            BodyFault::Slow => Self::BodySlow,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoChannel => StatusCode::NOT_FOUND,
            Self::NotAllowed { .. } => StatusCode::UNAUTHORIZED,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Tables(_) | Self::Record(OpenError::Full | OpenError::Slow) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Record(OpenError::Store(error)) if error.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
            Self::Record(OpenError::Store(_)) | Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// What the sender is told.
    pub(super) fn into_response(self, shape: &Shape) -> Response<AnswerBody> {
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(
                error = &self as &dyn std::error::Error,
                "A request was answered with {status}"
            );
        }
        let (media_type, body) = match status {
            // OpenHIM answers these with the label that it gives to an unread body.
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => ("application/octet-stream", ""),
            StatusCode::INTERNAL_SERVER_ERROR => ("text/plain; charset=utf-8", "Internal Server Error"),
            _ => (
                "text/plain; charset=utf-8",
                status.canonical_reason().unwrap_or_default(),
            ),
        };
        let mut response = Response::new(AnswerBody::whole(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        if matches!(self, Self::NotAllowed { offers_basic: true, .. }) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        shape.finish(&mut response);
        response
    }
}
