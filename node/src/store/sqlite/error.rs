//! SQLite's complaints as the store's.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// Maps an error of a running store.
pub(super) fn of(error: &rusqlite::Error) -> StoreError {
    match error {
        rusqlite::Error::SqliteFailure(failure, text) => {
            let text = text.clone().unwrap_or_else(|| failure.to_string());
            match failure.code {
                ErrorCode::DiskFull => StoreError::Full(text),
                ErrorCode::TooBig => StoreError::TooLarge,
                ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::OutOfMemory
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::ReadOnly
                | ErrorCode::OperationInterrupted => StoreError::Unavailable(text),
                _ => StoreError::Other(text),
            }
        }
        other => StoreError::Other(other.to_string()),
    }
}

/// The same error once more, for another caller of the same commit.
pub(super) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Duplicate { namespace, index, key } => StoreError::Duplicate {
            namespace: namespace.clone(),
            index: index.clone(),
            key: key.clone(),
        },
        StoreError::BadQuery(text) => StoreError::BadQuery(text.clone()),
        StoreError::Unavailable(text) => StoreError::Unavailable(text.clone()),
        StoreError::Full(text) => StoreError::Full(text.clone()),
        StoreError::TooLarge => StoreError::TooLarge,
        StoreError::Other(text) => StoreError::Other(text.clone()),
    }
}

/// True if a unique index refused a row.
pub(super) fn is_duplicate(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _)
        if matches!(failure.extended_code, rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
}

/// What stops a store from being opened: the path and the cure.
pub(super) fn on_opening(path: &Path, error: &rusqlite::Error) -> StoreError {
    let path = path.display();
    let code = match error {
        rusqlite::Error::SqliteFailure(failure, _) => failure.code,
        _ => ErrorCode::Unknown,
    };
    match code {
        ErrorCode::NotADatabase => StoreError::Other(format!(
            "cannot open the store {path}: it is not an SQLite database; move it away or name another file in store.url"
        )),
        ErrorCode::DatabaseCorrupt => StoreError::Other(format!(
            "cannot open the store {path}: the file is damaged; put a backup in its place"
        )),
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => StoreError::Unavailable(format!(
            "{path} is locked by another program; stop that program or name another file in store.url"
        )),
        ErrorCode::DiskFull => StoreError::Full(format!("{path}; make room on that file system")),
        ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => StoreError::Other(format!(
            "cannot open the store {path}: this user may not write the file and its folder; correct their owner and rights"
        )),
        _ => StoreError::Other(format!("cannot open the store {path}: {error}")),
    }
}
