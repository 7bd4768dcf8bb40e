//! SQLite: `state.sqlite`, with the tables upstream's component makes.
//!
//! The connection code stands here once; one module per building block.

mod connection_string;
mod database;
mod error;
mod settings;

pub mod state;

use std::sync::Arc;

use dapr_components_core::Registries;
use dapr_components_core::state::StateStore;

/// Registers every building block SQLite can serve.
pub fn register(into: &mut Registries) {
    for name in ["state.sqlite/v1", "state.sqlite3/v1"] {
        into.state.register(name, |metadata| {
            Box::pin(async move {
                let store = state::Store::open(&metadata).await?;
                Ok(Arc::new(store) as Arc<dyn StateStore>)
            })
        });
    }
}
