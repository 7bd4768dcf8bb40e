//! References of resources into secret stores of this sidecar.
//!
//! Secrets of the cluster never come here: the operator has put them in before.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dapr_components_core::secret_store::{GetRequest, Secret};
use dapr_crds::{Component, DynamicValue, HttpEndpoint, NameValuePair, SecretKeyRef};
use dapr_sidecar_core::secrets::Secrets;

/// A resource whose store is not there yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name} references a secret store that isn't loaded: {store}")]
pub struct Missing {
    kind: &'static str,
    name: String,
    store: String,
}

/// One resource that is being resolved.
struct Resource<'a> {
    kind: &'static str,
    name: &'a str,
    store: &'a str,
    namespace: Option<&'a str>,
    secrets: &'a Secrets,
    /// Secrets that were read already; several references often go to one.
    read: BTreeMap<String, Option<Secret>>,
}

/// A component with its secrets. A secret that cannot be read leaves its property empty, as upstream does.
pub async fn component<'c>(
    component: &'c Component,
    secrets: &Secrets,
    namespace: Option<&str>,
) -> Result<Cow<'c, Component>, Missing> {
    let mut pairs = component.spec.metadata.iter();
    if !pairs.any(|pair| pair.secret_key_ref.is_set()) {
        return Ok(Cow::Borrowed(component));
    }
    let name = component.metadata.name.as_deref().unwrap_or_default();
    let mut resource = Resource {
        kind: "Component",
        name,
        store: &component.auth.secret_store,
        namespace: component.metadata.namespace.as_deref().or(namespace),
        secrets,
        read: BTreeMap::new(),
    };
    resource.check()?;
    let mut revealed = component.clone();
    resource.pairs(&mut revealed.spec.metadata).await;
    Ok(Cow::Owned(revealed))
}

/// An HTTPEndpoint with its secrets, see [`component`].
pub async fn endpoint(
    endpoint: &HttpEndpoint,
    secrets: &Secrets,
    namespace: Option<&str>,
) -> Result<HttpEndpoint, Missing> {
    let mut revealed = endpoint.clone();
    let mut documents = Vec::new();
    if let Some(tls) = &mut revealed.spec.client_tls {
        let all = [&mut tls.root_ca, &mut tls.certificate, &mut tls.private_key];
        documents.extend(all.into_iter().flatten().filter(|document| {
            let reference = document.secret_key_ref.as_ref();
            reference.is_some_and(SecretKeyRef::is_set)
        }));
    }
    let mut headers = revealed.spec.headers.iter();
    if documents.is_empty() && !headers.any(|pair| pair.secret_key_ref.is_set()) {
        return Ok(revealed);
    }
    let mut resource = Resource {
        kind: "HTTPEndpoint",
        name: endpoint.metadata.name.as_deref().unwrap_or_default(),
        store: &endpoint.auth.secret_store,
        namespace: endpoint.metadata.namespace.as_deref().or(namespace),
        secrets,
        read: BTreeMap::new(),
    };
    resource.check()?;
    for document in documents {
        if let Some(reference) = document.secret_key_ref.take() {
            document.value = resource.value(&reference).await;
        }
    }
    resource.pairs(&mut revealed.spec.headers).await;
    Ok(revealed)
}

