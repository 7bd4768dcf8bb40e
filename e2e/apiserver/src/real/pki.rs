//! Certificates and keys of an API server that lives for one test run.

use std::path::Path;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_RSA_SHA256,
};

/// Names and addresses the API server is called by.
const NAMES: [&str; 5] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "localhost",
    "127.0.0.1",
];

/// What the kubeconfig of the administrator needs, in PEM.
pub(super) struct Admin {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Writes what the API server reads: `ca.crt`, `apiserver.crt`, `apiserver.key`, and the key pair that signs the
/// tokens of service accounts, `sa.key` and `sa.pub`.
pub(super) fn write(folder: &Path) -> Result<Admin> {
    let authority = authority().context("making the authority")?;
    let ca = authority.certificate;
    let (server, server_key) = leaf(&authority.issuer, "kube-apiserver", None, &NAMES)
        .context("making the certificate of the API server")?;
    let (admin, admin_key) = leaf(&authority.issuer, "admin", Some("system:masters"), &[])
        .context("making the certificate of the administrator")?;
    // RSA, as clusters have it: their tokens are signed with RS256.
    let tokens = KeyPair::generate_for(&PKCS_RSA_SHA256).context("making the key of tokens")?;
    for (name, pem) in [
        ("ca.crt", &ca),
        ("apiserver.crt", &server),
        ("apiserver.key", &server_key),
        ("sa.key", &tokens.serialize_pem()),
        ("sa.pub", &tokens.public_key_pem()),
    ] {
        std::fs::write(folder.join(name), pem).with_context(|| format!("writing {name}"))?;
    }
    Ok(Admin {
        authority: ca,
        certificate: admin,
        key: admin_key,
    })
}

struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Result<Authority, rcgen::Error> {
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "kube-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority {
        certificate,
        issuer: Issuer::new(params, key),
    })
}

/// A certificate and its key, in PEM. Kubernetes reads the user from the common name and its group from the
/// organization.
fn leaf(
    issuer: &Issuer<'_, KeyPair>,
    user: &str,
    group: Option<&str>,
    names: &[&str],
) -> Result<(String, String), rcgen::Error> {
    let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, user);
    if let Some(group) = group {
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
