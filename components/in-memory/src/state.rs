//! `state.in-memory`: a table behind a lock, purged of expired items every second.

mod like;
mod table;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_components_core::state::{
    Concurrency, DeleteRequest, Feature, GetRequest, Item, KeysLikeRequest, KeysPage, Operation,
    RequestMetadata, SetRequest, StateStore, ttl,
};
use dapr_components_core::{Error, ErrorKind};
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use table::{Condition, Expiry, Table, Write};

const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// A state store in this process. Must be opened inside a tokio runtime, whose clock it uses.
#[derive(Debug)]
pub struct Store {
    table: Arc<RwLock<Table>>,
    purge: JoinHandle<()>,
}

impl Store {
    /// An empty store; its purge runs until it is closed or dropped.
    pub fn open() -> Self {
        let table = Arc::new(RwLock::new(Table::default()));
        let purge = tokio::spawn(purge(Arc::clone(&table)));
        Self { table, purge }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.purge.abort();
    }
}

async fn purge(table: Arc<RwLock<Table>>) {
    let mut ticks = tokio::time::interval(PURGE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = ticks.tick().await;
        table.write().purge(now);
    }
}

#[async_trait]
impl StateStore for Store {
    fn features(&self) -> &[Feature] {
        &[
            Feature::Etag,
            Feature::Transactional,
            Feature::Ttl,
            Feature::DeleteWithPrefix,
            Feature::KeysLike,
        ]
    }

    fn has_empty_values(&self) -> bool {
        false
    }

    async fn get(&self, request: GetRequest) -> Result<Option<Item>, Error> {
        Ok(self.table.read().get(&request.key, Instant::now()))
    }

    async fn set(&self, request: SetRequest) -> Result<(), Error> {
        self.apply(vec![upsert(request)?])
    }

    async fn delete(&self, request: DeleteRequest) -> Result<(), Error> {
        self.apply(vec![delete(request)])
    }

    async fn transact(
        &self,
        operations: Vec<Operation>,
        _metadata: RequestMetadata,
    ) -> Result<(), Error> {
        let writes = operations.into_iter().map(|operation| match operation {
            Operation::Upsert(request) => upsert(request),
            Operation::Delete(request) => Ok(delete(request)),
        });
        self.apply(writes.collect::<Result<_, _>>()?)
    }

    async fn keys_like(&self, request: KeysLikeRequest) -> Result<KeysPage, Error> {
        if request.pattern.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "keys like pattern cannot be empty",
            ));
        }
        let from = match request.continuation_token.as_deref() {
            None | Some("") => 0,
            Some(token) => token_value(token)?,
        };
        let size = request.page_size.unwrap_or(0) as usize;
        let limit = if size == 0 { usize::MAX } else { size };
        let matches = |key: &str| like::matches(&request.pattern, key);
        let (keys, next) = self.table.read().list(matches, from, limit, Instant::now());
        Ok(KeysPage {
            keys,
            continuation_token: next.map(|index| index.to_string()),
        })
    }

    async fn delete_with_prefix(&self, prefix: String) -> Result<u64, Error> {
        let prefix = if prefix.ends_with(SEPARATOR) {
            prefix
        } else {
            prefix + SEPARATOR
        };
        let below = |key: &str| {
            key.strip_prefix(prefix.as_str())
                .is_some_and(|rest| !rest.contains(SEPARATOR))
        };
        Ok(self.table.write().delete_where(below))
    }

    async fn close(&self) {
        self.purge.abort();
    }
}

const SEPARATOR: &str = "||";

impl Store {
    fn apply(&self, writes: Vec<Write>) -> Result<(), Error> {
        self.table
            .write()
            .apply(writes, Instant::now())
            .map_err(|mismatch| Error::etag_mismatch(Some(&mismatch.to_string())))
    }
}

fn upsert(request: SetRequest) -> Result<Write, Error> {
    let expiry = expiry(&request.metadata)?;
    let condition = condition(request.etag, request.concurrency);
    let data = request.value.bytes().clone();
    Ok(Write::Upsert {
        key: request.key,
        data,
        expiry,
        condition,
    })
}

fn delete(request: DeleteRequest) -> Write {
    Write::Delete {
        condition: condition(request.etag, request.concurrency),
        key: request.key,
    }
}

fn condition(etag: Option<String>, concurrency: Concurrency) -> Condition {
    match (etag.filter(|etag| !etag.is_empty()), concurrency) {
        (Some(etag), _) => Condition::Etag(etag),
        (None, Concurrency::FirstWrite) => Condition::Absent,
        (None, Concurrency::Unspecified | Concurrency::LastWrite) => Condition::None,
    }
}

/// Any integer is a TTL here; what is not positive, or beyond the end of all clocks, never expires.
fn expiry(metadata: &RequestMetadata) -> Result<Option<Expiry>, Error> {
    let Some(text) = metadata.get(ttl::KEY).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = ttl::integer(text, "strconv.Atoi")
        .map_err(|cause| Error::new(ErrorKind::Invalid, cause))?;
    let Some(positive) = u64::try_from(seconds).ok().filter(|seconds| *seconds > 0) else {
        return Ok(None);
    };
    let at = Instant::now().checked_add(Duration::from_secs(positive));
    let told = Timestamp::now()
        .checked_add(SignedDuration::from_secs(seconds))
        .ok();
    Ok(at.zip(told).map(|(at, told)| Expiry { at, told }))
}

fn token_value(token: &str) -> Result<u64, Error> {
    let index = ttl::integer(token, "strconv.Atoi").and_then(|index| {
        u64::try_from(index)
            .map_err(|_| format!("strconv.Atoi: parsing {token:?}: value out of range"))
    });
    index.map_err(|cause| {
        Error::new(
            ErrorKind::Invalid,
            format!("invalid continuation token: {cause}"),
        )
    })
}
