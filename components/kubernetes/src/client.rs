//! The few requests that are made of the API server.

use std::time::Duration;

use dapr_components_core::{Error, ErrorKind};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::credentials::{Place, Token};

/// A connection that takes longer has failed, and so has a request.
const CONNECT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(30);
/// Connections that are kept: secrets are read now and then.
const IDLE: usize = 1;
/// Largest answer: a page of secrets, each of up to a megabyte and a third longer as base64.
const MAX_ANSWER: usize = 64 << 20;

/// Speaks with one API server.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Token,
}

impl Client {
    /// A client of the server at `place`; nothing is sent yet.
    pub(crate) fn new(place: Place) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(REQUEST)
            .pool_max_idle_per_host(IDLE)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_version_min(reqwest::tls::Version::TLS_1_2);
        if let Some(pem) = &place.authority {
            let authority = reqwest::Certificate::from_pem_bundle(pem).map_err(unusable)?;
            builder = builder.tls_certs_only(authority);
        }
        if let Some(pem) = &place.identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(unusable)?);
        }
        Ok(Self {
            http: builder.build().map_err(unusable)?,
            url: place.url,
            token: place.token,
        })
    }

    /// Reads `path`; segments are to be escaped by [`segment`].
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        request = request.header("accept", "application/json");
        if let Some(token) = self.token().await? {
            request = request.bearer_auth(token);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_ANSWER {
                let text = format!("the API server's answer is longer than {MAX_ANSWER} bytes");
                return Err(Error::new(ErrorKind::Internal, text));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(refused(status.as_u16(), &body));
        }
        serde_json::from_slice(&body).map_err(|_| {
            let text = "the API server's answer cannot be read";
            Error::new(ErrorKind::Internal, text)
        })
    }

    async fn token(&self) -> Result<Option<String>, Error> {
        match &self.token {
            Token::None => Ok(None),
            Token::Fixed(token) => Ok(Some(token.clone())),
            Token::File(path) => {
                let read = tokio::fs::read_to_string(path).await;
                read.map(|token| Some(token.trim().to_owned()))
                    .map_err(|error| {
                        let text = format!("{} cannot be read: {error}", path.display());
                        Error::new(ErrorKind::Unavailable, text)
                    })
            }
        }
    }
}

/// A text as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn unusable(error: reqwest::Error) -> Error {
    let text = format!("the API server's certificates cannot be used: {error}");
    Error::new(ErrorKind::Configuration, text).with_source(error)
}

fn unreachable(error: reqwest::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    Error::new(ErrorKind::Unavailable, text)
}

/// The message of a `Status`, as Kubernetes answers what it refuses.
fn refused(status: u16, body: &[u8]) -> Error {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|status| Some(status.get("message")?.as_str()?.to_owned()))
        .unwrap_or_else(|| format!("the API server answered {status}"));
    let kind = match status {
        404 => ErrorKind::Invalid,
        401 | 403 => ErrorKind::Configuration,
        429 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_the_servers_words() {
        let error = refused(404, br#"{"message": "secrets \"s\" not found"}"#);
        assert_eq!(error.to_string(), "secrets \"s\" not found");
        assert!(!error.is_retriable());
        let error = refused(503, b"overloaded");
        assert_eq!(error.to_string(), "the API server answered 503");
        assert!(error.is_retriable());
    }

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(segment("a/../b?c"), "a%2F%2E%2E%2Fb%3Fc");
    }
}
