//! One version of an object and its bytes on the wire.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::message::Event;
use crate::events::Type;
use crate::kinds::Kind;
use crate::secrets::{self, Error};
use crate::vault::Vault;

/// Seeded per process, so that a fingerprint of a secret says nothing outside of it.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// How often values are fetched again that changed while they were fetched; a change after that is told as one.
const TRIES: usize = 3;

/// An object as it is stored, and as lists show it when it refers to no secret.
#[derive(Debug)]
pub(crate) struct Version<K> {
    object: Arc<K>,
    /// Names of the Secrets it refers to.
    secrets: Box<[Box<str>]>,
    /// Encoded once, however many ask.
    whole: Bytes,
    /// Which values of the secrets sidecars were given: the first ones, until others are announced.
    given: Mutex<Option<u64>>,
    /// Whether streams were told of it, which then are given values as soon as these are there.
    is_told: AtomicBool,
}

/// The bytes of a version with the values of its secrets.
pub(crate) struct Resolved {
    bytes: Bytes,
    fingerprint: u64,
}

impl<K: Kind> Version<K> {
    /// # Errors
    /// An object that is no JSON.
    pub(crate) fn new(object: Arc<K>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            secrets: secrets::names(&*object),
            whole: encoded(&*object)?,
            given: Mutex::default(),
            is_told: AtomicBool::new(false),
            object,
        })
    }

    pub(crate) fn object(&self) -> &K {
        &self.object
    }

    /// How lists show it, if it refers to no secret.
    pub(crate) fn open(&self) -> Option<&Bytes> {
        self.secrets.is_empty().then_some(&self.whole)
    }

    /// How many bytes it holds at least.
    pub(crate) fn size(&self) -> usize {
        self.whole.len()
    }

    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(|name| &**name)
    }

    pub(crate) fn refers_to(&self, secret: &str) -> bool {
        self.secrets().any(|name| name == secret)
    }

    /// The bytes with the values of secrets, as lists show them.
    ///
    /// # Errors
    /// A secret that cannot be had.
    pub(crate) async fn resolved(&self, vault: &Vault) -> Result<Bytes, Error> {
        if let Some(open) = self.open() {
            return Ok(open.clone());
        }
        let mut resolved = self.resolved_anew(vault).await?;
        for _ in 0..TRIES {
            let given = *self.given.lock().get_or_insert(resolved.fingerprint);
            if given == resolved.fingerprint {
                break;
            }
            // Others were noted meanwhile, without telling whoever is about to be given these.
            resolved = self.resolved_anew(vault).await?;
        }
        Ok(resolved.bytes)
    }

    /// As [`Version::resolved`], for bytes that nobody is given yet.
    ///
    /// # Errors
    /// A secret that cannot be had.
    pub(crate) async fn resolved_anew(&self, vault: &Vault) -> Result<Resolved, Error> {
        let answers = vault.all(self.object.namespace(), self.secrets()).await;
        let mut object = (*self.object).clone();
        secrets::resolve(&mut object, &answers.into_iter().collect())?;
        // What was JSON before is JSON with other texts in it.
        let bytes = encoded(&object).unwrap_or_else(|_| self.whole.clone());
        let fingerprint = fingerprint(&mut object);
        Ok(Resolved { bytes, fingerprint })
    }

    /// Takes over what sidecars were given for a version that differs in nothing they look at.
    pub(crate) fn inherit(&self, old: &Self) {
        let given = *old.given.lock();
        *self.given.lock() = given;
    }

    /// Notes that streams are told of it.
    pub(crate) fn tell(&self) {
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Notes these values, and says whether sidecars may hold other ones. They hold none while they are told of the object
    /// and its secrets are being fetched: what they are given then are these.
    pub(crate) fn announce(&self, resolved: &Resolved) -> bool {
        let given = self.given.lock().replace(resolved.fingerprint);
        match given {
            Some(given) => given != resolved.fingerprint,
            None => !self.is_told.load(Ordering::Relaxed),
        }
    }

    /// Whether anybody was given values of its secrets.
    pub(crate) fn was_given(&self) -> bool {
        self.given.lock().is_some()
    }
}

fn encoded<K: Kind>(object: &K) -> Result<Bytes, serde_json::Error> {
    Ok(serde_json::to_vec(object)?.into())
}

/// That of the values, wherever they stand.
fn fingerprint<K: Kind>(object: &mut K) -> u64 {
    let slots = object.slots();
    let values: Vec<_> = slots.iter().map(|slot| slot.value.as_text()).collect();
    FINGERPRINTS.hash_one(values)
}

