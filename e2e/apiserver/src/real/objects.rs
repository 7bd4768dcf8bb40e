//! Objects that tests put on an API server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Container, Namespace, Pod, PodSpec, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{GroupVersionKind, ObjectMeta};
use kube::discovery::{ApiCapabilities, ApiResource, Scope, pinned_kind};
use kube::runtime::wait::{await_condition as await_object, conditions::is_crd_established};
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;
use tokio::time::timeout;

use super::ApiServer;
use crate::condition::await_condition;

/// Who owns the fields that tests apply.
const MANAGER: &str = "dapr-e2e";

/// Label of every namespace of a test, to find those that were left in a cluster of `KUBECONFIG`.
const LABEL: &str = "dapr-e2e";

/// What the server does on its own after a write takes less, also on a busy machine.
pub(super) const SETTLED: Duration = Duration::from_secs(30);

/// A kind that was defined a moment ago may not be listed yet; one that never is should not take long to say so.
const LISTED: Duration = Duration::from_secs(10);

impl ApiServer {
    /// Makes a namespace that no other test has; its name begins with `prefix`.
    pub async fn create_namespace(&self, prefix: &str) -> Result<String> {
        let namespace = Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                labels: Some(BTreeMap::from([(LABEL.to_owned(), String::new())])),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let namespaces = Api::<Namespace>::all(self.client().await?);
        let created = namespaces.create(&PostParams::default(), &namespace).await;
        Ok(created.context("creating a namespace")?.name_any())
    }

    /// Creates or changes one object, whatever its kind. Without a namespace it goes to `default`, if it needs one.
    pub async fn apply(&self, object: &Value) -> Result<DynamicObject> {
        apply(&self.client().await?, object).await
    }

    /// As [`ApiServer::apply`], for every document of a text in YAML.
    pub async fn apply_yaml(&self, text: &str) -> Result<Vec<DynamicObject>> {
        let client = self.client().await?;
        let mut applied = Vec::new();
        for object in documents(text)? {
            applied.push(apply(&client, &object).await?);
        }
        Ok(applied)
    }

    /// Applies the custom resource definitions in the `.yaml` files of a folder, and waits until their kinds are
    /// served. Tells the names of the definitions.
    pub async fn create_crds(&self, folder: &Path) -> Result<Vec<String>> {
        let client = self.client().await?;
        let mut names = Vec::new();
        for file in yaml_files(folder)? {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            for definition in documents(&text)? {
                names.push(apply(&client, &definition).await?.name_any());
            }
        }
        for name in &names {
            let definitions = Api::<CustomResourceDefinition>::all(client.clone());
            let established = await_object(definitions, name, is_crd_established());
            timeout(SETTLED, established)
                .await
                .with_context(|| format!("{name} is not established within {SETTLED:?}"))??;
        }
        Ok(names)
    }

    /// Makes a service account. There is no controller that would make `default`.
    pub async fn service_account(&self, namespace: &str, name: &str) -> Result<()> {
        let account = ServiceAccount {
            metadata: named(name),
            ..ServiceAccount::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        accounts
            .create(&PostParams::default(), &account)
            .await
            .with_context(|| format!("creating the service account {namespace}/{name}"))?;
        Ok(())
    }

    /// Makes a pod of one container, as whoever writes pods sees it; nothing runs it. The service account has to be
    /// there. What admission webhooks made of the pod is returned.
    pub async fn pod(
        &self,
        namespace: &str,
        name: &str,
        service_account: &str,
        annotations: &[(&str, &str)],
    ) -> Result<Pod> {
        let annotations = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let pod = Pod {
            metadata: ObjectMeta {
                annotations: Some(annotations.collect()),
                ..named(name)
            },
            spec: Some(PodSpec {
                service_account_name: Some(service_account.to_owned()),
                automount_service_account_token: Some(false),
                containers: vec![Container {
                    name: "app".to_owned(),
                    image: Some("app".to_owned()),
                    ..Container::default()
                }],
                ..PodSpec::default()
            }),
            ..Pod::default()
        };
        let pods = Api::<Pod>::namespaced(self.client().await?, namespace);
        let created = pods.create(&PostParams::default(), &pod).await;
        created.with_context(|| format!("creating the pod {namespace}/{name}"))
    }
}

async fn apply(client: &Client, object: &Value) -> Result<DynamicObject> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("an object without a name")?;
    let kind = text("/kind").with_context(|| format!("{name} has no kind"))?;
    let version = text("/apiVersion").with_context(|| format!("{name} has no apiVersion"))?;
    let (resource, capabilities) = find_kind(client, version, kind).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = text("/metadata/namespace").unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    let params = PatchParams::apply(MANAGER).force();
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied.with_context(|| format!("applying {kind} {name}"))
}

async fn find_kind(
    client: &Client,
    api_version: &str,
    kind: &str,
) -> Result<(ApiResource, ApiCapabilities)> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, kind);
    await_condition("the kind of an object", LISTED, || async {
        let found = pinned_kind(client, &kind).await;
        found.with_context(|| format!("looking for {kind:?}"))
    })
    .await
}

/// The documents of a text that hold something.
fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("reading YAML")?;
    Ok(documents
        .into_iter()
        .filter(|each| !each.is_null())
        .collect())
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("reading the folder {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::documents;

    #[test]
    fn empty_documents_are_left_out() {
        let check = |text: &str, expected: &[serde_json::Value]| {
            assert_eq!(documents(text).expect("YAML"), expected, "{text:?}");
        };
        check("a: 1\n---\nb: 2\n", &[json!({"a": 1}), json!({"b": 2})]);
        check("---\n# nothing\n---\na: 1\n---\n", &[json!({"a": 1})]);
        check("", &[]);
    }
}
