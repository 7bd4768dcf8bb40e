//! The client of the certificate authority: one request, a few tries.

use std::time::{Duration, SystemTime};

use dapr_proto::dapr::proto::sentry::v1::ca_client::CaClient;
use dapr_proto::dapr::proto::sentry::v1::sign_certificate_request::TokenValidator;
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use tokio::time::{sleep, timeout};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::anchors::TrustAnchors;
use crate::connector::{Connector, Expect};
use crate::identity::{SpiffeId, spiffe_id};
use crate::material;
use crate::options::{Options, TokenSource};
use crate::published::Published;
use crate::request::{generate_key, signing_request};
use crate::security::Error;
use crate::svid::Svid;
use crate::token;

const TRY: Duration = Duration::from_secs(3);
const RETRIES: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(100);

/// Names the certificate that is being renewed, so that Sentry knows who still uses one of an old root. Others ignore
/// it.
const RENEWS: &str = "dapr-renews";

/// What Sentry handed out.
pub(crate) struct Fetched {
    pub(crate) svid: Svid,
    /// The bundle that came with it.
    pub(crate) anchors: Option<TrustAnchors>,
}

pub(crate) struct Client {
    options: Options,
    endpoint: Endpoint,
    server: SpiffeId,
    /// Who knows where Sentry is if its address does not lead to it.
    published: Option<Published>,
}

impl Client {
    pub(crate) fn new(options: Options, published: Option<Published>) -> Result<Self, Error> {
        let server = spiffe_id(
            &options.control_plane_trust_domain,
            &options.control_plane_namespace,
            crate::SENTRY_APP_ID,
        )?;
        let endpoint = endpoint(&options.sentry_address)?;
        Ok(Self {
            options,
            endpoint,
            server,
            published,
        })
    }

    /// Asks for a certificate for a new key, in place of the current one if there is one: up to six tries of three
    /// seconds.
    pub(crate) async fn fetch(
        &self,
        anchors: &TrustAnchors,
        current: Option<&Svid>,
    ) -> Result<Fetched, Error> {
        let key = generate_key(self.options.key)?;
        let request = self.request(signing_request(&key)?).await?;
        let connector = Connector::anonymous(
            material::anonymous_client(anchors)?,
            Expect::Id(self.server.clone()),
            self.published.clone(),
        );
        let mut client = CaClient::new(self.endpoint.connect_with_connector_lazy(connector));
        let renews = current.and_then(|svid| svid.serial().parse().ok());
        let response = sign(&mut client, &request, renews).await?;
        if response.valid_until.is_none() {
            return Err(Error::Answer("valid_until is missing"));
        }
        let svid = Svid::from_pem(&response.workload_certificate, &key)?;
        let trust_domain = svid.spiffe_id().trust_domain_name().to_owned();
        let validity = token::check(
            response.jwt.as_deref(),
            &response.per_audience_jwts,
            &trust_domain,
            SystemTime::now(),
        )?;
        // An answer without a usable bundle is fine: the process has one of its own.
        let anchors = TrustAnchors::from_pem(&response.trust_chain_certificates.concat()).ok();
        Ok(Fetched {
            svid: match validity {
                Some((not_before, not_after)) => svid.with_token_validity(not_before, not_after),
                None => svid,
            },
            anchors,
        })
    }

    async fn request(&self, signing_request: String) -> Result<SignCertificateRequest, Error> {
        let (token, validator) = match &self.options.token {
            TokenSource::None => (String::new(), TokenValidator::Unknown),
            TokenSource::Jwks(path) => (read_token(path).await?, TokenValidator::Jwks),
            TokenSource::Kubernetes(path) => (read_token(path).await?, TokenValidator::Kubernetes),
        };
        Ok(SignCertificateRequest {
            id: self.options.app_id.clone(),
            token,
            trust_domain: self
                .options
                .trust_domain_in_request
                .clone()
                .unwrap_or_default(),
            namespace: self.options.namespace.clone(),
            certificate_signing_request: signing_request.into_bytes().into(),
            token_validator: validator.into(),
            jwt_audiences: self.options.jwt_audiences.clone(),
        })
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let invalid = || Error::Address(address.to_owned());
    let uri: http::Uri = format!("http://{address}").parse().map_err(|_| invalid())?;
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
        return Err(invalid());
    }
    Ok(Endpoint::from(uri))
}

async fn read_token(path: &std::path::Path) -> Result<String, Error> {
    let token = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| Error::TokenFile {
            path: path.display().to_string(),
            source,
        })?;
    Ok(token.trim().to_owned())
}

async fn sign(
    client: &mut CaClient<Channel>,
    message: &SignCertificateRequest,
    renews: Option<AsciiMetadataValue>,
) -> Result<SignCertificateResponse, Error> {
    let mut attempt = 0;
    loop {
        let mut request = Request::new(message.clone());
        if let Some(serial) = &renews {
            request.metadata_mut().insert(RENEWS, serial.clone());
        }
        let status = match timeout(TRY, client.sign_certificate(request)).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer within 3 s"),
        };
        if attempt == RETRIES {
            return Err(if is_refusal(status.code()) {
                Error::Refused(status)
            } else {
                Error::Unreachable(status)
            });
        }
        attempt += 1;
        sleep(pause(status.code(), attempt)).await;
    }
}

/// Before the next try. Nobody is burdened by tries that nobody takes, and a pod that starts waits for nothing else; who has
/// refused is given more and more time to see what it did not see.
fn pause(code: Code, attempt: u32) -> Duration {
    if is_refusal(code) {
        BACKOFF * attempt
    } else {
        BACKOFF
    }
}

/// Whether Sentry itself has decided. Even that is tried again a few times, for its view of the cluster may lag.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_refusals_are_waited_for_ever_longer() {
        let pauses = |code| (1..=RETRIES).map(move |attempt| pause(code, attempt).as_millis());
        assert!(pauses(Code::Unavailable).eq([100; 5]));
        assert!(pauses(Code::DeadlineExceeded).eq([100; 5]));
        assert!(pauses(Code::PermissionDenied).eq([100, 200, 300, 400, 500]));
    }

    fn check(address: &str, expected: Option<&str>) {
        let found = endpoint(address)
            .ok()
            .map(|endpoint| endpoint.uri().to_string());
        assert_eq!(found.as_deref(), expected, "{address}");
    }

    #[test]
    fn addresses_are_host_and_port() {
        check("localhost:50001", Some("http://localhost:50001/"));
        check(
            "dapr-sentry.dapr-system.svc.cluster.local:443",
            Some("http://dapr-sentry.dapr-system.svc.cluster.local:443/"),
        );
        check("[::1]:50001", Some("http://[::1]:50001/"));
        check("localhost", None);
        check(":50001", None);
        check("", None);
        check("a b:1", None);
    }
}
