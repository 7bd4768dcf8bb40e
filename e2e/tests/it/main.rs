//! Stories told with real processes: what a user does, and what has to come of it.
//!
//! `standalone` holds the stories of this project's own processes, `sdk` those of the official SDKs, unchanged; `demo` is
//! about `make demo`.
//! Every story has a folder of its own, processes of its own and app ids of its own, so they run side by side.

mod support;

mod demo;
mod sdk;
mod standalone;
