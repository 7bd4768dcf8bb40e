//! Requests of one run.

use std::time::Duration;

use anyhow::{Result, bail};
use dapr_e2e_cluster::{Reply, Summary};
use reqwest::{Client, Method};

use crate::SIDECAR;

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(10);

/// A client for addresses without TLS: the image has no certificates that it could trust.
pub(crate) fn client(limit: Duration) -> Result<Client> {
    let none: [reqwest::Certificate; 0] = [];
    Ok(Client::builder()
        .tls_certs_only(none)
        .timeout(limit)
        .build()?)
}

/// One request. The body is JSON.
pub(crate) async fn ask(method: &str, url: &str, body: &str) -> Result<Reply> {
    let client = client(LIMIT)?;
    let mut request = client.request(Method::from_bytes(method.as_bytes())?, url);
    if !body.is_empty() {
        request = request
            .header("content-type", "application/json")
            .body(body.to_owned());
    }
    let answer = request.send().await?;
    Ok(Reply {
        status: answer.status().as_u16(),
        body: answer.text().await?,
    })
}

/// Calls one after the other.
pub(crate) async fn call(app_id: &str, count: usize) -> Result<Summary> {
    let client = client(LIMIT)?;
    let url = format!("{SIDECAR}/v1.0/invoke/{app_id}/method/who");
    let mut summary = Summary::default();
    for _ in 0..count {
        summary.count(once(client.get(&url)).await);
    }
    Ok(summary)
}

/// The text of a good answer.
pub(crate) async fn once(request: reqwest::RequestBuilder) -> Result<String> {
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(text)
}
