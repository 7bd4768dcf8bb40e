//! All policies by name, merged from resources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::breaker::{self, Settings};
use super::codes::{self, Codes, Kind};
use super::run::Retry;
use super::schedule::{self, Growth};
use super::spec::{self, Spec};
use super::target::Builtin;
use crate::duration;

/// Interval of a constant retry, unless given.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
/// Cap of an exponential retry, unless given.
const DEFAULT_MAX_INTERVAL: Duration = Duration::from_secs(60);
/// An exponential retry gives up after this time; resources cannot change it.
const MAX_ELAPSED: Duration = Duration::from_secs(15 * 60);
/// Endpoints of an app with breakers of their own, unless given.
const APP_BREAKERS: usize = 100;
/// Actors of a type with breakers of their own, unless given.
const ACTOR_BREAKERS: usize = 5000;
/// Fewest retries a redefined built-in policy may have.
const MIN_BUILTIN_RETRIES: u32 = 3;

/// A resource that cannot be used from some point on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A duration cannot be read.
    #[error("invalid duration {name:?}, {text}: {error}")]
    Duration {
        /// Policy.
        name: String,
        /// Text.
        text: String,
        /// Why.
        error: duration::Error,
    },
    /// A retry's kind is unknown.
    #[error("unknown retry policy {0:?}: it must be constant or exponential")]
    RetryPolicy(String),
    /// A list of codes cannot be read.
    #[error(transparent)]
    Codes(#[from] codes::Error),
    /// A trip expression cannot be read.
    #[error(transparent)]
    Trip(#[from] breaker::InvalidTrip),
    /// An actor's breaker has no scope.
    #[error("actor circuit breakers must include scope")]
    NoScope,
    /// An actor's breaker has an unknown scope.
    #[error("unknown circuit breaker scope {0:?}")]
    Scope(String),
}

/// Names of the policies of a target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) timeout: String,
    pub(super) retry: String,
    pub(super) breaker: String,
}

impl From<spec::PolicyNames> for Names {
    fn from(names: spec::PolicyNames) -> Self {
        Self {
            timeout: names.timeout,
            retry: names.retry,
            breaker: names.circuit_breaker,
        }
    }
}

/// What has a breaker of its own among the actors of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Type,
    Id,
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) names: Names,
    pub(super) breakers: usize,
}

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) names: Names,
    pub(super) scope: Scope,
    pub(super) breakers: usize,
}

#[derive(Debug, Default)]
pub(super) struct Component {
    pub(super) inbound: Names,
    pub(super) outbound: Names,
}

/// Policies and targets by name.
#[derive(Debug, Default)]
pub(super) struct Policies {
    /// Name and namespace of the resource read last, for metrics.
    pub(super) resource: (Arc<str>, Arc<str>),
    pub(super) timeouts: BTreeMap<String, Duration>,
    pub(super) retries: BTreeMap<String, Arc<Retry>>,
    pub(super) breakers: BTreeMap<String, Arc<Settings>>,
    pub(super) apps: BTreeMap<String, App>,
    pub(super) actors: BTreeMap<String, Actor>,
    pub(super) components: BTreeMap<String, Component>,
}

impl Policies {
    /// Merges a specification over what is there. What was read before an error stays.
    pub(super) fn merge(&mut self, spec: Spec) -> Result<(), Error> {
        for (name, text) in spec.policies.timeouts {
            let timeout = parse_duration(&name, &text, Duration::ZERO)?;
            self.timeouts.insert(name, timeout);
        }
        for (name, retry) in spec.policies.retries {
            self.merge_retry(name, &retry)?;
        }
        for (name, breaker) in spec.policies.circuit_breakers {
            let settings = Settings::new(
                u32::try_from(breaker.max_requests).unwrap_or(0),
                parse_duration(&name, &breaker.interval, Duration::ZERO)?,
                parse_duration(&name, &breaker.timeout, Duration::ZERO)?,
                &breaker.trip,
            )?;
            self.breakers.insert(name, Arc::new(settings));
        }
        self.merge_targets(spec.targets)
    }

    fn merge_retry(&mut self, name: String, spec: &spec::Retry) -> Result<(), Error> {
        let mut retry = parse_retry(&name, spec)?;
        let builtin = Builtin::ALL
            .into_iter()
            .find(|builtin| builtin.name() == name);
        if builtin == Some(Builtin::ActorNotFoundRetries) {
            tracing::warn!(
                "Attempted to override protected policy {name} which is not allowed. Ignoring provided policy and using default."
            );
            return Ok(());
        }
        if builtin.is_some() {
            let retries = retry.schedule.max_retries;
            if retries.is_none_or(|retries| retries < MIN_BUILTIN_RETRIES) {
                tracing::warn!(
                    "Attempted override of {name} did not meet minimum retry count, resetting to {MIN_BUILTIN_RETRIES}."
                );
                retry.schedule.max_retries = Some(MIN_BUILTIN_RETRIES);
            }
        }
        self.retries.insert(name, Arc::new(retry));
        Ok(())
    }

