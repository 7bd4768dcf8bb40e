//! The first identity of a run, and the task that renews it.

use anyhow::{Context as _, bail};
use dapr_security::{AnchorsSource, KeyKind, Options, Security, TrustDomain};
use tokio_util::sync::CancellationToken;

use crate::adapters::Tasks;
use crate::settings::Settings;

/// The identity of this sidecar, or none without mTLS.
pub(super) async fn identity(
    settings: &Settings,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> anyhow::Result<Security> {
    if !settings.has_identity() {
        tracing::info!(target: "dapr.runtime.security", "mTLS is disabled. Skipping certificate request and tls validation");
        return Ok(Security::insecure());
    }
    let Some(anchors) = settings.trust_anchors.clone() else {
        tracing::error!(target: "dapr.runtime.security", "the environment variable DAPR_TRUST_ANCHORS is not set: it holds the PEM of sentry's ca.crt");
        bail!("trust anchors are required");
    };
    let trust_domain =
        TrustDomain::new(&settings.control_plane.trust_domain).with_context(|| {
            format!(
                "--control-plane-trust-domain {:?}",
                settings.control_plane.trust_domain
            )
        })?;
    let (security, renewal) = Security::start(Options {
        trust_anchors: AnchorsSource::Inline(anchors),
        sentry_address: settings.control_plane.sentry.clone(),
        control_plane_trust_domain: trust_domain,
        control_plane_namespace: settings.control_plane.namespace.clone(),
        namespace: settings.identity_namespace().to_owned(),
        app_id: settings.sentry_id.clone(),
        token: settings.sentry_token.clone(),
        jwt_audiences: settings.control_plane.jwt_audiences.clone(),
        key: KeyKind::Ed25519,
        trust_domain_in_request: None,
        mtls: settings.mtls,
    })
    .await?;
    tasks.spawn_until("identity renewal", stop.clone(), renewal);
    Ok(security)
}
