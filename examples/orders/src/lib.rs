//! A shop in two small services: what a reader copies to begin with.
//!
//! `storefront` takes an order and calls `orders` by name; `orders` keeps it, tells the world about it and
//! follows its way with an actor. Both speak plain HTTP with the sidecar beside them and use no crate of this
//! project: addresses, certificates, stores and brokers are the sidecar's business.

mod sidecar;

pub use sidecar::{Error, Sidecar};

use serde::{Deserialize, Serialize};

/// An order, as the shop speaks of it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Order {
    /// Order number.
    pub id: String,
    /// What was ordered.
    pub item: String,
    /// How many.
    pub quantity: u32,
}

/// Serves `app` on `PORT` until the process ends.
pub async fn serve(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = variable("PORT")?.parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

/// An environment variable that has to be there.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the example reads its environment"
)]
pub fn variable(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("environment variable {name} is not set"))
}