/// A version on its way to sidecars. They share its bytes, secrets included, which go with the last of them.
#[derive(Debug)]
pub(crate) struct Shipment<K> {
    version: Arc<Version<K>>,
    bytes: OnceCell<Result<Bytes, Error>>,
    created: OnceLock<Event>,
    updated: OnceLock<Event>,
    deleted: OnceLock<Event>,
}

impl<K: Kind> Shipment<K> {
    pub(crate) fn new(version: Arc<Version<K>>) -> Arc<Self> {
        Self::with(version, OnceCell::new())
    }

    fn with(version: Arc<Version<K>>, bytes: OnceCell<Result<Bytes, Error>>) -> Arc<Self> {
        Arc::new(Self {
            version,
            bytes,
            created: OnceLock::new(),
            updated: OnceLock::new(),
            deleted: OnceLock::new(),
        })
    }

    /// One whose secrets are resolved already.
    pub(crate) fn ready(version: Arc<Version<K>>, resolved: &Resolved) -> Arc<Self> {
        let bytes = OnceCell::new_with(Some(Ok(streamed::<K>(&resolved.bytes))));
        Self::with(version, bytes)
    }

    pub(crate) fn version(&self) -> &Arc<Version<K>> {
        &self.version
    }

    /// What is told of it. Encoded by the first who needs it.
    ///
    /// # Errors
    /// A secret that cannot be had.
    pub(crate) async fn event(&self, r#type: Type, vault: &Vault) -> Result<Event, Error> {
        if let Some(told) = self.told(r#type).get() {
            return Ok(told.clone());
        }
        let bytes = match self.version.open() {
            Some(open) => streamed::<K>(open),
            // On the heap while it takes: thousands of silent streams have no room for it.
            None => Box::pin(self.resolved(vault)).await?,
        };
        Ok(self.tell(r#type, bytes))
    }

    async fn resolved(&self, vault: &Vault) -> Result<Bytes, Error> {
        let resolve = async || {
            let resolved = self.version.resolved(vault).await;
            resolved.map(|bytes| streamed::<K>(&bytes))
        };
        self.bytes.get_or_init(resolve).await.clone()
    }

    /// What is told of it without values of secrets, when an object is gone.
    pub(crate) fn bare(&self, r#type: Type) -> Event {
        match self.told(r#type).get() {
            Some(told) => told.clone(),
            None => self.tell(r#type, streamed::<K>(&self.version.whole)),
        }
    }

    fn tell(&self, r#type: Type, bytes: Bytes) -> Event {
        let told = self.told(r#type);
        told.get_or_init(|| Event::new(bytes, r#type)).clone()
    }

    fn told(&self, r#type: Type) -> &OnceLock<Event> {
        match r#type {
            Type::Created => &self.created,
            Type::Updated => &self.updated,
            Type::Deleted => &self.deleted,
        }
    }
}

/// Streams leave out kind and version, which lists begin with.
fn streamed<K: Kind>(whole: &Bytes) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",",
        <K as dapr_crds::meta::Object>::KIND,
        <K as dapr_crds::meta::Object>::API_VERSION
    );
    match whole.strip_prefix(head.as_bytes()) {
        Some(rest) => [b"{", rest].concat().into(),
        None => whole.clone(),
    }
}

#[cfg(test)]
mod tests {
    use dapr_crds::subscription::v2alpha1::Subscription;
    use dapr_crds::{
        Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
    };
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check<K: Kind>(kind: &str, api_version: &str) {
        let object: K = serde_json::from_value(json!({"metadata": {"name": "a"}})).expect("fine");
        let version = Version::new(Arc::new(object)).expect("JSON");
        let whole: Value = serde_json::from_slice(&version.whole).expect("JSON");
        assert_eq!(
            (&whole["kind"], &whole["apiVersion"]),
            (&json!(kind), &json!(api_version))
        );
        let streamed: Value = serde_json::from_slice(&streamed::<K>(&version.whole)).expect("JSON");
        let mut expected = whole;
        for field in ["kind", "apiVersion"] {
            expected.as_object_mut().expect("an object").remove(field);
        }
        assert_eq!(streamed, expected);
    }

    #[test]
    fn streams_leave_out_kind_and_version() {
        check::<Component>("Component", "dapr.io/v1alpha1");
        check::<Configuration>("Configuration", "dapr.io/v1alpha1");
        check::<HttpEndpoint>("HTTPEndpoint", "dapr.io/v1alpha1");
        check::<McpServer>("MCPServer", "dapr.io/v1alpha1");
        check::<Resiliency>("Resiliency", "dapr.io/v1alpha1");
        check::<Subscription>("Subscription", "dapr.io/v2alpha1");
        check::<WorkflowAccessPolicy>("WorkflowAccessPolicy", "dapr.io/v1alpha1");
    }
}
