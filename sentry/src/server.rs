//! `dapr.proto.sentry.v1.CA`: which step fails with which status.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use dapr_proto::dapr::proto::sentry::v1::ca_server::Ca;
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::identity::spiffe_id;
use dapr_security::{SpiffeId, TrustDomain};
use tonic::{Request, Response, Status};

use crate::ca::Authority;
use crate::certificate::{self, Issued, Order};
use crate::jwt::{self, Signer, Tokens};
use crate::metrics::Metrics;
use crate::validator::Validators;

/// How many schedulers have a name in the scheduler's certificate.
const SCHEDULERS: usize = 3;

/// What applies to every certificate.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) trust_domain: TrustDomain,
    pub(crate) namespace: String,
    pub(crate) workload_ttl: Duration,
    pub(crate) clock_skew: Duration,
}

/// The service. The authority is replaced when its files change.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) authority: Arc<ArcSwap<Authority>>,
    /// Signs JWTs, if they are wanted.
    pub(crate) signer: Option<Arc<ArcSwap<Signer>>>,
    pub(crate) validators: Validators,
    pub(crate) policy: Policy,
    pub(crate) metrics: Metrics,
}

#[tonic::async_trait]
impl Ca for Service {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        self.metrics.requests.inc();
        let request = request.into_inner();
        match self.sign(&request) {
            Ok(response) => {
                self.metrics.signed.inc();
                Ok(Response::new(response))
            }
            Err(status) => {
                tracing::warn!(
                    app_id = %request.id, namespace = %request.namespace, code = ?status.code(), error = status.message(),
                    "Certificate request refused"
                );
                Err(status)
            }
        }
    }
}

impl Service {
    fn sign(&self, request: &SignCertificateRequest) -> Result<SignCertificateResponse, Status> {
        let validator = self
            .validators
            .choose(request.token_validator)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let trust_domain = validator
            .validate(request)
            .map_err(|denied| Status::permission_denied(denied.to_string()))?;
        let key = certificate::public_key(&request.certificate_signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let authority = self.authority.load();
        let (id, issued) = self.issue(&authority, &trust_domain, request, &key).map_err(|reason| {
            self.metrics.failed.with_label_values(&["sign"]).inc();
            tracing::error!(app_id = %request.id, namespace = %request.namespace, error = %reason, "Certificate cannot be signed");
            Status::internal("failed to sign certificate")
        })?;
        let tokens = self.tokens(&id, request).map_err(|error| {
            tracing::error!(%id, error = %chain(&error), "JWT cannot be signed");
            Status::internal("failed to generate JWT")
        })?;
        let (jwt, per_audience_jwts) = match tokens {
            Some(Tokens { all, per_audience }) => (Some(all), per_audience),
            None => Default::default(),
        };
        Ok(SignCertificateResponse {
            workload_certificate: issued.pem().into(),
            trust_chain_certificates: vec![authority.anchors().pem().to_string().into()],
            valid_until: Some(issued.not_after.into()),
            jwt,
            per_audience_jwts,
        })
    }

    fn tokens(
        &self,
        id: &SpiffeId,
        request: &SignCertificateRequest,
    ) -> Result<Option<Tokens>, jwt::Error> {
        let Some(signer) = &self.signer else {
            return Ok(None);
        };
        signer
            .load()
            .issue(id, &request.jwt_audiences, SystemTime::now())
            .map(Some)
    }

    fn issue(
        &self,
        authority: &Authority,
        trust_domain: &TrustDomain,
        request: &SignCertificateRequest,
        key: &rcgen::SubjectPublicKeyInfo,
    ) -> Result<(SpiffeId, Issued), String> {
        let id = spiffe_id(trust_domain, &request.namespace, &request.id)
            .map_err(|error| chain(&error))?;
        let order = Order {
            id: &id,
            dns_names: dns_names(&self.policy, &request.namespace, &request.id),
            now: SystemTime::now(),
            ttl: self.policy.workload_ttl,
            clock_skew: self.policy.clock_skew,
        };
        let issued = certificate::issue(authority, key, &order).map_err(|error| chain(&error))?;
        Ok((id, issued))
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    dapr_kit::process::chain(error)
}

/// Host names of control-plane services, which API servers and etcd verify.
fn dns_names(policy: &Policy, namespace: &str, app_id: &str) -> Vec<String> {
    if namespace != policy.namespace {
        return Vec::new();
    }
    match app_id {
        "dapr-injector" => vec![format!("dapr-sidecar-injector.{namespace}.svc")],
        "dapr-operator" => vec![format!("dapr-webhook.{namespace}.svc")],
        "dapr-scheduler" => (0..SCHEDULERS)
            .map(|number| {
                let domain = &policy.trust_domain;
                format!(
                    "dapr-scheduler-server-{number}.dapr-scheduler-server.{namespace}.svc.{domain}"
                )
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespace: &str, app_id: &str, expected: &[&str]) {
        let policy = Policy {
            trust_domain: TrustDomain::new("cluster.local").unwrap(),
            namespace: "dapr-system".to_owned(),
            workload_ttl: Duration::ZERO,
            clock_skew: Duration::ZERO,
        };
        assert_eq!(
            dns_names(&policy, namespace, app_id),
            expected,
            "{namespace} {app_id}"
        );
    }

    #[test]
    fn only_the_control_plane_has_host_names() {
        check(
            "dapr-system",
            "dapr-injector",
            &["dapr-sidecar-injector.dapr-system.svc"],
        );
        check(
            "dapr-system",
            "dapr-operator",
            &["dapr-webhook.dapr-system.svc"],
        );
        check(
            "dapr-system",
            "dapr-scheduler",
            &[
                "dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local",
                "dapr-scheduler-server-1.dapr-scheduler-server.dapr-system.svc.cluster.local",
                "dapr-scheduler-server-2.dapr-scheduler-server.dapr-system.svc.cluster.local",
            ],
        );
        check("dapr-system", "dapr-placement", &[]);
        check("default", "dapr-injector", &[]);
    }
}
