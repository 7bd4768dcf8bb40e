//! Keeps the part of the CRD of Subscriptions right that tells the API server whom to ask, and which certificates to
//! trust: by a watch, so also after somebody installs the CRD anew.
//!
//! The rights to get and patch are enough: without a watch the CRD is read at the start, when the anchors change, and
//! once a minute.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_kit::health::Target;
use dapr_kubernetes::watch::Pace;
use dapr_kubernetes::{Config, Reader, watch};
use dapr_security::Security;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::ClusterResourceScope;
use kube::{Api, Client};
use serde::{Deserialize, Deserializer};
use serde_json::json;
use tokio::time::sleep;

use super::ownership;

/// The CRD with a conversion.
const NAME: &str = "subscriptions.dapr.io";
/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// The pause between reads where the CRD cannot be watched.
const BLIND: Duration = Duration::from_secs(60);

/// How often fields are given up again that somebody else wrote meanwhile.
const GIVE_UPS: usize = 3;

/// The pauses of a watch that may be refused for good.
const SELDOM: Pace = Pace::new(Duration::from_millis(500), Duration::from_secs(300));

/// Why the API server cannot be told whom to ask for conversions.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CRD names no webhook.
    #[error(
        "crd {NAME:?} does not have an existing webhook client config: install the CRDs of this version"
    )]
    NoWebhook,
    /// It was refused, and a second attempt will be too.
    #[error("the conversion webhook of crd {NAME:?} cannot be set")]
    Refused(#[source] Box<kube::Error>),
}

/// A CRD as far as it is looked at.
#[derive(Clone, Debug, Default, PartialEq)]
struct Crd {
    metadata: ObjectMeta,
    /// `None` without `spec.conversion.webhook.clientConfig`.
    client: Option<ClientConfig>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClientConfig {
    ca_bundle: Option<String>,
    service: Option<ServiceReference>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct ServiceReference {
    namespace: Option<String>,
}

impl<'de> Deserialize<'de> for Crd {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(deserialize_with = "slim")]
            metadata: ObjectMeta,
            #[serde(default)]
            spec: Option<Spec>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            conversion: Option<Conversion>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Conversion {
            webhook: Option<Webhook>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Webhook {
            client_config: Option<ClientConfig>,
        }
        fn slim<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
            dapr_kubernetes::slim::metadata(from, dapr_kubernetes::slim::Keep::default())
        }
        let raw = Raw::deserialize(from)?;
        let conversion = raw.spec.and_then(|spec| spec.conversion);
        let webhook = conversion.and_then(|conversion| conversion.webhook);
        Ok(Self {
            metadata: raw.metadata,
            client: webhook.and_then(|webhook| webhook.client_config),
        })
    }
}

impl kube::Resource for Crd {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        "CustomResourceDefinition".into()
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        "apiextensions.k8s.io".into()
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        "customresourcedefinitions".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What has to be done about the CRD.
#[derive(Clone, Debug, PartialEq)]
enum Plan {
    /// It names this operator and its anchors.
    Keep,
    /// It names no webhook, so there is nothing to point anywhere.
    NoWebhook,
    /// These operations of a JSON Patch.
    Patch(serde_json::Value),
}

/// What to do. Pure; `bundle` is the anchors as they stand in the object.
fn plan(crd: &Crd, namespace: &str, bundle: &str) -> Plan {
    let Some(client) = &crd.client else {
        return Plan::NoWebhook;
    };
    let at = |field: &str| format!("/spec/conversion/webhook/clientConfig/{field}");
    let mut operations = Vec::new();
    // A webhook by URL is where an administrator wants it.
    if let Some(service) = &client.service
        && service.namespace.as_deref() != Some(namespace)
    {
        operations
            .push(json!({"op": "replace", "path": at("service/namespace"), "value": namespace}));
    }
    if client.ca_bundle.as_deref() != Some(bundle) {
        // `add` also replaces; upstream's `replace` of a bundle that is not there yet depends on a leniency.
        operations.push(json!({"op": "add", "path": at("caBundle"), "value": bundle}));
    }
    if operations.is_empty() {
        return Plan::Keep;
    }
    Plan::Patch(operations.into())
}

/// Keeps the CRD right until it is dropped. `target` is ready while it is.
///
/// An API server that is away is waited for, also at the start; later failures are tried again.
///
/// # Errors
/// At the start: the CRD is missing, names no webhook, or must not be read or patched.
pub async fn keep_crd(
    client: Client,
    namespace: &str,
    security: Security,
    target: Target,
) -> Result<Infallible, Error> {
    let api = Api::<Crd>::all(client.clone());
    let keeper = Keeper {
        api,
        namespace,
        security,
    };
    keeper.start().await?;
    target.ready();
    let only_ours = Config {
        fields: Some(format!("metadata.name={NAME}")),
        backoff: SELDOM,
        ..Config::default()
    };
    let (reader, watcher) = watch(Api::<Crd>::all(client), only_ours);
    tokio::select! {
        never = watcher.run(|_| {}) => match never {},
        never = keeper.run(&reader, &target) => match never {},
    }
}

struct Keeper<'a> {
    api: Api<Crd>,
    namespace: &'a str,
    security: Security,
}

