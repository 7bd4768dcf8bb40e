//! What this build calls itself.

/// The version of the contract this build serves, as metadata, logs and `--version` report it.
pub const VERSION: &str = "1.18.3";

/// The commit the build was made from; `unknown` when the build did not set `DAPR_COMMIT`.
pub const COMMIT: &str = match option_env!("DAPR_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
