//! The operator against API servers, real and scripted, and as a process.

mod api;
mod authority;
mod notices;
mod process;
mod real;
mod services;
mod support;
mod watchdog;
mod webhook;
