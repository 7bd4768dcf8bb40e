//! The surfaces over the real core, with in-memory components and a scripted outside.

mod fixture;
mod grpc;
mod http;
mod internal;
mod logs;
mod proxy;
mod sockets;