impl Resource<'_> {
    /// A store that is named must be there; one that is not is told and passed over, as upstream does.
    fn check(&self) -> Result<(), Missing> {
        let missing = Missing {
            kind: self.kind,
            name: self.name.to_owned(),
            store: self.store.to_owned(),
        };
        if self.store.is_empty() {
            tracing::warn!(target: "dapr.runtime", "{missing}");
            return Ok(());
        }
        if self.secrets.contains(self.store) {
            Ok(())
        } else {
            Err(missing)
        }
    }

    async fn pairs(&mut self, pairs: &mut [NameValuePair]) {
        if self.store.is_empty() {
            return;
        }
        for pair in pairs.iter_mut().filter(|it| it.secret_key_ref.is_set()) {
            let reference = std::mem::take(&mut pair.secret_key_ref);
            pair.value = self.value(&reference).await;
        }
    }

    async fn value(&mut self, reference: &SecretKeyRef) -> DynamicValue {
        if !self.read.contains_key(&reference.name) {
            let secret = self.read(&reference.name).await;
            self.read.insert(reference.name.clone(), secret);
        }
        let secret = self.read.get(&reference.name).and_then(Option::as_ref);
        match secret.and_then(|Secret(values)| values.get(reference.field())) {
            Some(value) => value.as_str().into(),
            None => DynamicValue::default(),
        }
    }

    async fn read(&self, secret: &str) -> Option<Secret> {
        let namespace = self
            .namespace
            .map(|it| ("namespace".to_owned(), it.to_owned()));
        let request = GetRequest {
            name: secret.to_owned(),
            metadata: namespace.into_iter().collect(),
        };
        match self.secrets.resolve(self.store, request).await? {
            Ok(secret) => Some(secret),
            Err(error) => {
                let (kind, name, store) = (self.kind, self.name, self.store);
                tracing::error!(target: "dapr.runtime", "{kind} {name}: secret {secret} cannot be read from {store}, its values stay empty: {error}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dapr_components_core::Metadata;
    use dapr_components_local::secret_store::file;
    use dapr_crds::manifest::{self, Manifest};
    use dapr_sidecar_core::metrics::Off;
    use dapr_sidecar_core::secrets::Scopes;

    use super::*;

    async fn secrets() -> Secrets {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secrets.json");
        std::fs::write(&path, r#"{"redis": {"password": "p"}, "plain": "x"}"#).expect("written");
        let properties = [
            ("secretsFile".to_owned(), path.display().to_string()),
            ("multiValued".to_owned(), "true".to_owned()),
        ];
        let metadata = Metadata::new("file", "secretstores.local.file", "v1", properties);
        let store = file::open(&metadata.expect("valid")).await.expect("opens");
        let secrets = Secrets::new(Scopes::default(), Arc::default(), Arc::new(Off));
        drop(secrets.add("file", Arc::new(store)));
        secrets
    }

    fn read(text: &str) -> Manifest {
        let mut documents = manifest::read("c.yaml", text);
        documents.remove(0).result.expect("reads")
    }

    fn of_store(store: &str) -> Component {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: c}}\nspec:\n  type: state.x\n  version: v1\n  metadata:\n\
             \x20 - {{name: password, secretKeyRef: {{name: redis, key: password}}}}\n\
             \x20 - {{name: plain, secretKeyRef: {{name: plain}}}}\n\
             \x20 - {{name: nowhere, secretKeyRef: {{name: nowhere, key: k}}}}\nauth: {{secretStore: {store}}}\n"
        );
        match read(&text) {
            Manifest::Component(component) => *component,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn references_become_values() {
        let secrets = secrets().await;
        let resource = of_store("file");
        let found = component(&resource, &secrets, None).await.expect("there");
        let texts: Vec<_> = found
            .spec
            .metadata
            .iter()
            .map(|it| it.value.as_text())
            .collect();
        assert_eq!(texts, ["p", "x", ""]);
    }

    #[tokio::test]
    async fn a_store_that_is_not_there_is_named() {
        let secrets = secrets().await;
        let resource = of_store("vault");
        let missing = component(&resource, &secrets, None)
            .await
            .expect_err("none");
        assert_eq!(
            missing.to_string(),
            "Component c references a secret store that isn't loaded: vault"
        );
    }

    #[tokio::test]
    async fn endpoints_have_headers_and_documents() {
        let secrets = secrets().await;
        let text = "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: e}\nspec:\n  baseUrl: https://x\n\
                    \x20 headers: [{name: key, secretKeyRef: {name: redis, key: password}}]\n\
                    \x20 clientTLS: {rootCA: {secretKeyRef: {name: plain, key: plain}}}\nauth: {secretStore: file}\n";
        let Manifest::HttpEndpoint(resource) = read(text) else {
            panic!("an endpoint");
        };
        let found = endpoint(&resource, &secrets, None).await.expect("there");
        assert_eq!(found.spec.headers[0].value.as_text(), "p");
        let root = found
            .spec
            .client_tls
            .and_then(|tls| tls.root_ca)
            .expect("a root");
        assert_eq!(root.value.as_text(), "x");
    }
}
