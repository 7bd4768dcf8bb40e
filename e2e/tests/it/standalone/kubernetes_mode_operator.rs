//! An operator that a story scripts: the objects of one namespace, and streams that tell about their changes.
//!
//! As the original's, it answers the call of a stream with its first event and not before.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use dapr_proto::dapr::proto::operator::v1::operator_server::{self, OperatorServer};
use dapr_proto::dapr::proto::operator::v1::*;
use dapr_security::{Acceptor, Security};
use futures::stream::{self, BoxStream, StreamExt as _};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// Changes that may wait for a stream; stories make a few.
const CHANGES: usize = 64;

/// A running operator.
pub(super) struct Operator {
    pub(super) address: String,
    security: Security,
    script: Script,
    server: JoinHandle<()>,
}

/// What it knows; lives on while it is stopped.
#[derive(Clone)]
struct Script {
    namespace: String,
    /// By kind and name.
    objects: Arc<Mutex<BTreeMap<(String, String), Value>>>,
    changes: broadcast::Sender<Change>,
}

#[derive(Clone)]
struct Change {
    kind: String,
    what: ResourceEventType,
    object: Bytes,
}

impl Operator {
    /// Starts an operator with an identity, for the applications of one namespace.
    pub(super) async fn start(security: Security, namespace: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let script = Script {
            namespace: namespace.to_owned(),
            objects: Arc::default(),
            changes: broadcast::Sender::new(CHANGES),
        };
        let server = serve(listener, &security, &script);
        Ok(Self {
            address,
            security,
            script,
            server,
        })
    }

    /// Breaks all connections and takes no more.
    pub(super) async fn stop(&mut self) {
        self.server.abort();
        // It was aborted, so it ends with an error.
        drop((&mut self.server).await);
    }

    /// Answers again after [`Operator::stop`], at the same address.
    pub(super) async fn resume(&mut self) -> Result<()> {
        let listener = TcpListener::bind(&self.address).await?;
        self.server = serve(listener, &self.security, &self.script);
        Ok(())
    }

    /// Creates or replaces an object and tells about it.
    pub(super) fn apply(&self, object: &Value) {
        let (kind, name) = key(object);
        let before = self
            .script
            .objects
            .lock()
            .insert((kind.clone(), name), object.clone());
        let what = match before {
            None => ResourceEventType::Created,
            Some(_) => ResourceEventType::Updated,
        };
        self.script.tell(kind, what, object);
    }

