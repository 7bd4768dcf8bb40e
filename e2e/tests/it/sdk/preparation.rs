//! Installing what a program needs, once per version of its manifest.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// What the scripts exit with if something cannot be had here.
const CANNOT_BE_HAD: i32 = 75;

/// Whether the program can run on this machine.
pub(super) enum Prepared {
    /// It can: this folder holds what it needs.
    Ready(PathBuf),
    /// It cannot, for a reason that lies outside this project.
    Unavailable(String),
}

/// Folder of a language's program.
pub(super) fn source(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("sdk")
        .join(language)
}

/// Runs the `prepare` script of a language, which does nothing if it has run before.
pub(super) fn prepare(language: &str) -> Result<Prepared> {
    let output = Command::new("timeout")
        .arg("240")
        .arg(source(language).join("prepare"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running the prepare script of {language}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            let folder = String::from_utf8(output.stdout)?;
            Ok(Prepared::Ready(PathBuf::from(folder.trim_end())))
        }
        Some(CANNOT_BE_HAD) => {
            let reason = errors.lines().last().unwrap_or("no reason given");
            Ok(Prepared::Unavailable(reason.to_owned()))
        }
        Some(124) => Ok(Prepared::Unavailable(
            "not installed within 4 minutes".to_owned(),
        )),
        _ => bail!(
            "preparing {language} failed with {}:\n{errors}",
            output.status
        ),
    }
}

/// Says loudly that a language was left out, on stderr and in `target/e2e/skipped.txt`.
#[expect(
    clippy::print_stderr,
    reason = "nobody may take a skipped story for one that held"
)]
pub(super) fn skipped(language: &str, reason: &str) -> Result<()> {
    let line = format!("skipped: the {language} SDK: {reason}");
    eprintln!("{line}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    std::fs::create_dir_all(&folder)?;
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("skipped.txt"))?;
    writeln!(file, "{line}")?;
    Ok(())
}
