//! `sentry rotate`: asks the running Sentry for a new root, and tells how far it is.
#![expect(
    clippy::print_stdout,
    reason = "what happens is what the person at the terminal waits for"
)]

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::bail;
use dapr_kit::flags::Environment;
use dapr_kit::shutdown::Shutdown;
use tokio::time::sleep;

use super::{Mode, client, namespace};
use crate::material;
use crate::rotation::{Phase, seconds};
use crate::storage::{Cluster, Directory, Storage};

/// Pause between two looks at the state.
const LOOK: Duration = Duration::from_millis(500);
/// How long a running Sentry may take to hear the request.
const HEARD: Duration = Duration::from_secs(60);

/// The flags of `sentry rotate`.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "sentry rotate",
    about = "Asks the running Sentry to replace its root without an outage"
)]
pub struct RotateArgs {
    /// Where Sentry runs: kubernetes or standalone.
    #[arg(long, default_value = "standalone")]
    mode: String,
    /// Directory of the issuer's credentials, in standalone mode.
    #[arg(long, default_value = "/var/run/secrets/dapr.io/credentials")]
    issuer_credentials: PathBuf,
    /// Path of the kubeconfig file; the default is that of the pod, or below the home directory.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Wait until the rotation is complete.
    #[arg(long)]
    wait: bool,
}

impl RotateArgs {
    /// Asks, and waits if that is wanted.
    ///
    /// # Errors
    /// The place cannot be written, or nobody hears the request.
    pub async fn run(self, environment: Environment, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self {
            mode,
            issuer_credentials,
            kubeconfig,
            wait,
        } = self;
        let names = ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"];
        let storage = match Mode::read(&mode)? {
            Mode::Standalone => {
                let paths = names.map(|name| issuer_credentials.join(name));
                let [root, chain, key, jwt_key, keys] = &paths;
                let paths = [root, chain, key, jwt_key, keys].map(PathBuf::as_path);
                Storage::Directory(Directory::new(&issuer_credentials, paths))
            }
            Mode::Kubernetes => {
                let client = client(kubeconfig, &environment).await?;
                let names = names.map(str::to_owned);
                Storage::Cluster(Box::new(Cluster::new(
                    client,
                    namespace(&environment)?,
                    names,
                )))
            }
        };
        let request = seconds(SystemTime::now()).to_string();
        storage.request(&request).await?;
        println!("A new root is asked for.");
        tokio::select! {
            done = follow(&storage, &request, wait) => done,
            () = shutdown.token().cancelled() => Ok(()),
        }
    }
}

/// Waits until the request is heard and, if wanted, until there is no rotation any more.
async fn follow(storage: &Storage, request: &str, to_the_end: bool) -> anyhow::Result<()> {
    let asked = tokio::time::Instant::now();
    let mut told = None;
    loop {
        let kept = storage.look().await?;
        let record = material::rotation(&kept, storage)?;
        let is_heard = kept.request.as_deref() != Some(request);
        let phase = record.as_ref().map(|record| record.phase);
        if phase.is_some() && phase != told {
            match phase {
                Some(Phase::Publishing) => {
                    println!("The new root is published beside the old one.")
                }
                Some(Phase::Switched) => println!("The new issuer signs."),
                Some(Phase::Retired) | None => {}
            }
            told = phase;
        }
        match (is_heard, &record) {
            (true, Some(_)) if !to_the_end => return Ok(()),
            (true, None) if told.is_some() => {
                println!("The old root is out of the bundle: the rotation is complete.");
                return Ok(());
            }
            (true, None) if asked.elapsed() > LOOK * 2 => {
                println!("The rotation is over, or was refused: the log of sentry tells.");
                return Ok(());
            }
            (false, _) if asked.elapsed() > HEARD => {
                bail!(
                    "no sentry has heard the request within {} s; it stays until one does",
                    HEARD.as_secs()
                );
            }
            (true | false, _) => {}
        }
        sleep(LOOK).await;
    }
}
