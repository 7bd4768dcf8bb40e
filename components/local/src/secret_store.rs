//! Secret stores of this machine.

pub mod env;
pub mod file;
