//! The metrics endpoint: registry, Prometheus text and the server of the metrics port.
//!
//! Which metrics exist is decided beside the code they measure; this module only shows them, and the `process_*`
//! family of the process itself. `go_*` and `promhttp_*` have no counterpart here and are absent.

mod compression;
mod process;
mod text;

use std::sync::Arc;

use ::http::{Request, Response, header};
use bytes::Bytes;
use http_body_util::Full;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::bind::{self, Endpoint};
use crate::{flags, http};

pub use text::{CONTENT_TYPE, encode};

/// The flags of the metrics server.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct MetricsArgs {
    /// Serve Prometheus metrics.
    #[arg(long, default_value_t = true)]
    pub enable_metrics: bool,
    /// Port of the metrics server.
    #[arg(long, default_value = "9090", value_name = "PORT")]
    pub metrics_port: String,
    /// Address of the metrics server.
    #[arg(long, default_value = "0.0.0.0", value_name = "ADDRESS")]
    pub metrics_listen_address: String,
}

/// The metrics server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `--metrics-port` is no port.
    #[error("failed to parse metrics port")]
    Port(#[source] flags::PortError),
    /// The listener could not be had.
    #[error(transparent)]
    Bind(#[from] bind::Error),
}

impl MetricsArgs {
    /// The number in `--metrics-port`.
    pub fn port(&self) -> Result<u16, Error> {
        flags::port(&self.metrics_port).map_err(Error::Port)
    }

    /// Binds the metrics port on `--metrics-listen-address`; `None` when metrics are off.
    pub async fn bind(&self) -> Result<Option<TcpListener>, Error> {
        self.bind_to(&self.metrics_listen_address).await
    }

    /// Binds the metrics port on another address than the flag's: most control-plane services accept the flag and
    /// listen everywhere, some take the address of their API.
    pub async fn bind_to(&self, address: &str) -> Result<Option<TcpListener>, Error> {
        let port = self.port()?;
        if !self.enable_metrics {
            return Ok(None);
        }
        Ok(Some(
            bind::bind(&Endpoint::new("--metrics-port", address, port)).await?,
        ))
    }
}

/// The metrics of a process. Clones share the registry.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Where each part registers its own.
    pub registry: Registry,
}

impl Metrics {
    /// A registry that holds the `process_*` metrics.
    pub fn new() -> Self {
        let registry = Registry::new();
        registry
            .register(Box::new(process::Process::new()))
            .expect("names are constant and the registry is empty");
        Self { registry }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves the registry on every path and method until the token is cancelled, then finishes within 5 s. Whoever takes
/// gzip gets it.
pub async fn serve(listener: TcpListener, registry: Registry, token: CancellationToken) {
    let registry = Arc::new(registry);
    let respond = move |request: &Request<()>| {
        let text = Bytes::from(encode(&registry.gather()));
        let compressed = compression::accepts_gzip(request.headers())
            .then(|| compression::gzip(&text))
            .flatten();
        let is_compressed = compressed.is_some();
        let mut response = Response::new(Full::new(compressed.map_or(text, Bytes::from)));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static(CONTENT_TYPE),
        );
        if is_compressed {
            let gzip = header::HeaderValue::from_static("gzip");
            headers.insert(header::CONTENT_ENCODING, gzip);
        }
        response
    };
    http::serve(listener, respond, token).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(port: &str, enable_metrics: bool) -> MetricsArgs {
        MetricsArgs {
            enable_metrics,
            metrics_port: port.to_owned(),
            metrics_listen_address: "127.0.0.1".to_owned(),
        }
    }

    #[tokio::test]
    async fn a_bad_port_is_an_error_even_when_metrics_are_off() {
        let error = args("abc", false).bind().await.expect_err("no number");
        assert_eq!(
            crate::process::chain(&error),
            r#"failed to parse metrics port: strconv.Atoi: parsing "abc": invalid syntax"#
        );
        assert!(args("0", false).bind().await.expect("off").is_none());
        assert!(args("0", true).bind().await.expect("free").is_some());
    }

    #[tokio::test]
    async fn every_path_answers_with_the_registry() {
        let metrics = Metrics::new();
        let counter =
            prometheus::IntCounter::new("dapr_test_total", "Counts.").expect("a valid name");
        metrics
            .registry
            .register(Box::new(counter.clone()))
            .expect("registers");
        counter.inc_by(3);
        let registry = metrics.registry.clone();
        let server =
            http::testing::Server::start(|listener, token| serve(listener, registry, token)).await;
        for path in ["/", "/metrics", "/any/other"] {
            let raw = server.raw("GET", path).await;
            assert!(raw.starts_with("HTTP/1.1 200"), "{raw}");
            assert!(
                raw.contains("content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores\r\n"),
                "{raw}"
            );
            assert!(
                raw.contains("\n# TYPE dapr_test_total counter\ndapr_test_total 3\n"),
                "{raw}"
            );
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn who_takes_gzip_gets_it() {
        use std::io::Read as _;
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let registry = Metrics::new().registry;
        let server =
            http::testing::Server::start(|listener, token| serve(listener, registry, token)).await;
        let mut stream = tokio::net::TcpStream::connect(server.address)
            .await
            .expect("connects");
        let head = b"GET / HTTP/1.1\r\nhost: test\r\naccept-encoding: zstd, gzip\r\nconnection: close\r\n\r\n";
        stream.write_all(head).await.expect("written");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.expect("a head") + 4);
        let head = String::from_utf8_lossy(head);
        assert!(head.contains("\r\ncontent-encoding: gzip\r\n"), "{head}");
        let mut text = String::new();
        flate2::read::GzDecoder::new(body)
            .read_to_string(&mut text)
            .expect("gzip");
        assert!(text.contains("\n# TYPE process_"), "{text}");
        server.stop().await;
    }
}
