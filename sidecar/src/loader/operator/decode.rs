//! Objects as the operator sends them: JSON, with secrets of the cluster put in as base64. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_crds::http_endpoint::{ClientTls, TlsDocument};
use dapr_crds::manifest::Manifest;
use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{
    Component, Configuration, DynamicValue, HttpEndpoint, McpServer, NameValuePair, Resiliency,
    WorkflowAccessPolicy, standalone,
};

use super::objects::Kind;

/// The Configuration of this sidecar on top of the defaults; an empty answer is an empty Configuration.
pub(super) fn configuration(json: &[u8]) -> Result<Configuration, serde_json::Error> {
    standalone::from_json(if json.is_empty() { b"{}" } else { json })
}

/// An object with the secrets of the cluster as plain text. References into other stores stay.
pub(super) fn manifest(kind: Kind, json: &[u8]) -> Result<Manifest, serde_json::Error> {
    Ok(match kind {
        Kind::Resiliency => {
            Manifest::Resiliency(Box::new(serde_json::from_slice::<Resiliency>(json)?))
        }
        Kind::Component => {
            let mut component: Component = serde_json::from_slice(json)?;
            if component.auth.is_kubernetes() {
                let name = component.log_name();
                reveal(&format!("Component {name}"), &mut component.spec.metadata);
            }
            Manifest::Component(Box::new(component))
        }
        Kind::HttpEndpoint => {
            let mut endpoint: HttpEndpoint = serde_json::from_slice(json)?;
            if endpoint.auth.is_kubernetes() {
                let name = endpoint.metadata.name.clone().unwrap_or_default();
                let owner = format!("HTTPEndpoint {name}");
                reveal(&owner, &mut endpoint.spec.headers);
                if let Some(tls) = &mut endpoint.spec.client_tls {
                    reveal_documents(&owner, tls);
                }
            }
            Manifest::HttpEndpoint(Box::new(endpoint))
        }
        Kind::Subscription => {
            Manifest::SubscriptionV2Alpha1(Box::new(serde_json::from_slice::<Subscription>(json)?))
        }
        Kind::McpServer => {
            Manifest::McpServer(Box::new(serde_json::from_slice::<McpServer>(json)?))
        }
        Kind::WorkflowAccessPolicy => Manifest::WorkflowAccessPolicy(Box::new(
            serde_json::from_slice::<WorkflowAccessPolicy>(json)?,
        )),
    })
}

fn reveal(owner: &str, pairs: &mut [NameValuePair]) {
    for pair in pairs.iter_mut().filter(|pair| pair.secret_key_ref.is_set()) {
        pair.value = revealed(owner, &pair.name, &pair.value);
        pair.secret_key_ref = dapr_crds::SecretKeyRef::default();
    }
}

fn reveal_documents(owner: &str, tls: &mut ClientTls) {
    let documents: [(&str, &mut Option<TlsDocument>); 3] = [
        ("clientTLS.rootCA", &mut tls.root_ca),
        ("clientTLS.certificate", &mut tls.certificate),
        ("clientTLS.privateKey", &mut tls.private_key),
    ];
    for (field, document) in documents {
        let Some(document) = document else { continue };
        let is_secret = document
            .secret_key_ref
            .as_ref()
            .is_some_and(|it| it.is_set());
        if is_secret {
            document.value = revealed(owner, field, &document.value);
        }
        document.secret_key_ref = None;
    }
}

