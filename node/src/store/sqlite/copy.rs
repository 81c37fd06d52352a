//! Copies of the file while it is in use, and putting one in its place.
//!
//! A copy is made page by page from one snapshot, so writers are neither waited for nor kept waiting. It appears under
//! its name only when it is whole and was checked. A file is replaced only while nobody else has it open, which SQLite's
//! own locks tell: every connection to a file with a write-ahead log holds one for as long as it lives.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::migrate::APPLICATION;

/// Pages in one step.
const PAGES: i32 = 1024;
/// How long a step waits for a writer that is emptying the log.
const PAUSE: Duration = Duration::from_millis(20);

/// What a copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Size of the file.
    pub bytes: u64,
    /// Documents in all collections.
    pub documents: u64,
}

/// Why there is no copy, or why it was not put in place. What was there before is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no file {}", .0.display())]
    Missing(PathBuf),
    #[error("{} exists; name another file, or replace it with --force", .0.display())]
    Exists(PathBuf),
    #[error("{} is in use: stop the node that works on it", .0.display())]
    InUse(PathBuf),
    #[error("{} is no store of this program", .0.display())]
    Foreign(PathBuf),
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("cannot write {}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl CopyError {
    /// True if it was refused before any work was done.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Missing(_) | Self::Exists(_) | Self::InUse(_) | Self::Foreign(_)
        )
    }
}

type Watch<'w> = &'w mut dyn FnMut(u64, u64);

/// Copies the store at `from` to the file `to`. `watch` is told how many pages of how many are done. Blocks.
///
/// # Errors
/// There is no store, `to` exists and may not be replaced, the copy is not whole, or the disk is full.
pub fn backup(from: &Path, to: &Path, overwrite: bool, watch: Watch<'_>) -> Result<Copied, CopyError> {
    let source = open_store(from)?;
    if to.exists() && !overwrite {
        return Err(CopyError::Exists(to.to_owned()));
    }
    if same_file(from, to) {
        return Err(CopyError::InUse(to.to_owned()));
    }
    let draft = Draft::beside(to);
    let copied = draft.fill(&source, from, watch)?;
    draft.put(to)?;
    Ok(copied)
}

/// Puts the backup `from` in the place of the store `to`. Blocks.
///
/// # Errors
/// `from` is no backup or damaged, `to` exists and may not be replaced or somebody works on it.
pub fn restore(from: &Path, to: &Path, overwrite: bool, watch: Watch<'_>) -> Result<Copied, CopyError> {
    let source = open_store(from)?;
    if same_file(from, to) {
        return Err(CopyError::InUse(to.to_owned()));
    }
    let is_there = fs::metadata(to).is_ok_and(|file| file.len() > 0);
    if is_there && !overwrite {
        return Err(CopyError::Exists(to.to_owned()));
    }
    // Held until the new file is in place: whoever opens the old one meanwhile has to wait.
    let hold = is_there.then(|| hold(to)).transpose()?;
    if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|source| disk(folder, source))?;
    }
    let draft = Draft::beside(to);
    let copied = draft.fill(&source, from, watch)?;
    for ending in ["-wal", "-shm"] {
        let left = with_ending(to, ending);
        match fs::remove_file(&left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(&left, error)),
            _ => {}
        }
    }
    draft.put(to)?;
    drop(hold);
    Ok(copied)
}

/// A store, opened for reading what it holds at one moment.
fn open_store(path: &Path) -> Result<Connection, CopyError> {
    if !path.is_file() {
        return Err(CopyError::Missing(path.to_owned()));
    }
    let read = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => CopyError::Foreign(path.to_owned()),
        Some(ErrorCode::DatabaseCorrupt) => CopyError::Damaged {
            path: path.to_owned(),
            what: source.to_string(),
        },
        _ => CopyError::Read {
            path: path.to_owned(),
            source,
        },
    };
    // Writing is needed to take part in the log that a killed node left.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(read)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(read)?;
    let application: i64 = connection
        .query_row("PRAGMA application_id", [], |row| row.get(0))
        .map_err(read)?;
    if application != APPLICATION {
        return Err(CopyError::Foreign(path.to_owned()));
    }
    Ok(connection)
}

