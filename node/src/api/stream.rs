//! A list of any length as a JSON array, in bounded memory.
//!
//! Short lists are answered whole, so that an error still becomes an error's answer. A long one is sent while it is
//! read; if it fails half way, the connection is cut, and the client does not take the part for the whole.

use std::io;

use bson::RawDocument;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::error::Fault;
use super::reply::{Chunk, Reply};
use crate::model::json;
use crate::store::Cursor;

/// What is collected before anything is sent, bytes.
const HEAD: usize = 1024 * 1024;
/// What is sent at once after that, bytes.
const PART: usize = 64 * 1024;
/// Parts that may wait for a slow client.
const AHEAD: usize = 4;

/// Writes one document into the array.
pub(super) type Writer = fn(&RawDocument, &mut Vec<u8>, &Cut) -> Result<(), Fault>;

/// How long texts may be where they are cut.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut {
    pub(super) most: usize,
    pub(super) mark: String,
}

/// The documents as they are stored.
pub(super) fn verbatim(document: &RawDocument, out: &mut Vec<u8>, _cut: &Cut) -> Result<(), Fault> {
    Ok(json::write_raw(document, out)?)
}

/// 200 with the cursor's documents.
///
/// # Errors
/// The store fails, or a document cannot be shown, before a megabyte was read.
pub(super) async fn array(mut cursor: Cursor, write: Writer, cut: Cut) -> Result<Reply, Fault> {
    let mut out = vec![b'['];
    while out.len() < HEAD {
        match cursor.next().await {
            None => {
                out.push(b']');
                return Ok(Reply::rendered(out));
            }
            Some(document) => append(&document?, &mut out, write, &cut)?,
        }
    }
    let (sender, chunks) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        if let Err(fault) = rest(cursor, out, write, &cut, &sender).await {
            tracing::error!(error = %fault, "API answer was cut off: {fault}");
            let _ = sender.send(Err(io::Error::other(fault.to_string()))).await;
        }
    });
    Ok(Reply::stream(chunks))
}

async fn rest(
    mut cursor: Cursor,
    mut out: Vec<u8>,
    write: Writer,
    cut: &Cut,
    sender: &mpsc::Sender<Chunk>,
) -> Result<(), Fault> {
    while let Some(document) = cursor.next().await {
        append(&document?, &mut out, write, cut)?;
        if out.len() >= PART && sender.send(Ok(Bytes::from(std::mem::take(&mut out)))).await.is_err() {
            return Ok(());
        }
    }
    out.push(b']');
    let _ = sender.send(Ok(Bytes::from(out))).await;
    Ok(())
}

fn append(document: &RawDocument, out: &mut Vec<u8>, write: Writer, cut: &Cut) -> Result<(), Fault> {
    if out.last() != Some(&b'[') {
        out.push(b',');
    }
    write(document, out, cut)
}
