//! Servers without a sidecar: URLs called through the invocation API, and HTTPEndpoint resources.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_sidecar_core::app::Error;
use dapr_sidecar_core::body::BoxError;
use dapr_sidecar_core::invoke::endpoint::{ClientTls, External, HttpEndpoint};
use dapr_sidecar_core::invoke::{Request, Response, Status, headers};
use http::header::TRANSFER_ENCODING;
use http::{HeaderMap, Method};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;

use super::{failure, length, path};

/// Longest wait for a connection and its handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Calls external servers. Clients are made when first needed: most sidecars never load a root certificate.
#[derive(Debug, Default)]
pub struct ExternalClient {
    /// By endpoint name; the empty name is for plain URLs.
    clients: Mutex<HashMap<String, Arc<Made>>>,
}

#[derive(Debug)]
struct Made {
    client: reqwest::Client,
    /// What it was made from; another endpoint under the same name gets another client.
    tls: Option<ClientTls>,
}

impl ExternalClient {
    fn client(&self, endpoint: Option<&HttpEndpoint>) -> Result<Arc<Made>, Error> {
        let name = endpoint.map_or("", |endpoint| endpoint.name.as_str());
        let tls = endpoint.and_then(|endpoint| endpoint.tls.as_ref());
        let mut clients = self.clients.lock();
        if let Some(made) = clients.get(name).filter(|made| made.tls.as_ref() == tls) {
            return Ok(Arc::clone(made));
        }
        let client =
            build(endpoint.is_some(), tls).map_err(|error| Error::Transport(chain(&error)))?;
        let made = Arc::new(Made {
            client,
            tls: tls.cloned(),
        });
        clients.insert(name.to_owned(), Arc::clone(&made));
        Ok(made)
    }
}

/// `<base>/<method>?<query>`; the base as it stands where no method is named, for `/base` and `/base/` may be two
/// resources.
fn url(base: &str, path: &str) -> String {
    match path.strip_prefix('/') {
        Some(query) if query.is_empty() || query.starts_with('?') => format!("{base}{query}"),
        _ => format!("{}{path}", base.trim_end_matches('/')),
    }
}

fn build(follow_redirects: bool, tls: Option<&ClientTls>) -> reqwest::Result<reqwest::Client> {
    let redirects = if follow_redirects {
        reqwest::redirect::Policy::default()
    } else {
        reqwest::redirect::Policy::none()
    };
    let mut builder = reqwest::Client::builder()
        .redirect(redirects)
        .connect_timeout(CONNECT_TIMEOUT)
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        if let Some(pem) = &tls.root_ca {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.private_key) {
            builder = builder.identity(reqwest::Identity::from_pem(
                format!("{key}\n{certificate}").as_bytes(),
            )?);
        }
    }
    builder.build()
}

#[async_trait]
impl External for ExternalClient {
    async fn call(
        &self,
        base_url: &str,
        endpoint: Option<&HttpEndpoint>,
        request: Request,
    ) -> Result<Response, Error> {
        let made = self.client(endpoint)?;
        let path = path::path_and_query(&request.method, &request.query)
            .map_err(|error| Error::Transport(error.to_string()))?;
        let verb = request.verb.unwrap_or(Method::POST);
        let url = url(base_url, &path);
        let mut outgoing = headers::to_http_app(request.headers, !request.type_url.is_empty());
        for (name, value) in endpoint.iter().flat_map(|endpoint| &endpoint.headers) {
            outgoing.insert(name, value.clone());
        }
        let mut announced = http::Request::new(request.body);
        *announced.method_mut() = verb.clone();
        *announced.headers_mut() = outgoing;
        let (mut announced, body) = length::announce(announced).await.into_parts();
        if url.starts_with("https:") {
            // HTTP/2, which it may be, frames bodies by itself and knows no such header.
            announced.headers.remove(TRANSFER_ENCODING);
        }
        let response = made
            .client
            .request(verb.clone(), &url)
            .headers(announced.headers)
            .body(reqwest::Body::wrap(SyncBody::new(body)))
            .send()
            .await
            .map_err(|error| {
                let error = error.without_url();
                Error::Transport(match url.parse() {
                    Ok(uri) => failure::text(&verb, &uri, &error),
                    Err(_) => format!("{verb} \"{url}\": {}", chain(&error)),
                })
            })?;
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        Ok(Response {
            status: Status::Http(parts.status),
            headers: parts.headers,
            trailers: HeaderMap::new(),
            type_url: String::new(),
            body: body.map_err(BoxError::from).boxed_unsync(),
            is_untouched: false,
        })
    }
}

/// A body that can be shared between threads, which reqwest asks for; only one reads it at a time.
struct SyncBody(Mutex<dapr_sidecar_core::body::Body>);

impl SyncBody {
    fn new(body: dapr_sidecar_core::body::Body) -> Self {
        Self(Mutex::new(body))
    }
}

impl http_body::Body for SyncBody {
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, BoxError>>> {
        std::pin::Pin::new(self.get_mut().0.get_mut()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.lock().size_hint()
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    dapr_kit::process::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_without_a_method_is_called_as_it_stands() {
        let check = |base: &str, path: &str, expected: &str| assert_eq!(url(base, path), expected);
        check("http://h/base", "/x?q=1", "http://h/base/x?q=1");
        check("http://h/base/", "/x", "http://h/base/x");
        check("http://h/base", "/", "http://h/base");
        check("http://h/base/", "/?q=1", "http://h/base/?q=1");
        check("http://h", "/?q=1", "http://h?q=1");
    }
}
