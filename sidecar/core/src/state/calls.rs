//! The calls on a store: prefix the keys, check the options, run under the store's outbound policies.

use std::collections::BTreeMap;
use std::time::Instant;

use dapr_components_core::state::{
    self as component, BulkError, DeleteRequest, Feature, GetRequest, Item, SetRequest,
};
use dapr_components_core::{Error as ComponentError, ErrorKind};
use parking_lot::Mutex;

use super::item::{BadOption, consistency, delete_request, set_request};
use super::{BulkItem, DeleteItem, Error, EtagProblem, Operation, SaveItem, Store, Stores, prefix};
use crate::metrics::Block;
use crate::resiliency::{Class, Classify, ComponentKind, Failed, Target};

/// Metadata, as callers give it.
type Metadata = BTreeMap<String, String>;

impl Stores {
    /// Reads one key; `consistency` is `strong`, `eventual` or empty.
    pub async fn get(
        &self,
        store: &str,
        key: &str,
        consistency: &str,
        metadata: Metadata,
    ) -> Result<Option<Item>, Error> {
        let store = self.store(store)?;
        let failed = |reason: String| Error::Get {
            store: store.name.clone(),
            key: key.to_owned(),
            reason,
        };
        let request = GetRequest {
            key: full_key(&store, key)?,
            consistency: self::consistency(consistency).unwrap_or_default(),
            metadata,
        };
        let result = self
            .call(&store, "get", request, |request| store.inner.get(request))
            .await;
        result.map_err(|error| failed(error.to_string()))
    }

    /// Writes keys, each for itself: where one fails, the others are written.
    pub async fn save(&self, store: &str, items: Vec<SaveItem>) -> Result<(), Error> {
        let store = self.store(store)?;
        let failed = |etag: EtagProblem, reason: String| Error::Save {
            store: store.name.clone(),
            etag,
            reason,
        };
        let mut requests = Checked::of(&store, items, |item| &item.key, set_request)?;
        let result = match (requests.good.len(), requests.bad.len()) {
            (0, 0) => return Ok(()),
            (1, 0) => {
                let request = requests.good.remove(0);
                self.call(&store, "set", request, |request| store.inner.set(request))
                    .await
                    .map_err(single)
            }
            _ => {
                self.bulk(
                    &store,
                    "set",
                    requests,
                    |request: &SetRequest| &request.key,
                    |requests| store.inner.bulk_set(requests),
                )
                .await
            }
        };
        result.map_err(|(etag, reason)| failed(etag, reason))
    }

    /// Deletes one key; a missing key is success unless an etag was given.
    pub async fn delete(&self, store: &str, item: DeleteItem) -> Result<(), Error> {
        let store = self.store(store)?;
        let full = full_key(&store, &item.key)?;
        let key = item.key.clone();
        let result = match delete_request(item, full) {
            Ok(request) => self
                .call(&store, "delete", request, |request| {
                    store.inner.delete(request)
                })
                .await
                .map_err(single),
            Err(error) => Err((EtagProblem::None, error.to_string())),
        };
        result.map_err(|(etag, reason)| Error::Delete { key, etag, reason })
    }

    /// Deletes keys, each for itself.
    pub async fn delete_bulk(&self, store: &str, items: Vec<DeleteItem>) -> Result<(), Error> {
        let store = self.store(store)?;
        let failed = |etag: EtagProblem, reason: String| Error::BulkDelete {
            store: store.name.clone(),
            etag,
            reason,
        };
        let requests = Checked::of(&store, items, |item| &item.key, delete_request)?;
        if requests.good.is_empty() && requests.bad.is_empty() {
            return Ok(());
        }
        let result = self
            .bulk(
                &store,
                "bulk_delete",
                requests,
                |request: &DeleteRequest| &request.key,
                |requests| store.inner.bulk_delete(requests),
            )
            .await;
        result.map_err(|(etag, reason)| failed(etag, reason))
    }

