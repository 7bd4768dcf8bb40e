//! A stranger at a door: what happens to one who speaks without TLS, and to those whose certificate a foreign authority
//! signed, in the name of one of ours and in that of its own trust domain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_e2e_cluster::Knock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Who says nothing for so long has neither let us in nor refused us.
const LIMIT: Duration = Duration::from_secs(5);
const SILENCE: &str = "silence";
/// How HTTP/2 begins: the preface, and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The head of a frame, with its type in the fourth place.
const HEAD: usize = 9;
const SETTINGS: u8 = 4;
/// What a foreign certificate says its bearer is: one looks like ours, the other is at home in another trust domain.
const FOREIGN: &str = "spiffe://public/ns/default/cart";
const ABROAD: &str = "spiffe://abroad.example/ns/default/cart";

/// Tries all.
pub(crate) async fn knock(address: &str) -> Result<Knock> {
    let plain = TcpStream::connect(address).await.context("connecting")?;
    Ok(Knock {
        plain: greet(plain, LIMIT).await,
        foreign: knock_as(FOREIGN, address).await?,
        abroad: knock_as(ABROAD, address).await?,
    })
}

async fn knock_as(name: &str, address: &str) -> Result<String> {
    let stream = TcpStream::connect(address).await.context("connecting")?;
    let connector = TlsConnector::from(Arc::new(foreigner(name)?));
    let connected = connector.connect(ServerName::try_from("localhost")?, stream);
    Ok(match timeout(LIMIT, connected).await {
        Ok(Ok(stream)) => greet(stream, LIMIT).await,
        Ok(Err(error)) => format!("refused: {error}"),
        Err(_) => SILENCE.to_owned(),
    })
}

/// Begins to speak HTTP/2; `answered` if the other does as well. A refusal is an answer of another kind, or an end.
async fn greet(mut stream: impl AsyncRead + AsyncWrite + Unpin, limit: Duration) -> String {
    let mut head = [0; HEAD];
    let spoken = async {
        stream.write_all(HELLO).await?;
        stream.flush().await?;
        stream.read_exact(&mut head).await
    };
    match timeout(limit, spoken).await {
        Ok(Ok(_)) if head[3] == SETTINGS => "answered".to_owned(),
        Ok(Ok(_)) => format!("refused: {head:?}"),
        Ok(Err(error)) => format!("refused: {error}"),
        Err(_) => SILENCE.to_owned(),
    }
}

/// A client of an authority that nobody here trusts, who trusts everybody.
fn foreigner(name: &str) -> Result<ClientConfig> {
    let authority_key = rcgen::KeyPair::generate()?;
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate()?;
    let mut parameters = rcgen::CertificateParams::default();
    parameters.subject_alt_names = vec![rcgen::SanType::URI(name.try_into()?)];
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = parameters.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_client_auth_cert(vec![certificate.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Takes every server for whom it says it is.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LIMIT, SILENCE, greet};

    #[tokio::test]
    async fn who_says_nothing_has_not_refused() {
        let (ours, _theirs) = tokio::io::duplex(64);
        assert_eq!(greet(ours, Duration::ZERO).await, SILENCE);
        let (ours, theirs) = tokio::io::duplex(64);
        drop(theirs);
        assert!(greet(ours, LIMIT).await.starts_with("refused: "));
    }
}
