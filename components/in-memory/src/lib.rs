//! The components without a server: `state.in-memory` and `pubsub.in-memory`.
//!
//! They hold everything in this process and lose it with the process; they are upstream's development
//! components and the fakes of our own tests.

pub mod pubsub;
pub mod state;

use std::sync::Arc;

use dapr_components_core::Registries;

/// Registers both components.
pub fn register(into: &mut Registries) {
    into.state.register("state.in-memory/v1", |_| {
        Box::pin(async {
            Ok(Arc::new(state::Store::open()) as Arc<dyn dapr_components_core::state::StateStore>)
        })
    });
    into.pubsub.register("pubsub.in-memory/v1", |_| {
        Box::pin(async {
            Ok(Arc::new(pubsub::Bus::default()) as Arc<dyn dapr_components_core::pubsub::PubSub>)
        })
    });
}
