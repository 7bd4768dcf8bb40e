//! etcd and kube-apiserver on loopback: how they are started, and how their failures are made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use http::Request;
use kube::Client;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::process::Process;
use crate::condition::PAUSE;

/// A start takes some seconds; a machine with other work has had it take ten times as long.
const START: Duration = Duration::from_secs(120);

/// One look at readiness, after which the processes are looked at again.
const LOOK: Duration = Duration::from_secs(5);

/// The processes. Each lock guards only the handle of its process.
#[derive(Debug)]
pub(super) struct Local {
    folder: PathBuf,
    programs: PathBuf,
    port: u16,
    etcd: Mutex<Process>,
    /// `None` while stopped.
    apiserver: Mutex<Option<Process>>,
}

impl Local {
    /// Starts both in `folder`, where the certificates are, from the executables in `programs`.
    pub(super) fn start(folder: &Path, programs: &Path, port: u16) -> Result<Self> {
        let etcd = Process::start(
            folder,
            "etcd",
            &programs.join("etcd"),
            &etcd_arguments(folder),
        )?;
        let local = Self {
            folder: folder.to_owned(),
            programs: programs.to_owned(),
            port,
            etcd: Mutex::new(etcd),
            apiserver: Mutex::new(None),
        };
        local.start_apiserver()?;
        Ok(local)
    }

    /// Starts the API server unless it runs.
    pub(super) fn start_apiserver(&self) -> Result<()> {
        let mut apiserver = self.apiserver.lock();
        if apiserver.is_none() {
            *apiserver = Some(Process::start(
                &self.folder,
                "kube-apiserver",
                &self.program("kube-apiserver"),
                &apiserver_arguments(&self.folder, self.port),
            )?);
        }
        Ok(())
    }

    /// An executable of the build that this server comes from.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Ends the API server as a crash would. etcd stays, and so do all objects.
    pub(super) fn kill_apiserver(&self) -> Result<()> {
        match self.apiserver.lock().take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Sends a signal to etcd.
    pub(super) fn signal_etcd(&self, name: &str) -> Result<()> {
        self.etcd.lock().signal(name)
    }

    /// Waits until the API server is ready. Fails early when a process has ended, with the end of its log.
    pub(super) async fn await_ready(&self, client: &Client) -> Result<()> {
        let end = Instant::now() + START;
        loop {
            self.check_running()?;
            let refusal = match timeout(LOOK, readiness(client)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= end {
                let log = self.apiserver.lock().as_ref().map(Process::tail);
                bail!(
                    "kube-apiserver is not ready within {START:?}: {refusal}; its last lines:\n{}",
                    log.unwrap_or_default()
                );
            }
            sleep(PAUSE).await;
        }
    }

    fn check_running(&self) -> Result<()> {
        self.etcd.lock().check_running()?;
        match self.apiserver.lock().as_mut() {
            Some(process) => process.check_running(),
            None => bail!("kube-apiserver is stopped"),
        }
    }
}

async fn readiness(client: &Client) -> Result<()> {
    let request = Request::get("/readyz").body(Vec::new())?;
    client.request_text(request).await?;
    Ok(())
}

fn etcd_arguments(folder: &Path) -> Vec<String> {
    let clients = socket(folder, "etcd.sock");
    let peers = socket(folder, "peer.sock");
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        // Nothing here has to survive the machine.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
    ]
}

fn apiserver_arguments(folder: &Path, port: u16) -> Vec<String> {
    let file = |name: &str| folder.join(name).display().to_string();
    vec![
        format!("--etcd-servers={}", socket(folder, "etcd.sock")),
        "--bind-address=127.0.0.1".to_owned(),
        // Given, because a machine without a default route has no other to find. Nobody uses the endpoints of the
        // service `kubernetes`, which may not be on loopback.
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--secure-port={port}"),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("sa.pub")),
        format!("--service-account-signing-key-file={}", file("sa.key")),
        format!("--service-account-issuer={}", super::ISSUER),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged=true".to_owned(),
    ]
}

fn socket(folder: &Path, name: &str) -> String {
    format!("unix://{}", folder.join(name).display())
}
