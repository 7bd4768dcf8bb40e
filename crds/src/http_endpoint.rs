//! HTTPEndpoint: a service outside Dapr that apps invoke by name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::meta::{V1Alpha1, or_default, resource};
use crate::schema::{Schema, any, object, text};
use crate::value::{
    Auth, DynamicValue, NameValuePair, SecretKeyRef, auth_schema, pairs_schema, scopes_schema,
    secret_key_ref_schema,
};

/// An external HTTP service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename = "HTTPEndpoint",
    default,
    rename_all = "camelCase"
)]
pub struct HttpEndpoint {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// Where the service is.
    #[serde(deserialize_with = "or_default")]
    pub spec: HttpEndpointSpec,
    /// Who resolves its secret references.
    #[serde(deserialize_with = "or_default")]
    pub auth: Auth,
    /// App ids that may call it; empty means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(
    HttpEndpoint,
    "HTTPEndpoint",
    "v1alpha1",
    "httpendpoints",
    |it| &it.scopes
);

/// Address, headers and TLS of an external service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpEndpointSpec {
    /// Base URL of the service.
    #[serde(deserialize_with = "or_default")]
    pub base_url: String,
    /// Headers added to each request.
    #[serde(deserialize_with = "or_default")]
    pub headers: Vec<NameValuePair>,
    /// Certificates, when the defaults do not do.
    #[serde(rename = "clientTLS", skip_serializing_if = "Option::is_none")]
    pub client_tls: Option<ClientTls>,
}

/// The TLS documents of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTls {
    /// PEM of the root that signed the service's certificate.
    #[serde(rename = "rootCA")]
    pub root_ca: Option<TlsDocument>,
    /// PEM of the client certificate.
    pub certificate: Option<TlsDocument>,
    /// PEM of the client key.
    pub private_key: Option<TlsDocument>,
    /// `Never` (default), `OnceAsClient` or `FreelyAsClient`.
    pub renegotiation: Option<String>,
}

/// A PEM text, written here or kept in a secret store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsDocument {
    /// The text itself.
    #[serde(deserialize_with = "or_default")]
    pub value: DynamicValue,
    /// Where a secret store holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

pub(crate) fn schema() -> Schema {
    let document = || {
        object()
            .optional("value", "The PEM text itself.", any())
            .optional(
                "secretKeyRef",
                "The secret that holds the PEM text.",
                secret_key_ref_schema(),
            )
    };
    let client_tls = object()
        .optional(
            "rootCA",
            "The root that the service's certificate is checked against, in PEM.",
            document(),
        )
        .optional(
            "certificate",
            "The client certificate shown to the service, in PEM.",
            document(),
        )
        .optional(
            "privateKey",
            "The key of the client certificate, in PEM.",
            document(),
        )
        .optional(
            "renegotiation",
            "Whether the service may negotiate TLS anew: Never (the default), OnceAsClient \
             or FreelyAsClient.",
            text()
                .one_of(&["Never", "OnceAsClient", "FreelyAsClient"])
                .default_value("Never".into()),
        );
    let spec = object()
        .required(
            "baseUrl",
            "URL that the method of a call is appended to.",
            text(),
        )
        .optional(
            "headers",
            "Headers set on every request, also over those of the caller.",
            pairs_schema(),
        )
        .optional(
            "clientTLS",
            "Certificates for the connection, where the usual ones do not do.",
            client_tls,
        );
    object()
        .optional(
            "auth",
            "Where the secrets that it refers to are kept.",
            auth_schema(),
        )
        .optional(
            "scopes",
            "App ids that may call it; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional("spec", "Where the service is and how it is reached.", spec)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{ClientTls, HttpEndpoint, TlsDocument};

    #[test]
    fn empty_fields_are_written_as_upstream_writes_them() {
        let mut endpoint = HttpEndpoint::default();
        assert_eq!(
            serde_json::to_value(&endpoint).unwrap(),
            json!({
                "kind": "HTTPEndpoint", "apiVersion": "dapr.io/v1alpha1", "metadata": {},
                "spec": {"baseUrl": "", "headers": []}, "auth": {"secretStore": ""},
            })
        );
        endpoint.spec.client_tls = Some(ClientTls {
            root_ca: Some(TlsDocument::default()),
            ..ClientTls::default()
        });
        assert_eq!(
            serde_json::to_value(&endpoint.spec.client_tls).unwrap(),
            json!({"rootCA": {"value": null}, "certificate": null, "privateKey": null, "renegotiation": null})
        );
    }
}
