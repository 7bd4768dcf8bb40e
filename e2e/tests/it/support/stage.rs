//! The frame of a story: its turn, its folder, its runtime, and what is left behind when it fails.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec};
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::App;

/// Longest wait for one condition: far above what a loaded machine of two cores needs.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Stories at once: each runs up to eight processes, and two cores are what a small machine has.
static TURNS: Semaphore = Semaphore::const_new(3);

/// Tells the stories of one run apart.
static STORIES: AtomicU32 = AtomicU32::new(0);

static CRYPTO: Once = Once::new();

/// Where a story takes place.
pub(crate) struct Stage {
    folder: PathBuf,
    suffix: String,
    /// A client that follows no redirect and uses no proxy.
    pub(crate) http: reqwest::Client,
}

/// Tells a story when its turn comes. If it fails, its folder with all logs stays and its path is printed.
pub(crate) fn story(name: &str, tell: impl AsyncFnOnce(&Stage) -> Result<()>) {
    CRYPTO.call_once(|| {
        // An error means that a provider is there already, which is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the story");
    runtime.block_on(async {
        let _turn = TURNS.acquire().await.expect("nobody closes it");
        let folder = Folder::new(name).expect("a folder for the story");
        let stage = Stage::new(folder.path()).expect("a stage for the story");
        if let Err(error) = tell(&stage).await {
            panic!("{error:#}");
        }
        folder.forget();
    });
}

impl Stage {
    fn new(folder: &Path) -> Result<Self> {
        let story = STORIES.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            folder: folder.to_owned(),
            suffix: format!("{:x}-{story}", std::process::id()),
            http: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .timeout(LIMIT)
                .build()?,
        })
    }

    /// Folder of this story.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// An app id nobody else on this machine uses: name resolution is by multicast, so it sees all stories.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.suffix)
    }

    /// Sentry and `replicas` of Placement.
    pub(crate) async fn control_plane(&self, replicas: usize) -> Result<ControlPlane> {
        ControlPlane::start(&self.folder, replicas)
            .await
            .context("starting the control plane")
    }

    /// A folder of resources, one file per document.
    pub(crate) fn resources(&self, name: &str, documents: &[String]) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(&folder)?;
        for (index, document) in documents.iter().enumerate() {
            std::fs::write(folder.join(format!("{index:02}.yaml")), document)?;
        }
        Ok(folder)
    }

    /// A file of this story.
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        std::fs::write(&path, content)?;
        Ok(path)
    }

    /// How a sidecar with this app id is started; `app` is the application beside it.
    pub(crate) fn spec(&self, app_id: &str, app: Option<&App>) -> SidecarSpec {
        SidecarSpec {
            name: app_id.to_owned(),
            app_id: app_id.to_owned(),
            app_port: app.map(App::port),
            ..SidecarSpec::default()
        }
    }

    /// Starts a sidecar and waits until it is ready for everything.
    pub(crate) async fn sidecar(
        &self,
        spec: &SidecarSpec,
        control_plane: Option<&ControlPlane>,
    ) -> Result<Sidecar> {
        let mut sidecar = Sidecar::start(&self.folder, spec, control_plane).await?;
        sidecar.await_ready().await?;
        Ok(sidecar)
    }
}

/// A folder that is removed unless the story failed.
struct Folder {
    folder: Option<TempDir>,
}

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("dapr-e2e-{name}-"))
            .tempdir()?;
        Ok(Self {
            folder: Some(folder),
        })
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().expect("taken only at the end").path()
    }

    fn forget(mut self) {
        // Dropping the inner folder removes it.
        self.folder.take();
    }
}

impl Drop for Folder {
    #[expect(
        clippy::print_stderr,
        reason = "whoever runs a failed story looks for its logs"
    )]
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            eprintln!(
                "the story failed; its logs are in {}",
                folder.keep().display()
            );
        }
    }
}
