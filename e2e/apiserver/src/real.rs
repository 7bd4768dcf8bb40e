//! A real kube-apiserver with its etcd, on loopback, in a temporary folder.
//!
//! It takes some seconds to start, so the stories of a test binary share one ([`shared`]) and stay apart by their
//! namespaces; a story that stops it starts its own ([`owned`]). Where the environment variable `KUBECONFIG` names a
//! cluster, [`shared`] is that cluster.
//!
//! Webhooks have to be registered by URL: no proxy routes the addresses of services.

mod access;
mod guard;
mod kubeconfig;
mod local;
mod objects;
mod pki;
mod ports;
mod process;
mod programs;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

pub use access::{Reach, rule};

use crate::preparation::{Prepared, skipped};
use guard::Guard;
use local::Local;

/// Issuer of the tokens of service accounts, and their audience if none is asked for. (A cluster of `KUBECONFIG` may
/// have another.)
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The server that the stories of this test binary share, or why there is none.
static SHARED: OnceCell<Result<Start, String>> = OnceCell::const_new();

/// An API server. Dropped, it ends with everything it stored, unless it is the cluster of `KUBECONFIG`.
#[derive(Debug)]
pub struct ApiServer {
    kubeconfig: PathBuf,
    // Before the guard: it removes the folder, in which the processes write until they are gone.
    local: Option<Local>,
    guard: Guard,
}

#[derive(Debug)]
enum Start {
    Started(Box<ApiServer>),
    Unavailable(String),
}

/// The API server of this test binary, started when the first story asks for it. `None` says that it cannot be had
/// on this machine, which was reported as a skip of `story`.
pub async fn shared(story: &str) -> Result<Option<&'static ApiServer>> {
    let start = SHARED.get_or_init(|| async {
        let start = match Kubeconfig::from_env() {
            Ok(Some(cluster)) => existing(&cluster).await,
            Ok(None) => start().await,
            Err(error) => Err(error.into()),
        };
        start.map_err(|error| format!("{error:#}"))
    });
    match start.await {
        Ok(Start::Started(server)) => Ok(Some(server)),
        Ok(Start::Unavailable(reason)) => {
            skipped(story, reason)?;
            Ok(None)
        }
        Err(error) => Err(anyhow::anyhow!("{error}")),
    }
}

/// An API server for one story alone, which may stop it. Never the cluster of `KUBECONFIG`. `None` as for [`shared`].
pub async fn owned(story: &str) -> Result<Option<ApiServer>> {
    match start().await? {
        Start::Started(server) => Ok(Some(*server)),
        Start::Unavailable(reason) => {
            skipped(story, &reason)?;
            Ok(None)
        }
    }
}

async fn start() -> Result<Start> {
    let programs = match programs::folder().await? {
        Prepared::Ready(folder) => folder,
        Prepared::Unavailable(reason) => {
            return Ok(Start::Unavailable(format!("no kube-apiserver: {reason}")));
        }
    };
    // Making keys and starting processes takes its time.
    let server = spawn_blocking(move || ApiServer::spawn(&programs)).await??;
    server.await_ready().await?;
    Ok(Start::Started(Box::new(server)))
}

async fn existing(cluster: &Kubeconfig) -> Result<Start> {
    let guard = Guard::new()?;
    let server = ApiServer {
        kubeconfig: guard.folder().join("admin.conf"),
        local: None,
        guard,
    };
    kubeconfig::write(&server.kubeconfig, &serde_json::to_value(cluster)?)?;
    let version = server.client().await?.apiserver_version().await;
    version.context("asking the cluster of KUBECONFIG for its version")?;
    Ok(Start::Started(Box::new(server)))
}

impl ApiServer {
    fn spawn(programs: &Path) -> Result<Self> {
        let guard = Guard::new()?;
        let port = ports::free()?;
        let admin = pki::write(guard.folder())?;
        let kubeconfig = guard.folder().join("admin.conf");
        kubeconfig::write(&kubeconfig, &kubeconfig::admin(port, &admin))?;
        Ok(Self {
            kubeconfig,
            local: Some(Local::start(guard.folder(), programs, port)?),
            guard,
        })
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client of the administrator. It works as long as the runtime of this call, so each story takes its own.
    pub async fn client(&self) -> Result<Client> {
        client(&self.kubeconfig).await
    }

    /// The executable of kubectl: that of the server's build, or the one of the machine for a cluster of `KUBECONFIG`.
    pub fn kubectl(&self) -> PathBuf {
        match &self.local {
            Some(local) => local.program("kubectl"),
            None => PathBuf::from("kubectl"),
        }
    }

    /// Ends the API server as a crash would: connections break, new ones are refused, stored objects stay.
    pub fn stop(&self) -> Result<()> {
        self.local()?.kill_apiserver()
    }

    /// Starts the stopped API server again, on its port, and waits until it is ready.
    pub async fn restart(&self) -> Result<()> {
        self.local()?.start_apiserver()?;
        self.await_ready().await
    }

    /// Lets etcd stand still: the API server accepts requests, but none that needs the store comes to an end.
    pub fn pause_etcd(&self) -> Result<()> {
        self.local()?.signal_etcd("STOP")
    }

    /// Lets etcd go on.
    pub fn resume_etcd(&self) -> Result<()> {
        self.local()?.signal_etcd("CONT")
    }

    async fn await_ready(&self) -> Result<()> {
        self.local()?.await_ready(&self.client().await?).await
    }

    fn local(&self) -> Result<&Local> {
        let local = self.local.as_ref();
        local.context("only a story's own API server can be stopped")
    }

    fn folder(&self) -> &Path {
        self.guard.folder()
    }
}

/// A client for what a kubeconfig names. It fails instead of trying again: stories want to see each refusal.
pub async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
