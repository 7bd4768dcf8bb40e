//! Keeps the `caBundle` of the webhook's configuration right: by a watch, so also after somebody overwrites it.
//!
//! The right to patch is enough: without a watch the bundle is written at the start, when it changes, and now and then.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_kit::health::Target;
use dapr_kubernetes::{Config, Reader, Watcher, watch};
use dapr_security::Security;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::RETRY;

/// The object the chart makes.
pub(super) const NAME: &str = "dapr-sidecar-injector";
/// Where the bundle stands in it.
const BUNDLE: &str = "/webhooks/0/clientConfig/caBundle";
/// The pause between writes where the object cannot be seen.
const BLIND: Duration = Duration::from_secs(60);

/// Why the API server is not told which certificates to trust.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// It was refused, and a second attempt will be too.
    #[error("failed to patch caBundle in webhook configuration {NAME:?}")]
    Refused(#[source] Box<kube::Error>),
}

/// What is seen of the object.
enum Found {
    /// It is not there, or must not be seen.
    Nothing,
    /// It has this bundle.
    Bundle(String),
}

/// What keeps the bundle.
#[derive(Debug)]
pub(super) struct Keeper {
    api: Api<MutatingWebhookConfiguration>,
    security: Security,
    reader: Reader<MutatingWebhookConfiguration>,
    watcher: Watcher<MutatingWebhookConfiguration>,
    target: Target,
}

impl Keeper {
    pub(super) fn new(client: Client, security: Security, target: Target) -> Self {
        let only_ours = Config {
            fields: Some(format!("metadata.name={NAME}")),
            ..Config::default()
        };
        let (reader, watcher) = watch(Api::all(client.clone()), only_ours);
        let api = Api::all(client);
        Self {
            api,
            security,
            reader,
            watcher,
            target,
        }
    }

    /// Writes the bundle for the first time. An API server that is away is waited for.
    pub(super) async fn start(&self) -> Result<(), Error> {
        loop {
            match write(&self.api, &encoded(&self.security)).await {
                Ok(()) => return Ok(()),
                Err(error) if is_final(&error) => return Err(Error::Refused(Box::new(error))),
                Err(error) => {
                    tracing::warn!(%error, "the webhook configuration cannot be patched yet");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Keeps it, by two tasks that never end.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>) {
        let Self {
            api,
            security,
            reader,
            watcher,
            target,
        } = self;
        tasks.spawn(async move {
            watcher.run(|_| {}).await;
        });
        tasks.spawn(
            Writer {
                api,
                security,
                reader,
                target,
            }
            .run(),
        );
    }
}

/// The keeper at work.
struct Writer {
    api: Api<MutatingWebhookConfiguration>,
    security: Security,
    reader: Reader<MutatingWebhookConfiguration>,
    target: Target,
}

impl Writer {
    async fn run(self) {
        let mut bundles = self.security.subscribe();
        let mut objects = self.reader.subscribe();
        let mut written = Some(encoded(&self.security));
        self.target.ready();
        loop {
            let bundle = encoded(&self.security);
            let pause = match self.found() {
                Found::Bundle(found) if found != bundle => {
                    tracing::info!("caBundle of the webhook configuration is not the current one");
                    self.try_write(bundle, &mut written).await
                }
                Found::Nothing if written.as_ref() != Some(&bundle) => {
                    self.try_write(bundle, &mut written).await
                }
                Found::Nothing | Found::Bundle(_) => BLIND,
            };
            self.waits(pause, &mut bundles, &mut objects).await;
            if matches!(self.found(), Found::Nothing) {
                // Nobody can tell what it is by now, so it is written again.
                written = None;
            }
        }
    }

    async fn try_write(&self, bundle: String, written: &mut Option<String>) -> Duration {
        match write(&self.api, &bundle).await {
            Ok(()) => {
                tracing::debug!("caBundle of the webhook configuration is written");
                *written = Some(bundle);
                self.target.ready();
                BLIND
            }
            Err(error) => {
                tracing::warn!(%error, "caBundle of the webhook configuration cannot be written");
                self.target.unready();
                RETRY
            }
        }
    }

    async fn waits(
        &self,
        pause: Duration,
        bundles: &mut signal::Receiver<u64>,
        objects: &mut signal::Receiver<u64>,
    ) {
        tokio::select! {
            Ok(()) = bundles.changed() => {}
            Ok(()) = objects.changed() => {}
            () = sleep(pause) => {}
        }
    }

    /// The bundle the object has.
    fn found(&self) -> Found {
        let Some(object) = self.reader.get("", NAME) else {
            return Found::Nothing;
        };
        let webhook = object
            .webhooks
            .as_ref()
            .and_then(|webhooks| webhooks.first());
        let bundle = webhook.and_then(|webhook| webhook.client_config.ca_bundle.as_ref());
        Found::Bundle(bundle.map_or_else(String::new, |bundle| STANDARD.encode(&bundle.0)))
    }
}

/// The bundle as it stands in the object.
fn encoded(security: &Security) -> String {
    let pem = security.trust_anchors_pem().unwrap_or_default();
    STANDARD.encode(pem.as_bytes())
}

async fn write(api: &Api<MutatingWebhookConfiguration>, bundle: &str) -> Result<(), kube::Error> {
    let operations = json!([{"op": "replace", "path": BUNDLE, "value": bundle}]);
    let operations = serde_json::from_value(operations).map_err(kube::Error::SerdeError)?;
    let patch = Patch::Json::<()>(operations);
    api.patch(NAME, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// A refusal that no second attempt mends: the object or the right is missing.
fn is_final(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => (400..500).contains(&status.code) && status.code != 429,
        _ => false,
    }
}
