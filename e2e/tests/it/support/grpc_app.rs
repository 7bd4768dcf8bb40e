//! A gRPC application in this process: answers by script and remembers what it was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use dapr_e2e::await_condition;
use dapr_proto::dapr::proto::common::v1::{InvokeRequest, InvokeResponse};
use dapr_proto::dapr::proto::runtime::v1::app_callback_health_check_server::{
    AppCallbackHealthCheck, AppCallbackHealthCheckServer,
};
use dapr_proto::dapr::proto::runtime::v1::app_callback_server::{AppCallback, AppCallbackServer};
use dapr_proto::dapr::proto::runtime::v1::topic_event_response::TopicEventResponseStatus;
use dapr_proto::dapr::proto::runtime::v1::{
    BindingEventRequest, BindingEventResponse, HealthCheckResponse, JobEventRequest,
    JobEventResponse, ListInputBindingsResponse, ListTopicSubscriptionsResponse,
    TopicEventBulkRequest, TopicEventBulkResponse, TopicEventRequest, TopicEventResponse,
    TopicSubscription,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tonic::metadata::MetadataMap;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

use super::LIMIT;
use super::echo::Echo;

/// What the application does.
pub(crate) struct Deed {
    /// Answers calls of other applications.
    pub(crate) invoke: fn(InvokeRequest) -> Result<Response<InvokeResponse>, Status>,
    /// What it subscribes to; `None` does not know the question.
    pub(crate) subscriptions: Option<Vec<TopicSubscription>>,
    /// Answers an event; also told how many of its topic came before.
    pub(crate) event: fn(&TopicEventRequest, usize) -> Result<TopicEventResponseStatus, Status>,
}

/// A running application.
pub(crate) struct GrpcApp {
    port: u16,
    callbacks: Arc<Callbacks>,
    echo: Echo,
    server: JoinHandle<()>,
}

struct Callbacks {
    deed: Deed,
    calls: Mutex<Vec<(MetadataMap, InvokeRequest)>>,
    events: Mutex<Vec<(MetadataMap, TopicEventRequest)>>,
    is_ill: AtomicBool,
}

impl Default for Deed {
    fn default() -> Self {
        Self {
            invoke: |_| Ok(Response::new(InvokeResponse::default())),
            subscriptions: None,
            event: |_, _| Ok(TopicEventResponseStatus::Success),
        }
    }
}

impl GrpcApp {
    /// Starts an application.
    pub(crate) async fn start(deed: Deed) -> Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let callbacks = Arc::new(Callbacks {
            deed,
            calls: Mutex::default(),
            events: Mutex::default(),
            is_ill: AtomicBool::new(false),
        });
        let echo = Echo::default();
        let server = Server::builder()
            .add_service(AppCallbackServer::from_arc(Arc::clone(&callbacks)))
            .add_service(AppCallbackHealthCheckServer::from_arc(Arc::clone(
                &callbacks,
            )))
            .add_service(echo.clone())
            .serve_with_incoming(TcpIncoming::from(listener));
        let server = tokio::spawn(async move {
            // It ends with the story.
            drop(server.await);
        });
        Ok(Self {
            port,
            callbacks,
            echo,
            server,
        })
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Calls of one method so far, in order.
    pub(crate) fn calls(&self, method: &str) -> Vec<(MetadataMap, InvokeRequest)> {
        let calls = self.callbacks.calls.lock();
        let mut calls = calls.clone();
        calls.retain(|(_, call)| call.method == method);
        calls
    }

    /// Events of one topic so far, in order.
    pub(crate) fn events(&self, topic: &str) -> Vec<(MetadataMap, TopicEventRequest)> {
        let events = self.callbacks.events.lock();
        let mut events = events.clone();
        events.retain(|(_, event)| event.topic == topic);
        events
    }

    /// Metadata of the calls of its own service so far.
    pub(crate) fn echoes(&self) -> Vec<MetadataMap> {
        self.echo.seen()
    }

    /// Waits until at least `count` events of a topic have come.
    pub(crate) async fn await_events(
        &self,
        topic: &str,
        count: usize,
    ) -> Result<Vec<(MetadataMap, TopicEventRequest)>> {
        await_condition(&format!("{count} events of {topic}"), LIMIT, || async {
            let events = self.events(topic);
            ensure!(events.len() >= count, "{} so far", events.len());
            Ok(events)
        })
        .await
    }

    /// What its health check says from now on.
    pub(crate) fn set_ill(&self, is_ill: bool) {
        self.callbacks.is_ill.store(is_ill, Ordering::Relaxed);
    }
}

impl Drop for GrpcApp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl AppCallback for Callbacks {
    async fn on_invoke(
        &self,
        request: Request<InvokeRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        let (metadata, _, message) = request.into_parts();
        self.calls.lock().push((metadata, message.clone()));
        (self.deed.invoke)(message)
    }

    async fn list_topic_subscriptions(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListTopicSubscriptionsResponse>, Status> {
        let subscriptions = self.deed.subscriptions.clone();
        let subscriptions = subscriptions.ok_or_else(|| Status::unimplemented("no events"))?;
        Ok(Response::new(ListTopicSubscriptionsResponse {
            subscriptions,
        }))
    }

    async fn on_topic_event(
        &self,
        request: Request<TopicEventRequest>,
    ) -> Result<Response<TopicEventResponse>, Status> {
        let (metadata, _, event) = request.into_parts();
        let before = {
            let mut events = self.events.lock();
            let same = events.iter().filter(|(_, old)| old.topic == event.topic);
            let before = same.count();
            events.push((metadata, event.clone()));
            before
        };
        let status = (self.deed.event)(&event, before)?;
        Ok(Response::new(TopicEventResponse {
            status: status.into(),
        }))
    }

    async fn list_input_bindings(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListInputBindingsResponse>, Status> {
        Err(Status::unimplemented("no bindings"))
    }

    async fn on_binding_event(
        &self,
        _: Request<BindingEventRequest>,
    ) -> Result<Response<BindingEventResponse>, Status> {
        Err(Status::unimplemented("no bindings"))
    }

    async fn on_bulk_topic_event(
        &self,
        _: Request<TopicEventBulkRequest>,
    ) -> Result<Response<TopicEventBulkResponse>, Status> {
        Err(Status::unimplemented("no batches"))
    }

    async fn on_job_event(
        &self,
        _: Request<JobEventRequest>,
    ) -> Result<Response<JobEventResponse>, Status> {
        Err(Status::unimplemented("no jobs"))
    }
}

#[tonic::async_trait]
impl AppCallbackHealthCheck for Callbacks {
    async fn health_check(&self, _: Request<()>) -> Result<Response<HealthCheckResponse>, Status> {
        if self.is_ill.load(Ordering::Relaxed) {
            return Err(Status::unavailable("ill"));
        }
        Ok(Response::new(HealthCheckResponse {}))
    }
}
