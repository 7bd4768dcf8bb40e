//! Command lines and the environment, read as Go programs read them.
//!
//! Differences to plain clap: long flags take one or two dashes, booleans take a value only after `=`, the last of
//! several values wins, usage goes to stderr, and the error texts are those of Go's flag packages.

mod environment;
mod number;

use std::any::TypeId;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser as _, ValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

pub use environment::Environment;
pub use number::{IntError, PortError, atoi, boolean, int, port, uint};

/// The arguments a flag parser did not take; clap's own structs never see them.
const POSITIONAL: &str = "positional arguments";

/// How many dashes a long flag may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dashes {
    /// `-port` is `--port`: every binary but the scheduler and the operator.
    OneOrTwo,
    /// And `--h` is `-h`, as Go's own `flag` has it: the operator.
    Alike,
    /// `-port` is refused.
    Two,
}

/// A command line that ends the program instead of starting it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit status: 0 for `--help`, 2 for a bad flag.
    pub code: i32,
    /// What belongs on stderr: the usage and, for a bad flag, the reason as the last line.
    pub text: String,
}

/// Reads the command line of the process with one or two dashes; `--help` and bad flags end the process here.
pub fn parse<A: Parser>() -> A {
    parse_with(Dashes::OneOrTwo)
}

/// Reads the command line of the process; `--help` (status 0) and bad flags (status 2) end the process here.
pub fn parse_with<A: Parser>(dashes: Dashes) -> A {
    let (text, outcome) = match read(dashes, std::env::args_os()) {
        Ok((args, ignored)) => (warnings(&ignored), Ok(args)),
        Err(exit) => (exit.text, Err(exit.code)),
    };
    // With stderr closed there is nobody to tell.
    drop(std::io::stderr().write_all(text.as_bytes()));
    outcome.unwrap_or_else(|code| std::process::exit(code))
}

/// Reads `arguments`, the program's name first, without touching the process.
pub fn try_parse_from<A, I, T>(dashes: Dashes, arguments: I) -> Result<A, Exit>
where
    A: Parser,
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    read(dashes, arguments).map(|(args, _)| args)
}

/// The flags, and the words among them that are none.
fn read<A, I, T>(dashes: Dashes, arguments: I) -> Result<(A, Vec<OsString>), Exit>
where
    A: Parser,
    I: IntoIterator<Item = T>,
    T: Into<OsString>,
{
    let mut command = go_style(A::command());
    let arguments: Vec<OsString> = arguments
        .into_iter()
        .map(|argument| dashed(dashes, argument.into()))
        .collect();
    let parsed = command
        .try_get_matches_from_mut(&arguments)
        .and_then(|mut matches| {
            let ignored = matches
                .remove_many(POSITIONAL)
                .into_iter()
                .flatten()
                .collect();
            Ok((A::from_arg_matches(&matches)?, ignored))
        });
    parsed.map_err(|error| exit(&mut command, &error, dashes, &arguments))
}

/// The second dash for `-port`. Numbers keep theirs: no flag begins with a digit, `-10` can only be a value.
fn dashed(dashes: Dashes, argument: OsString) -> OsString {
    let lacks_dash = |text: &str| {
        let mut chars = text.chars();
        chars.next() == Some('-')
            && chars
                .next()
                .is_some_and(|c| c != '-' && !c.is_ascii_digit())
            && text.len() > 2
    };
    match argument.to_str() {
        Some(text) if dashes != Dashes::Two && lacks_dash(text) => format!("-{text}").into(),
        _ => argument,
    }
}

fn go_style(command: Command) -> Command {
    // Go reads past words that are no flags; so do we, or a pod that starts today would not start here.
    let positional = Arg::new(POSITIONAL)
        .num_args(0..)
        .hide(true)
        .action(ArgAction::Append);
    command
        .args_override_self(true)
        .disable_version_flag(true)
        .disable_help_subcommand(true)
        .mut_args(|arg| {
            if is_boolean(&arg) {
                go_boolean(arg)
            } else {
                go_value(arg)
            }
        })
        .arg(positional.value_parser(ValueParser::os_string()))
}

fn is_boolean(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == TypeId::of::<bool>() && !arg.is_positional()
}

/// `--flag`, `--flag=true`, `--flag=false`; a `bool` field is false by default, an `Option<bool>` unset.
fn go_boolean(arg: Arg) -> Arg {
    let unset =
        arg.get_default_values().is_empty() && matches!(arg.get_action(), ArgAction::SetTrue);
    let arg = if unset {
        arg.default_value("false")
    } else {
        arg
    };
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .default_missing_value("true")
        .value_parser(boolean)
}

/// The word after a flag is its value, whatever it looks like.
fn go_value(arg: Arg) -> Arg {
    let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    // Clap refuses an empty path; to Go it is the flag's "none".
    let is_path = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    let arg = if is_path {
        arg.value_parser(OsStringValueParser::new().map(PathBuf::from))
    } else {
        arg
    };
    if takes_value {
        arg.allow_hyphen_values(true)
    } else {
        arg
    }
}

fn exit(
    command: &mut Command,
    error: &clap::Error,
    dashes: Dashes,
    arguments: &[OsString],
) -> Exit {
    let usage = command.render_help();
    if asks_for_help(error, dashes) {
        return Exit {
            code: 0,
            text: usage.to_string(),
        };
    }
    Exit {
        code: 2,
        text: format!("{usage}\n{}\n", message(error, arguments)),
    }
}

/// Whether the words that clap refuses ask for the usage.
fn asks_for_help(error: &clap::Error, dashes: Dashes) -> bool {
    match error.kind() {
        ErrorKind::DisplayHelp => true,
        // Go does not look at the value.
        ErrorKind::TooManyValues => flag(error) == "--help",
        ErrorKind::UnknownArgument => dashes == Dashes::Alike && flag(error) == "--h",
        _ => false,
    }
}

/// The flag that is to blame.
fn flag(error: &clap::Error) -> &str {
    let flag = context(error, ContextKind::InvalidArg);
    flag.split([' ', '=', '[']).next().unwrap_or(flag)
}

fn context(error: &clap::Error, kind: ContextKind) -> &str {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text,
        _ => "",
    }
}

/// The reason in the words of Go's flag packages.
fn message(error: &clap::Error, arguments: &[OsString]) -> String {
    let flag = flag(error);
    let value = context(error, ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::UnknownArgument => unknown_flag(flag, arguments),
        ErrorKind::InvalidValue if value.is_empty() => format!("flag needs an argument: {flag}"),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue => {
            let reason = std::error::Error::source(error)
                .map_or("not one of the possible values".into(), |source| {
                    source.to_string()
                });
            format!("invalid argument {value:?} for {flag:?} flag: {reason}")
        }
        _ => error
            .to_string()
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}

fn unknown_flag(flag: &str, arguments: &[OsString]) -> String {
    match flag.strip_prefix('-') {
        Some(short) if !short.starts_with('-') => {
            let whole = arguments
                .iter()
                .filter_map(|argument| argument.to_str())
                .find(|argument| argument.starts_with(flag));
            format!(
                "unknown shorthand flag: '{short}' in {}",
                whole.unwrap_or(flag)
            )
        }
        _ => format!("unknown flag: {flag}"),
    }
}

/// One line for each word that was read past: `--flag false` sets a boolean to true, which few people mean.
fn warnings(ignored: &[OsString]) -> String {
    let line = |word: &OsString| {
        format!(
            "argument {word:?} is no flag and has no effect; boolean flags take a value as in --flag=false\n"
        )
    };
    ignored.iter().map(line).collect()
}

#[cfg(test)]
mod tests;
