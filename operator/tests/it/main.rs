//! The operator against API servers, real and scripted, and as a process.

mod api;
mod authority;
mod notices;
mod process;
mod proxy;
mod real;
mod services;
mod support;
mod term;
mod watchdog;
mod watches;
mod webhook;
