//! The driver's complaints as the store's.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::store::StoreError;

/// Maps an error of the driver.
pub(super) fn of(error: Error) -> StoreError {
    match &*error.kind {
        ErrorKind::Command(failure) => of_code(failure.code, &failure.message),
        ErrorKind::Write(WriteFailure::WriteError(failure)) => of_code(failure.code, &failure.message),
        ErrorKind::Write(WriteFailure::WriteConcernError(failure)) => StoreError::Unavailable(failure.message.clone()),
        ErrorKind::ServerSelection { message, .. } => StoreError::Unavailable(unreachable_servers(message)),
        ErrorKind::Io(_)
        | ErrorKind::ConnectionPoolCleared { .. }
        | ErrorKind::DnsResolve { .. }
        | ErrorKind::Shutdown => StoreError::Unavailable(error.to_string()),
        ErrorKind::InvalidArgument { message, .. } => StoreError::BadQuery(message.clone()),
        ErrorKind::Authentication { .. } => StoreError::Other(format!(
            "MongoDB refused the credentials in the connection string: {error}"
        )),
        _ => StoreError::Other(error.to_string()),
    }
}

/// True if the server stopped because the time was over that it was given.
pub(super) fn is_out_of_time(error: &Error) -> bool {
    matches!(&*error.kind, ErrorKind::Command(failure) if failure.code == 50)
}

/// Maps a number that the server gave.
pub(super) fn of_code(code: i32, message: &str) -> StoreError {
    match code {
        11000 | 11001 | 12582 => duplicate(message),
        // BSONObjectTooLarge, and how the update and storage layers say it.
        10334 | 17419 | 17420 => StoreError::TooLarge,
        // OutOfDiskSpace.
        14031 => StoreError::Full(message.to_owned()),
        // BadValue, FailedToParse, TypeMismatch, PathNotViable, ConflictingUpdateOperators, ImmutableField, EmptyFieldName,
        // DollarPrefixedFieldName, InvalidIdField, InvalidOptions, InvalidRegex and the older numbers of the same.
        2
        | 9
        | 14
        | 28
        | 40
        | 52
        | 53
        | 56
        | 66
        | 72
        | 16837
        | 51091
        | 51108
        | 51024
        | 51075
        | 40415
        | 31249..=31255 => StoreError::BadQuery(message.to_owned()),
        // HostUnreachable, HostNotFound, NetworkTimeout, ShutdownInProgress, PrimarySteppedDown, ExceededTimeLimit,
        // SocketException, InterruptedAtShutdown, NotWritablePrimary, InterruptedDueToReplStateChange,
        // NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary, WriteConcernFailed, MaxTimeMSExpired.
        6 | 7 | 50 | 64 | 89 | 91 | 134 | 189 | 262 | 9001 | 10058 | 10107 | 11600 | 11602 | 13435 | 13436 => {
            StoreError::Unavailable(message.to_owned())
        }
        _ => StoreError::Other(message.to_owned()),
    }
}

/// Takes the server's text apart, so that it reads the same again.
fn duplicate(message: &str) -> StoreError {
    let parts = message
        .split_once("collection: ")
        .and_then(|(_, rest)| rest.split_once(" index: "))
        .and_then(|(namespace, rest)| {
            let (index, key) = rest.split_once(" dup key: ")?;
            Some((namespace, index, key))
        });
    let (namespace, index, key) = parts.unwrap_or(("", "", message));
    StoreError::Duplicate {
        namespace: namespace.to_owned(),
        index: index.to_owned(),
        key: key.to_owned(),
    }
}

/// The driver's text about servers that do not answer holds a long dump: the first sentence says it.
fn unreachable_servers(message: &str) -> String {
    message.split("Topology:").next().unwrap_or(message).trim().to_owned()
}
