//! Programs that a test needs and this project does not build: a script installs them once, or says why it cannot.
//!
//! What a script does is in the script. Its contract: it prints the folder that holds the result; exit status 75
//! means that something cannot be had on this machine, and the last line of stderr says what.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What a script exits with if something cannot be had here.
const CANNOT_BE_HAD: i32 = 75;

/// What `timeout` exits with when it had to end the script.
const TIMED_OUT: i32 = 124;

/// Whether the programs can be used on this machine.
#[derive(Debug)]
pub enum Prepared {
    /// They can: this folder holds them.
    Ready(PathBuf),
    /// They cannot, for a reason that lies outside this project.
    Unavailable(String),
}

/// Runs a script, which does nothing if it has run before. Blocks; a script that takes longer than `limit` counts as
/// something that cannot be had.
pub fn prepare(script: &Path, limit: Duration) -> Result<Prepared> {
    let mut child = Command::new("timeout")
        .arg(limit.as_secs().to_string())
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {}", script.display()))?;
    let lines = match child.stderr.take() {
        Some(stderr) => pass_on(BufReader::new(stderr)),
        None => Vec::new(),
    };
    let output = child.wait_with_output()?;
    verdict(output.status.code(), &output.stdout, &lines)
        .with_context(|| format!("running {}", script.display()))
}

/// What the end of a script means: its status, its stdout, and the lines of its stderr.
fn verdict(status: Option<i32>, stdout: &[u8], lines: &[String]) -> Result<Prepared> {
    match status {
        Some(0) => {
            let folder = std::str::from_utf8(stdout).context("reading the name of the folder")?;
            Ok(Prepared::Ready(PathBuf::from(folder.trim_end())))
        }
        Some(CANNOT_BE_HAD) => {
            let reason = lines.last().map_or("no reason given", String::as_str);
            Ok(Prepared::Unavailable(reason.to_owned()))
        }
        Some(TIMED_OUT) => Ok(Prepared::Unavailable("it takes too long".to_owned())),
        Some(status) => bail!("it ended with status {status}:\n{}", lines.join("\n")),
        None => bail!("a signal ended it:\n{}", lines.join("\n")),
    }
}

/// Says loudly that something was left out: on stderr, and in `target/e2e/skipped.txt`.
pub fn skipped(what: &str, reason: &str) -> Result<()> {
    let line = format!("skipped: {what}: {reason}");
    loudly(&line);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/e2e");
    std::fs::create_dir_all(&folder)?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("skipped.txt"))?;
    writeln!(file, "{line}")?;
    Ok(())
}

/// Shows each line as it comes, so that nobody takes a long installation for a hanging test.
fn pass_on(lines: impl BufRead) -> Vec<String> {
    let lines = lines.lines().map_while(Result::ok);
    lines.inspect(|line| loudly(line)).collect()
}

/// Writes to the stderr of the process; `eprintln!` would be held back by the test harness.
fn loudly(line: &str) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(std::io::stderr(), "{line}"));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Prepared, verdict};

    /// The verdict on a script that printed a folder and two lines of messages.
    fn on(status: Option<i32>) -> anyhow::Result<Prepared> {
        let lines = ["trying".to_owned(), "there is no go".to_owned()];
        verdict(status, b"/some/where\n", &lines)
    }

    #[test]
    fn the_folder_is_what_the_script_prints() {
        match on(Some(0)).expect("a verdict") {
            Prepared::Ready(folder) => assert_eq!(folder, Path::new("/some/where")),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_last_line_says_why_something_cannot_be_had() {
        let check = |status, expected: &str| match on(Some(status)).expect("a verdict") {
            Prepared::Unavailable(reason) => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        };
        check(75, "there is no go");
        check(124, "it takes too long");
    }

    #[test]
    fn everything_else_is_a_failure_that_shows_the_output() {
        for status in [Some(1), Some(126), None] {
            let error = on(status).expect_err("a failure");
            assert!(
                error.to_string().contains("trying\nthere is no go"),
                "{error}"
            );
        }
    }
}
