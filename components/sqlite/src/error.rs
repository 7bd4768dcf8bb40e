//! SQLite's errors in the words of upstream's driver.

use dapr_components_core::{Error, ErrorKind};
use rusqlite::ffi;

/// `<what the code means>[: <what the connection says>] (<extended code>)[ (SQLITE_BUSY)]`
pub(crate) fn text(error: &rusqlite::Error) -> String {
    let rusqlite::Error::SqliteFailure(failure, message) = error else {
        return error.to_string();
    };
    let code = failure.extended_code & 0xFF;
    let meaning = meaning(code);
    let detail = match message.as_deref() {
        Some(message) if message != meaning => format!(": {message}"),
        _ => String::new(),
    };
    let suffix = if code == ffi::SQLITE_BUSY {
        " (SQLITE_BUSY)"
    } else {
        ""
    };
    format!("{meaning}{detail} ({}){suffix}", failure.extended_code)
}

/// The error of a call that failed in SQLite.
pub(crate) fn failed(error: rusqlite::Error) -> Error {
    Error::new(kind(&error), text(&error)).with_source(error)
}

/// The error of a step at the start, which says what the step was.
pub(crate) fn failed_to(step: &str, error: rusqlite::Error) -> Error {
    Error::new(kind(&error), format!("failed to {step}: {}", text(&error))).with_source(error)
}

/// The error of opening the file; for one that cannot be opened the driver says more than it knows.
pub(crate) fn not_opened(error: rusqlite::Error) -> Error {
    let text = match error.sqlite_error_code() {
        Some(ffi::ErrorCode::CannotOpen) => {
            "unable to open database file: out of memory (14)".to_owned()
        }
        _ => text(&error),
    };
    Error::new(kind(&error), format!("failed to ping: {text}")).with_source(error)
}

fn kind(error: &rusqlite::Error) -> ErrorKind {
    match error.sqlite_error_code() {
        Some(ffi::ErrorCode::DatabaseBusy | ffi::ErrorCode::DatabaseLocked) => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Internal,
    }
}

/// SQLite's own text for a primary result code.
fn meaning(code: i32) -> &'static str {
    match code {
        ffi::SQLITE_ERROR => "SQL logic error",
        ffi::SQLITE_PERM => "access permission denied",
        ffi::SQLITE_ABORT => "query aborted",
        ffi::SQLITE_BUSY => "database is locked",
        ffi::SQLITE_LOCKED => "database table is locked",
        ffi::SQLITE_NOMEM => "out of memory",
        ffi::SQLITE_READONLY => "attempt to write a readonly database",
        ffi::SQLITE_INTERRUPT => "interrupted",
        ffi::SQLITE_IOERR => "disk I/O error",
        ffi::SQLITE_CORRUPT => "database disk image is malformed",
        ffi::SQLITE_FULL => "database or disk is full",
        ffi::SQLITE_CANTOPEN => "unable to open database file",
        ffi::SQLITE_PROTOCOL => "locking protocol",
        ffi::SQLITE_SCHEMA => "database schema has changed",
        ffi::SQLITE_TOOBIG => "string or blob too big",
        ffi::SQLITE_CONSTRAINT => "constraint failed",
        ffi::SQLITE_MISMATCH => "datatype mismatch",
        ffi::SQLITE_MISUSE => "bad parameter or other API misuse",
        ffi::SQLITE_AUTH => "authorization denied",
        ffi::SQLITE_RANGE => "column index out of range",
        ffi::SQLITE_NOTADB => "file is not a database",
        _ => "unknown error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_driver_s() {
        let check = |code: i32, message: &str, expected: &str| {
            let error =
                rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(message.to_owned()));
            assert_eq!(text(&error), expected);
        };
        check(
            5,
            "database is locked",
            "database is locked (5) (SQLITE_BUSY)",
        );
        check(
            1,
            "no such table: state",
            "SQL logic error: no such table: state (1)",
        );
        check(
            2067,
            "UNIQUE constraint failed: a.b",
            "constraint failed: UNIQUE constraint failed: a.b (2067)",
        );
        check(26, "file is not a database", "file is not a database (26)");
    }
}
