//! The signing path without a network, so that it can be measured alone. The program itself does not use this.

use std::time::{Duration, SystemTime};

use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, SpiffeId, TrustDomain};

use crate::ca::{Authority, Plan, generate};
use crate::certificate::{Order, issue, public_key};

const TTL: Duration = Duration::from_secs(24 * 60 * 60);
const CLOCK_SKEW: Duration = Duration::from_secs(15 * 60);

/// A new authority and one signing request, both with Ed25519 keys as they are without any setting.
#[derive(Debug)]
pub struct Signing {
    authority: Authority,
    request: String,
    id: SpiffeId,
}

impl Signing {
    /// Makes them.
    ///
    /// # Errors
    /// Only if the system gives no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let now = SystemTime::now();
        let files = generate(&Plan {
            trust_domain: &TrustDomain::new("localhost")?,
            sentry: &SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry")?,
            clock_skew: CLOCK_SKEW,
            validity: TTL,
            now,
        })?;
        Ok(Self {
            authority: Authority::from_files(&files, now)?,
            request: signing_request(&generate_key(KeyKind::Ed25519)?)?,
            id: SpiffeId::new("spiffe://public/ns/default/orders")?,
        })
    }

    /// From the request's bytes to the certificate's; returns how many bytes it has as PEM.
    ///
    /// # Errors
    /// None that can happen with the request made here.
    pub fn sign_once(&self) -> anyhow::Result<usize> {
        let key = public_key(self.request.as_bytes())?;
        let order = Order {
            id: &self.id,
            dns_names: Vec::new(),
            now: SystemTime::now(),
            ttl: TTL,
            clock_skew: CLOCK_SKEW,
        };
        Ok(issue(&self.authority, &key, &order)?.pem().len())
    }
}
