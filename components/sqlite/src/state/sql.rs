//! The statements and the table layout, which must stay upstream's: both implementations open one file.

use std::time::Duration;

use dapr_components_core::state::{Item, KeysPage};
use dapr_components_core::{Error, ErrorKind};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::row;
use crate::error::{failed, failed_to};
use crate::settings::Identifier;

/// The highest migration level known; a higher one in the file is accepted as it is.
const LEVEL: i64 = 1;

/// Statement texts with the table names in them.
#[derive(Debug)]
pub(super) struct Sql {
    create: String,
    level: String,
    store_level: String,
    get: String,
    keys_like: String,
    pub(super) replace: String,
    pub(super) insert: String,
    pub(super) update: String,
    pub(super) delete: String,
    pub(super) delete_with_etag: String,
    claim_cleanup: String,
    delete_expired: String,
}

/// A row without a time never expires; SQLite compares the times as texts.
const LIVE: &str = "(expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)";

/// `?5` is the time to live in seconds or NULL, and NULL makes the whole expression NULL.
const EXPIRATION: &str = "DATETIME(CURRENT_TIMESTAMP, '+' || ?5 || ' seconds')";

impl Sql {
    pub(super) fn new(table: &Identifier, metadata: &Identifier) -> Self {
        let columns = "(key, value, is_binary, etag, expiration_time, update_time)";
        let values = format!("VALUES (?1, ?2, ?3, ?4, {EXPIRATION}, CURRENT_TIMESTAMP)");
        Self {
            create: create(table, metadata),
            level: format!("SELECT CAST(value AS TEXT) FROM {metadata} WHERE key = 'migrations'"),
            store_level: format!(
                "INSERT OR REPLACE INTO {metadata} (key, value) VALUES ('migrations', ?1)"
            ),
            get: format!(
                "SELECT value, is_binary, etag, expiration_time FROM {table} WHERE key = ?1 AND {LIVE}"
            ),
            keys_like: format!(
                "SELECT key, rowid FROM {table} WHERE key LIKE ?1 ESCAPE '\\' AND {LIVE} \
                 AND (?2 IS NULL OR rowid > ?2) ORDER BY rowid LIMIT ?3"
            ),
            replace: format!("INSERT OR REPLACE INTO {table} {columns} {values}"),
            insert: format!(
                "INSERT INTO {table} {columns} {values} ON CONFLICT (key) DO UPDATE SET value = excluded.value, \
                 is_binary = excluded.is_binary, etag = excluded.etag, expiration_time = excluded.expiration_time, \
                 update_time = excluded.update_time WHERE NOT ({table}.expiration_time IS NULL \
                 OR {table}.expiration_time > CURRENT_TIMESTAMP)"
            ),
            update: format!(
                "UPDATE {table} SET value = ?2, is_binary = ?3, etag = ?4, expiration_time = {EXPIRATION}, \
                 update_time = CURRENT_TIMESTAMP WHERE key = ?1 AND etag = ?6 AND {LIVE}"
            ),
            delete: format!("DELETE FROM {table} WHERE key = ?1"),
            delete_with_etag: format!(
                "DELETE FROM {table} WHERE key = ?1 AND etag = ?2 AND {LIVE}"
            ),
            // A time that cannot be read counts as long ago.
            claim_cleanup: format!(
                "INSERT INTO {metadata} (key, value) VALUES ('last-cleanup', CURRENT_TIMESTAMP) \
                 ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP WHERE \
                 coalesce((unixepoch(CURRENT_TIMESTAMP) - unixepoch({metadata}.value)) * 1000 > ?1, 1)"
            ),
            delete_expired: format!("DELETE FROM {table} WHERE NOT {LIVE}"),
        }
    }

    /// Makes missing tables and stores the migration level.
    ///
    /// The level belongs to the metadata table, which two components may share with different data tables;
    /// so the data table is made by looking at it, not at the level.
    pub(super) fn migrate(&self, connection: &Connection) -> Result<(), Error> {
        let in_transaction = || -> Result<(), Error> {
            let failed = |error| failed_to("perform migrations", error);
            connection.execute_batch(&self.create).map_err(failed)?;
            let level = connection
                .query_row(&self.level, [], |row| row.get::<_, String>(0))
                .optional();
            let level = level.map_err(failed)?.unwrap_or_else(|| "0".to_owned());
            let level: i64 = level.parse().map_err(|_| {
                let text = format!("failed to perform migrations: invalid migration level found in metadata table: {level}");
                Error::new(ErrorKind::Configuration, text)
            })?;
            if level < LEVEL {
                connection
                    .execute(&self.store_level, [LEVEL.to_string()])
                    .map_err(failed)?;
            }
            connection.execute_batch("COMMIT").map_err(failed)
        };
        connection
            .execute_batch("BEGIN EXCLUSIVE")
            .map_err(|error| failed_to("perform migrations", error))?;
        let result = in_transaction();
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").map_err(failed)?;
        }
        result
    }

    pub(super) fn get(&self, connection: &Connection, key: &str) -> Result<Option<Item>, Error> {
        let mut statement = connection.prepare_cached(&self.get).map_err(failed)?;
        let mut rows = statement.query([key]).map_err(failed)?;
        rows.next().map_err(failed)?.map(row::item).transpose()
    }

    /// The token is the row id of the last key of the page.
    pub(super) fn keys_like(
        &self,
        connection: &Connection,
        pattern: &str,
        after: Option<i64>,
        size: Option<u32>,
    ) -> Result<KeysPage, Error> {
        // One row more than asked for tells whether there is another page; -1 is SQLite's "no limit".
        let limit = size.map_or(-1, |size| i64::from(size) + 1);
        let mut statement = connection.prepare_cached(&self.keys_like).map_err(failed)?;
        let rows = statement.query_map(params![pattern, after, limit], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
        let mut rows: Vec<(String, i64)> = rows
            .map_err(failed)?
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        let size = size.map_or(usize::MAX, |size| size as usize);
        let has_more = rows.len() > size;
        rows.truncate(size);
        let token = rows
            .last()
            .filter(|_| has_more)
            .map(|(_, row_id)| row_id.to_string());
        Ok(KeysPage {
            keys: rows.into_iter().map(|(key, _)| key).collect(),
            continuation_token: token,
        })
    }

    /// Deletes expired rows if nobody has done so for nearly `interval`.
    pub(super) fn clean_up(
        &self,
        connection: &Connection,
        interval: Duration,
    ) -> Result<(), Error> {
        let age = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX) - SLACK_MS;
        if connection
            .execute(&self.claim_cleanup, [age])
            .map_err(failed)?
            == 0
        {
            return Ok(());
        }
        let deleted = connection
            .execute(&self.delete_expired, [])
            .map_err(failed)?;
        tracing::debug!(deleted, "removed expired rows");
        Ok(())
    }
}

/// So that a run that comes a little early is not skipped.
const SLACK_MS: i64 = 100;

fn create(table: &Identifier, metadata: &Identifier) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {metadata} (
            key TEXT NOT NULL PRIMARY KEY,
            value TEXT NOT NULL
        );
        CREATE TABLE IF NOT EXISTS {table} (
            key TEXT NOT NULL PRIMARY KEY,
            value TEXT NOT NULL,
            is_binary BOOLEAN NOT NULL,
            etag TEXT NOT NULL,
            expiration_time TIMESTAMP DEFAULT NULL,
            update_time TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
        );"
    )
}
