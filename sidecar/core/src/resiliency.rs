//! Resiliency: retries, circuit breakers and timeouts around calls, by target.
//!
//! The decisions ([`Schedule`], [`Breaker`]) are pure, time is an argument; [`Resiliency::run`] acts.

pub mod breaker;
pub mod codes;
mod load;
mod policies;
mod run;
pub mod schedule;
pub mod spec;
mod target;

pub use breaker::Breaker;
pub use load::{Resiliency, Resource};
pub use policies::Error;
pub use run::{Class, Classify, Ended, Failed, Policy, Retry};
pub use schedule::Schedule;
pub use spec::Spec;
pub use target::{Builtin, ComponentKind, Target};

#[cfg(test)]
mod tests;
