//! The cheapest honest client of Sentry: TLS that knows who answers, one gRPC call for a request prepared before.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use dapr_proto::dapr::proto::sentry::v1::{SignCertificateRequest, SignCertificateResponse};
use dapr_security::{SpiffeId, certificate};
use h2::client::SendRequest;
use prost::Message as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const METHOD: &str = "http://sentry/dapr.proto.sentry.v1.CA/SignCertificate";
/// Compression flag and length before each gRPC message.
const PREFIX: usize = 5;

/// Asks one Sentry for certificates.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// A client for the Sentry with this id and these roots. It never resumes a TLS session, as sidecars do not.
    pub fn new(address: SocketAddr, anchors: &[u8], id: &SpiffeId) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in certificate::chain_from_pem(anchors)? {
            roots.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Verifier {
            roots,
            provider: Arc::clone(&provider),
            id: id.clone(),
            known: OnceLock::new(),
        };
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(Self {
            address,
            tls: Arc::new(tls),
        })
    }

    /// A new connection with a handshake of its own.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        // It ends by itself once the sender is gone.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                drop(error); // The call fails with it.
            }
        });
        Ok(Connection(sender))
    }
}

/// A connection to Sentry.
#[derive(Debug)]
pub struct Connection(SendRequest<Bytes>);

impl Connection {
    /// Gets one certificate.
    pub async fn sign(&mut self, request: &Prepared) -> Result<SignCertificateResponse> {
        let head = http::Request::post(METHOD)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.0.clone().ready().await?;
        let (answer, mut body) = sender.send_request(head, false)?;
        body.send_data(request.0.clone(), true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut message = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            message.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        let field = |name| trailers.get(name).or_else(|| head.headers.get(name));
        let status = field("grpc-status").context("the answer has no status")?;
        ensure!(
            status == "0",
            "sentry refused: {status:?} {:?}",
            field("grpc-message")
        );
        ensure!(message.len() > PREFIX, "the answer is empty");
        let answer = SignCertificateResponse::decode(&message[PREFIX..])?;
        ensure!(
            answer.workload_certificate.starts_with(b"-----BEGIN"),
            "the answer has no certificate"
        );
        Ok(answer)
    }
}

/// A request as it goes over the wire.
#[derive(Debug, Clone)]
pub struct Prepared(Bytes);

impl Prepared {
    /// Frames `request`.
    pub fn new(request: &SignCertificateRequest) -> Result<Self> {
        let length = request.encoded_len();
        let mut frame = BytesMut::with_capacity(PREFIX + length);
        frame.put_u8(0);
        frame.put_u32(u32::try_from(length)?);
        request.encode(&mut frame)?;
        Ok(Self(frame.freeze()))
    }
}

/// Judges Sentry as a sidecar does, but each of its certificates only once: what is measured is not this program.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    id: SpiffeId,
    known: OnceLock<Vec<u8>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self
            .known
            .get()
            .is_some_and(|known| known == end_entity.as_ref())
        {
            return Ok(ServerCertVerified::assertion());
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        match certificate::leaf(end_entity) {
            Ok(leaf) if leaf.spiffe_id == self.id => {
                self.known.get_or_init(|| end_entity.to_vec());
                Ok(ServerCertVerified::assertion())
            }
            Ok(_) | Err(_) => Err(TlsError::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
