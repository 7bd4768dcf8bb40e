//! Other sidecars, as the core calls them.

use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use crate::actors;
use crate::invoke;
use crate::rpc;

/// A sidecar to call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// App id its certificate must show.
    pub app_id: String,
    /// Namespace its certificate must show.
    pub namespace: String,
    /// `host:port` of its internal API.
    pub address: String,
}

/// A reminder or timer that fires on another host.
#[derive(Debug, Clone, PartialEq)]
pub struct ReminderCall {
    /// Actor.
    pub actor_type: String,
    /// Actor.
    pub actor_id: String,
    /// Name of the reminder or timer.
    pub name: String,
    /// Its data: an encoded `google.protobuf.Any` value and its type.
    pub data: Option<(String, Bytes)>,
    /// As registered.
    pub due_time: String,
    /// As registered.
    pub period: String,
    /// When it was registered.
    pub registered_time: Option<SystemTime>,
    /// When it stops firing.
    pub expiration_time: Option<SystemTime>,
    /// A timer instead of a reminder.
    pub is_timer: bool,
    /// Runs without taking the actor's turn.
    pub skip_lock: bool,
}

/// How a call of an application behind another sidecar failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What the caller is told.
    pub status: rpc::Status,
    /// Whether certainly nothing was done with the request: nothing was sent, the other sidecar never began with it, or
    /// its application has got nothing of it.
    pub is_untouched: bool,
    /// Whether it was the request itself that could not be read to its end: nobody else has said what the status says.
    pub is_own: bool,
}

impl From<rpc::Status> for Failure {
    fn from(status: rpc::Status) -> Self {
        Self {
            status,
            is_untouched: false,
            is_own: false,
        }
    }
}

/// Calls to other sidecars; connections are pooled below. Each call makes one attempt.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Makes sure that `target` can be called, so that another address can be taken while nothing is sent yet: dials
    /// it if there is no connection.
    async fn reach(&self, target: &Target) -> Result<(), rpc::Status> {
        let _ = target;
        Ok(())
    }

    /// Calls the application of `target`. `UNAVAILABLE` and `UNAUTHENTICATED` drop the pooled connection.
    async fn call_local(
        &self,
        target: &Target,
        request: invoke::Request,
    ) -> Result<invoke::Response, Failure>;

    /// Calls a method of an actor hosted by `target`.
    async fn call_actor(
        &self,
        target: &Target,
        call: actors::Call,
    ) -> Result<actors::Reply, rpc::Status>;

    /// Fires a reminder or timer of an actor hosted by `target`.
    async fn call_actor_reminder(
        &self,
        target: &Target,
        call: ReminderCall,
    ) -> Result<(), rpc::Status>;
}
