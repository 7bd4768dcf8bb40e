//! The identity all programs of the floor share.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

const CERTIFICATE: &str = "floor.crt";
const KEY: &str = "floor.key";
/// What its certificate is for.
const NAME: &str = "floor";

/// A certificate that trusts itself, and its key.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Makes one in a folder.
    pub fn make(folder: &Path) -> Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let certificate =
            rcgen::CertificateParams::new(vec![NAME.to_owned()])?.self_signed(&key)?;
        std::fs::write(folder.join(CERTIFICATE), certificate.pem())?;
        std::fs::write(folder.join(KEY), key.serialize_pem())?;
        Self::read(folder)
    }

    /// The one of a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            certificate: CertificateDer::from_pem_file(folder.join(CERTIFICATE))
                .context("reading the certificate")?,
            key: PrivateKeyDer::from_pem_file(folder.join(KEY)).context("reading the key")?,
        })
    }

    /// Settings of a server that wants to see the same certificate.
    pub fn server(&self) -> Result<Arc<ServerConfig>> {
        let clients = WebPkiClientVerifier::builder(Arc::new(self.roots()?)).build()?;
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Settings of a server that asks nobody who he is, with the choices of Sentry's: no tickets.
    pub fn server_to_anybody(&self) -> Result<Arc<ServerConfig>> {
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// Settings of a client.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(vec![self.certificate.clone()], self.key.clone_key())?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Who a client dials.
    pub fn name() -> Result<ServerName<'static>> {
        Ok(ServerName::try_from(NAME)?)
    }

    fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        Ok(roots)
    }
}
