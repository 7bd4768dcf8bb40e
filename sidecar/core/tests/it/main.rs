//! The services of the core against components in memory and scripted applications.

mod access_to_apps;
mod fakes;
mod messaging;
mod stores;
