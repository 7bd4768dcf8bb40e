//! What `make bench` runs.
//!
//! Each row starts real executables, measures them and prints a table and JSON; the same load can be
//! run on executables of the same names from another folder. No product code lives here.

pub mod cores;
pub mod floor;
pub mod injector;
mod kinds;
pub mod load;
pub mod operator;
pub mod placement;
pub mod process;
pub mod report;
pub mod rows;
pub mod sentry;
