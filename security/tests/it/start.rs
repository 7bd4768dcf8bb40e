use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dapr_proto::dapr::proto::sentry::v1::ca_server::{Ca, CaServer};
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::{
    Acceptor, AnchorsSource, KeyKind, Options, Security, ServerOptions, TokenSource, TrustDomain,
    serve,
};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::authority::Authority;

const SENTRY: &str = "spiffe://localhost/ns/default/dapr-sentry";
const SOON: Duration = Duration::from_secs(30);

/// Sentry as far as a client sees it.
struct Sentry {
    authority: Arc<Authority>,
    lifetime: Duration,
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Ca for Sentry {
    async fn sign_certificate(
        &self,
        request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let request = request.into_inner();
        if request.id == "refused" {
            return Err(Status::permission_denied("not you"));
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let id = format!("spiffe://public/ns/{}/{}", request.namespace, request.id);
        let certificate =
            self.authority
                .sign(&id, &request.certificate_signing_request, self.lifetime);
        Ok(Response::new(SignCertificateResponse {
            workload_certificate: certificate.into_bytes().into(),
            valid_until: Some(std::time::SystemTime::now().into()),
            ..Default::default()
        }))
    }
}

fn sentry(
    listener: TcpListener,
    authority: &Arc<Authority>,
    lifetime: Duration,
) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let service = Sentry {
        authority: Arc::clone(authority),
        lifetime,
        asked: Arc::clone(&asked),
    };
    let routes = Routes::new(CaServer::new(service)).into_axum_router();
    let (security, publisher) = authority.security(SENTRY);
    tokio::spawn(async move {
        let _publisher = publisher;
        serve(
            listener,
            Acceptor::ServerOnly(security),
            routes,
            ServerOptions::default(),
            CancellationToken::new(),
        )
        .await;
    });
    asked
}

fn options(authority: &Authority, address: String) -> Options {
    Options {
        trust_anchors: AnchorsSource::Inline(authority.anchors().pem().to_string()),
        sentry_address: address,
        control_plane_trust_domain: TrustDomain::new("localhost").unwrap(),
        control_plane_namespace: "default".to_owned(),
        namespace: "default".to_owned(),
        app_id: "orders".to_owned(),
        token: TokenSource::None,
        jwt_audiences: Vec::new(),
        key: KeyKind::Ed25519,
        trust_domain_in_request: None,
        mtls: true,
    }
}

#[tokio::test]
async fn an_identity_is_waited_for() {
    let authority = Arc::new(Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let starting = tokio::spawn(Security::start(options(&authority, address.to_string())));
    let listener = TcpListener::bind(address).await.unwrap();
    sentry(listener, &authority, Duration::from_secs(3600));
    let (security, _task) = timeout(SOON, starting).await.unwrap().unwrap().unwrap();
    assert_eq!(
        security.identity().unwrap().to_string(),
        "spiffe://public/ns/default/orders"
    );
    assert!(security.is_mtls());
}

#[tokio::test]
async fn an_identity_is_renewed_at_half_of_its_life() {
    let authority = Arc::new(Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = sentry(listener, &authority, Duration::from_secs(2));
    let mut options = options(&authority, address.to_string());
    options.key = KeyKind::Rsa2048;
    let (security, task) = timeout(SOON, Security::start(options))
        .await
        .unwrap()
        .unwrap();
    let task = tokio::spawn(task);
    let mut changes = security.subscribe();
    let mut renewals = security.renewals();
    timeout(SOON, changes.changed()).await.unwrap().unwrap();
    assert!(asked.load(Ordering::SeqCst) >= 2);
    let counted = timeout(SOON, renewals.wait_for(|count| count.succeeded >= 1))
        .await
        .unwrap()
        .map(|count| count.unreachable + count.no_token + count.bad_jwt + count.failed)
        .unwrap();
    assert_eq!(counted, 0);
    task.abort();
}

#[tokio::test]
async fn a_refusal_and_broken_options_end_the_start() {
    let authority = Arc::new(Authority::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    sentry(listener, &authority, Duration::from_secs(3600));
    let check = async |change: fn(&mut Options), expected: &str| {
        let mut options = options(&authority, address.clone());
        change(&mut options);
        let error = timeout(SOON, Security::start(options))
            .await
            .unwrap()
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        |it| it.app_id = "refused".to_owned(),
        "sentry refused the certificate request: ",
    )
    .await;
    check(
        |it| it.trust_anchors = AnchorsSource::Inline(String::new()),
        "trust anchors are required",
    )
    .await;
    check(
        |it| it.sentry_address = "nowhere".to_owned(),
        "invalid sentry address",
    )
    .await;
    check(
        |it| it.token = TokenSource::Jwks("/nowhere/token".into()),
        "failed to read sentry token file",
    )
    .await;
}

#[tokio::test]
async fn another_server_in_sentrys_place_is_not_believed() {
    let authority = Arc::new(Authority::new());
    let (impostor, _keep) = authority.security("spiffe://localhost/ns/default/orders");
    let server = crate::service::server(Acceptor::ServerOnly(impostor)).await;
    let start = Security::start(options(&authority, server.address.to_string()));
    assert!(
        timeout(Duration::from_secs(3), start).await.is_err(),
        "an identity or an error came"
    );
}