    fn merge_targets(&mut self, targets: spec::Targets) -> Result<(), Error> {
        for (name, app) in targets.apps {
            let target = App {
                names: Names {
                    timeout: app.timeout,
                    retry: app.retry,
                    breaker: app.circuit_breaker,
                },
                breakers: cache_size(app.circuit_breaker_cache_size, APP_BREAKERS),
            };
            self.apps.insert(name, target);
        }
        for (name, actor) in targets.actors {
            let scope = parse_scope(&actor)?;
            let target = Actor {
                names: Names {
                    timeout: actor.timeout,
                    retry: actor.retry,
                    breaker: actor.circuit_breaker,
                },
                scope,
                breakers: cache_size(actor.circuit_breaker_cache_size, ACTOR_BREAKERS),
            };
            self.actors.insert(name, target);
        }
        for (name, component) in targets.components {
            let target = Component {
                inbound: component.inbound.into(),
                outbound: component.outbound.into(),
            };
            self.components.insert(name, target);
        }
        Ok(())
    }

    /// The retry of a built-in policy: as a resource redefined it, or as it ships.
    pub(super) fn builtin(&self, builtin: Builtin) -> Arc<Retry> {
        match self.retries.get(builtin.name()) {
            Some(retry) => Arc::clone(retry),
            None => Arc::new(shipped(builtin)),
        }
    }
}

fn shipped(builtin: Builtin) -> Retry {
    let constant = |retries| schedule::Policy {
        growth: Growth::Constant(Duration::from_secs(1)),
        max_retries: Some(retries),
    };
    let schedule = match builtin {
        Builtin::ServiceRetries | Builtin::ActorRetries => constant(3),
        Builtin::ActorNotFoundRetries => constant(5),
        Builtin::ActorReminderRetries => schedule::Policy {
            growth: Growth::Exponential {
                max_interval: DEFAULT_MAX_INTERVAL,
                max_elapsed: MAX_ELAPSED,
            },
            max_retries: Some(0),
        },
        Builtin::InitializationRetries => schedule::Policy {
            growth: Growth::Exponential {
                max_interval: Duration::from_secs(1),
                max_elapsed: Duration::from_secs(10),
            },
            max_retries: Some(3),
        },
    };
    Retry {
        schedule,
        http: Codes::default(),
        grpc: Codes::default(),
    }
}

fn parse_retry(name: &str, spec: &spec::Retry) -> Result<Retry, Error> {
    let growth = match spec.policy.to_lowercase().as_str() {
        "" | "constant" => {
            Growth::Constant(parse_duration(name, &spec.duration, DEFAULT_INTERVAL)?)
        }
        "exponential" => Growth::Exponential {
            max_interval: parse_duration(name, &spec.max_interval, DEFAULT_MAX_INTERVAL)?,
            max_elapsed: MAX_ELAPSED,
        },
        _ => return Err(Error::RetryPolicy(spec.policy.clone())),
    };
    let matching = spec.matching.clone().unwrap_or_default();
    Ok(Retry {
        schedule: schedule::Policy {
            growth,
            // A negative number is unlimited.
            max_retries: spec
                .max_retries
                .and_then(|retries| u32::try_from(retries).ok()),
        },
        http: Codes::parse(&matching.http_status_codes, Kind::Http)?,
        grpc: Codes::parse(&matching.grpc_status_codes, Kind::Grpc)?,
    })
}

fn parse_duration(name: &str, text: &str, default: Duration) -> Result<Duration, Error> {
    if text.is_empty() {
        return Ok(default);
    }
    duration::millis_or_go(text).map_err(|error| Error::Duration {
        name: name.to_owned(),
        text: text.to_owned(),
        error,
    })
}

fn parse_scope(actor: &spec::Actor) -> Result<Scope, Error> {
    match actor.circuit_breaker_scope.as_str() {
        "type" => Ok(Scope::Type),
        "id" | "both" => Ok(Scope::Id),
        "" if actor.circuit_breaker.is_empty() => Ok(Scope::Type),
        "" => Err(Error::NoScope),
        other => Err(Error::Scope(other.to_owned())),
    }
}

fn cache_size(given: i64, default: usize) -> usize {
    usize::try_from(given)
        .ok()
        .filter(|size| *size > 0)
        .unwrap_or(default)
}

/// Breakers by key; the one not used for the longest time makes room for a new one.
#[derive(Debug)]
pub(super) struct Cache {
    limit: usize,
    clock: u64,
    entries: std::collections::HashMap<String, (u64, Arc<Mutex<breaker::Breaker>>)>,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            clock: 0,
            entries: std::collections::HashMap::new(),
        }
    }

    /// The breaker of `key`, made by `create` if there is none.
    pub(super) fn get(
        &mut self,
        key: &str,
        create: impl FnOnce() -> breaker::Breaker,
    ) -> Arc<Mutex<breaker::Breaker>> {
        self.clock += 1;
        if let Some((used, breaker)) = self.entries.get_mut(key) {
            *used = self.clock;
            return Arc::clone(breaker);
        }
        if self.entries.len() >= self.limit {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
        let breaker = Arc::new(Mutex::new(create()));
        self.entries
            .insert(key.to_owned(), (self.clock, Arc::clone(&breaker)));
        breaker
    }
}
