//! Actors, as the surfaces see them; the runtime behind is `dapr-sidecar-actors`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

use crate::invoke::headers::canonical;
use crate::peer::ReminderCall;
use crate::rpc;

/// Actor types of the workflow engine; closed to applications.
pub const RESERVED_PREFIX: &str = "dapr.internal.";

/// Header that marks an actor error: the call succeeded, the actor did not.
pub const ERROR_HEADER: &str = "x-daprerrorresponseheader";
/// Header with the id of a reentrant call chain.
pub const REENTRANCY_HEADER: &str = "dapr-reentrancy-id";
/// Mark of a call another sidecar has already routed.
pub const REMOTE_HEADER: &str = "x-dapr-remote";
/// Mark of a call that came in through a public API.
pub const API_CALL_HEADER: &str = "dapr-api-call";

/// A call of an actor method.
#[derive(Clone)]
pub struct Call {
    /// Actor type.
    pub actor_type: String,
    /// Actor id.
    pub actor_id: String,
    /// Method.
    pub method: String,
    /// Query string as received, without `?`.
    pub query: String,
    /// The caller's headers or metadata; `content-type` among them.
    pub headers: HeaderMap,
    /// How names of metadata are spelled, which counts where headers of HTTP have no case.
    pub spelling: Spelling,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// Sets a header of the sidecar's own.
    pub fn set(&mut self, name: &'static str, value: HeaderValue) {
        self.headers.insert(name, value);
        self.spelling.0.remove(name);
    }
}

/// Names that are not spelled as Go spells headers, by what they are in lower case: gRPC metadata keeps its own
/// spelling on the way to the actor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spelling(BTreeMap<String, String>);

impl Spelling {
    /// Keeps how a key is spelled.
    pub fn keep(&mut self, key: &str) {
        if canonical(key) == key {
            self.0.remove(&key.to_ascii_lowercase());
        } else {
            self.0.insert(key.to_ascii_lowercase(), key.to_owned());
        }
    }

    /// The key of a header.
    pub fn of(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_else(|| canonical(name))
    }

    /// Whether a header is spelled as Go spells it.
    pub fn is_canonical(&self, name: &str) -> bool {
        !self.0.contains_key(name)
    }

    /// The names that are spelled otherwise: in lower case, and as they are spelled.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, key)| (&**name, &**key))
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Headers and body may hold secrets.
        write!(
            f,
            "Call({}/{}.{})",
            self.actor_type, self.actor_id, self.method
        )
    }
}

/// What an actor method answered; with [`ERROR_HEADER`] among the headers it is an actor error.
#[derive(Clone)]
pub struct Reply {
    /// The application's HTTP status.
    pub status: http::StatusCode,
    /// Its headers; `content-type` among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({}, {} bytes)", self.status, self.body.len())
    }
}

/// One operation of an actor state transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateOperation {
    /// Writes a key. `value` is stored as it is.
    Upsert {
        /// Key below the actor.
        key: String,
        /// Bytes to store.
        value: Bytes,
        /// Etag, if given.
        etag: Option<String>,
        /// Metadata, `ttlInSeconds` among it.
        metadata: BTreeMap<String, String>,
    },
    /// Deletes a key.
    Delete {
        /// Key below the actor.
        key: String,
        /// Etag, if given.
        etag: Option<String>,
    },
}

/// What an actor state key holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateItem {
    /// Bytes as stored.
    pub data: Bytes,
    /// For instance `ttlExpireTime`.
    pub metadata: BTreeMap<String, String>,
}

/// A timer to register. Times are texts as the application gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timer {
    /// Actor type.
    pub actor_type: String,
    /// Actor id.
    pub actor_id: String,
    /// Timer name.
    pub name: String,
    /// Due time; empty is now.
    pub due_time: String,
    /// Period; empty fires once.
    pub period: String,
    /// Time to live, counted from the due time.
    pub ttl: String,
    /// Callback, handed to the application.
    pub callback: String,
    /// JSON text handed to the application; empty when none was given.
    pub data: Bytes,
}

/// A reminder to register. Times are texts as the application gave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reminder {
    /// Actor type.
    pub actor_type: String,
    /// Actor id.
    pub actor_id: String,
    /// Reminder name.
    pub name: String,
    /// Due time.
    pub due_time: String,
    /// Period.
    pub period: String,
    /// Time to live.
    pub ttl: String,
    /// JSON text; empty when none was given.
    pub data: Bytes,
    /// Whether an existing one is replaced; true by default.
    pub overwrite: bool,
}

