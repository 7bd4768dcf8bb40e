//! An open-loop load: requests leave on schedule, whether or not earlier ones have come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;

/// What to send.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to.
    pub url: String,
    /// Requests per second.
    pub rate: u32,
    /// How long.
    pub duration: Duration,
    /// Body of each request.
    pub body: Bytes,
}

/// Latencies of the requests of one load, from the moment each was due, sorted.
#[derive(Debug, Clone)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Latencies in any order.
    pub fn new(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self(latencies)
    }

    /// The latency that a share of `percent` requests stayed below.
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0
            .get(rank.clamp(1, self.0.len().max(1)) - 1)
            .copied()
            .unwrap_or_default()
    }

    /// How many requests were made.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl Load {
    /// Sends the load; a request that fails fails the run.
    pub async fn run(&self) -> Result<Latencies> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
        let client = Arc::new(client);
        let uri: http::Uri = self.url.parse().context("the URL of the load")?;
        let gap = Duration::from_secs(1) / self.rate;
        let count = (self.duration.as_secs_f64() * f64::from(self.rate)) as u32;
        let start = Instant::now();
        let mut calls: JoinSet<Result<Duration>> = JoinSet::new();
        for index in 0..count {
            let due = start + gap * index;
            tokio::time::sleep_until(due.into()).await;
            let (client, uri, body) = (Arc::clone(&client), uri.clone(), self.body.clone());
            calls.spawn(async move {
                let request =
                    http::Request::post(uri).header("content-type", "application/octet-stream");
                let response = client.request(request.body(Full::new(body))?).await?;
                let status = response.status();
                let body = response.into_body().collect().await?.to_bytes();
                ensure!(
                    status.is_success(),
                    "{status}: {}",
                    String::from_utf8_lossy(&body)
                );
                Ok(due.elapsed())
            });
        }
        let mut latencies = Vec::with_capacity(count as usize);
        while let Some(call) = calls.join_next().await {
            latencies.push(call??);
        }
        Ok(Latencies::new(latencies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_ranks() {
        let latencies = Latencies::new((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(latencies.percentile(50.0), Duration::from_millis(50));
        assert_eq!(latencies.percentile(99.0), Duration::from_millis(99));
        assert_eq!(latencies.percentile(100.0), Duration::from_millis(100));
        assert_eq!(Latencies::new(Vec::new()).percentile(50.0), Duration::ZERO);
    }
}
