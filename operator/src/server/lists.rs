//! The methods that answer once.

use std::sync::Arc;

use bytes::Bytes;
use dapr_proto::dapr::proto::operator::v1 as wire;
use tonic::{Request, Response, Status};

use super::{Caller, Shared};
use crate::kinds::Kind;
use crate::resources::Shelf;

/// What a method answers.
type Answer<A> = Result<Response<A>, Status>;

impl Shared {
    pub(super) async fn components(
        self: Arc<Self>,
        request: Request<wire::ListComponentsRequest>,
    ) -> Answer<wire::ListComponentResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.components;
        let components = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListComponentResponse { components }))
    }

    pub(super) async fn http_endpoints(
        self: Arc<Self>,
        request: Request<wire::ListHttpEndpointsRequest>,
    ) -> Answer<wire::ListHttpEndpointsResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.http_endpoints;
        let http_endpoints = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListHttpEndpointsResponse {
            http_endpoints,
        }))
    }

    pub(super) async fn mcp_servers(
        self: Arc<Self>,
        request: Request<wire::ListMcpServersRequest>,
    ) -> Answer<wire::ListMcpServersResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.mcp_servers;
        let mcp_servers = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListMcpServersResponse { mcp_servers }))
    }

    pub(super) async fn resiliencies(
        self: Arc<Self>,
        request: Request<wire::ListResiliencyRequest>,
    ) -> Answer<wire::ListResiliencyResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.resiliencies;
        let resiliencies = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListResiliencyResponse { resiliencies }))
    }

    /// The method of old sidecars, which says no namespace and is therefore always refused.
    pub(super) async fn legacy(
        self: Arc<Self>,
        request: Request<()>,
    ) -> Answer<wire::ListSubscriptionsResponse> {
        let caller = Caller::of(&request);
        let shelf = &self.resources.subscriptions;
        let subscriptions = self.list(shelf, &caller, "").await?;
        Ok(Response::new(wire::ListSubscriptionsResponse {
            subscriptions,
        }))
    }

    pub(super) async fn subscriptions(
        self: Arc<Self>,
        request: Request<wire::ListSubscriptionsRequest>,
    ) -> Answer<wire::ListSubscriptionsResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.subscriptions;
        let subscriptions = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListSubscriptionsResponse {
            subscriptions,
        }))
    }

    pub(super) async fn policies(
        self: Arc<Self>,
        request: Request<wire::ListWorkflowAccessPolicyRequest>,
    ) -> Answer<wire::ListWorkflowAccessPolicyResponse> {
        let caller = Caller::of(&request);
        let namespace = request.into_inner().namespace;
        let shelf = &self.resources.workflow_access_policies;
        let policies = self.list(shelf, &caller, &namespace).await?;
        Ok(Response::new(wire::ListWorkflowAccessPolicyResponse {
            policies,
        }))
    }

    pub(super) async fn configuration(
        self: Arc<Self>,
        request: Request<wire::GetConfigurationRequest>,
    ) -> Answer<wire::GetConfigurationResponse> {
        let caller = Caller::of(&request);
        let wire::GetConfigurationRequest { name, namespace } = request.into_inner();
        let shelf = &self.resources.configurations;
        let context = || format!("error getting configuration {namespace}/{name}");
        let configuration = self.get(shelf, &caller, &namespace, &name, context).await?;
        Ok(Response::new(wire::GetConfigurationResponse {
            configuration,
        }))
    }

    pub(super) async fn resiliency(
        self: Arc<Self>,
        request: Request<wire::GetResiliencyRequest>,
    ) -> Answer<wire::GetResiliencyResponse> {
        let caller = Caller::of(&request);
        let wire::GetResiliencyRequest { name, namespace } = request.into_inner();
        let shelf = &self.resources.resiliencies;
        let context = || "error getting resiliency".to_owned();
        let resiliency = self.get(shelf, &caller, &namespace, &name, context).await?;
        Ok(Response::new(wire::GetResiliencyResponse { resiliency }))
    }

    /// What the caller's app may use. Sidecars look at scopes too; here it keeps what concerns others, and their secrets
    /// that are missing, out of the answer.
    async fn list<K: Kind>(
        &self,
        shelf: &Shelf<K>,
        caller: &Caller,
        namespace: &str,
    ) -> Result<Vec<Bytes>, Status> {
        let app_id = caller.admitted(namespace)?;
        let context = || format!("error {}", K::LISTING);
        if self.is_unknown(namespace) {
            let reason = format!("unable to list: {namespace} {UNKNOWN}");
            return Err(unknown(&context(), &reason));
        }
        present(shelf, &context).await?;
        let list = shelf.hub.list(namespace, app_id, caller.connection);
        list.await
            .map_err(|failed| Status::unknown(failed.to_string()))
    }

    async fn get<K: Kind>(
        &self,
        shelf: &Shelf<K>,
        caller: &Caller,
        namespace: &str,
        name: &str,
        context: impl Fn() -> String,
    ) -> Result<Bytes, Status> {
        caller.admitted(namespace)?;
        if self.is_unknown(namespace) {
            let reason = format!("unable to get: {namespace}/{name} {UNKNOWN}");
            return Err(unknown(&context(), &reason));
        }
        present(shelf, &context).await?;
        match shelf.hub.get(namespace, name, caller.connection).await {
            Ok(Some(object)) => Ok(object),
            Ok(None) => {
                let kind = <K as dapr_crds::meta::Object>::KIND;
                let reason = format!("{kind}.dapr.io {name:?} not found");
                Err(unknown(&context(), &reason))
            }
            Err(failed) => Err(Status::unknown(failed.to_string())),
        }
    }

    /// Whether another namespace than this one is watched.
    fn is_unknown(&self, namespace: &str) -> bool {
        let scope = self.scope.as_deref();
        scope.is_some_and(|scope| scope != namespace)
    }
}

/// How refusals of other namespaces than the watched one end.
const UNKNOWN: &str = "because of unknown namespace for the cache";

/// Waits until the kind is listed. One whose CRD is missing has no objects, if it may be missing.
async fn present<K: Kind>(shelf: &Shelf<K>, context: &impl Fn() -> String) -> Result<(), Status> {
    if shelf.settled().await || K::IS_OPTIONAL {
        return Ok(());
    }
    let (kind, version) = (
        <K as dapr_crds::meta::Object>::KIND,
        <K as dapr_crds::meta::Object>::API_VERSION,
    );
    let reason = format!("no matches for kind {kind:?} in version {version:?}");
    Err(unknown(&context(), &reason))
}

/// The code of whatever is not the caller's fault.
fn unknown(context: &str, reason: &str) -> Status {
    Status::unknown(format!("{context}: {reason}"))
}
