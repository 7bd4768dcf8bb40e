//! The runtime against a scripted placement server, a scripted application and scripted peers, on paused
//! time and without sockets.

mod application;
mod calls;
mod fixture;
mod lifecycle;
mod rounds;
mod state;
mod streams;
mod timers;
