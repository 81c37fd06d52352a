//! `Authorization: Basic`: the same check as a login, at every request, without a session.

use base64::Engine as _;
use base64::engine::GeneralPurposeConfig;
use base64::engine::{DecodePaddingMode, GeneralPurpose};
use bson::Document;

use super::local;
use crate::api::context::{Api, Origin};
use crate::api::error::Refusal;

/// The text that a successful Basic authentication leaves wherever a handler sets only a status.
pub(in crate::api) const RESIDUE: &str = "User Authenticated Successfully";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The user that the header's credentials belong to.
///
/// # Errors
/// Too many attempts have failed lately.
pub(in crate::api) async fn authenticate(api: &Api, origin: Origin, header: &str) -> Result<Option<Document>, Refusal> {
    match credentials(header) {
        Some((email, password)) => local::check(api, origin, &email, &password).await,
        None => Ok(None),
    }
}

/// Splits at the first colon: a password may contain more of them.
fn credentials(header: &str) -> Option<(String, String)> {
    let mut parts = header.split(' ');
    let (scheme, encoded) = (parts.next()?, parts.next()?);
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64.decode(encoded).ok()?).ok()?;
    let (email, password) = decoded.split_once(':')?;
    (!email.is_empty() && !password.is_empty()).then(|| (email.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        format!("Basic {}", BASE64.encode(text))
    }

    #[test]
    fn a_password_may_contain_colons() {
        assert_eq!(credentials(&encoded("a@b:c:d")), Some(("a@b".into(), "c:d".into())));
    }

    #[test]
    fn headers_that_make_no_sense_give_nothing() {
        for header in [
            "Basic",
            "Basic ",
            "Basic ???",
            "Bearer Basic",
            &encoded("nocolon"),
            &encoded(":x"),
            &encoded("x:"),
        ] {
            assert_eq!(credentials(header), None, "{header}");
        }
    }
}