impl Keeper<'_> {
    async fn start(&self) -> Result<(), Error> {
        loop {
            match self.read_and_write().await {
                Ok(()) => {
                    // An operator that wrote the CRD before may have kept what it wrote.
                    self.give_up().await;
                    return Ok(());
                }
                Err(Error::Refused(error)) if !is_final(&error) => {
                    tracing::warn!(%error, crd = NAME, "the conversion webhook cannot be set yet");
                    sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn run(&self, reader: &Reader<Crd>, target: &Target) -> Infallible {
        let mut anchors = self.security.subscribe();
        let mut versions = reader.subscribe();
        loop {
            let done = match reader.get("", NAME) {
                Some(crd) => self.write(&crd).await,
                // Nothing is seen of it: the right to watch may be missing, or the CRD.
                None => self.read_and_write().await,
            };
            let pause = match done {
                Ok(()) => {
                    target.ready();
                    BLIND
                }
                Err(error) => {
                    target.unready();
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, source, "Subscriptions may not be converted");
                    RETRY
                }
            };
            tokio::select! {
                Ok(()) = anchors.changed() => {}
                Ok(()) = versions.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn read_and_write(&self) -> Result<(), Error> {
        let crd = self.read().await.map_err(refused)?;
        self.write(&crd).await
    }

    /// A server that does not know named GETs is asked for a list, once it has denied one.
    async fn read(&self) -> Result<Crd, kube::Error> {
        let denied = match self.api.get(NAME).await {
            Err(kube::Error::Api(status)) if status.code == 404 => kube::Error::Api(status),
            read => return read,
        };
        let only_ours = ListParams::default().fields(&format!("metadata.name={NAME}"));
        match self.api.list(&only_ours).await {
            Ok(list) => {
                let mut crds = list.items.into_iter();
                let ours = crds.find(|crd| crd.metadata.name.as_deref() == Some(NAME));
                ours.ok_or(denied)
            }
            // The role allows no lists, so it is as the first answer says.
            Err(error) if is_final(&error) => Err(denied),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, crd: &Crd) -> Result<(), Error> {
        let pem = self.security.trust_anchors_pem().unwrap_or_default();
        let operations = match plan(crd, self.namespace, &STANDARD.encode(pem.as_bytes())) {
            Plan::Keep => return Ok(()),
            Plan::NoWebhook => return Err(Error::NoWebhook),
            Plan::Patch(operations) => operations,
        };
        let operations = serde_json::from_value(operations)
            .map_err(kube::Error::SerdeError)
            .map_err(refused)?;
        let patch = Patch::Json::<()>(operations);
        let patched = self.api.patch(NAME, &PatchParams::default(), &patch).await;
        patched.map_err(refused)?;
        tracing::info!(
            crd = NAME,
            "the conversion webhook of the CRD names this operator"
        );
        self.give_up().await;
        Ok(())
    }

    /// Leaves what was written to whoever applies the CRD next.
    async fn give_up(&self) {
        for _ in 0..GIVE_UPS {
            match self.try_give_up().await {
                Ok(()) => return,
                // Somebody else wrote meanwhile.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    tracing::debug!(%error, crd = NAME, "Fields that were written cannot be given up");
                    return;
                }
            }
        }
    }

    async fn try_give_up(&self) -> Result<(), kube::Error> {
        let metadata = self.api.get_metadata(NAME).await?.metadata;
        let fields = metadata.managed_fields.unwrap_or_default();
        let Some(left) = ownership::given_up(&fields) else {
            return Ok(());
        };
        let patch = json!({"metadata": {
            "resourceVersion": metadata.resource_version,
            "managedFields": left,
        }});
        let parameters = PatchParams::default();
        self.api
            .patch_metadata(NAME, &parameters, &Patch::Merge(patch))
            .await?;
        Ok(())
    }
}

fn refused(error: kube::Error) -> Error {
    Error::Refused(Box::new(error))
}

/// A refusal that no second attempt mends: the object or the right is missing.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => {
            (400..500).contains(&status.code) && !matches!(status.code, 409 | 429)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn crd(client: &Value) -> Crd {
        let spec = json!({"group": "dapr.io", "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}});
        serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec})).expect("a CRD")
    }

    #[test]
    fn only_what_differs_is_patched() {
        let at = |field: &str| format!("/spec/conversion/webhook/clientConfig/{field}");
        let namespace = json!({"op": "replace", "path": at("service/namespace"), "value": "n"});
        let bundle = json!({"op": "add", "path": at("caBundle"), "value": "Yg=="});
        let check = |client: Value, expected: &[&Value]| {
            let expected = match expected {
                [] => Plan::Keep,
                operations => Plan::Patch(json!(operations)),
            };
            assert_eq!(plan(&crd(&client), "n", "Yg=="), expected, "{client}");
        };
        check(
            json!({"service": {"namespace": "n", "name": "dapr-webhook"}, "caBundle": "Yg=="}),
            &[],
        );
        check(
            json!({"service": {"namespace": "replaceme"}}),
            &[&namespace, &bundle],
        );
        check(json!({"service": {"namespace": "n"}}), &[&bundle]);
        check(
            json!({"service": {"namespace": "n"}, "caBundle": "YQ=="}),
            &[&bundle],
        );
        check(
            json!({"service": {"namespace": "o"}, "caBundle": "Yg=="}),
            &[&namespace],
        );
        check(json!({"url": "https://elsewhere"}), &[&bundle]);
        assert_eq!(plan(&crd(&json!(null)), "n", ""), Plan::NoWebhook);
    }

    #[test]
    fn a_crd_without_a_conversion_has_no_webhook() {
        for spec in [
            json!({}),
            json!(null),
            json!({"conversion": {"strategy": "None"}}),
        ] {
            let read: Crd =
                serde_json::from_value(json!({"metadata": {"name": NAME}, "spec": spec}))
                    .expect("a CRD");
            assert_eq!(plan(&read, "n", ""), Plan::NoWebhook, "{spec}");
        }
    }
}
