//! Every component of this build, registered in one place.

use dapr_components_core::Registries;

/// The registries, filled.
pub fn all() -> Registries {
    let mut registries = Registries::default();
    dapr_components_in_memory::register(&mut registries);
    dapr_components_sqlite::register(&mut registries);
    dapr_components_mdns::register(&mut registries);
    registries
}
