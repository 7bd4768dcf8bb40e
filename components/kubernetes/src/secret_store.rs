//! `secretstores.kubernetes`: the Secrets of one namespace.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_components_core::secret_store::{
    Feature, GetRequest, RequestMetadata, Secret, SecretStore,
};
use dapr_components_core::{Error, ErrorKind, Metadata};
use serde::Deserialize;

use crate::Cluster;
use crate::client::{Client, segment};
use crate::credentials::Place;

/// Secrets in one answer of a list: few enough for the memory of a sidecar.
const PAGE: u32 = 25;

/// The Secrets of a cluster.
pub struct Store {
    client: Client,
    /// `NAMESPACE`, else `defaultNamespace`.
    namespace: Option<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// The store that `metadata` describes. Nothing is asked of the API server yet.
///
/// # Errors
/// Neither a service account nor a usable kubeconfig.
pub async fn open(metadata: &Metadata, cluster: &Cluster) -> Result<Store, Error> {
    let place = match metadata
        .get("kubeconfigPath")
        .filter(|path| !path.is_empty())
    {
        Some(path) => Place::of_kubeconfig(Path::new(path)).await?,
        None => Place::in_cluster(cluster).await?,
    };
    let default = metadata.get("defaultNamespace");
    Ok(Store {
        client: Client::new(place)?,
        namespace: cluster
            .namespace
            .as_deref()
            .or(default)
            .filter(|namespace| !namespace.is_empty())
            .map(str::to_owned),
    })
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: ObjectMetadata,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct ObjectMetadata {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<Object>>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default)]
    r#continue: String,
}

/// The values of a Secret. One that is no text cannot be handed on as one, and is left out.
fn values(object: Object) -> Secret {
    let name = object.metadata.name;
    let entries = object.data.unwrap_or_default().into_iter();
    let texts = entries.filter_map(|(key, value)| {
        let text = STANDARD.decode(value).ok().and_then(|it| String::from_utf8(it).ok());
        if text.is_none() {
            tracing::warn!(target: "dapr.contrib", "secret {name}: {key} is left out: it is no UTF-8 text");
        }
        Some((key, text?))
    });
    Secret(texts.collect())
}

impl Store {
    fn namespace(&self, metadata: &RequestMetadata) -> Result<String, Error> {
        let asked = metadata.get("namespace").filter(|it| !it.is_empty());
        asked.or(self.namespace.as_ref()).cloned().ok_or_else(|| {
            let text = "namespace is missing on metadata and NAMESPACE env variable, and no default namespace is set";
            Error::new(ErrorKind::Invalid, text)
        })
    }
}

#[async_trait]
impl SecretStore for Store {
    fn features(&self) -> &[Feature] {
        &[Feature::MultipleKeyValuesPerSecret]
    }

    async fn get(&self, request: GetRequest) -> Result<Secret, Error> {
        let namespace = self.namespace(&request.metadata)?;
        if request.name.is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the name of the secret is empty",
            ));
        }
        let path = format!(
            "/api/v1/namespaces/{}/secrets/{}",
            segment(&namespace),
            segment(&request.name)
        );
        let object: Object = self.client.get(&path).await?;
        Ok(values(object))
    }

    async fn bulk_get(&self, metadata: RequestMetadata) -> Result<BTreeMap<String, Secret>, Error> {
        let namespace = self.namespace(&metadata)?;
        let mut secrets = BTreeMap::new();
        let mut next = String::new();
        loop {
            let path = format!(
                "/api/v1/namespaces/{}/secrets?limit={PAGE}&continue={}",
                segment(&namespace),
                segment(&next)
            );
            let list: List = self.client.get(&path).await?;
            for object in list.items.unwrap_or_default() {
                secrets.insert(object.metadata.name.clone(), values(object));
            }
            next = list.metadata.r#continue;
            if next.is_empty() {
                return Ok(secrets);
            }
        }
    }
}