/// Why an actor call failed. Texts are upstream's; codes stand in the surface's table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// `--placement-host-address` is empty.
    #[error("placement service is not configured")]
    NoPlacement,
    /// The runtime has been stopped.
    #[error("actor runtime is closed")]
    Closed,
    /// No actor state store.
    #[error(
        "the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: \"true\" in your state store component file?"
    )]
    NoStateStore,
    /// The type belongs to the workflow engine.
    #[error(
        "actor type {0:?} is reserved for the Dapr workflow runtime; direct actor API access is not permitted"
    )]
    Reserved(String),
    /// The actor is not active on this host.
    #[error("actor instance is missing")]
    InstanceMissing,
    /// A name has forbidden characters; the text names it.
    #[error("invalid request: {0}")]
    BadRequest(String),
    /// A method call failed; the text is complete.
    #[error("error invoke actor method: {0}")]
    Invoke(String),
    /// A method call failed with a status that callers get as it is.
    #[error("{0}")]
    InvokeStatus(rpc::Status),
    /// Reentrancy is too deep.
    #[error("maximum stack depth exceeded")]
    StackDepth,
    /// Reading state failed.
    #[error("error getting actor state: {0}")]
    StateGet(String),
    /// Writing state failed.
    #[error("error saving actor transaction state: {0}")]
    StateTransaction(String),
    /// A timer could not be registered.
    #[error("error creating actor timer: {0}")]
    TimerCreate(String),
    /// Reminders of types hosted elsewhere.
    #[error("operations on actor reminders are only possible on hosted actor types")]
    ReminderNonHosted,
    /// Creating a reminder failed.
    #[error("error creating actor reminder: {0}")]
    ReminderCreate(String),
    /// Reading a reminder failed.
    #[error("error getting actor reminder: {0}")]
    ReminderGet(String),
    /// Deleting a reminder failed.
    #[error("error deleting actor reminder: {0}")]
    ReminderDelete(String),
    /// No such reminder.
    #[error("actor reminder not found: {0}")]
    ReminderNotFound(String),
    /// The reminder exists and must not be replaced.
    #[error("actor reminder already exists: {0}")]
    ReminderAlreadyExists(String),
}

/// For the metadata API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeStatus {
    /// `INITIALIZING`, `DISABLED` or `RUNNING`.
    pub phase: Phase,
    /// Registered types with the number of active actors, in order of registration.
    pub active: Vec<(String, usize)>,
    /// The host takes actors now.
    pub host_ready: bool,
    /// A stream to placement is up.
    pub placement_connected: bool,
}

/// Phase of the actor runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the application.
    Initializing,
    /// No placement configured.
    Disabled,
    /// Serving.
    Running,
}

/// The actor runtime of this sidecar. All calls wait until host registration has completed.
#[async_trait]
pub trait Actors: Send + Sync + 'static {
    /// Calls a method wherever the actor lives. Names are checked here.
    async fn invoke(&self, call: Call) -> Result<Reply, Error>;

    /// Runs a method that another sidecar routed here.
    async fn invoke_from_peer(&self, call: Call) -> Result<Reply, rpc::Status>;

    /// Fires a reminder or timer that another sidecar routed here.
    async fn remind_from_peer(&self, call: ReminderCall) -> Result<(), rpc::Status>;

    /// Reads one key of an actor's state; the actor need not be active here.
    async fn get_state(
        &self,
        actor_type: &str,
        actor_id: &str,
        key: &str,
    ) -> Result<Option<StateItem>, Error>;

    /// Writes several keys of an active actor's state, all or nothing.
    async fn transact(
        &self,
        actor_type: &str,
        actor_id: &str,
        operations: Vec<StateOperation>,
    ) -> Result<(), Error>;

    /// Registers a timer, replacing one of the same name.
    async fn create_timer(&self, timer: Timer) -> Result<(), Error>;

    /// Removes a timer; an unknown name is success.
    async fn delete_timer(&self, actor_type: &str, actor_id: &str, name: &str)
    -> Result<(), Error>;

    /// Registers a reminder with the scheduler.
    async fn create_reminder(&self, reminder: Reminder) -> Result<(), Error>;

    /// Reads a reminder.
    async fn get_reminder(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
    ) -> Result<Reminder, Error>;

    /// Removes a reminder; an unknown name is success.
    async fn delete_reminder(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
    ) -> Result<(), Error>;

    /// For the metadata API.
    fn status(&self) -> RuntimeStatus;
}
