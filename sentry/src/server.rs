//! `dapr.proto.sentry.v1.CA`: which step fails with which status.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::Router;
use dapr_proto::dapr::proto::sentry::v1::ca_server::{Ca, CaServer, SERVICE_NAME};
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::identity::spiffe_id;
use dapr_security::{ServerOptions, SpiffeId, TrustDomain, grpc};
use http::Uri;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::{Code, Request, Response, Status};
use tower::Layer as _;
use tower::util::MapResponseLayer;

use crate::ca::Authority;
use crate::certificate::{self, Issued, Order};
use crate::jwt::{self, Signer, Tokens};
use crate::metrics::Metrics;
use crate::rotation::ledger::{Holder, Issue, Ledger};
use crate::validator::{self, Validators};

/// The path of the one method.
const SIGN_CERTIFICATE: &str = "/dapr.proto.sentry.v1.CA/SignCertificate";
/// Names the certificate that is being renewed, by serial number in hexadecimal: with it a rotation of the root knows
/// sooner that nobody uses the old one any more. Only our own clients send it.
const RENEWS: &str = "dapr-renews";
/// Bytes of a signing request; one with an RSA key of 8,192 bits has three kilobytes.
const REQUEST_LIMIT: usize = 64 * 1024;
/// JWT audiences of one request; each costs a signature.
const AUDIENCES_LIMIT: usize = 64;
/// Bytes of a whole message, which is held in memory before anybody is known: a signing request and a token, both of the
/// largest size, and as much again.
const MESSAGE_LIMIT: usize = 256 * 1024;
/// Bytes of a name that are logged, and of a reason that is logged and answered: both may be what a stranger has sent.
const SHOWN: usize = 128;
const SHOWN_REASON: usize = 1024;
/// Calls on one connection at once; a sidecar makes one.
const STREAMS: u32 = 128;
/// Connections at once. Each of them lives for one certificate, so that thousands of sidecars that start together need
/// some hundreds.
const CONNECTIONS: usize = 4096;
/// Bytes of the header fields of one call; a client sends some hundred.
const HEADERS: u32 = 16 * 1024;
/// How long a client may take from the handshake to its first call.
const FIRST_CALL: Duration = Duration::from_secs(10);
/// How long a connection may have calls running without a pause, and once more until it is closed: clients give a call up
/// after three seconds, so that what is still half-sent by then is meant to stay.
const BUSY: Duration = Duration::from_secs(15);
/// How long a connection may be idle; a client that wants another certificate soon is served on it.
const IDLE: Duration = Duration::from_secs(60);

/// How many schedulers have a name in the scheduler's certificate.
const SCHEDULERS: usize = 3;

/// What applies to every certificate.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) namespace: String,
    pub(crate) workload_ttl: Duration,
    pub(crate) clock_skew: Duration,
    /// The cluster's domain, for host names.
    pub(crate) cluster_domain: String,
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
    /// Who holds which certificate.
    pub(crate) ledger: Arc<Mutex<Ledger>>,
}

/// What is answered to whom. A message beyond [`MESSAGE_LIMIT`] is refused as a signing request beyond its own limit is.
pub(crate) fn routes(service: Service) -> Router {
    let service = CaServer::new(service).max_decoding_message_size(MESSAGE_LIMIT);
    Router::new()
        .route_service(
            SIGN_CERTIFICATE,
            MapResponseLayer::new(too_large).layer(service),
        )
        .fallback(async |uri: Uri| grpc::unserved(uri.path(), SERVICE_NAME).into_http::<Body>())
}

/// The library's code for it is `OutOfRange`, which nothing else here answers.
fn too_large(response: http::Response<Body>) -> http::Response<Body> {
    let code = response.headers().get(Status::GRPC_STATUS);
    if code.is_none_or(|code| Code::from_bytes(code.as_bytes()) != Code::OutOfRange) {
        return response;
    }
    Status::invalid_argument(format!("request is larger than {MESSAGE_LIMIT} bytes")).into_http()
}

/// The limits of strangers: anybody may connect.
pub(crate) fn limits() -> ServerOptions {
    ServerOptions {
        max_concurrent_streams: Some(STREAMS),
        max_header_list_size: HEADERS,
        max_connection_idle: Some(IDLE),
        max_connection_busy: Some(BUSY),
        header_timeout: Some(FIRST_CALL),
        max_connections: Some(CONNECTIONS),
        ..ServerOptions::default()
    }
}

