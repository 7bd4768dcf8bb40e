//! The TLS settings of one identity and one bundle, built once per change so that neither an accept nor a dial
//! builds or parses anything.

use std::sync::Arc;

use rustls::CipherSuite;
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::anchors::TrustAnchors;
use crate::svid::Svid;
use crate::verifier::{SpiffeVerifier, clients, provider};

/// Names a client remembers sessions for; a sidecar talks to a few hundred peers at most.
const REMEMBERED_SESSIONS: usize = 1024;

/// One ticket per handshake is enough: clients pool connections, so they seldom come twice at once.
const TICKETS: usize = 1;

/// Why TLS settings cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The TLS library refuses the identity.
    #[error("TLS settings cannot be built")]
    Tls(#[from] rustls::Error),
    /// The TLS library refuses the trust bundle.
    #[error("trust anchors cannot be used to verify clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) svid: Svid,
    pub(crate) anchors: TrustAnchors,
    pub(crate) mutual: Arc<ServerConfig>,
    pub(crate) server_only: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Material {
    pub(crate) fn new(svid: Svid, anchors: TrustAnchors) -> Result<Self, Error> {
        let key = svid.certified_key();
        Ok(Self {
            mutual: Arc::new(mutual(key, &anchors)?),
            server_only: Arc::new(server_only(key)?),
            client: Arc::new(client(key, &anchors)?),
            svid,
            anchors,
        })
    }
}

fn mutual(key: &Arc<CertifiedKey>, anchors: &TrustAnchors) -> Result<ServerConfig, Error> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients(anchors.roots())?)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    serving(config)
}

/// For clients that have no identity yet. Each comes once, for its certificate, and never resumes: the handshake is most
/// of what it costs, so no ticket is made, and the hash is the one that processors have an instruction for.
fn server_only(key: &Arc<CertifiedKey>) -> Result<ServerConfig, Error> {
    let mut provider = CryptoProvider::clone(&provider());
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = protocols();
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn serving(mut config: ServerConfig) -> Result<ServerConfig, Error> {
    config.alpn_protocols = protocols();
    config.ticketer = Ticketer::new()?;
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn client(key: &Arc<CertifiedKey>, anchors: &TrustAnchors) -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(Arc::clone(
            anchors.roots(),
        ))))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    Ok(dialling(config))
}

/// The settings of a client that has no identity yet: how Sentry itself is called.
pub(crate) fn anonymous_client(anchors: &TrustAnchors) -> Result<Arc<ClientConfig>, Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SpiffeVerifier::new(Arc::clone(
            anchors.roots(),
        ))))
        .with_no_client_auth();
    Ok(Arc::new(dialling(config)))
}

fn dialling(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::in_memory_sessions(REMEMBERED_SESSIONS);
    config
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType,
    };
    use rustls::HandshakeKind;
    use rustls_pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// Of `spiffe://public/ns/default/a`.
    pub(crate) fn material() -> Material {
        let root_key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut root = CertificateParams::default();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let anchors =
            TrustAnchors::from_chain(vec![root.self_signed(&root_key).unwrap().der().clone()])
                .unwrap();
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = vec![SanType::URI(
            "spiffe://public/ns/default/a".try_into().unwrap(),
        )];
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(root, root_key)).unwrap();
        Material::new(Svid::new(vec![leaf.der().clone()], &key).unwrap(), anchors).unwrap()
    }

    /// How both ends of a new connection shook hands, and how many certificates each knows of the other.
    async fn connect(
        client: &Arc<ClientConfig>,
        server: &Arc<ServerConfig>,
    ) -> [(Option<HandshakeKind>, usize); 2] {
        let (near, far) = duplex(1 << 16);
        let name = ServerName::try_from("peer").unwrap();
        let accept = async {
            let mut stream = TlsAcceptor::from(Arc::clone(server))
                .accept(far)
                .await
                .unwrap();
            // The ticket travels with the first bytes after the handshake.
            stream.write_all(b"x").await.unwrap();
            let connection = stream.get_ref().1;
            (
                connection.handshake_kind(),
                connection.peer_certificates().map_or(0, <[_]>::len),
            )
        };
        let dial = async {
            let mut stream = TlsConnector::from(Arc::clone(client))
                .connect(name, near)
                .await
                .unwrap();
            stream.read_exact(&mut [0]).await.unwrap();
            let connection = stream.get_ref().1;
            (
                connection.handshake_kind(),
                connection.peer_certificates().map_or(0, <[_]>::len),
            )
        };
        let (served, dialled) = tokio::join!(accept, dial);
        [dialled, served]
    }

    #[tokio::test]
    async fn sessions_are_resumed_and_still_know_the_peer() {
        let material = material();
        let first = connect(&material.client, &material.mutual).await;
        assert_eq!(first, [(Some(HandshakeKind::Full), 1); 2]);
        let second = connect(&material.client, &material.mutual).await;
        assert_eq!(second, [(Some(HandshakeKind::Resumed), 1); 2]);
    }

    #[tokio::test]
    async fn who_comes_once_gets_no_ticket_and_the_quick_suite() {
        let material = material();
        let client = anonymous_client(&material.anchors).unwrap();
        for _ in 0..2 {
            let [dialled, served] = connect(&client, &material.server_only).await;
            assert_eq!(dialled, (Some(HandshakeKind::Full), 1));
            assert_eq!(served, (Some(HandshakeKind::Full), 0));
        }
        let suites = &material.server_only.crypto_provider().cipher_suites;
        assert_eq!(suites[0].suite(), CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(suites.len(), provider().cipher_suites.len());
    }
}