/// Makes sure that nobody else has the file open, and keeps it so.
fn hold(path: &Path) -> Result<Connection, CopyError> {
    let in_use = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => CopyError::InUse(path.to_owned()),
        // It is to be replaced; what is in it does not matter.
        _ => CopyError::Read {
            path: path.to_owned(),
            source,
        },
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(in_use)?;
    connection.busy_timeout(Duration::ZERO).map_err(in_use)?;
    // Leaving the log's mode needs the file for oneself, and puts what is in the log into the file.
    let mode = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get::<_, String>(0));
    match mode {
        Ok(mode) if mode == "delete" => {}
        Ok(_) => return Err(CopyError::InUse(path.to_owned())),
        Err(error)
            if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
            ) =>
        {
            return Ok(connection);
        }
        Err(error) => return Err(in_use(error)),
    }
    connection.execute_batch("BEGIN EXCLUSIVE").map_err(in_use)?;
    Ok(connection)
}

/// A copy that is not yet under its name; it goes away unless it is put there.
struct Draft(PathBuf);

impl Draft {
    fn beside(to: &Path) -> Self {
        Self(with_ending(to, &format!(".{}.part", std::process::id())))
    }

    fn fill(&self, source: &Connection, from: &Path, watch: Watch<'_>) -> Result<Copied, CopyError> {
        let read = |source| CopyError::Read {
            path: from.to_owned(),
            source,
        };
        let write = |source| CopyError::Write {
            path: self.0.clone(),
            source,
        };
        create(&self.0).map_err(|source| disk(&self.0, source))?;
        let mut copy = Connection::open(&self.0).map_err(write)?;
        // One snapshot for all steps: without it, each write by somebody else would make the copy begin anew.
        source.execute_batch("BEGIN").map_err(read)?;
        source
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
            .map_err(read)?;
        {
            let backup = Backup::new(source, &mut copy).map_err(write)?;
            loop {
                let step = backup.step(PAGES).map_err(write)?;
                let progress = backup.progress();
                let pages = |count: i32| u64::try_from(count).unwrap_or(0);
                watch(
                    pages(progress.pagecount - progress.remaining),
                    pages(progress.pagecount),
                );
                match step {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => std::thread::sleep(PAUSE),
                }
            }
        }
        source.execute_batch("COMMIT").map_err(read)?;
        // A file of its own: without the log's mode nothing lies beside it.
        copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
            .map_err(write)?;
        let documents = verify(&copy, from)?;
        drop(copy);
        let file = File::open(&self.0).map_err(|source| disk(&self.0, source))?;
        file.sync_all().map_err(|source| disk(&self.0, source))?;
        let bytes = file.metadata().map_or(0, |file| file.len());
        Ok(Copied { bytes, documents })
    }

    fn put(&self, to: &Path) -> Result<(), CopyError> {
        fs::rename(&self.0, to).map_err(|source| disk(to, source))?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))
            .and_then(|folder| folder.sync_all())
            .map_err(|source| disk(to, source))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(with_ending(&self.0, "-journal"));
    }
}

/// Checks every page and every index, and counts the documents.
fn verify(copy: &Connection, from: &Path) -> Result<u64, CopyError> {
    let damaged = |what: String| CopyError::Damaged {
        path: from.to_owned(),
        what,
    };
    let unreadable = |error: rusqlite::Error| damaged(error.to_string());
    let found: String = copy
        .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        .map_err(unreadable)?;
    if found != "ok" {
        return Err(damaged(found));
    }
    let mut documents = 0;
    for collection in crate::store::Collection::ALL {
        let name = collection.name();
        let is_there: bool = copy
            .query_row(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [name],
                |row| row.get(0),
            )
            .map_err(unreadable)?;
        if is_there {
            let count: u64 = copy
                .query_row(
                    &format!("SELECT count(*) FROM {}", super::schema::quoted(name)),
                    [],
                    |row| row.get(0),
                )
                .map_err(unreadable)?;
            documents += count;
        }
    }
    Ok(documents)
}

fn create(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn same_file(one: &Path, other: &Path) -> bool {
    match (fs::canonicalize(one), fs::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn disk(path: &Path, source: io::Error) -> CopyError {
    CopyError::Disk {
        path: path.to_owned(),
        source,
    }
}
