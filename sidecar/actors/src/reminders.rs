//! Reminders live in the scheduler; this is what the runtime asks of its client.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_sidecar_core::actors::Reminder;

/// Why the scheduler did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such reminder.
    #[error("reminder not found")]
    NotFound,
    /// There is one, and it must not be replaced.
    #[error("reminder already exists")]
    AlreadyExists,
    /// Anything else; the text is complete.
    #[error("{0}")]
    Failed(String),
}

/// Keeps reminders. Names and hosting have been checked before.
#[async_trait]
pub trait Reminders: Send + Sync + 'static {
    /// Registers a reminder.
    async fn create(&self, reminder: Reminder) -> Result<(), Error>;

    /// Reads one.
    async fn get(&self, actor_type: &str, actor_id: &str, name: &str) -> Result<Reminder, Error>;

    /// Removes one; an unknown name is success.
    async fn delete(&self, actor_type: &str, actor_id: &str, name: &str) -> Result<(), Error>;

    /// The types whose reminders this sidecar takes from now on.
    fn hosted(&self, actor_types: &[Arc<str>]);
}

/// No scheduler address was given: every call fails.
#[derive(Debug, Clone, Copy)]
pub struct Disabled;

const DISABLED: &str = "scheduler clients are disabled";

#[async_trait]
impl Reminders for Disabled {
    async fn create(&self, _: Reminder) -> Result<(), Error> {
        Err(Error::Failed(DISABLED.to_owned()))
    }

    async fn get(&self, _: &str, _: &str, _: &str) -> Result<Reminder, Error> {
        let text =
            format!("api error: code = Internal desc = failed to get job due to: {DISABLED}");
        Err(Error::Failed(text))
    }

    async fn delete(&self, _: &str, _: &str, _: &str) -> Result<(), Error> {
        Err(Error::Failed(DISABLED.to_owned()))
    }

    fn hosted(&self, _: &[Arc<str>]) {}
}
