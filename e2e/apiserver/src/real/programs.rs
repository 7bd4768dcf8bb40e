//! Where kube-apiserver, etcd and kubectl are: a cache outside of the repository, which the script `build` fills.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::preparation::{Prepared, prepare};

/// A build takes minutes on two idle cores; here is what it may take on busy ones.
const BUILD: Duration = Duration::from_secs(40 * 60);

/// The folder of the executables. Builds them if they are not there yet.
pub(super) async fn folder() -> Result<Prepared> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    tokio::task::spawn_blocking(move || prepare(&script, BUILD)).await?
}
