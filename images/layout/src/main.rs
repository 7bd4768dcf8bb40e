//! `layout <arguments of the linker>`: links as `LAYOUT_LINKER` does, programs with their functions in the order of the file
//! `LAYOUT_ORDER`. Beside each lies then the same with names, `<program>.named`, for `layout order`.
//!
//! `layout order <rounds> <folder>`: prints the order of what ran, by the profiles in a folder: `start.*` and `steady.*`, the
//! latter of so many rounds. What is in the first of them by name comes first.
#![expect(clippy::print_stdout, reason = "the order is its output")]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use dapr_layout::link::{self, Call};
use dapr_layout::order::Order;
use dapr_layout::profile::{self, Profile};

fn main() -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [command, rounds, folder] if command == "order" => {
            let rounds = rounds.to_str().and_then(|rounds| rounds.parse().ok());
            let rounds = rounds.context("layout order <rounds> <folder>")?;
            print!("{}", order(rounds, Path::new(folder))?);
            Ok(ExitCode::SUCCESS)
        }
        [] => bail!("layout <arguments of the linker>, or: layout order <rounds> <folder>"),
        _ => link(&arguments),
    }
}

fn link(arguments: &[OsString]) -> Result<ExitCode> {
    let linker = variable("LAYOUT_LINKER").unwrap_or_else(|| "cc".into());
    // Set for programs, not for what runs while they are compiled.
    let call = variable("CARGO_BIN_NAME").and_then(|_| Call::read(arguments));
    let Some(call) = call.filter(|call| call.is_lld) else {
        return run(&linker, arguments);
    };
    let file = PathBuf::from(variable("LAYOUT_ORDER").context("LAYOUT_ORDER is not set")?);
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let order = Order::parse(&text).with_context(|| file.display().to_string())?;
    let place = call.output.with_added_extension("order");
    std::fs::write(&place, link::ordered(&order, &call.inputs)?)
        .with_context(|| format!("writing {}", place.display()))?;
    let mut option = OsString::from("-Wl,--symbol-ordering-file=");
    option.push(&place);
    let mut all = arguments.to_vec();
    all.extend([option, "-Wl,--no-warn-symbol-ordering".into()]);
    let (with_names, _file) = link::named(&all, call.output);
    let linked = run(&linker, &with_names)?;
    if linked != ExitCode::SUCCESS {
        return Ok(linked);
    }
    run(&linker, &all)
}

fn run(linker: &OsString, arguments: &[OsString]) -> Result<ExitCode> {
    let status = Command::new(linker)
        .args(arguments)
        .status()
        .with_context(|| format!("running {}", linker.display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn order(rounds: u64, folder: &Path) -> Result<String> {
    let (mut starts, mut steady) = (Vec::new(), Vec::new());
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        let profile = || -> Result<Profile> {
            let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
            Ok(Profile::parse(&String::from_utf8_lossy(&text)))
        };
        match file.file_name().map(|name| name.as_encoded_bytes()) {
            Some(name) if name.starts_with(b"start.") => starts.push(profile()?),
            Some(name) if name.starts_with(b"steady.") => steady.push(profile()?),
            _ => {}
        }
    }
    ensure!(
        !starts.is_empty() && !steady.is_empty(),
        "{} has no profiles start.* and steady.*",
        folder.display()
    );
    Ok(Order::write(profile::order(&steady, &starts, rounds)))
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}
