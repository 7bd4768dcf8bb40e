//! The resolver: addresses from the cache, else a lookup by the engine.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_components_core::name_resolution::{Instance, ResolveRequest, Resolver};
use dapr_components_core::{Error, ErrorKind};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cache::Cache;
use crate::engine::{self, Command};
use crate::service::Service;

/// How long a caller waits for a lookup, its own or one that is going on.
const PATIENCE: Duration = Duration::from_secs(2);

/// Commands that may wait; more callers than that wait in their own tasks.
const COMMANDS: usize = 256;

/// A resolver that is registered until it is closed or dropped.
#[derive(Debug)]
pub struct Mdns {
    cache: Arc<Mutex<Cache>>,
    commands: mpsc::Sender<Command>,
    /// Ends by itself, with a goodbye, once `commands` is gone.
    _engine: JoinHandle<()>,
}

impl Mdns {
    /// Registers `instance` as `<hostname>:<pid>` and starts to answer for it.
    pub async fn open(instance: Instance) -> Result<Self, Error> {
        let name = format!("{}:{}", instance.hostname, std::process::id());
        Self::open_as(&name, &instance).await
    }

    /// Registers `instance` under an instance name of the caller's choice, unique for its app id.
    pub async fn open_as(name: &str, instance: &Instance) -> Result<Self, Error> {
        let addresses = addresses(&instance.address).await?;
        let service = Service::new(
            &instance.app_id,
            name,
            &instance.hostname,
            instance.internal_port,
            addresses,
        )?;
        let cache = Arc::new(Mutex::new(Cache::default()));
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let engine = engine::start(service, Arc::clone(&cache), receiver)?;
        Ok(Self {
            cache,
            commands,
            _engine: engine,
        })
    }
}

async fn addresses(host: &str) -> Result<Vec<IpAddr>, Error> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let failed = |why: String| {
        Error::new(
            ErrorKind::Configuration,
            format!("failed to determine host IP address of {host:?}: {why}"),
        )
    };
    let found = tokio::net::lookup_host((host, 0))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut addresses: Vec<_> = found.map(|address| address.ip()).collect();
    addresses.dedup();
    if addresses.is_empty() {
        Err(failed("it has none".to_owned()))
    } else {
        Ok(addresses)
    }
}

#[async_trait]
impl Resolver for Mdns {
    async fn resolve(&self, request: &ResolveRequest) -> Result<String, Error> {
        let app_id = &request.app_id;
        if let Some(address) = self.cache.lock().pick(app_id, Instant::now()) {
            return Ok(address.to_string());
        }
        let closed = || Error::new(ErrorKind::Unavailable, "the mDNS resolver is closed");
        let (waiter, answer) = oneshot::channel();
        let lookup = async {
            let command = Command::LookUp {
                app_id: app_id.clone(),
                waiter,
            };
            self.commands.send(command).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        };
        let late = |_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("timeout waiting for address for app id {app_id}"),
            )
        };
        let address = tokio::time::timeout(PATIENCE, lookup)
            .await
            .map_err(late)??;
        Ok(address.to_string())
    }

    /// An app that was started again is found at once, and not when its old address is forgotten.
    fn failed(&self, request: &ResolveRequest, address: &str) {
        let Ok(address) = address.parse() else {
            return;
        };
        if self.cache.lock().failed(&request.app_id, address) {
            let app_id = request.app_id.clone();
            // With that many commands waiting it is asked for anyway.
            drop(self.commands.try_send(Command::LookAgain { app_id }));
        }
    }

    async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            drop(closed.await); // The engine answers by ending; there is no message.
        }
    }
}
