//! What every story needs: a stage to play on, an application that can be asked what it saw, and resources.

mod app;
mod echo;
mod grpc;
mod grpc_app;
mod reply;
mod resources;
mod stage;

pub(crate) use app::{Answer, App, Request};
pub(crate) use echo::EchoClient;
pub(crate) use grpc::{connect, dapr, refused};
pub(crate) use grpc_app::{Deed, GrpcApp};
pub(crate) use reply::fetch;
pub(crate) use resources::{component, configuration, resiliency, subscription};
pub(crate) use stage::{LIMIT, Stage, story};
