//! Where resources come from in this run, and the components made of them.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use dapr_crds::Component;
use dapr_crds::configuration::ConfigurationSpec;
use dapr_security::{Security, SpiffeId};
use dapr_sidecar_core::pubsub::PubSubs;
use dapr_sidecar_core::secrets::{ScopeSpec, Scopes, Secrets};
use dapr_sidecar_core::state::Stores;

use super::Process;
use super::base::Base;
use super::surfaces::has_hot_reload;
use crate::components::{Components, Opening};
use crate::loader::disk::{Disk, Known};
use crate::loader::operator::{self, Operator};
use crate::loader::{self, Loader, Resources};
use crate::registries;
use crate::settings::Mode;

/// The secret store every pod has without a resource.
const BUILTIN_SECRET_STORE: &str = "kubernetes";

/// The loader of the mode.
pub(super) fn loader(process: &Process, security: &Security) -> anyhow::Result<Arc<dyn Loader>> {
    let settings = &process.settings;
    Ok(match settings.mode {
        Mode::Standalone => Arc::new(Disk {
            folders: settings.resource_paths.clone(),
            configuration: settings.config.iter().map(PathBuf::from).collect(),
            app_id: settings.app_id.clone(),
            namespace: settings.namespace.clone(),
            environment: Arc::clone(&process.environment),
            backup: settings.reconcile,
            known: Known::default(),
        }),
        Mode::Kubernetes => {
            let plane = &settings.control_plane;
            let expect = SpiffeId::new(format!(
                "spiffe://{}/ns/{}/dapr-operator",
                plane.trust_domain, plane.namespace
            ));
            Arc::new(Operator::new(operator::Settings {
                security: security.clone(),
                address: plane.operator.clone(),
                expect: expect.context("the identity of the operator")?,
                app_id: settings.app_id.clone(),
                namespace: settings.identity_namespace().to_owned(),
                configuration: settings.config.first().cloned(),
                backup: settings.reconcile,
            }))
        }
    })
}

/// Everything that concerns the application. A folder that is missing fails a sidecar that follows its folders before
/// they are read, hence the text.
pub(super) async fn resources(
    loader: &dyn Loader,
    configuration: &ConfigurationSpec,
) -> Result<Resources, loader::Error> {
    loader.resources().await.map_err(|error| match error {
        loader::Error::Disk(error) if has_hot_reload(configuration) => {
            loader::Error::Disk(error.of_hot_reload())
        }
        other => other,
    })
}

impl Base {
    /// Room for components, see [`Components::open_all`].
    pub(super) fn components(&self) -> anyhow::Result<Components> {
        let settings = &self.process.settings;
        let (app_id, namespace) = (settings.app_id.as_str(), settings.namespace.as_deref());
        let metrics = self.component_metrics();
        let resiliency = || Arc::clone(&self.resiliency);
        let stores = Stores::new(app_id, namespace, resiliency(), Arc::clone(&metrics));
        let pubsubs = PubSubs::new(app_id, namespace, resiliency(), Arc::clone(&metrics));
        let secrets = Secrets::new(scopes(&self.configuration)?, resiliency(), metrics);
        let denied = self.configuration.components.as_ref();
        Ok(Components::new(
            Arc::new(stores),
            Arc::new(pubsubs),
            Arc::new(secrets),
            registries::all(&self.process.environment),
            Opening {
                app_id: app_id.to_owned(),
                namespace: settings.namespace.clone(),
                environment: Arc::clone(&self.process.environment),
                denied: denied.map(|spec| spec.deny.clone()).unwrap_or_default(),
                actors: settings.chooses_actor_store,
            },
            Arc::clone(&self.runtime_metrics),
        ))
    }

    /// The components of `resources`, and those that are there without a resource.
    pub(super) fn wanted(&self, resources: &Resources) -> Vec<Component> {
        let mut wanted = resources.components.clone();
        let is_named = |component: &Component| {
            component.metadata.name.as_deref() == Some(BUILTIN_SECRET_STORE)
        };
        if self.process.settings.builtin_secret_store && !wanted.iter().any(is_named) {
            let mut component = Component::default();
            component.metadata.name = Some(BUILTIN_SECRET_STORE.to_owned());
            component.spec.r#type = "secretstores.kubernetes".to_owned();
            component.spec.version = "v1".to_owned();
            // A pod without a service account token has no use for it, and is no reason not to start.
            component.spec.ignore_errors = true;
            wanted.insert(0, component);
        }
        wanted
    }
}

fn scopes(configuration: &ConfigurationSpec) -> anyhow::Result<Scopes> {
    let specs = configuration.secrets.iter().flat_map(|it| &it.scopes);
    let specs = specs.map(|scope| ScopeSpec {
        store_name: scope.store_name.clone(),
        default_access: scope.default_access.clone(),
        allowed_secrets: scope.allowed_secrets.clone(),
        denied_secrets: scope.denied_secrets.clone(),
    });
    Scopes::parse(specs).context("error loading configuration")
}