    /// Deletes an object and tells about it.
    pub(super) fn delete(&self, kind: &str, name: &str) {
        let key = (kind.to_owned(), name.to_owned());
        if let Some(object) = self.script.objects.lock().remove(&key) {
            let what = ResourceEventType::Deleted;
            self.script.tell(key.0, what, &object);
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve(listener: TcpListener, security: &Security, script: &Script) -> JoinHandle<()> {
    let acceptor = Acceptor::Mutual(security.clone());
    let service = OperatorServer::new(script.clone());
    tokio::spawn(async move {
        let (options, never) = Default::default();
        dapr_security::serve(listener, acceptor, service, options, never).await;
    })
}

fn key(object: &Value) -> (String, String) {
    let text = |pointer: &str| {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    (text("/kind"), text("/metadata/name"))
}

impl Script {
    fn tell(&self, kind: String, what: ResourceEventType, object: &Value) {
        let mut object = object.clone();
        // The original streams objects without their kind.
        if let Some(fields) = object.as_object_mut() {
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        let object = Bytes::from(object.to_string());
        // Nobody may be listening.
        drop(self.changes.send(Change { kind, what, object }));
    }

    fn check(&self, namespace: &str) -> Result<(), Status> {
        if namespace == self.namespace {
            return Ok(());
        }
        let text = "identity does not match requested namespace";
        Err(Status::permission_denied(text))
    }

    fn list(&self, kind: &str) -> Vec<Bytes> {
        let objects = self.objects.lock();
        let of_kind = objects.iter().filter(|((other, _), _)| other == kind);
        of_kind
            .map(|(_, object)| Bytes::from(object.to_string()))
            .collect()
    }

    /// The changes of one kind from now on.
    async fn stream<T: Send + 'static>(
        &self,
        kind: &'static str,
        namespace: &str,
        event: fn(Change) -> T,
    ) -> Result<Response<BoxStream<'static, Result<T, Status>>>, Status> {
        self.check(namespace)?;
        let changes = stream::unfold(self.changes.subscribe(), |mut changes| async move {
            Some((changes.recv().await.ok()?, changes))
        });
        let changes = changes.filter(move |change| std::future::ready(change.kind == kind));
        let mut changes = changes.map(move |change| Ok(event(change))).boxed();
        let first = changes.next().await;
        Ok(Response::new(stream::iter(first).chain(changes).boxed()))
    }
}

type Events<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl operator_server::Operator for Script {
    type ComponentUpdateStream = Events<ComponentUpdateEvent>;
    type SubscriptionUpdateStream = Events<SubscriptionUpdateEvent>;
    type HTTPEndpointUpdateStream = Events<HttpEndpointUpdateEvent>;
    type MCPServerUpdateStream = Events<McpServerUpdateEvent>;
    type ConfigurationUpdateStream = Events<ConfigurationUpdateEvent>;
    type ResiliencyUpdateStream = Events<ResiliencyUpdateEvent>;
    type WorkflowAccessPolicyUpdateStream = Events<WorkflowAccessPolicyUpdateEvent>;

    async fn component_update(
        &self,
        request: Request<ComponentUpdateRequest>,
    ) -> Result<Response<Self::ComponentUpdateStream>, Status> {
        let event = |change: Change| ComponentUpdateEvent {
            component: change.object,
            r#type: change.what.into(),
        };
        self.stream("Component", &request.get_ref().namespace, event)
            .await
    }

    async fn list_components(
        &self,
        request: Request<ListComponentsRequest>,
    ) -> Result<Response<ListComponentResponse>, Status> {
        self.check(&request.get_ref().namespace)?;
        let components = self.list("Component");
        Ok(Response::new(ListComponentResponse { components }))
    }

    async fn get_configuration(
        &self,
        request: Request<GetConfigurationRequest>,
    ) -> Result<Response<GetConfigurationResponse>, Status> {
        let GetConfigurationRequest { name, namespace } = request.into_inner();
        self.check(&namespace)?;
        let objects = self.objects.lock();
        let found = objects.get(&("Configuration".to_owned(), name.clone()));
        let found = found.ok_or_else(|| {
            let text = format!("error getting configuration {namespace}/{name}: not found");
            Status::unknown(text)
        })?;
        let configuration = Bytes::from(found.to_string());
        Ok(Response::new(GetConfigurationResponse { configuration }))
    }

    async fn list_subscriptions(
        &self,
        _: Request<()>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        Err(Status::permission_denied("no namespace"))
    }

    async fn get_resiliency(
        &self,
        _: Request<GetResiliencyRequest>,
    ) -> Result<Response<GetResiliencyResponse>, Status> {
        Err(Status::unimplemented("sidecars list"))
    }

    async fn list_resiliency(
        &self,
        request: Request<ListResiliencyRequest>,
    ) -> Result<Response<ListResiliencyResponse>, Status> {
        self.check(&request.get_ref().namespace)?;
        let resiliencies = self.list("Resiliency");
        Ok(Response::new(ListResiliencyResponse { resiliencies }))
    }

    async fn list_subscriptions_v2(
        &self,
        request: Request<ListSubscriptionsRequest>,
    ) -> Result<Response<ListSubscriptionsResponse>, Status> {
        self.check(&request.get_ref().namespace)?;
        let subscriptions = self.list("Subscription");
        Ok(Response::new(ListSubscriptionsResponse { subscriptions }))
    }

    async fn subscription_update(
        &self,
        request: Request<SubscriptionUpdateRequest>,
    ) -> Result<Response<Self::SubscriptionUpdateStream>, Status> {
        let event = |change: Change| SubscriptionUpdateEvent {
            subscription: change.object,
            r#type: change.what.into(),
        };
        self.stream("Subscription", &request.get_ref().namespace, event)
            .await
    }

    async fn list_http_endpoints(
        &self,
        request: Request<ListHttpEndpointsRequest>,
    ) -> Result<Response<ListHttpEndpointsResponse>, Status> {
        self.check(&request.get_ref().namespace)?;
        let http_endpoints = self.list("HTTPEndpoint");
        Ok(Response::new(ListHttpEndpointsResponse { http_endpoints }))
    }

    async fn http_endpoint_update(
        &self,
        request: Request<HttpEndpointUpdateRequest>,
    ) -> Result<Response<Self::HTTPEndpointUpdateStream>, Status> {
        let event = |change: Change| HttpEndpointUpdateEvent {
            http_endpoints: change.object,
            r#type: change.what.into(),
        };
        self.stream("HTTPEndpoint", &request.get_ref().namespace, event)
            .await
    }

    // An operator of the last version: it knows neither of these kinds.

    async fn list_mcp_servers(
        &self,
        _: Request<ListMcpServersRequest>,
    ) -> Result<Response<ListMcpServersResponse>, Status> {
        Err(Status::unimplemented("ListMCPServers"))
    }

    async fn mcp_server_update(
        &self,
        _: Request<McpServerUpdateRequest>,
    ) -> Result<Response<Self::MCPServerUpdateStream>, Status> {
        Err(Status::unimplemented("MCPServerUpdate"))
    }

    async fn list_workflow_access_policy(
        &self,
        _: Request<ListWorkflowAccessPolicyRequest>,
    ) -> Result<Response<ListWorkflowAccessPolicyResponse>, Status> {
        Err(Status::unimplemented("ListWorkflowAccessPolicy"))
    }

    async fn workflow_access_policy_update(
        &self,
        _: Request<WorkflowAccessPolicyUpdateRequest>,
    ) -> Result<Response<Self::WorkflowAccessPolicyUpdateStream>, Status> {
        Err(Status::unimplemented("WorkflowAccessPolicyUpdate"))
    }

    async fn configuration_update(
        &self,
        request: Request<ConfigurationUpdateRequest>,
    ) -> Result<Response<Self::ConfigurationUpdateStream>, Status> {
        let event = |change: Change| ConfigurationUpdateEvent {
            configuration: change.object,
            r#type: change.what.into(),
        };
        self.stream("Configuration", &request.get_ref().namespace, event)
            .await
    }

    async fn resiliency_update(
        &self,
        request: Request<ResiliencyUpdateRequest>,
    ) -> Result<Response<Self::ResiliencyUpdateStream>, Status> {
        let event = |change: Change| ResiliencyUpdateEvent {
            resiliency: change.object,
            r#type: change.what.into(),
        };
        self.stream("Resiliency", &request.get_ref().namespace, event)
            .await
    }
}
