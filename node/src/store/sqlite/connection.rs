//! How a connection to the file is set up.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::key;
use crate::store::query::Pattern;

/// How long a write waits for another process that is writing.
const BUSY: Duration = Duration::from_secs(10);
/// Pause before another try to shape a file that others are making.
const AGAIN: Duration = Duration::from_millis(10);
/// Prepared statements that a connection keeps.
const STATEMENTS: usize = 256;
/// Pages in the log at which they are copied into the file itself. What changes again and again is copied once.
const CHECKPOINT_PAGES: i64 = 4096;
/// Bytes that the log keeps on disk after it was emptied.
const LOG_BYTES: i64 = 64 << 20;

type Patterns = Arc<Mutex<Vec<Pattern>>>;

/// A connection with the function that conditions use for patterns.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) connection: Connection,
    patterns: Patterns,
}

impl Database {
    /// Opens the file, which must be there, for writing.
    pub(super) fn open(path: &Path, cache_kib: u32) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        shape(&connection)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
        let patterns = Patterns::default();
        add_pattern_function(&connection, Arc::clone(&patterns))?;
        Ok(Self { connection, patterns })
    }

    /// Opens the file for reading only.
    pub(super) fn open_reader(path: &Path, cache_kib: u32) -> rusqlite::Result<Self> {
        let database = Self::open(path, cache_kib)?;
        database.connection.pragma_update(None, "query_only", true)?;
        Ok(database)
    }

    /// Keeps the file from growing beyond this many bytes.
    pub(super) fn bound(&self, bytes: Option<u64>) -> rusqlite::Result<()> {
        let Some(bytes) = bytes else {
            return Ok(());
        };
        let page: u64 = self.connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = i64::try_from(bytes / page.max(1)).unwrap_or(i64::MAX).max(1);
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
    }

    /// Says what the places in `openhim_matches(place, column)` stand for until the next call.
    pub(super) fn use_patterns(&self, patterns: &[Pattern]) {
        let mut current = self.patterns.lock().unwrap_or_else(PoisonError::into_inner);
        current.clear();
        current.extend_from_slice(patterns);
    }
}

/// Sets what the file itself keeps. Where several make a new file at once, each has to wait for the others, and SQLite
/// does not wait where two might wait for each other.
fn shape(connection: &Connection) -> rusqlite::Result<()> {
    let deadline = Instant::now() + BUSY;
    let attempt = || {
        let pages: u64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if pages == 0 {
            // What is deleted can then be given back to the disk. In a file with content it would only be a write.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")
    };
    loop {
        match attempt() {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < deadline => {
                std::thread::sleep(AGAIN);
            }
            outcome => return outcome,
        }
    }
}

/// `openhim_matches(place, key)`: true if the text that the key stands for matches the pattern at that place.
fn add_pattern_function(connection: &Connection, patterns: Patterns) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    connection.create_scalar_function("openhim_matches", 2, flags, move |context| {
        let place = usize::try_from(context.get::<i64>(0)?).unwrap_or(usize::MAX);
        let text = context.get_raw(1).as_blob().ok().and_then(key::text);
        let patterns = patterns.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(text.is_some_and(|text| patterns.get(place).is_some_and(|pattern| pattern.is_match(text))))
    })
}
