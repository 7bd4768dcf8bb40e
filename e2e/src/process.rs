//! A process of a test: started with an empty environment, logging to a file, gone when dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name in logs and errors.
    pub name: String,
    /// Executable.
    pub program: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    /// Working folder; also holds the log.
    pub folder: PathBuf,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `spec`; its output goes to `<folder>/<name>.log`.
    pub fn start(spec: &Spec) -> Result<Self> {
        let log = spec.folder.join(format!("{}.log", spec.name));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .context("opening the log")?;
        let child = Command::new(&spec.program)
            .args(&spec.arguments)
            .env_clear()
            .envs(&spec.environment)
            .current_dir(&spec.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {} ({})", spec.name, spec.program.display()))?;
        Ok(Self {
            name: spec.name.clone(),
            child,
            log,
        })
    }

    /// Name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Everything it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error with the end of the log if it has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "{} ended with {status}; its last lines:\n{}",
                self.name,
                tail.join("\n")
            );
        }
        Ok(())
    }

    /// Ends it as a crash would: SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to end (SIGTERM) and waits for its status.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.ended(limit).await
    }

    /// Sends a signal by name.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let Some(id) = self.child.id() else {
            bail!("{} has ended already", self.name)
        };
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(id.to_string())
            .status()
            .await?;
        if !status.success() {
            bail!("kill -{name} {id} ({}): {status}", self.name);
        }
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let ended = tokio::time::timeout(limit, self.child.wait()).await;
        ended
            .with_context(|| format!("{} did not end within {limit:?}", self.name))?
            .context("waiting")
    }
}

/// The executable `name` of this build: beside the test, or one folder above it.
pub fn built(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding this executable")?;
    let mut folder = own.parent();
    while let Some(current) = folder {
        let candidate = current.join(name);
        if candidate.is_file() && current.file_name() != Some(Path::new("deps").as_os_str()) {
            return Ok(candidate);
        }
        folder = current
            .parent()
            .filter(|parent| parent.file_name().is_some_and(|name| name != "target"));
    }
    bail!("{name} is not built: run `cargo build --workspace --bins` first")
}
