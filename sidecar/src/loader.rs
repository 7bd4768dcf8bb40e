//! Resources and the Configuration, read from disk.

pub mod configuration;
pub mod disk;
pub mod endpoints;
pub mod properties;
