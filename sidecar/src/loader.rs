//! Resources and the Configuration: from disk outside a cluster, from the operator inside one.
//!
//! What is loaded, and what has changed, is told in one form, so that nothing else knows where it came from.

pub mod configuration;
pub mod disk;
pub mod endpoints;
pub mod operator;
pub mod properties;
pub mod references;
mod resources;

use std::sync::Arc;

use async_trait::async_trait;
use dapr_crds::Configuration;
use tokio::sync::watch;

pub use resources::Resources;

/// What cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Configuration on disk.
    #[error(transparent)]
    Configuration(#[from] configuration::Error),
    /// The resources on disk.
    #[error(transparent)]
    Disk(#[from] disk::Error),
    /// Anything the operator has.
    #[error(transparent)]
    Operator(#[from] operator::Error),
}

/// Where Configuration and resources come from.
#[async_trait]
pub trait Loader: Send + Sync + 'static {
    /// The Configuration, on top of the defaults.
    async fn configuration(&self) -> Result<Configuration, Error>;

    /// Everything that concerns this application.
    async fn resources(&self) -> Result<Resources, Error>;

    /// Publishes everything anew whenever something may have changed, and now and then without a reason. Never ends;
    /// dropping it stops it.
    async fn follow(&self, feed: &Feed);
}

/// The latest resources. Whoever reads late sees the last of them, and nothing in between.
#[derive(Debug)]
pub struct Feed(watch::Sender<Arc<Resources>>);

impl Feed {
    /// A feed that begins with what is in use.
    pub fn new(resources: Arc<Resources>) -> (Self, watch::Receiver<Arc<Resources>>) {
        let (sender, receiver) = watch::channel(resources);
        (Self(sender), receiver)
    }

    /// Tells what there is now.
    pub fn publish(&self, resources: Resources) {
        self.0.send_replace(Arc::new(resources));
    }
}
