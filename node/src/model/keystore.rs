//! The keystore: the server's identity and whom it trusts.

use bson::oid::ObjectId;
use bson::{DateTime, Document};

use super::fields::Fields;
use super::secret::Secret;

/// Key, certificate and trusted certificates. There is one document of this kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keystore {
    /// PEM.
    pub key: Option<Secret>,
    pub passphrase: Option<Secret>,
    pub cert: Option<CertInfo>,
    pub ca: Vec<TrustedCert>,
}

/// A certificate that clients or backends are checked against.
#[derive(Clone, Debug, PartialEq)]
pub struct TrustedCert {
    /// What a route's `cert` refers to.
    pub id: Option<ObjectId>,
    pub info: CertInfo,
}

/// A certificate and what is shown of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CertInfo {
    pub common_name: String,
    pub country: String,
    pub state: String,
    pub locality: String,
    pub organization: String,
    pub organization_unit: String,
    pub email_address: String,
    pub not_before: Option<DateTime>,
    pub not_after: Option<DateTime>,
    /// PEM.
    pub data: String,
    /// SHA-1, upper-case pairs joined by colons.
    pub fingerprint: Option<String>,
}

impl Keystore {
    /// Reads the stored keystore. Nothing in it is essential to read the rest.
    pub fn from_document(document: &Document) -> Self {
        let fields = Fields(document);
        let secret = |key| fields.text(key).filter(|text| !text.is_empty()).map(Secret::from);
        Self {
            key: secret("key"),
            passphrase: secret("passphrase"),
            cert: fields.document("cert").and_then(CertInfo::read),
            ca: fields
                .documents("ca")
                .filter_map(|cert| {
                    Some(TrustedCert {
                        id: cert.id("_id"),
                        info: CertInfo::read(cert)?,
                    })
                })
                .collect(),
        }
    }

    /// The trusted certificate of this id.
    pub fn trusted(&self, id: ObjectId) -> Option<&TrustedCert> {
        self.ca.iter().find(|cert| cert.id == Some(id))
    }
}

impl CertInfo {
    fn read(fields: Fields<'_>) -> Option<Self> {
        let text = |key| fields.text(key).unwrap_or_default();
        let validity = |key| fields.document("validity").and_then(|validity| validity.date(key));
        Some(Self {
            common_name: text("commonName"),
            country: text("country"),
            state: text("state"),
            locality: text("locality"),
            organization: text("organization"),
            organization_unit: text("organizationUnit"),
            email_address: text("emailAddress"),
            not_before: validity("start"),
            not_after: validity("end"),
            data: fields.text("data").filter(|pem| !pem.is_empty())?,
            fingerprint: fields.text("fingerprint"),
        })
    }
}

#[cfg(test)]
mod tests {
    use bson::spec::BinarySubtype;
    use bson::{Binary, doc};

    use super::*;

    #[test]
    fn certificates_are_found_by_the_id_that_routes_refer_to() {
        let id = ObjectId::new();
        let keystore = Keystore::from_document(&doc! {
            "key": "k3y", "cert": {"data": "PEM", "commonName": "localhost", "validity": {"end": DateTime::from_millis(9)}},
            "ca": [{"_id": id, "data": Binary { subtype: BinarySubtype::Generic, bytes: b"PEM2".to_vec() }}, {"commonName": "no data"}],
        });

        assert_eq!(keystore.trusted(id).unwrap().info.data, "PEM2");
        assert_eq!(keystore.ca.len(), 1);
        assert_eq!(
            keystore.cert.as_ref().unwrap().not_after,
            Some(DateTime::from_millis(9))
        );
        assert!(!format!("{keystore:?}").contains("k3y"));
    }
}
