//! The component's metadata, checked.

use std::time::Duration;

use dapr_components_core::{Error, ErrorKind, Metadata, metadata as text};

use crate::connection_string::ConnectionString;

const TIMEOUT: Duration = Duration::from_secs(20);
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// How to open the database and what the tables are called.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) connection: ConnectionString,
    /// Limit of one call.
    pub(crate) timeout: Duration,
    /// How long SQLite waits for another process's lock.
    pub(crate) busy_timeout: Duration,
    pub(crate) wal: Wal,
    pub(crate) table: Identifier,
    pub(crate) metadata_table: Identifier,
    /// `None` switches the cleanup off.
    pub(crate) cleanup_interval: Option<Duration>,
}

/// Whether to use the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wal {
    Enabled,
    Disabled,
}

impl Settings {
    pub(crate) fn parse(metadata: &Metadata) -> Result<Self, Error> {
        let connection = metadata
            .get_any(&["connectionString", "url"])
            .unwrap_or_default();
        let connection = ConnectionString::parse(connection)?;
        let timeout = duration(metadata, &["timeout", "timeoutInSeconds"])?.unwrap_or(TIMEOUT);
        if timeout < MIN_TIMEOUT {
            let text = "invalid value for 'timeout': must be greater than 1s";
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        let wal = if metadata.bool("disableWAL") == Some(true) {
            Wal::Disabled
        } else {
            Wal::Enabled
        };
        let cleanup = duration(metadata, &["cleanupInterval", "cleanupIntervalInSeconds"])?;
        Ok(Self {
            connection,
            timeout,
            busy_timeout: duration(metadata, &["busyTimeout"])?.unwrap_or(BUSY_TIMEOUT),
            wal,
            table: Identifier::parse(metadata.get("tableName"), "state")?,
            metadata_table: Identifier::parse(metadata.get("metadataTableName"), "metadata")?,
            cleanup_interval: cleanup.filter(|interval| !interval.is_zero()),
        })
    }
}

/// The duration under the first name that is there; a negative one counts as zero.
fn duration(metadata: &Metadata, names: &[&str]) -> Result<Option<Duration>, Error> {
    match names.iter().find(|name| metadata.get(name).is_some()) {
        Some(name) => match metadata.get(name).and_then(|text| text.strip_prefix('-')) {
            // Negative: none at all, if it is a duration.
            Some(size) => text::duration(name, size).map(|_| Some(Duration::ZERO)),
            None => metadata.duration(name),
        },
        None => Ok(None),
    }
}

/// A table name that needs no quoting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identifier(String);

impl Identifier {
    fn parse(text: Option<&str>, default: &str) -> Result<Self, Error> {
        let text = text.filter(|text| !text.is_empty()).unwrap_or(default);
        if text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(
                ErrorKind::Configuration,
                format!("invalid identifier: {text}"),
            ))
        }
    }
}

impl std::fmt::Display for Identifier {
    /// Quoted, for a name may begin with a digit or be a keyword.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(properties: &[(&str, &str)]) -> Result<Settings, Error> {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::parse(&Metadata::new("store", "state.sqlite", "v1", properties)?)
    }

    #[test]
    fn defaults() {
        let settings = parse(&[("url", "data.db")]).expect("settings");
        assert_eq!(settings.timeout, Duration::from_secs(20));
        assert_eq!(settings.busy_timeout, Duration::from_secs(2));
        assert_eq!(settings.wal, Wal::Enabled);
        assert_eq!(settings.table.to_string(), "\"state\"");
        assert_eq!(settings.metadata_table.to_string(), "\"metadata\"");
        assert_eq!(settings.cleanup_interval, None);
    }

    #[test]
    fn errors_are_upstream_s() {
        let check = |properties: &[(&str, &str)], expected: &str| {
            assert_eq!(parse(properties).expect_err(expected).to_string(), expected);
        };
        check(&[], "missing connection string");
        check(&[("connectionString", "")], "missing connection string");
        let short = "invalid value for 'timeout': must be greater than 1s";
        check(&[("url", "x"), ("timeout", "999ms")], short);
        check(&[("url", "x"), ("timeoutInSeconds", "")], short);
        check(&[("url", "x"), ("timeout", "-5s")], short);
        for name in ["timeout", "cleanupInterval", "busyTimeout"] {
            let error = parse(&[("url", "x"), (name, "-abc")]).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
        check(
            &[("url", "x"), ("tableName", "a-b")],
            "invalid identifier: a-b",
        );
        check(
            &[("url", "x"), ("metadataTableName", "a\"b")],
            "invalid identifier: a\"b",
        );
    }

    #[test]
    fn the_cleanup_is_off_unless_its_interval_is_positive() {
        let check = |text: &str, expected: Option<u64>| {
            let settings = parse(&[("url", "x"), ("cleanupInterval", text)]).expect(text);
            assert_eq!(
                settings.cleanup_interval,
                expected.map(Duration::from_secs),
                "{text}"
            );
        };
        check("", None);
        check("0", None);
        check("-1s", None);
        check("90", Some(90));
        check("1h", Some(3600));
    }
}
