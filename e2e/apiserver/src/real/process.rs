//! One process of the API server: it logs to a file of its folder and is gone when dropped.
//!
//! It belongs to no runtime, for a server that tests share outlives the runtime of the test that started it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How much of a log is shown when a process has ended.
const TAIL: usize = 15;

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `folder`, with an empty environment.
    pub(super) fn start(
        folder: &Path,
        name: &'static str,
        program: &Path,
        arguments: &[String],
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .context("opening the log")?;
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// An error with the end of the log if it has ended by itself.
    pub(super) fn check_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} ended with {status}; its last lines:\n{}",
                self.name,
                self.tail()
            );
        }
        Ok(())
    }

    /// The end of its log.
    pub(super) fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Sends a signal by name.
    pub(super) fn signal(&self, name: &str) -> Result<()> {
        // The shell's own `kill`: a small machine may have no other.
        let status = Command::new("sh")
            .args(["-c", "kill -\"$0\" \"$1\"", name])
            .arg(self.child.id().to_string())
            .status()?;
        if !status.success() {
            bail!("kill -{name} ({}): {status}", self.name);
        }
        Ok(())
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .with_context(|| format!("killing {}", self.name))?;
        Ok(())
    }

    /// Waits until it has ended.
    #[cfg(test)]
    pub(super) fn ended(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it is gone already.
        drop(self.kill());
    }
}
