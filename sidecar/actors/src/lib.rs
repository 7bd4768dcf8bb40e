//! Actors: the ring that names an owner, the table that placement sends, the turns of each actor, its state
//! and its timers.
//!
//! No HTTP and no listener: the application is reached through `core`'s channel trait, other hosts through
//! `core`'s peer trait.

// The whole.
pub mod runtime;
pub mod settings;

mod api;
mod shared;

// Who owns an actor.
pub mod ring;
pub mod table;

mod directory;
mod dissemination;
mod placement;

// An actor on this host.
mod claims;
mod host;
mod idle;
mod turn;

// Calls.
pub mod app_host;
pub mod channel_host;
pub mod failure;
pub mod stream_host;

mod router;

// What actors keep.
pub mod reminders;
pub mod schedule;
mod state;
mod timers;

mod clock;
pub mod metrics;
mod names;

pub use app_host::AppHost;
pub use runtime::Runtime;
pub use settings::Settings;
