//! The API server as the control plane sees it: a client that is not throttled, and one tolerant list-and-watch.
//!
//! It knows no Dapr resource and decides nothing: what an object means is the reader's business. Writing objects is
//! left to the callers and kube's `Api`, but for the Lease of an election and for Events.
//!
//! ```no_run
//! # async fn example() -> Result<(), dapr_kubernetes::Error> {
//! use dapr_kubernetes::{Change, Config, Place, client, watch};
//! use k8s_openapi::api::core::v1::Pod;
//!
//! let client = client(&Place::Kubeconfig("/home/me/.kube/config".into())).await?;
//! let (pods, watcher) = watch::<Pod>(kube::Api::all(client), Config::default());
//! let task = tokio::spawn(watcher.run(|change| match change {
//!     Change::Applied { new, .. } => println!("{:?}", new.metadata.name),
//!     Change::Deleted { .. } | Change::Synced => {}
//! }));
//! pods.synced().await;
//! println!("{:?}", pods.get("default", "shop"));
//! task.abort();
//! # Ok(())
//! # }
//! ```
#![warn(missing_docs)]

pub mod client;
pub mod event;
pub mod lease;
pub mod slim;
pub mod watch;

pub use client::{Error, InCluster, Place, client};
pub use watch::{Change, Config, Health, Object, Reader, State, Unreadable, Watcher, watch};
