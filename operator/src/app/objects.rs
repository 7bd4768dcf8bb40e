//! Secrets as the API server gives them, with their values, one at a time.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use dapr_kubernetes::{Reader, resource, slim};
use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};

use super::cluster::api;
use crate::secrets::{Data, Error, SecretName};
use crate::vault::Source;

fn metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    slim::metadata(from, slim::Keep::default())
}

/// A Secret with its values.
#[derive(Clone, Default, Deserialize)]
struct Secret {
    #[serde(deserialize_with = "metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, ByteString>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret")
            .field("name", &self.metadata.name)
            .finish_non_exhaustive()
    }
}

resource!(Secret, "Secret", "", "v1", "secrets");

/// The Secrets of the API server.
pub(super) struct ApiServer {
    pub(super) client: Client,
    /// The Secrets that are known to be there.
    pub(super) names: Reader<SecretName>,
    /// The only namespace that may be listed; `None` for all.
    pub(super) scope: Option<String>,
}

#[async_trait]
impl Source for ApiServer {
    async fn fetch(&self, namespace: &str, name: &str) -> Result<Data, Error> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let found = secrets
            .get_opt(name)
            .await
            .map_err(|error| failed(name, &error))?;
        let found = match found {
            Some(secret) => Some(secret),
            None if self.names.get(namespace, name).is_some() => self.listed(namespace, name).await,
            None => None,
        };
        let secret = found.ok_or_else(|| Error::NotFound(name.to_owned()))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(key, value)| (key, value.0)).collect())
    }
}

impl ApiServer {
    /// Looks for a Secret in a list, in which it was seen before: a minimal server knows no other way.
    async fn listed(&self, namespace: &str, name: &str) -> Option<Secret> {
        let secrets: Api<Secret> = api(&self.client, self.scope.as_deref());
        let only = format!("metadata.name={name},metadata.namespace={namespace}");
        let list = secrets
            .list(&ListParams::default().fields(&only))
            .await
            .ok()?;
        list.items.into_iter().find(|secret| {
            let metadata = &secret.metadata;
            let own = metadata.namespace.as_deref().unwrap_or(namespace);
            metadata.name.as_deref() == Some(name) && own == namespace
        })
    }
}

/// What went wrong, in words that hold no value: an answer that cannot be read is not repeated.
fn failed(name: &str, error: &kube::Error) -> Error {
    let reason = match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::SerdeError(_) => "the answer cannot be read".to_owned(),
        other => dapr_kit::process::chain(other),
    };
    Error::Fetch {
        name: name.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_do_not_show() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"},
        }))
        .expect("a secret");
        let shown = format!("{secret:?}");
        assert!(
            shown.contains('s') && !shown.contains("115") && !shown.contains("secret\""),
            "{shown}"
        );
        assert!(
            serde_json::from_value::<Secret>(json!({"metadata": {}, "data": {"k": "?"}})).is_err()
        );
    }
}
