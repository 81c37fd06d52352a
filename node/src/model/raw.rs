//! A BSON document that is written from its beginning to its end, those inside it in their places.
//!
//! Appending a finished document to another one copies it once a level. Here every byte is copied once, which is what
//! bodies of many megabytes need.

use bson::raw::CStr;
use bson::{RawDocument, RawDocumentBuf};

use super::text::Text;

/// BSON's numbers for kinds of values.
const TEXT: u8 = 0x02;
const DOCUMENT: u8 = 0x03;
const ARRAY: u8 = 0x04;
/// Bytes of a length.
const LENGTH: usize = size_of::<i32>();

/// A document under construction.
#[derive(Debug)]
pub struct RawWriter {
    bytes: Vec<u8>,
    /// Where the documents that are not ended yet begin.
    begun: Vec<usize>,
}

impl RawWriter {
    /// Begins a document with room for this many bytes; it grows if it has to.
    pub fn with_room(bytes: usize) -> Self {
        let mut writer = Self {
            bytes: Vec::with_capacity(bytes),
            begun: Vec::with_capacity(4),
        };
        writer.begin();
        writer
    }

    /// Adds all fields of another document.
    pub fn fields(&mut self, of: &RawDocument) {
        let bytes = of.as_bytes();
        self.bytes
            .extend_from_slice(bytes.get(LENGTH..bytes.len() - 1).unwrap_or_default());
    }

    /// Adds a text.
    pub fn text(&mut self, key: &CStr, text: &Text) {
        self.key(TEXT, key.as_str());
        self.length(text.len() + 1);
        for piece in text.pieces() {
            self.bytes.extend_from_slice(piece);
        }
        self.bytes.push(0);
    }

    /// Begins a document inside this one.
    pub fn begin_document(&mut self, key: &CStr) {
        self.key(DOCUMENT, key.as_str());
        self.begin();
    }

    /// Adds a list of documents.
    pub fn documents<'a>(&mut self, key: &CStr, documents: impl IntoIterator<Item = &'a RawDocumentBuf>) {
        self.key(ARRAY, key.as_str());
        self.begin();
        for (index, document) in documents.into_iter().enumerate() {
            self.key(DOCUMENT, &index.to_string());
            self.bytes.extend_from_slice(document.as_bytes());
        }
        self.end();
    }

    /// Ends the document that was begun last.
    pub fn end(&mut self) {
        if let Some(at) = self.begun.pop() {
            self.bytes.push(0);
            let length = i32::try_from(self.bytes.len() - at).unwrap_or(i32::MAX);
            self.bytes[at..at + LENGTH].copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Ends whatever is begun.
    pub fn finish(mut self) -> RawDocumentBuf {
        while !self.begun.is_empty() {
            self.end();
        }
        // Only a document beyond two gigabytes is none.
        RawDocumentBuf::from_bytes(self.bytes).unwrap_or_default()
    }

    fn begin(&mut self) {
        self.begun.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; LENGTH]);
    }

    fn key(&mut self, kind: u8, key: &str) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(0);
    }

    fn length(&mut self, length: usize) {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use bson::raw::cstr;
    use bson::rawdoc;

    use super::*;

    #[test]
    fn it_writes_what_appending_would() {
        let (one, two) = (rawdoc! {"a": 1}, rawdoc! {"b": ["x", {"deep": true}]});
        let mut writer = RawWriter::with_room(16);
        writer.fields(&rawdoc! {"_id": 7, "none": bson::RawBson::Null});
        writer.begin_document(cstr!("request"));
        writer.text(cstr!("body"), &"größer".into());
        writer.begin_document(cstr!("headers"));
        writer.end();
        writer.fields(&two);
        writer.end();
        writer.documents(cstr!("list"), [&one, &two]);
        writer.documents(cstr!("empty"), []);
        writer.text(cstr!("last"), &Text::default());

        let expected = rawdoc! {
            "_id": 7, "none": bson::RawBson::Null,
            "request": {"body": "größer", "headers": {}, "b": ["x", {"deep": true}]},
            "list": [one, two], "empty": [], "last": "",
        };
        assert_eq!(writer.finish(), expected);
    }

    #[test]
    fn what_is_not_ended_is_ended_at_the_end() {
        let mut writer = RawWriter::with_room(0);
        writer.begin_document(cstr!("a"));
        writer.begin_document(cstr!("b"));

        assert_eq!(writer.finish(), rawdoc! {"a": {"b": {}}});
    }
}
