//! The folder of an API server, which never outlives the process that made it, and neither do its processes.
//!
//! A server that many tests share lives in a static, which is never dropped, and a test run can be killed. So a
//! process of its own, the script `guard`, waits for the end of this one and cleans up.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};

/// A temporary folder and the script that watches over it. Dropped, it removes the folder and ends every process
/// that has it as its working folder.
#[derive(Debug)]
pub(super) struct Guard {
    folder: PathBuf,
    script: Child,
}

impl Guard {
    /// Makes a folder and guards it.
    pub(super) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("dapr-e2e-apiserver-")
            .tempdir()
            .context("making a folder for the API server")?;
        // The script compares it with what the kernel says about processes.
        let path = folder.path().canonicalize()?;
        let script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("guard"))
            .arg(&path)
            .current_dir("/")
            // Whoever ends a test run may end its whole process group.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the guard of the folder")?;
        // From here on it is the script that removes it.
        let _kept = folder.keep();
        Ok(Self {
            folder: path,
            script,
        })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.script.stdin.take());
        // It ends by itself; waiting makes sure that the folder is gone. It is our child, so nothing can go wrong.
        drop(self.script.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::Guard;
    use crate::real::process::Process;

    #[test]
    fn a_guard_takes_folder_and_processes_with_it() {
        let guard = Guard::new().expect("a guard");
        let folder = guard.folder().to_owned();
        let arguments = ["600".to_owned()];
        let mut process = Process::start(&folder, "sleep", "sleep".as_ref(), &arguments)
            .expect("a process in the folder");
        process.check_running().expect("still running");
        drop(guard);
        assert!(!folder.exists());
        process.ended().expect("killed by the guard");
    }
}
