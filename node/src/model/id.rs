//! Ids as API clients write them.

use bson::oid::ObjectId;

/// The text is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither 24 hexadecimal digits nor 12 one-byte characters")]
pub struct NotAnId;

/// Reads an id the way OpenHIM's object mapper casts one: 24 hexadecimal digits, or any 12 characters of one byte each,
/// which then are the id.
///
/// # Errors
/// The text is neither.
pub fn parse(text: &str) -> Result<ObjectId, NotAnId> {
    if let Ok(bytes) = <[u8; 12]>::try_from(text.as_bytes())
        && text.is_ascii()
    {
        return Ok(ObjectId::from_bytes(bytes));
    }
    ObjectId::parse_str(text).map_err(|_| NotAnId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_of_either_case_make_an_id() {
        let id = parse("53CE72E7BE12C4E6DBA4E79C").unwrap();

        assert_eq!(id.to_hex(), "53ce72e7be12c4e6dba4e79c");
    }

    #[test]
    fn any_twelve_bytes_make_an_id() {
        assert_eq!(parse("notanidatall").unwrap().bytes(), *b"notanidatall");
    }

    #[test]
    fn anything_else_makes_none() {
        for text in [
            "",
            "notanid",
            "53ce72e7be12c4e6dba4e79",
            "53ce72e7be12c4e6dba4e79z",
            "ééabcdefgh",
            "ééabcdefghij",
        ] {
            assert_eq!(parse(text), Err(NotAnId), "{text}");
        }
    }
}
