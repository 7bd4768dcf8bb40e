//! `operator crds`: applies the custom resource definitions this binary knows.
//!
//! helm installs definitions once and never changes them; a hook of the chart runs this before an upgrade. A definition
//! is never deleted, and the address of the conversion of one that is there stays what it is, as its certificate does: the
//! operator that serves it has written them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use dapr_crds::documents;
use dapr_kit::flags::Environment;
use dapr_kit::log::{self, LogArgs, LogIdentity};
use dapr_kit::shutdown::Shutdown;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::Value;
use tokio::time::{Instant, sleep};

/// Who owns the fields: helm 4 does when it installs them, and would be refused the next install by another owner.
const FIELD_MANAGER: &str = "helm";
/// Where a definition says in which namespace the operator is that converts.
const ADDRESS: &str = "/spec/conversion/webhook/clientConfig/service/namespace";
/// How long the API server may take to serve a definition that is new, and the pause between two looks.
const ESTABLISHED: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// The flags of `operator crds`.
#[derive(Debug, Parser)]
#[command(name = "operator crds")]
pub struct CrdsArgs {
    /// Path of a kubeconfig; before KUBECONFIG, the cluster's own and the home directory's.
    #[arg(long, default_value = "", value_name = "FILE")]
    kubeconfig: PathBuf,
    #[command(flatten)]
    log: LogArgs,
}

impl CrdsArgs {
    /// Applies all definitions, and waits until each is served.
    ///
    /// # Errors
    /// The API server is away or refuses one; the message names it.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { kubeconfig, log } = self;
        let _log = log::init(&log, LogIdentity::new("dapr.operator.crds"))?;
        let place = crate::args::place(&kubeconfig, &Environment::of_process())?;
        let client = dapr_kubernetes::client(&place).await?;
        tokio::select! {
            applied = apply_all(client) => applied,
            () = shutdown.token().cancelled() => anyhow::bail!("told to stop before all definitions were applied"),
        }
    }
}

async fn apply_all(client: Client) -> anyhow::Result<()> {
    let definitions = Api::<CustomResourceDefinition>::all(client);
    for document in documents::all() {
        let name = document.definition["metadata"]["name"]
            .as_str()
            .context("a definition without a name")?
            .to_owned();
        let done = apply(&definitions, &name, document.definition)
            .await
            .with_context(|| format!("applying the definition {name}"))?;
        established(&definitions, &name).await?;
        tracing::info!("{name}: {done}");
    }
    Ok(())
}

/// Creates a definition, or changes the one that is there.
async fn apply(
    definitions: &Api<CustomResourceDefinition>,
    name: &str,
    definition: Value,
) -> anyhow::Result<&'static str> {
    let there = definitions.get_opt(name).await?;
    let done = if there.is_some() {
        "applied"
    } else {
        "created"
    };
    let there = there.map(serde_json::to_value).transpose()?;
    let patch = Patch::Apply(with_address(definition, there.as_ref()));
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    definitions.patch(name, &parameters, &patch).await?;
    Ok(done)
}

/// The definition with the address for conversions that the one that is there has: the operator that serves meanwhile has
/// written it, and subscriptions could not be read until it did again.
fn with_address(mut definition: Value, there: Option<&Value>) -> Value {
    let known = there.and_then(|there| there.pointer(ADDRESS));
    if let (Some(address), Some(known)) = (definition.pointer_mut(ADDRESS), known) {
        address.clone_from(known);
    }
    definition
}

async fn established(
    definitions: &Api<CustomResourceDefinition>,
    name: &str,
) -> anyhow::Result<()> {
    let end = Instant::now() + ESTABLISHED;
    loop {
        let found = definitions.get(name).await?;
        if is_established(&found) {
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < end,
            "the API server does not serve {name}: {:?}",
            found.status.and_then(|it| it.conditions)
        );
        sleep(LOOK).await;
    }
}

fn is_established(definition: &CustomResourceDefinition) -> bool {
    let status = definition.status.as_ref();
    let conditions = status.and_then(|it| it.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|it| it.type_ == "Established" && it.status == "True")
}

#[cfg(test)]
mod tests {
    use dapr_e2e_apiserver::real::owned;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_address_for_conversions_stays() {
        let named = |namespace: &str| {
            let service = json!({"namespace": namespace, "name": "dapr-webhook"});
            json!({"spec": {"conversion": {"webhook": {"clientConfig": {"service": service}}}}})
        };
        let check = |there: Option<&Value>, expected: &str| {
            let applied = with_address(named("replaceme"), there);
            assert_eq!(applied, named(expected), "{there:?}");
        };
        check(None, "replaceme");
        check(Some(&json!({"spec": {}})), "replaceme");
        check(Some(&named("dapr-system")), "dapr-system");
        // Other kinds have none.
        let other = json!({"spec": {"group": "dapr.io"}});
        assert_eq!(with_address(other.clone(), Some(&named("x"))), other);
    }

    #[tokio::test]
    async fn definitions_are_created_then_renewed_and_the_conversion_stays() -> anyhow::Result<()> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let Some(server) = owned("operator crds").await? else {
            return Ok(());
        };
        let client = server.client().await?;
        let definitions = Api::<CustomResourceDefinition>::all(client.clone());
        apply_all(client.clone()).await?;

        // The operator writes its address; an older release had a component without scopes.
        let name = "subscriptions.dapr.io";
        let address = json!({"spec": {"conversion": {"webhook": {"clientConfig": {"service": {
            "namespace": "elsewhere", "name": "dapr-webhook", "path": "/convert", "port": 443,
        }}}}}});
        let other = PatchParams {
            field_manager: Some("dapr-operator".to_owned()),
            ..PatchParams::default()
        };
        definitions
            .patch(name, &other, &Patch::Merge(address))
            .await?;
        let scopes = "/spec/versions/0/schema/openAPIV3Schema/properties/scopes";
        let older = json!([{"op": "remove", "path": scopes}]);
        let older = serde_json::from_value(older)?;
        definitions
            .patch("components.dapr.io", &other, &Patch::<()>::Json(older))
            .await?;

        for _ in 0..2 {
            apply_all(client.clone()).await?;
            let now = serde_json::to_value(definitions.get(name).await?)?;
            let service = now.pointer("/spec/conversion/webhook/clientConfig/service/namespace");
            anyhow::ensure!(service == Some(&json!("elsewhere")), "{now}");
            let now = serde_json::to_value(definitions.get("components.dapr.io").await?)?;
            anyhow::ensure!(now.pointer(scopes).is_some(), "the old schema is there");
        }
        Ok(())
    }
}
