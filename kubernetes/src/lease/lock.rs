//! The Lease on the API server: read, written exactly once per version, and told of by an Event.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use super::Settings;
use crate::event::{self, Kind, Note};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// Somebody else wrote in between, or the object has come or gone.
    #[error("the lease changed meanwhile")]
    Conflict,
    /// Anything else; the write may or may not have happened.
    #[error("{0}")]
    Server(String),
}

/// Where the Lease is. One attempt per call.
pub(super) trait Lock: Send + Sync {
    /// The Lease as it is now.
    fn read(&self) -> impl Future<Output = Result<Option<Lease>, Failure>> + Send;
    /// Replaces exactly the version that `lease` has, or creates it if it has none; tells what was stored.
    fn write(&self, lease: Lease) -> impl Future<Output = Result<Lease, Failure>> + Send;
    /// Tells people who leads.
    fn tell(&self, lease: &Lease) -> impl Future<Output = ()> + Send;
}

/// A Lease of an API server.
pub(super) struct Server {
    client: Client,
    api: Api<Lease>,
    namespace: String,
    name: String,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Server {
    pub(super) fn new(client: Client, settings: &Settings) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &settings.namespace),
            client,
            namespace: settings.namespace.clone(),
            name: settings.name.clone(),
        }
    }
}

impl Lock for Server {
    async fn read(&self) -> Result<Option<Lease>, Failure> {
        // By a list: a server that does not know named GETs must not look like one without the Lease.
        let only_ours = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let list = match self.api.list(&only_ours).await {
            Ok(list) => list,
            // One that knows only these, or allows no more.
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => {
                return match self.api.get_opt(&self.name).await {
                    Ok(lease) => Ok(lease),
                    Err(error) => Err(failure(error)),
                };
            }
            Err(error) => return Err(failure(error)),
        };
        let mut items = list.items.into_iter();
        Ok(items.find(|lease| lease.metadata.name.as_ref() == Some(&self.name)))
    }

    async fn write(&self, mut lease: Lease) -> Result<Lease, Failure> {
        let params = PostParams::default();
        if lease.metadata.resource_version.is_some() {
            let written = self.api.replace(&self.name, &params, &lease).await;
            return written.map_err(failure);
        }
        lease.metadata = ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            ..ObjectMeta::default()
        };
        match self.api.create(&params, &lease).await {
            // Where there is no place for it there was nobody quicker either.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                Err(Failure::Server(format!("404 {}", status.message)))
            }
            written => written.map_err(failure),
        }
    }

    async fn tell(&self, lease: &Lease) {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        let holder = holder.unwrap_or_default();
        let note = Note {
            regarding: ObjectReference {
                api_version: Some("coordination.k8s.io/v1".to_owned()),
                kind: Some("Lease".to_owned()),
                namespace: Some(self.namespace.clone()),
                name: Some(self.name.clone()),
                uid: lease.metadata.uid.clone(),
                resource_version: lease.metadata.resource_version.clone(),
                ..ObjectReference::default()
            },
            kind: Kind::Normal,
            reason: "LeaderElection",
            message: format!("{holder} became leader"),
            component: holder,
            once: None,
        };
        if let Err(error) = event::write(&self.client, note).await {
            tracing::debug!(%error, "the Event of the election was not written");
        }
    }
}

fn failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Failure::Conflict,
        kube::Error::Api(status) => Failure::Server(format!("{} {}", status.code, status.message)),
        error => Failure::Server(error.to_string()),
    }
}
