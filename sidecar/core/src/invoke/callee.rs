//! The callee's side: calls of other sidecars, and of the own application's sidecar, reach the application.

use std::sync::Arc;

use http::Method;

use super::{CallerId, Error, Invoker, Origin, Request, Response, Status, headers, method};
use crate::app::{self, AppChannel};
use crate::peer::Failure;
use crate::rpc::{self, Code};

impl Invoker {
    /// Runs a call of another sidecar: normalises the method, checks access, calls the application.
    /// `caller` is `None` without mTLS.
    pub async fn invoke_local(
        &self,
        caller: Option<&CallerId>,
        request: Request,
    ) -> Result<Response, Failure> {
        let (app, request) = self.checked(caller, request)?;
        // The caller as it names itself; its certificate where it does not.
        let claimed = request.headers.get(headers::CALLER_APP_ID).cloned();
        let source = claimed
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .or(caller.map(|caller| caller.app_id.as_str()))
            .unwrap_or_default();
        // What is refused is counted with the refusals only.
        let metrics = &self.settings().metrics;
        metrics.request_received(source);
        let result = self.call_app(&**app, request).await.map_err(|error| {
            let text = format!("error invoking app channel: {error}");
            Failure {
                status: rpc::Status::new(Code::Internal, text),
                // Of a pod that ends, the application may go before its sidecar.
                is_untouched: matches!(error, Error::App(app::Error::Unreachable(_))),
                is_own: false,
            }
        });
        let status = match &result {
            Ok(response) => response.status.number(),
            Err(failure) => failure.status.code as i32,
        };
        metrics.response_sent(source, status);
        result
    }

    /// Checks a call proxied to the local application: the normalised method, or the refusal.
    pub fn authorize(
        &self,
        caller: Option<&CallerId>,
        method: &str,
    ) -> Result<String, rpc::Status> {
        let method = method::normalize(method).map_err(|error| error.to_status())?;
        self.check_access(caller, &method, None, app::Protocol::Grpc)?;
        Ok(method)
    }

    fn checked(
        &self,
        caller: Option<&CallerId>,
        mut request: Request,
    ) -> Result<(Arc<Arc<dyn AppChannel>>, Request), rpc::Status> {
        let Some(app) = self.app() else {
            let text = "app channel is not initialized";
            return Err(rpc::Status::new(Code::Internal, text));
        };
        request.method =
            method::normalize_owned(request.method).map_err(|error| error.to_status())?;
        let protocol = app.protocol();
        self.check_access(caller, &request.method, request.verb.as_ref(), protocol)?;
        Ok((app, request))
    }

    /// Calls the application once, if it is healthy and the verb can be forwarded.
    pub(super) async fn call_app(
        &self,
        app: &dyn AppChannel,
        mut request: Request,
    ) -> Result<Response, Error> {
        if !self.is_app_healthy() {
            let status = rpc::Status::new(Code::Internal, app::Error::Unhealthy.to_string());
            return Err(Error::Request(status));
        }
        if !app.protocol().is_http() {
            if request.origin == Origin::Http {
                headers::encode_binaries(&mut request.headers);
            }
        } else if matches!(request.verb, None | Some(Method::CONNECT)) {
            return Err(Error::Request(rpc::Status::new(
                Code::InvalidArgument,
                "invalid HTTP verb",
            )));
        }
        app.invoke(request).await.map_err(Error::App)
    }

    fn check_access(
        &self,
        caller: Option<&CallerId>,
        method: &str,
        verb: Option<&Method>,
        protocol: app::Protocol,
    ) -> Result<(), rpc::Status> {
        let Some(access) = self.access() else {
            return Ok(());
        };
        // A gRPC application has no verbs, whatever its caller used.
        let verb = verb.filter(|_| protocol.is_http());
        let decision = access.decide(caller, method, verb, protocol);
        self.settings().metrics.access_decided(
            caller.map_or("", |caller| &caller.app_id),
            caller.map_or("", |caller| &caller.trust_domain),
            caller.map_or("", |caller| &caller.namespace),
            decision.allowed,
            decision.by_app_policy,
        );
        if decision.allowed {
            return Ok(());
        }
        let id = caller.map_or("", |caller| &caller.url);
        let verb = verb.map_or("NONE", Method::as_str);
        Err(rpc::Status::new(
            Code::PermissionDenied,
            format!(
                "access control policy has denied access to id: {id} operation: {method} verb: {verb}"
            ),
        ))
    }
}

impl Status {
    /// The HTTP status, or the number of the gRPC code.
    pub fn number(&self) -> i32 {
        match self {
            Self::Http(status) => i32::from(status.as_u16()),
            Self::Grpc(status) => status.code as i32,
        }
    }
}
