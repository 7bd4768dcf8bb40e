//! HTTPEndpoint resources as the core calls them.

use dapr_crds::HttpEndpoint as Resource;
use dapr_crds::http_endpoint::{ClientTls as TlsResource, TlsDocument};
use dapr_sidecar_core::invoke::HttpEndpoint;
use dapr_sidecar_core::invoke::endpoint::{ClientTls, HttpEndpoints, Renegotiation};
use dapr_sidecar_core::secrets::Secrets;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::references;

/// The endpoints that can be called, secrets resolved; others are named in the log.
pub async fn convert(
    resources: &[Resource],
    secrets: &Secrets,
    namespace: Option<&str>,
) -> HttpEndpoints {
    let mut endpoints = HttpEndpoints::new();
    for resource in resources {
        match references::endpoint(resource, secrets, namespace).await {
            Ok(revealed) => {
                endpoints.extend(endpoint(&revealed).map(|it| (it.name.clone(), it)));
            }
            Err(missing) => tracing::warn!(target: "dapr.runtime", "{missing}"),
        }
    }
    endpoints
}

fn endpoint(resource: &Resource) -> Option<HttpEndpoint> {
    let name = resource.metadata.name.clone().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for pair in &resource.spec.headers {
        let value = HeaderValue::from_str(&pair.value.as_text());
        let (Ok(header), Ok(value)) = (HeaderName::try_from(pair.name.as_str()), value) else {
            tracing::warn!(target: "dapr.runtime", "HTTPEndpoint {name} is left out: header {} is not a valid HTTP header", pair.name);
            return None;
        };
        headers.insert(header, value);
    }
    Some(HttpEndpoint {
        base_url: resource.spec.base_url.clone(),
        name,
        headers,
        tls: resource.spec.client_tls.as_ref().map(client_tls),
    })
}

fn client_tls(tls: &TlsResource) -> ClientTls {
    let document = |document: &Option<TlsDocument>| {
        let document = document.as_ref()?;
        let is_set = document.value.is_set();
        is_set.then(|| document.value.as_text().into_owned())
    };
    ClientTls {
        root_ca: document(&tls.root_ca),
        certificate: document(&tls.certificate),
        private_key: document(&tls.private_key),
        // rustls never renegotiates; a server that insists on it is refused by the handshake.
        renegotiation: Renegotiation::Never,
    }
}
