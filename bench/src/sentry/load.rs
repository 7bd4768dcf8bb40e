//! Sidecars that want certificates: a few who ask again and again, or many who come at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::request::{generate_key, signing_request};
use dapr_security::{KeyKind, certificate};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::client::Client;
pub use super::client::Prepared;

/// Where the apps are.
pub const NAMESPACE: &str = "default";

/// How a client gets to Sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// A TLS handshake for each certificate: what a start of a sidecar costs.
    New,
    /// One connection per client for all of its certificates.
    Kept,
}

/// What a load did.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Certificates in hand.
    pub certificates: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

/// One request for each of `count` apps, each with a key of its own.
pub fn prepare(count: usize) -> Result<Vec<Prepared>> {
    prepare_with(count, |_| String::new())
}

/// As [`prepare`], with a token for each app id.
pub fn prepare_with(count: usize, token: impl Fn(&str) -> String) -> Result<Vec<Prepared>> {
    (0..count)
        .map(|number| {
            let request = signing_request(&generate_key(KeyKind::Ed25519)?)?;
            let id = app_id(number);
            Prepared::new(&SignCertificateRequest {
                token: token(&id),
                id,
                namespace: NAMESPACE.to_owned(),
                certificate_signing_request: request.into_bytes().into(),
                ..Default::default()
            })
        })
        .collect()
}

/// The id of an app.
pub fn app_id(number: usize) -> String {
    format!("app-{number}")
}

/// Asks once, as the first app, and looks at the whole answer: what the loads count are certificates of the app they
/// asked for.
pub async fn check(client: &Client, requests: &[Prepared]) -> Result<()> {
    let request = requests.first().context("no request was prepared")?;
    let answer = client.connect().await?.sign(request).await?;
    let chain = certificate::chain_from_pem(&answer.workload_certificate)?;
    let leaf = certificate::leaf(chain.first().context("no certificate")?)?;
    let (id, expected) = (leaf.spiffe_id.to_string(), app_id(0));
    let expected = format!("spiffe://public/ns/{NAMESPACE}/{expected}");
    ensure!(id == expected, "issued for {id} instead of {expected}");
    Ok(())
}

/// As many clients as requests ask again and again for `duration`.
pub async fn steady(
    client: &Arc<Client>,
    requests: &[Prepared],
    connections: Connections,
    duration: Duration,
) -> Result<Done> {
    let ended = Arc::new(AtomicBool::new(false));
    let mut clients: JoinSet<Result<u64>> = JoinSet::new();
    let start = Instant::now();
    for request in requests {
        let (client, request, ended) = (Arc::clone(client), request.clone(), Arc::clone(&ended));
        clients.spawn(async move {
            let mut certificates = 0;
            let mut connection = client.connect().await?;
            while !ended.load(Ordering::Relaxed) {
                if connections == Connections::New && certificates > 0 {
                    connection = client.connect().await?;
                }
                connection.sign(&request).await?;
                certificates += 1;
            }
            Ok(certificates)
        });
    }
    tokio::time::sleep(duration).await;
    ended.store(true, Ordering::Relaxed);
    let mut certificates = 0;
    while let Some(client) = clients.join_next().await {
        certificates += client??;
    }
    Ok(Done {
        certificates,
        elapsed: start.elapsed(),
    })
}

/// As many sidecars as requests come at once, each once; how long each waited for its certificate.
pub async fn rush(client: &Arc<Client>, requests: &[Prepared]) -> Result<Vec<Duration>> {
    let gate = Arc::new(Barrier::new(requests.len() + 1));
    let mut sidecars: JoinSet<Result<Instant>> = JoinSet::new();
    for request in requests {
        let (client, request, gate) = (Arc::clone(client), request.clone(), Arc::clone(&gate));
        sidecars.spawn(async move {
            gate.wait().await;
            client.connect().await?.sign(&request).await?;
            Ok(Instant::now())
        });
    }
    gate.wait().await;
    let start = Instant::now();
    let mut waits = Vec::with_capacity(requests.len());
    while let Some(sidecar) = sidecars.join_next().await {
        waits.push(sidecar??.saturating_duration_since(start));
    }
    waits.sort_unstable();
    Ok(waits)
}
