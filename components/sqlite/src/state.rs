//! `state.sqlite`: requests in, rows out.

mod row;
mod sql;
mod time;
mod write;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_components_core::state::{
    BulkItem, DeleteRequest, Feature, GetRequest, Item, KeysLikeRequest, KeysPage, Operation,
    RequestMetadata, SetRequest, StateStore, ttl,
};
use dapr_components_core::{Error, ErrorKind, Metadata};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::database::Database;
use crate::settings::Settings;
use sql::Sql;
use write::Change;

/// A state store in a SQLite database.
#[derive(Debug)]
pub struct Store {
    database: Database,
    sql: Arc<Sql>,
    cleanup: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the database that `metadata` describes and makes its tables where they are missing.
    pub async fn open(metadata: &Metadata) -> Result<Self, Error> {
        let settings = Settings::parse(metadata)?;
        let sql = Arc::new(Sql::new(&settings.table, &settings.metadata_table));
        let migrations = Arc::clone(&sql);
        let database =
            Database::open(&settings, move |connection| migrations.migrate(connection)).await?;
        let cleanup = settings
            .cleanup_interval
            .map(|interval| tokio::spawn(clean_up(database.clone(), Arc::clone(&sql), interval)));
        Ok(Self {
            database,
            sql,
            cleanup,
        })
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<(), Error> {
        let sql = Arc::clone(&self.sql);
        let write = move |connection: &rusqlite::Connection| {
            changes
                .iter()
                .try_for_each(|change| change.apply(connection, &sql))
        };
        self.database.write(write).await
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(cleanup) = &self.cleanup {
            cleanup.abort();
        }
    }
}

/// Deletes expired rows every `interval`, unless another sidecar has just done so.
async fn clean_up(database: Database, sql: Arc<Sql>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await; // The first one comes at once; the first cleanup after an interval.
    loop {
        ticks.tick().await;
        let sql = Arc::clone(&sql);
        if let Err(error) = database
            .write(move |connection| sql.clean_up(connection, interval))
            .await
        {
            tracing::error!(%error, "removing expired rows failed");
        }
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> &[Feature] {
        &[
            Feature::Etag,
            Feature::Transactional,
            Feature::Ttl,
            Feature::KeysLike,
        ]
    }

    async fn get(&self, request: GetRequest) -> Result<Option<Item>, Error> {
        let sql = Arc::clone(&self.sql);
        self.database
            .read(move |connection| sql.get(connection, &request.key))
            .await
    }

    async fn set(&self, request: SetRequest) -> Result<(), Error> {
        self.apply(vec![Change::upsert(request)?]).await
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), Error> {
        self.apply(vec![Change::delete(request)]).await
    }

    async fn transact(
        &self,
        operations: Vec<Operation>,
        _metadata: RequestMetadata,
    ) -> Result<(), Error> {
        if operations.is_empty() {
            return Ok(());
        }
        let changes = operations.into_iter().map(|operation| match operation {
            Operation::Upsert(request) => Change::upsert(request),
            Operation::Delete(request) => Ok(Change::delete(request)),
        });
        self.apply(changes.collect::<Result<_, _>>()?).await
    }

    /// All keys in one go: first those that are there, then the missing ones.
    async fn bulk_get(
        &self,
        requests: Vec<GetRequest>,
        _parallelism: usize,
    ) -> Result<Vec<BulkItem>, Error> {
        let sql = Arc::clone(&self.sql);
        let read = move |connection: &rusqlite::Connection| {
            let item = |request: GetRequest| {
                let result = sql.get(connection, &request.key);
                BulkItem {
                    key: request.key,
                    result,
                }
            };
            let mut asked = HashSet::new();
            let mut requests = requests;
            requests.retain(|request| asked.insert(request.key.clone()));
            let items = requests.into_iter().map(item);
            let (missing, mut items): (Vec<_>, Vec<_>) =
                items.partition(|item| matches!(item.result, Ok(None)));
            items.extend(missing);
            Ok(items)
        };
        self.database.read(read).await
    }

    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysPage, Error> {
        if request.pattern.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "keys like pattern cannot be empty",
            ));
        }
        let after = match request.continuation_token.as_deref() {
            None | Some("") => None,
            Some(token) => Some(row_id(token)?),
        };
        let sql = Arc::clone(&self.sql);
        let size = request.page_size.filter(|size| *size > 0);
        self.database
            .read(move |connection| sql.keys_like(connection, &request.pattern, after, size))
            .await
    }

    async fn close(&self) {
        if let Some(cleanup) = &self.cleanup {
            cleanup.abort();
        }
        self.database.close().await;
    }
}

fn row_id(token: &str) -> Result<i64, Error> {
    ttl::integer(token, "strconv.ParseInt").map_err(|cause| {
        Error::new(
            ErrorKind::Invalid,
            format!("invalid continuation token: {cause}"),
        )
    })
}
