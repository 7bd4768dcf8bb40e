//! What policies are looked up for.

/// The building block of a component, by its name in default policies and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum ComponentKind {
    Binding,
    Configuration,
    Lock,
    Pubsub,
    Crypto,
    Conversation,
    Secretstore,
    Statestore,
}

impl ComponentKind {
    /// The name in policies and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Binding => "Binding",
            Self::Configuration => "Configuration",
            Self::Lock => "Lock",
            Self::Pubsub => "Pubsub",
            Self::Crypto => "Crypto",
            Self::Conversation => "Conversation",
            Self::Secretstore => "Secretstore",
            Self::Statestore => "Statestore",
        }
    }
}

/// What a call is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// An application, an external URL or an HTTP endpoint.
    App {
        /// Its name in the resource.
        name: &'a str,
        /// What has a circuit breaker of its own, for instance `<app-id>:<method>`.
        endpoint: &'a str,
    },
    /// An actor, around the lookup of its host and the call: retry and circuit breaker.
    ActorPreLock {
        /// Actor type.
        actor_type: &'a str,
        /// Actor id.
        actor_id: &'a str,
    },
    /// An actor, around the call of the application on its host: timeout only.
    ActorPostLock {
        /// Actor type.
        actor_type: &'a str,
        /// Actor id.
        actor_id: &'a str,
    },
    /// A call of a component.
    Outbound {
        /// Its name.
        component: &'a str,
        /// Its building block.
        kind: ComponentKind,
    },
    /// A delivery from a component to the application.
    Inbound {
        /// Its name.
        component: &'a str,
        /// Its building block.
        kind: ComponentKind,
    },
    /// A policy that is always there.
    Builtin(Builtin),
}

impl Target<'_> {
    /// The operation in log lines.
    pub(super) fn operation(self) -> String {
        match self {
            Self::App { name, endpoint } => format!("endpoint[{name}, {endpoint}]"),
            Self::ActorPreLock {
                actor_type,
                actor_id,
            }
            | Self::ActorPostLock {
                actor_type,
                actor_id,
            } => format!("actor[{actor_type}, {actor_id}]"),
            Self::Outbound { component, .. } => format!("component[{component}] output"),
            Self::Inbound { component, .. } => format!("component[{component}] input"),
            Self::Builtin(builtin) => builtin.name().to_owned(),
        }
    }

    /// The flow direction in metrics.
    pub(super) fn direction(self) -> &'static str {
        match self {
            Self::Inbound { .. } => "inbound",
            Self::App { .. }
            | Self::ActorPreLock { .. }
            | Self::ActorPostLock { .. }
            | Self::Outbound { .. }
            | Self::Builtin(_) => "outbound",
        }
    }

    /// The target in metrics; empty for built-in policies.
    pub(super) fn label(self) -> String {
        match self {
            Self::App { name, .. } => format!("app_{name}"),
            Self::ActorPreLock { actor_type, .. } | Self::ActorPostLock { actor_type, .. } => {
                format!("actor_{actor_type}")
            }
            Self::Outbound { component, kind } | Self::Inbound { component, kind } => {
                format!("{}_{component}", kind.name())
            }
            Self::Builtin(_) => String::new(),
        }
    }
}

/// Policies that need no resource; all but the last may be redefined by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// Calls between sidecars without a target for the app.
    ServiceRetries,
    /// Starting workflows.
    ActorRetries,
    /// Reminders.
    ActorReminderRetries,
    /// Fetching subscriptions from the application.
    InitializationRetries,
    /// Routing to the hosts of actors. Protected.
    ActorNotFoundRetries,
}

impl Builtin {
    pub(crate) const ALL: [Self; 5] = [
        Self::ServiceRetries,
        Self::ActorRetries,
        Self::ActorReminderRetries,
        Self::InitializationRetries,
        Self::ActorNotFoundRetries,
    ];

    /// The policy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ServiceRetries => "DaprBuiltInServiceRetries",
            Self::ActorRetries => "DaprBuiltInActorRetries",
            Self::ActorReminderRetries => "DaprBuiltInActorReminderRetries",
            Self::InitializationRetries => "DaprBuiltInInitializationRetries",
            Self::ActorNotFoundRetries => "DaprBuiltInActorNotFoundRetries",
        }
    }
}
