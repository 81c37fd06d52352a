//! A client: a system that sends messages.

use bson::Document;
use bson::oid::ObjectId;

use super::fields::Fields;
use super::secret::Secret;

/// A client as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    pub id: ObjectId,
    /// The name it authenticates with.
    pub client_id: String,
    pub name: String,
    /// Common name of its certificate, for installations that match by domain.
    pub client_domain: Option<String>,
    pub roles: Vec<String>,
    pub custom_token_id: Option<Secret>,
    /// `bcrypt`, or the name of a digest.
    pub password_algorithm: Option<String>,
    pub password_hash: Option<Secret>,
    pub password_salt: Option<Secret>,
    /// SHA-1 of its certificate, upper-case pairs joined by colons.
    pub cert_fingerprint: Option<String>,
    pub organization: Option<String>,
    pub location: Option<String>,
    pub software_name: Option<String>,
    pub description: Option<String>,
    pub contact_person: Option<String>,
    pub contact_person_email: Option<String>,
}

/// Why a stored client cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    #[error("the client has no usable id")]
    NoId,
    #[error("the client has no `clientID`")]
    NoClientId,
}

impl Client {
    /// Reads a stored client. Empty credentials count as absent, so that nobody authenticates with nothing.
    ///
    /// # Errors
    /// `_id` or `clientID` is missing.
    pub fn from_document(document: &Document) -> Result<Self, ClientError> {
        let fields = Fields(document);
        let text = |key| fields.text(key).filter(|text| !text.is_empty());
        Ok(Self {
            id: fields.id("_id").ok_or(ClientError::NoId)?,
            client_id: text("clientID").ok_or(ClientError::NoClientId)?,
            name: fields.text("name").unwrap_or_default(),
            client_domain: text("clientDomain"),
            roles: fields.texts("roles"),
            custom_token_id: text("customTokenID").map(Secret::from),
            password_algorithm: text("passwordAlgorithm"),
            password_hash: text("passwordHash").map(Secret::from),
            password_salt: text("passwordSalt").map(Secret::from),
            cert_fingerprint: text("certFingerprint"),
            organization: text("organization"),
            location: text("location"),
            software_name: text("softwareName"),
            description: text("description"),
            contact_person: text("contactPerson"),
            contact_person_email: text("contactPersonEmail"),
        })
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn credentials_are_read_and_never_printed() {
        let client = Client::from_document(&doc! {
            "_id": ObjectId::new(), "clientID": "clinic", "name": "Clinic", "roles": "PoC", "customTokenID": "tok",
            "passwordAlgorithm": "sha512", "passwordHash": "h4sh", "passwordSalt": "s4lt", "certFingerprint": "AA:BB",
        })
        .unwrap();

        assert_eq!(client.roles, ["PoC"]);
        assert_eq!(client.custom_token_id, Some(Secret::from("tok")));
        let printed = format!("{client:?}");
        assert!(!printed.contains("h4sh") && !printed.contains("s4lt") && !printed.contains("tok\""));
    }

    #[test]
    fn empty_credentials_count_as_absent() {
        let client = Client::from_document(&doc! {
            "_id": ObjectId::new(), "clientID": "c", "customTokenID": "", "passwordHash": "", "passwordSalt": null,
        })
        .unwrap();

        assert_eq!((client.custom_token_id, client.password_hash), (None, None));
    }

    #[test]
    fn a_client_without_a_name_to_log_in_with_is_refused() {
        assert_eq!(
            Client::from_document(&doc! {"_id": ObjectId::new(), "name": "x"}),
            Err(ClientError::NoClientId)
        );
    }
}