    /// Reads keys, at most `parallelism` at once (0 or less: all); keys come back without prefix.
    pub async fn bulk_get(
        &self,
        store: &str,
        keys: Vec<String>,
        parallelism: i32,
        metadata: Metadata,
    ) -> Result<Vec<BulkItem>, Error> {
        let store = self.store(store)?;
        let requests = keys
            .iter()
            .map(|key| {
                Ok(GetRequest {
                    key: full_key(&store, key)?,
                    metadata: metadata.clone(),
                    ..GetRequest::default()
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let parallelism = usize::try_from(parallelism).unwrap_or(0);
        let result = self
            .call(&store, "bulk_get", requests, |requests| {
                store.inner.bulk_get(requests, parallelism)
            })
            .await;
        let items = result.map_err(|error| Error::BulkGet {
            store: store.name.clone(),
            reason: error.to_string(),
        })?;
        Ok(items.into_iter().map(without_prefix).collect())
    }

    /// Runs operations in order, all or nothing.
    pub async fn transact(
        &self,
        store: &str,
        operations: Vec<Operation>,
        metadata: Metadata,
    ) -> Result<(), Error> {
        let store = self.store(store)?;
        if !store.inner.features().contains(&Feature::Transactional) {
            return Err(Error::TransactionsNotSupported {
                store: store.name.clone(),
            });
        }
        let operations = component_operations(&store, operations)?;
        if operations.is_empty() {
            return Ok(());
        }
        let max = store.inner.max_transaction_size().unwrap_or(usize::MAX);
        if operations.len() > max {
            return Err(Error::TooManyOperations {
                store: store.name.clone(),
                count: operations.len(),
                max,
            });
        }
        let result = self
            .call(
                &store,
                "transaction",
                (operations, metadata),
                |(operations, metadata)| store.inner.transact(operations, metadata),
            )
            .await;
        result.map_err(|error| Error::Transaction {
            store: store.name.clone(),
            reason: error.to_string(),
        })
    }

    /// Queries a store; no component of this build can be queried.
    #[expect(
        clippy::unused_async,
        reason = "querying stores will wait for their answers"
    )]
    pub async fn query(
        &self,
        store: &str,
        query: &str,
        metadata: Metadata,
    ) -> Result<std::convert::Infallible, Error> {
        let store = self.store(store)?;
        drop((query, metadata));
        Err(Error::QueryNotSupported {
            store: store.name.clone(),
        })
    }

    /// One call of a store under its policies, measured.
    async fn call<R, T, F>(
        &self,
        store: &Store,
        operation: &str,
        request: R,
        call: impl Fn(R) -> F,
    ) -> Result<T, Failed<ComponentError>>
    where
        R: Clone,
        F: Future<Output = Result<T, ComponentError>>,
    {
        let started = Instant::now();
        let result = match self.resiliency.policy(outbound(store)) {
            None => call(request).await.map_err(Failed::Operation),
            Some(policy) => policy.run(|| call(request.clone())).await,
        };
        self.measured(store, operation, result.is_ok(), started);
        result
    }

    fn measured(&self, store: &Store, operation: &str, success: bool, started: Instant) {
        let elapsed = started.elapsed();
        self.metrics
            .record(Block::State, &store.name, operation, success, elapsed);
    }

    /// One call with several keys under the policies of a store; only keys that failed for another reason
    /// than their etag are tried again.
    async fn bulk<R, F>(
        &self,
        store: &Store,
        operation: &str,
        requests: Checked<R>,
        key: impl Fn(&R) -> &String,
        call: impl Fn(Vec<R>) -> F,
    ) -> Result<(), (EtagProblem, String)>
    where
        R: Clone,
        F: Future<Output = Result<(), BulkError>>,
    {
        let started = Instant::now();
        let Checked { good, mut bad } = requests;
        let alone = good.len() + bad.len() == 1;
        let result = match self.resiliency.policy(outbound(store)) {
            _ if good.is_empty() => conclude(Ok(()), bad, alone),
            None => {
                let failed = call(good).await.err();
                bad.extend(failed.into_iter().flat_map(|error| error.0));
                conclude(Ok(()), bad, alone)
            }
            Some(policy) => {
                let progress = Mutex::new(Progress {
                    pending: good,
                    settled: bad,
                });
                let outcome = policy
                    .run(|| {
                        let attempt = call(progress.lock().pending.clone());
                        let (progress, key) = (&progress, &key);
                        async move {
                            match attempt.await {
                                Ok(()) => Ok(()),
                                Err(error) => Err(progress.lock().keep(error.0, key)),
                            }
                        }
                    })
                    .await;
                conclude(outcome, progress.into_inner().settled, alone)
            }
        };
        self.measured(store, operation, result.is_ok(), started);
        result
    }
}

/// The requests of a bulk call, and the keys of those that are wrong in themselves: these fail, the others do not.
struct Checked<R> {
    good: Vec<R>,
    bad: Vec<(String, ComponentError)>,
}

impl<R> Checked<R> {
    fn of<I>(
        store: &Store,
        items: Vec<I>,
        key: impl Fn(&I) -> &String,
        request: impl Fn(I, String) -> Result<R, BadOption>,
    ) -> Result<Self, Error> {
        let mut checked = Self {
            good: Vec::with_capacity(items.len()),
            bad: Vec::new(),
        };
        for item in items {
            let full = full_key(store, key(&item))?;
            match request(item, full.clone()) {
                Ok(request) => checked.good.push(request),
                Err(error) => {
                    let error = ComponentError::new(ErrorKind::Invalid, error.to_string());
                    checked.bad.push((full, error));
                }
            }
        }
        Ok(checked)
    }
}

/// What is left to do of a bulk call.
struct Progress<R> {
    pending: Vec<R>,
    /// Keys that will not be tried again.
    settled: Vec<(String, ComponentError)>,
}

impl<R> Progress<R> {
    /// Keeps the requests another attempt can help; tells what the attempt means.
    fn keep(
        &mut self,
        errors: Vec<(String, ComponentError)>,
        key: impl Fn(&R) -> &String,
    ) -> Attempt {
        let (again, settled): (Vec<_>, Vec<_>) = errors
            .into_iter()
            .partition(|(_, error)| error.class() != Class::Permanent);
        self.pending
            .retain(|request| again.iter().any(|(failed, _)| failed == key(request)));
        self.settled.extend(settled);
        Attempt(again)
    }
}

/// A failed attempt of a bulk call: what may be tried again. Empty when only etags failed.
struct Attempt(Vec<(String, ComponentError)>);

impl Classify for Attempt {
    fn class(&self) -> Class {
        if self.0.is_empty() {
            Class::Permanent
        } else {
            Class::Uncoded
        }
    }
}

fn conclude(
    outcome: Result<(), Failed<Attempt>>,
    mut settled: Vec<(String, ComponentError)>,
    alone: bool,
) -> Result<(), (EtagProblem, String)> {
    match outcome {
        Ok(()) if settled.is_empty() => Ok(()),
        Ok(()) => Err(joined(&settled, alone)),
        Err(Failed::Operation(attempt)) => {
            settled.extend(attempt.0);
            Err(joined(&settled, alone))
        }
        Err(Failed::Timeout) => Err((EtagProblem::None, "context deadline exceeded".to_owned())),
        Err(Failed::Rejected(rejected)) => Err((EtagProblem::None, rejected.to_string())),
    }
}

/// What failed keys read as, and whether all of them failed for their etags; `alone` is a call with one key.
fn joined(errors: &[(String, ComponentError)], alone: bool) -> (EtagProblem, String) {
    let kinds = || {
        errors
            .iter()
            .map(|(_, error)| EtagProblem::of(error.kind()))
    };
    let problem = if kinds().any(|problem| problem == EtagProblem::None) {
        EtagProblem::None
    } else if kinds().any(|problem| problem == EtagProblem::Invalid) {
        EtagProblem::Invalid
    } else {
        EtagProblem::Mismatch
    };
    let texts: Vec<_> = errors.iter().map(|(_, error)| error.to_string()).collect();
    let text = texts.join("\n");
    // Upstream wraps the joined text once more in the error of its class.
    let text = match problem {
        _ if alone => text,
        EtagProblem::None => text,
        EtagProblem::Mismatch => ComponentError::etag_mismatch(Some(&text)).to_string(),
        EtagProblem::Invalid => ComponentError::etag_invalid(Some(&text)).to_string(),
    };
    (problem, text)
}

fn single(error: Failed<ComponentError>) -> (EtagProblem, String) {
    let problem = match &error {
        Failed::Operation(error) => EtagProblem::of(error.kind()),
        Failed::Timeout | Failed::Rejected(_) => EtagProblem::None,
    };
    (problem, error.to_string())
}

fn outbound(store: &Store) -> Target<'_> {
    Target::Outbound {
        component: &store.name,
        kind: ComponentKind::Statestore,
    }
}

fn full_key(store: &Store, key: &str) -> Result<String, Error> {
    store.prefix.apply(key).map_err(|_| Error::IllegalKey {
        store: store.name.clone(),
        key: key.to_owned(),
    })
}

fn without_prefix(item: component::BulkItem) -> BulkItem {
    BulkItem {
        key: prefix::original(&item.key).to_owned(),
        result: item.result.map_err(|error| error.to_string()),
    }
}

fn component_operations(
    store: &Store,
    operations: Vec<Operation>,
) -> Result<Vec<component::Operation>, Error> {
    let bad = |error: super::item::BadOption| Error::Transaction {
        store: store.name.clone(),
        reason: error.to_string(),
    };
    operations
        .into_iter()
        .map(|operation| {
            let key = full_key(store, operation.key())?;
            Ok(match operation {
                Operation::Upsert(item) => {
                    component::Operation::Upsert(set_request(item, key).map_err(bad)?)
                }
                Operation::Delete(item) => {
                    component::Operation::Delete(delete_request(item, key).map_err(bad)?)
                }
            })
        })
        .collect()
}
