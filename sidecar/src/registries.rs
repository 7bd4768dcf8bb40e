//! Every component of this build, registered in one place.

use std::sync::Arc;

use dapr_components_core::Registries;
use dapr_components_kubernetes::Cluster;
use dapr_kit::flags::Environment;

/// The registries, filled; `environment` is what components may see of it.
pub fn all(environment: &Arc<Environment>) -> Registries {
    let mut registries = Registries::default();
    dapr_components_in_memory::register(&mut registries);
    dapr_components_sqlite::register(&mut registries);
    dapr_components_mdns::register(&mut registries);
    dapr_components_local::register(
        &mut registries,
        Arc::new(Variables(Arc::clone(environment))),
    );
    dapr_components_kubernetes::register(&mut registries, cluster(environment));
    registries
}

struct Variables(Arc<Environment>);

impl dapr_components_local::secret_store::env::Environment for Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(str::to_owned)
    }

    fn all(&self) -> Vec<(String, String)> {
        let all = self.0.iter();
        all.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

fn cluster(environment: &Environment) -> Cluster {
    let host = environment.non_empty("KUBERNETES_SERVICE_HOST");
    let port = environment.non_empty("KUBERNETES_SERVICE_PORT");
    Cluster {
        api_server: host
            .zip(port)
            .map(|(host, port)| (host.to_owned(), port.to_owned())),
        namespace: environment.non_empty("NAMESPACE").map(str::to_owned),
    }
}
