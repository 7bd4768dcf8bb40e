//! Fetching a key set.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client};

use super::source::Address;
use super::{Error, KeySet, parse};

/// Bytes of a key set; a real one has a few kilobytes.
const LIMIT: usize = 1 << 20;

/// A URL with the client to fetch from it.
#[derive(Debug)]
pub(crate) struct Remote {
    url: String,
    client: Client,
    refresh: Duration,
}

impl Remote {
    pub(super) async fn new(address: Address) -> Result<Self, Error> {
        let mut client = Client::builder().timeout(address.timeout);
        if let Some(authority) = address.authority {
            let pem = read_authority(authority).await?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(Error::Authority)?;
            client = client.tls_certs_only(certificates);
        }
        let client = client.build().map_err(Error::Client)?;
        Ok(Self {
            url: address.url,
            client,
            refresh: address.refresh,
        })
    }

    /// Pause between two fetches.
    pub(crate) fn refresh(&self) -> Duration {
        self.refresh
    }

    pub(super) async fn fetch(&self) -> Result<KeySet, Error> {
        let failed = |source| Error::Fetch {
            url: self.url.clone(),
            source,
        };
        let response = self.client.get(&self.url).send().await;
        let mut response = response
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if text.len() + chunk.len() > LIMIT {
                return Err(Error::TooLarge(self.url.clone()));
            }
            text.extend_from_slice(&chunk);
        }
        parse(&text)
    }
}

async fn read_authority(text: String) -> Result<Vec<u8>, Error> {
    if text.contains("-----BEGIN") {
        return Ok(text.into_bytes());
    }
    let path = Path::new(&text);
    tokio::fs::read(path).await.map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}
