//! An answer of an HTTP API, read to its end.

use anyhow::{Context as _, Result, ensure};
use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;
use serde_json::Value;

/// Status, headers and body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// Sends a request and reads the whole answer.
pub(crate) async fn fetch(request: RequestBuilder) -> Result<Reply> {
    let response = request.send().await?;
    Ok(Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: response.text().await?,
    })
}

impl Reply {
    /// Itself, if the status is this one.
    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(
            self.status == status,
            "{} instead of {status}: {}",
            self.status,
            self.body
        );
        Ok(self)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {:?}", self.body))
    }

    /// A header's text; empty if it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The message of an error answer with this status and code.
    pub(crate) fn refusal(self, status: u16, code: &str) -> Result<String> {
        let reply = self.expect(status)?;
        let error = reply.json()?;
        ensure!(error["errorCode"] == code, "not {code}: {error}");
        Ok(error["message"].as_str().unwrap_or_default().to_owned())
    }
}
