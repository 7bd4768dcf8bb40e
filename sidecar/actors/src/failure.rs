//! Why an actor call failed: the texts, what is worth another attempt, and what callers are told.

use dapr_sidecar_core::actors;
use dapr_sidecar_core::resiliency::{Class, Classify, Failed};
use dapr_sidecar_core::rpc::{Code, Status};

use crate::app_host;

const INVOKE: &str = "error invoke actor method: ";

/// Why an actor call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No host has reported the type.
    #[error(
        "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor '{actor_type}/{actor_id}'"
    )]
    NoAddress {
        /// Actor type.
        actor_type: String,
        /// Actor id.
        actor_id: String,
    },
    /// The type's ring is empty.
    #[error("failed to lookup actor: no hosts added")]
    NoHosts,
    /// The table names this host, but there is no store for the actor's state.
    #[error("failed to create actor: actor hosting is suspended: no actor state store configured")]
    Suspended,
    /// The table names this host, but the type is not, or not yet, registered.
    #[error("failed to create actor: actor type not registered")]
    NotRegistered,
    /// The actor is being deactivated.
    #[error("actor is closed, cannot handle {0}")]
    Closed(String),
    /// The call was cut off because actors move.
    #[error("call was cancelled: placement is disseminating")]
    Disseminating,
    /// The type is no longer hosted or the runtime stops.
    #[error("context canceled")]
    Halted,
    /// Another sidecar sent the call here, but the actor lives elsewhere.
    #[error("remote actor moved")]
    Moved,
    /// Reentrancy is too deep.
    #[error("maximum stack depth exceeded")]
    StackDepth,
    /// A policy's timeout.
    #[error("context deadline exceeded")]
    Timeout,
    /// A policy refused, for instance `circuit breaker is open`.
    #[error("{0}")]
    Policy(String),
    /// The application.
    #[error(transparent)]
    App(#[from] app_host::Error),
    /// The actor's host answered with an error, or did not answer.
    #[error("{status}")]
    Remote {
        /// Its address.
        address: String,
        /// The status.
        status: Status,
    },
    /// The actor's host failed each time.
    #[error("failed to invoke target {address} after {retries} retries. Error: {status}")]
    Exhausted {
        /// Its address.
        address: String,
        /// Retries made.
        retries: u32,
        /// The last status.
        status: Status,
    },
}

impl Failure {
    /// Whether the built-in retries make another attempt; errors of the application are final to them.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::NoAddress { .. }
            | Self::NoHosts
            | Self::Suspended
            | Self::NotRegistered
            | Self::Closed(_)
            | Self::Disseminating => true,
            Self::Remote { status, .. } => is_retriable(status),
            Self::Halted
            | Self::Moved
            | Self::StackDepth
            | Self::Timeout
            | Self::Policy(_)
            | Self::App(_)
            | Self::Exhausted { .. } => false,
        }
    }

    pub(crate) fn exhausted(self, retries: u32) -> Self {
        match self {
            Self::Remote { address, status } => Self::Exhausted {
                address,
                retries,
                status,
            },
            other => other,
        }
    }

    /// What another sidecar is told.
    pub(crate) fn into_status(self) -> Status {
        match self {
            Self::StackDepth => Status::new(Code::ResourceExhausted, self.to_string()),
            Self::App(app_host::Error::Status(status)) => status,
            other => Status::new(Code::Internal, format!("{INVOKE}{other}")),
        }
    }
}

fn is_retriable(status: &Status) -> bool {
    match status.code {
        Code::Unavailable => true,
        Code::Internal => {
            status.message.strip_prefix(INVOKE) == Some("remote actor moved")
                || status.message.ends_with(": placement is disseminating")
        }
        _ => false,
    }
}

impl From<Failure> for actors::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::StackDepth => Self::StackDepth,
            // gRPC callers see the code of the failed lookup, and both kinds the bare text.
            Failure::NoAddress { .. } => {
                Self::InvokeStatus(Status::new(Code::FailedPrecondition, failure.to_string()))
            }
            Failure::Remote { status, .. } if is_too_deep(&status) => Self::StackDepth,
            Failure::Remote { status, .. } | Failure::App(app_host::Error::Status(status)) => {
                Self::InvokeStatus(status)
            }
            other => Self::Invoke(other.to_string()),
        }
    }
}

fn is_too_deep(status: &Status) -> bool {
    status.code == Code::ResourceExhausted && status.message == Failure::StackDepth.to_string()
}

/// The user's retries repeat errors of the application, too, but for a method that does not exist.
impl Classify for Failure {
    fn class(&self) -> Class {
        let is_final = match self {
            Self::App(error) => matches!(
                error,
                app_host::Error::NotFound(_) | app_host::Error::Cancelled
            ),
            Self::Remote { status, .. } => is_too_deep(status),
            Self::Timeout | Self::Exhausted { .. } => false,
            other => !other.is_retriable(),
        };
        if is_final {
            Class::Permanent
        } else {
            Class::Uncoded
        }
    }
}

/// What policies add to the failures of their operation.
pub(crate) fn under_policy<E: Into<Failure>>(failed: Failed<E>) -> Failure {
    match failed {
        Failed::Operation(error) => error.into(),
        Failed::Timeout => Failure::Timeout,
        Failed::Rejected(rejected) => Failure::Policy(rejected.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_again() {
        let check = |code: Code, message: &str, expected: bool| {
            let status = Status::new(code, message);
            assert_eq!(is_retriable(&status), expected, "{status}");
        };
        check(Code::Unavailable, "x", true);
        check(
            Code::Internal,
            "error invoke actor method: remote actor moved",
            true,
        );
        check(Code::Internal, "a: placement is disseminating", true);
        check(Code::Internal, "error invoke actor method: boom", false);
        check(Code::NotFound, "x", false);
        let told = Failure::Disseminating.into_status();
        assert!(is_retriable(&told), "{told}");
        assert!(is_retriable(&Failure::Moved.into_status()));
        assert!(!is_retriable(&Failure::Halted.into_status()));
    }

    #[test]
    fn texts() {
        let missing = Failure::NoAddress {
            actor_type: "T".to_owned(),
            actor_id: "1".to_owned(),
        };
        assert_eq!(
            actors::Error::from(missing),
            actors::Error::InvokeStatus(Status::new(
                Code::FailedPrecondition,
                "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'T/1'"
            ))
        );
        let dead = Failure::Exhausted {
            address: "h:1".to_owned(),
            retries: 5,
            status: Status::new(Code::Unavailable, "refused"),
        };
        assert_eq!(
            dead.to_string(),
            "failed to invoke target h:1 after 5 retries. Error: rpc error: code = Unavailable desc = refused"
        );
        let deep = Failure::Remote {
            address: "h:1".to_owned(),
            status: Failure::StackDepth.into_status(),
        };
        assert_eq!(actors::Error::from(deep), actors::Error::StackDepth);
    }
}
