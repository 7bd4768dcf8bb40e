//! Leadership among replicas, by a Lease of the API server.
//!
//! Who holds it renews it every two seconds; who has not managed to for ten stops acting; who has seen nobody renew it
//! for fifteen takes it. Only spans of each process's own clock are compared, never times that another process wrote,
//! so clocks may differ as they like. What acts is cut off twice: its future is dropped, and requests through
//! [`Term::fence`] are refused from the same moment on, which also holds for a process that stood still meanwhile.
//!
//! What is decided stands in `plan.rs`; `lock.rs` speaks to the API server, `run.rs` connects the two. There is no
//! campaign by priority, and no lock but a Lease.

mod lock;
mod plan;
mod run;
mod term;

use std::future::Future;
use std::time::Duration;

use uuid::Uuid;

pub use term::{Over, Term};

/// Where the kernel says how this machine, or this pod, is called.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Which Lease, for whom, and at which pace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who this process is; no other process may ever have the same.
    pub identity: String,
    /// How long a holder that is silent keeps the Lease: 15 s. Whole seconds, at least one.
    pub duration: Duration,
    /// How long a holder acts after the last renewal that succeeded: 10 s. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// The pause between renewals, and between looks of those who wait: 2 s, for the latter up to a fifth longer.
    pub retry: Duration,
}

impl Settings {
    /// The Lease `name` at the pace every Kubernetes controller has.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// A name for this process that no other has: `<host name>_<uuid>`.
pub fn identity() -> String {
    let host = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    format!("{}_{}", host.trim(), Uuid::new_v4())
}

/// How a term ended without trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// The work came to its end.
    Finished(T),
    /// It was told to stop, maybe before it ever led.
    Stopped,
}

/// Why this process does not lead and cannot go on. The work has stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process led, and another one holds the Lease now.
    #[error("leader election lost: {holder:?} holds the lease {name:?}")]
    Taken {
        /// The Lease.
        name: String,
        /// Who holds it; empty when somebody released or deleted it.
        holder: String,
    },
    /// The API server cannot tell a current write from an outdated one, so nothing would keep two leaders apart.
    #[error(
        "the API server gives the lease {name:?} no resourceVersion, so there can be no leader election: \
         run one replica with --disable-leader-election"
    )]
    Unversioned {
        /// The Lease.
        name: String,
    },
}

/// Waits until this process leads, does `work`, and gives the Lease back when it ends or `stop` does.
///
/// Failures of the API server are waited out. One that lasts ends the term, and `work` is done anew once the Lease is
/// ours again; if another process has taken it by then, that is an error. An Event on the Lease says who leads.
/// Work is dropped at the end of its term, at whatever point it is; a request that it sends through
/// [`Term::fence`] never starts, and is never waited for, later than that.
///
/// # Errors
/// Leadership was lost to another process, or cannot be had from this API server.
pub async fn hold<T, W>(
    client: kube::Client,
    settings: Settings,
    stop: impl Future<Output = ()> + Send,
    work: impl FnMut(Term) -> W + Send,
) -> Result<Ended<T>, Error>
where
    T: Send,
    W: Future<Output = T> + Send,
{
    let lock = lock::Server::new(client, &settings);
    run::Candidate::new(lock, settings).hold(stop, work).await
}