#[tonic::async_trait]
impl Ca for Service {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let received = self.metrics.received();
        let replaces = request
            .metadata()
            .get(RENEWS)
            .and_then(|it| serial(it.as_bytes()));
        let request = request.into_inner();
        match self.sign(&request, replaces).await {
            Ok(response) => {
                received.signed();
                Ok(Response::new(response))
            }
            Err(status) => {
                let status = Status::new(status.code(), cut(status.message(), SHOWN_REASON));
                tracing::warn!(
                    app_id = %shown(&request.id), namespace = %shown(&request.namespace), code = ?status.code(), error = status.message(),
                    "Certificate request refused"
                );
                Err(status)
            }
        }
    }
}

impl Service {
    async fn sign(
        &self,
        request: &SignCertificateRequest,
        replaces: Option<Vec<u8>>,
    ) -> Result<SignCertificateResponse, Status> {
        let validator = self
            .validators
            .choose(request.token_validator)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        bounded(request)?;
        let granted = validator.validate(request).await.map_err(refusal)?;
        let key = certificate::public_key(&request.certificate_signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let authority = self.authority.load_full();
        let (id, issued) = self
            .issue(&authority, &granted.trust_domain, request, &key)
            .map_err(|reason| {
                tracing::error!(
                    app_id = %shown(&request.id),
                    namespace = %shown(&request.namespace),
                    error = %cut(&reason, SHOWN_REASON),
                    "Certificate cannot be signed"
                );
                Status::internal("failed to sign certificate")
            })?;
        let tokens = self.tokens(&id, request).map_err(|error| {
            tracing::error!(id = %shown(&id.to_string()), error = %chain(&error), "JWT cannot be signed");
            Status::internal("failed to generate JWT")
        })?;
        let (jwt, per_audience_jwts) = match tokens {
            Some(Tokens { all, per_audience }) => (Some(all), per_audience),
            None => Default::default(),
        };
        let issue = Issue {
            holder: match granted.pod {
                Some(uid) => Holder::Pod(uid),
                None => Holder::Serial(issued.serial.clone()),
            },
            owner: owner(&id),
            replaces,
            authority: authority.fingerprint(),
            not_after: issued.not_after,
        };
        self.ledger.lock().issued(issue, SystemTime::now());
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
        key: &certificate::PublicKey,
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

/// Tells identities apart within this process.
fn owner(id: &SpiffeId) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(id, &mut hasher);
    std::hash::Hasher::finish(&hasher)
}

/// Refuses what is far beyond any real request, before anything is parsed or signed.
fn bounded(request: &SignCertificateRequest) -> Result<(), Status> {
    if request.certificate_signing_request.len() > REQUEST_LIMIT {
        return Err(Status::invalid_argument(format!(
            "certificate signing request is larger than {REQUEST_LIMIT} bytes"
        )));
    }
    if request.jwt_audiences.len() > AUDIENCES_LIMIT {
        return Err(Status::invalid_argument(format!(
            "more than {AUDIENCES_LIMIT} JWT audiences"
        )));
    }
    Ok(())
}

fn refusal(error: validator::Error) -> Status {
    match error {
        validator::Error::Denied(denied) => Status::permission_denied(denied.to_string()),
        error @ (validator::Error::NotSynced | validator::Error::Review(_)) => {
            Status::unavailable(chain(&error))
        }
    }
}

/// Reads a serial number in hexadecimal, without leading zeros.
fn serial(text: &[u8]) -> Option<Vec<u8>> {
    const LONGEST: usize = 20; // RFC 5280
    if text.len() > 2 * LONGEST || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let bytes = text
        .chunks(2)
        .map(|pair| u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok());
    bytes.skip_while(|byte| *byte == Some(0)).collect()
}

fn shown(text: &str) -> &str {
    cut(text, SHOWN)
}

/// The beginning of a text that may be of any length.
fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
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
                let domain = &policy.cluster_domain;
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
            namespace: "dapr-system".to_owned(),
            workload_ttl: Duration::ZERO,
            clock_skew: Duration::ZERO,
            cluster_domain: "cluster.local".to_owned(),
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

    #[test]
    fn what_a_stranger_sends_is_cut_where_it_is_told() {
        assert_eq!(shown("orders"), "orders");
        assert_eq!(shown(&"a".repeat(1 << 20)).len(), SHOWN);
        // Never within a character.
        let text = "ä".repeat(SHOWN);
        assert_eq!(cut(&text, 3), "ä");
        assert_eq!(cut(&text, 0), "");
    }

    #[test]
    fn serial_numbers_are_hexadecimal() {
        assert_eq!(serial(b"00fF00"), Some(vec![255, 0]));
        assert_eq!(serial(b"0"), None);
        assert_eq!(serial(b"0g"), None);
        assert_eq!(serial(&[b'0'; 42]), None);
    }
}
