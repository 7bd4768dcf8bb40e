//! HTTPEndpoint resources as the core calls them.

use dapr_crds::HttpEndpoint as Resource;
use dapr_crds::http_endpoint::{ClientTls as TlsResource, TlsDocument};
use dapr_sidecar_core::invoke::HttpEndpoint;
use dapr_sidecar_core::invoke::endpoint::{ClientTls, HttpEndpoints, Renegotiation};
use http::{HeaderMap, HeaderName, HeaderValue};

/// The endpoints that can be called; others are named in the log.
pub fn convert(resources: &[Resource]) -> HttpEndpoints {
    resources
        .iter()
        .filter_map(|resource| endpoint(resource).map(|endpoint| (endpoint.name.clone(), endpoint)))
        .collect()
}

fn endpoint(resource: &Resource) -> Option<HttpEndpoint> {
    let name = resource.metadata.name.clone().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for pair in &resource.spec.headers {
        if pair.secret_key_ref.is_set() {
            tracing::warn!(
                target: "dapr.runtime",
                "HTTPEndpoint {name} is left out: header {} comes from a secret store, and this build has none yet",
                pair.name
            );
            return None;
        }
        let value = HeaderValue::from_str(&pair.value.as_text());
        let (Ok(header), Ok(value)) = (HeaderName::try_from(pair.name.as_str()), value) else {
            tracing::warn!(target: "dapr.runtime", "HTTPEndpoint {name} is left out: header {} is not a valid HTTP header", pair.name);
            return None;
        };
        headers.insert(header, value);
    }
    let tls = match &resource.spec.client_tls {
        Some(tls) => Some(client_tls(&name, tls)?),
        None => None,
    };
    Some(HttpEndpoint {
        base_url: resource.spec.base_url.clone(),
        name,
        headers,
        tls,
    })
}

fn client_tls(name: &str, tls: &TlsResource) -> Option<ClientTls> {
    let document = |field: &str, document: &Option<TlsDocument>| {
        let Some(document) = document else {
            return Some(None);
        };
        if document.secret_key_ref.is_some() {
            tracing::warn!(
                target: "dapr.runtime",
                "HTTPEndpoint {name} is left out: clientTLS.{field} comes from a secret store, and this build has none yet"
            );
            return None;
        }
        Some(
            document
                .value
                .is_set()
                .then(|| document.value.as_text().into_owned()),
        )
    };
    Some(ClientTls {
        root_ca: document("rootCA", &tls.root_ca)?,
        certificate: document("certificate", &tls.certificate)?,
        private_key: document("privateKey", &tls.private_key)?,
        // rustls never renegotiates; a server that insists on it is refused by the handshake.
        renegotiation: Renegotiation::Never,
    })
}
