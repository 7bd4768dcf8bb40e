//! Which core measures and which is measured.
//!
//! A service that has a core to itself can be compared between machines and runs, so the measured process gets the first
//! core and this program the others. Without `taskset`, or on a machine with one core, both run wherever the kernel likes.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

const TASKSET: [&str; 2] = ["/usr/bin/taskset", "/bin/taskset"];

/// The cores of this program, taken apart; it has all of them again after [`Split::end`].
#[derive(Debug)]
pub struct Split {
    taskset: PathBuf,
    measured: usize,
    ours: String,
    all: String,
}

impl Split {
    /// Leaves the first core to what is measured; none if it cannot be done here.
    pub async fn begin() -> Result<Option<Self>> {
        let Some(taskset) = TASKSET.iter().map(Path::new).find(|path| path.is_file()) else {
            return Ok(None);
        };
        let status =
            std::fs::read_to_string("/proc/self/status").context("reading the cores allowed")?;
        let all = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .context("no Cpus_allowed_list")?
            .trim();
        let cores = parse(all).context("Cpus_allowed_list has an unknown form")?;
        let [measured, ours @ ..] = cores.as_slice() else {
            return Ok(None);
        };
        if ours.is_empty() {
            return Ok(None);
        }
        let ours: Vec<String> = ours.iter().map(usize::to_string).collect();
        let split = Self {
            taskset: taskset.to_owned(),
            measured: *measured,
            ours: ours.join(","),
            all: all.to_owned(),
        };
        split.pin(&split.ours).await?;
        Ok(Some(split))
    }

    /// `program` with `arguments` as a command that runs it on the measured core; the process id stays the program's.
    pub fn wrap(&self, program: &Path, arguments: Vec<String>) -> (PathBuf, Vec<String>) {
        let mut wrapped = vec![
            "-c".to_owned(),
            self.measured.to_string(),
            program.display().to_string(),
        ];
        wrapped.extend(arguments);
        (self.taskset.clone(), wrapped)
    }

    /// Gives this program all its cores again.
    pub async fn end(self) -> Result<()> {
        self.pin(&self.all).await
    }

    /// All threads of this program, those to come included.
    async fn pin(&self, cores: &str) -> Result<()> {
        let pid = std::process::id().to_string();
        let output = Command::new(&self.taskset)
            .args(["-a", "-c", "-p", cores, &pid])
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "taskset: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// `0-2,5` is 0, 1, 2 and 5.
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut cores = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cores.extend(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?);
    }
    Some(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read() {
        assert_eq!(parse("0"), Some(vec![0]));
        assert_eq!(parse("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("3,7-8"), Some(vec![3, 7, 8]));
        assert_eq!(parse(""), None);
        assert_eq!(parse("all"), None);
    }
}
