//! Stories on loopback, without Kubernetes.

mod actor_hosts;
mod actor_stream;
mod actors;
mod app_channel;
mod grpc_apps;
mod grpc_events;
mod grpc_proxy;
mod grpc_server;
mod invocation;
mod kubernetes_mode;
mod kubernetes_mode_operator;
mod metadata;
mod mtls;
mod original;
mod placement;
mod placement_failover;
mod pubsub;
mod rotation;
mod shutdown;
mod sockets;
mod start;
mod state;
