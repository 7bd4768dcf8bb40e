//! A certificate authority for tests, and a Sentry that signs whatever it is asked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dapr_proto::dapr::proto::sentry::v1::ca_server::{Ca, CaServer};
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::certificate::chain_to_pem;
use dapr_security::request::generate_key;
use dapr_security::{
    Acceptor, KeyKind, Publisher, Security, ServerOptions, Svid, TrustAnchors, serve,
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, IsCa,
    Issuer, KeyPair, PublicKeyData, SanType,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

/// What is said about a certificate; far longer than a test.
const LIFETIME: Duration = Duration::from_secs(3600);

/// An authority. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Authority(Arc<Root>);

struct Root {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = root.self_signed(&key).expect("a root");
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).expect("an issuer");
        Self(Arc::new(Root {
            certificate,
            issuer,
        }))
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_chain(vec![self.0.certificate.der().clone()]).expect("anchors")
    }

    fn leaf(&self, id: &str, key: &impl PublicKeyData) -> Certificate {
        let mut leaf = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let id = id.try_into().expect("an id");
        leaf.subject_alt_names.push(SanType::URI(id));
        leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
        leaf.signed_by(key, &self.0.issuer).expect("signed")
    }

    /// Somebody with this SPIFFE id.
    pub(crate) fn security(&self, id: &str) -> Security {
        self.publishes(id).0
    }

    /// As [`Authority::security`], with what gives it another identity.
    pub(crate) fn publishes(&self, id: &str) -> (Security, Publisher) {
        Security::from_issuer(self.svid(id), self.anchors()).expect("TLS")
    }

    /// A new certificate for this SPIFFE id.
    pub(crate) fn svid(&self, id: &str) -> Svid {
        let key = generate_key(KeyKind::Ed25519).expect("a key");
        let leaf = self.leaf(id, &key);
        Svid::new(vec![leaf.der().clone()], &key).expect("an identity")
    }

    /// Signs for a control plane in `namespace`, until the handle is aborted. Tells its port.
    pub(crate) async fn sentry(&self, namespace: &str) -> (u16, JoinHandle<()>) {
        let security = self.security(&format!(
            "spiffe://cluster.local/ns/{namespace}/dapr-sentry"
        ));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let task = tokio::spawn(serve(
            listener,
            Acceptor::ServerOnly(security),
            Routes::new(CaServer::new(self.clone())).into_axum_router(),
            ServerOptions::default(),
            CancellationToken::new(),
        ));
        (port, task)
    }
}

#[tonic::async_trait]
impl Ca for Authority {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let request = request.into_inner();
        let signing = String::from_utf8(request.certificate_signing_request.to_vec());
        let signing = CertificateSigningRequestParams::from_pem(&signing.expect("text"));
        let signing = signing.expect("a request");
        let id = format!(
            "spiffe://cluster.local/ns/{}/{}",
            request.namespace, request.id
        );
        let leaf = self.leaf(&id, &signing.public_key);
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: chain_to_pem(&[leaf.der().clone()]).into(),
            trust_chain_certificates: vec![self.anchors().pem().to_string().into()],
            valid_until: Some((SystemTime::now() + LIFETIME).into()),
            ..Default::default()
        }))
    }
}