/// The text behind the base64. What is none stays empty: a component must not start with a mangled password.
fn revealed(owner: &str, field: &str, value: &DynamicValue) -> DynamicValue {
    let text = STANDARD
        .decode(value.as_text().as_bytes())
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok());
    match text {
        Some(text) if value.is_set() => text.into(),
        _ => {
            tracing::warn!(
                target: "dapr.runtime",
                "{owner}: {field} stays empty: its secret has no such key, or is no UTF-8 text"
            );
            DynamicValue::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn component(value: &Value, store: &str) -> Component {
        let json = json!({
            "metadata": {"name": "c"},
            "spec": {"type": "state.x", "version": "v1", "metadata": [
                {"name": "plain", "value": "aGVsbG8=", "secretKeyRef": {"name": "", "key": ""}},
                {"name": "secret", "value": value, "secretKeyRef": {"name": "s", "key": "k"}},
            ]},
            "auth": {"secretStore": store},
        });
        match manifest(Kind::Component, json.to_string().as_bytes()) {
            Ok(Manifest::Component(component)) => *component,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn secrets_of_the_cluster_are_decoded_and_nothing_else() {
        let check = |value: Value, store: &str, expected: &str, is_open: bool| {
            let component = component(&value, store);
            let pairs = &component.spec.metadata;
            assert_eq!(pairs[0].value.as_text(), "aGVsbG8=");
            assert_eq!(pairs[1].value.as_text(), expected, "{value} {store}");
            assert_eq!(
                pairs[1].secret_key_ref.is_set(),
                !is_open,
                "{value} {store}"
            );
        };
        check(json!("aGVsbG8="), "", "hello", true);
        check(json!("aGVsbG8="), "kubernetes", "hello", true);
        check(json!(null), "kubernetes", "", true);
        check(json!("not base64"), "kubernetes", "", true);
        check(json!("//8="), "", "", true);
        // Another store is asked later.
        check(json!(null), "vault", "", false);
    }

    #[test]
    fn documents_of_endpoints_are_decoded() {
        let json = json!({
            "metadata": {"name": "e"},
            "spec": {
                "baseUrl": "https://x", "headers": null,
                "clientTLS": {
                    "rootCA": {"value": "UEVN", "secretKeyRef": {"name": "s", "key": "k"}},
                    "certificate": {"value": "as it is"}, "privateKey": null,
                },
            },
            "auth": {"secretStore": ""},
        });
        let Ok(Manifest::HttpEndpoint(endpoint)) =
            manifest(Kind::HttpEndpoint, json.to_string().as_bytes())
        else {
            panic!("an endpoint");
        };
        let tls = endpoint.spec.client_tls.expect("tls");
        let text =
            |document: Option<TlsDocument>| document.map(|it| it.value.as_text().into_owned());
        assert_eq!(text(tls.root_ca).as_deref(), Some("PEM"));
        assert_eq!(text(tls.certificate).as_deref(), Some("as it is"));
    }

    #[test]
    fn a_configuration_stands_on_the_defaults() {
        let text = br#"{"kind":"Configuration","spec":{"features":[{"name":"HotReload","enabled":false}]}}"#;
        let configuration = configuration(text).expect("reads");
        assert_eq!(configuration.spec.feature("HotReload"), Some(false));
        assert!(configuration.spec.access_control.is_some());
        assert!(super::configuration(b"").is_ok());
    }

    /// What an operator may send.
    fn whole() -> Vec<u8> {
        let whole = json!({
            "metadata": {"name": "o", "namespace": null, "labels": {"a": "b"}},
            "spec": {
                "type": "state.x", "version": "v1", "baseUrl": "https://x", "initTimeout": "1s",
                "metadata": [{"name": "n", "value": {"a": [1, null]}, "secretKeyRef": {"name": "s", "key": "k"}}],
                "headers": [{"name": "n", "value": "aGk=", "secretKeyRef": {"name": "s", "key": "k"}}],
                "clientTLS": {"rootCA": {"value": 7, "secretKeyRef": {"name": "s", "key": "k"}}},
                "policies": {"retries": {"r": {"policy": "constant", "maxRetries": -1}}},
            },
            "auth": {"secretStore": "kubernetes"}, "scopes": ["a", ""],
        });
        whole.to_string().into_bytes()
    }

    proptest! {
        #[test]
        fn whatever_an_operator_sends_is_read_or_refused(
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end: prop::sample::Index,
            noise: Vec<u8>,
        ) {
            let whole = whole();
            let cut = &whole[..end.index(whole.len())];
            let mut edited = whole.clone();
            for (place, byte) in edits {
                let place = place.index(edited.len());
                edited[place] = byte;
            }
            for kind in [Kind::Component, Kind::HttpEndpoint] {
                prop_assert!(manifest(kind, &whole).is_ok(), "{kind:?}");
            }
            for kind in Kind::ALL {
                prop_assert!(manifest(kind, cut).is_err(), "{kind:?} {}", cut.len());
                for json in [&edited, &noise] {
                    drop(manifest(kind, json));
                    drop(configuration(json));
                }
            }
        }
    }
}
