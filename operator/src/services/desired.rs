//! The Service an app is to have, and whether one is like it. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use dapr_crds::annotations::{APP_ID, ENABLED};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::app::App;

/// Where sidecars serve HTTP; no annotation changes it.
const SIDECAR_HTTP_PORT: i32 = 3500;

/// The Service of an app.
pub(super) fn desired(
    app: &App,
    namespace: &str,
    owner: OwnerReference,
    selector: &BTreeMap<String, String>,
) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some(app.service_name()),
            namespace: Some(namespace.to_owned()),
            labels: Some([(ENABLED.to_owned(), "true".to_owned())].into()),
            annotations: Some(annotations(app)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(selector.clone()),
            cluster_ip: Some("None".to_owned()),
            ports: Some(vec![
                port("dapr-http", 80, SIDECAR_HTTP_PORT),
                port("dapr-grpc", app.grpc_port, app.grpc_port),
                port(
                    "dapr-internal",
                    app.internal_grpc_port,
                    app.internal_grpc_port,
                ),
                port("dapr-metrics", app.metrics_port, app.metrics_port),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn annotations(app: &App) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::from([(APP_ID.to_owned(), app.id.clone())]);
    if app.is_measured {
        let port = app.metrics_port.to_string();
        for (key, value) in [
            ("probe", "true"),
            ("scrape", "true"),
            ("port", port.as_str()),
            ("path", "/"),
        ] {
            annotations.insert(format!("prometheus.io/{key}"), value.to_owned());
        }
    }
    for (key, value) in &app.extra {
        if annotations.contains_key(key) {
            tracing::warn!(
                app_id = app.id,
                annotation = key,
                "the Service has this annotation already, the user's is ignored"
            );
            continue;
        }
        annotations.insert(key.clone(), value.clone());
    }
    annotations
}

fn port(name: &str, port: i32, target: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::Int(target)),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

/// What a Service is apart from what the API server adds by itself. Two with the same digest need no write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Digest {
    /// The digest of a Service that is desired, or as the API server shows it.
    pub(super) fn of(service: &Service) -> Self {
        let metadata = &service.metadata;
        let own = Service {
            metadata: ObjectMeta {
                labels: some(metadata.labels.as_ref()),
                annotations: some(metadata.annotations.as_ref()),
                owner_references: metadata.owner_references.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(plain(service.spec.clone().unwrap_or_default())),
            status: None,
        };
        let mut hasher = DefaultHasher::new();
        // Structs and sorted maps: the text is the same for the same content.
        match serde_json::to_vec(&own) {
            Ok(text) => text.hash(&mut hasher),
            // Of text keys and numbers, so it cannot fail; and if it did, the Service would only be written again.
            Err(_) => return Self::default(),
        }
        Self(hasher.finish())
    }
}

fn some(map: Option<&BTreeMap<String, String>>) -> Option<BTreeMap<String, String>> {
    map.filter(|map| !map.is_empty()).cloned()
}

/// A spec with the defaults of the API server filled in, and without what it allots.
fn plain(spec: ServiceSpec) -> ServiceSpec {
    let or = |value: Option<String>, default: &str| value.or_else(|| Some(default.to_owned()));
    let ports = spec.ports.unwrap_or_default().into_iter();
    ServiceSpec {
        type_: or(spec.type_, "ClusterIP"),
        session_affinity: or(spec.session_affinity, "None"),
        internal_traffic_policy: or(spec.internal_traffic_policy, "Cluster"),
        publish_not_ready_addresses: spec.publish_not_ready_addresses.filter(|is_set| *is_set),
        selector: some(spec.selector.as_ref()),
        ports: Some(
            ports
                .map(|port| ServicePort {
                    protocol: or(port.protocol, "TCP"),
                    target_port: port.target_port.or(Some(IntOrString::Int(port.port))),
                    ..port
                })
                .collect(),
        ),
        cluster_ips: None,
        ip_families: None,
        ip_family_policy: None,
        ..spec
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn app() -> App {
        App {
            id: "shop".to_owned(),
            grpc_port: 50001,
            internal_grpc_port: 50002,
            metrics_port: 9090,
            is_measured: true,
            extra: BTreeMap::new(),
            ignored: Vec::new(),
        }
    }

    fn owner() -> OwnerReference {
        OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: "shop".to_owned(),
            uid: "u-1".to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    fn of(app: &App) -> Service {
        let selector = BTreeMap::from([("app".to_owned(), "shop".to_owned())]);
        desired(app, "default", owner(), &selector)
    }

    fn json_of(service: &Service) -> Value {
        serde_json::to_value(service).expect("JSON")
    }

    #[test]
    fn the_service_of_an_app() {
        assert_eq!(
            json_of(&of(&app())),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {
                    "name": "shop-dapr", "namespace": "default",
                    "labels": {"dapr.io/enabled": "true"},
                    "annotations": {
                        "dapr.io/app-id": "shop", "prometheus.io/probe": "true", "prometheus.io/scrape": "true",
                        "prometheus.io/port": "9090", "prometheus.io/path": "/",
                    },
                    "ownerReferences": [{
                        "apiVersion": "apps/v1", "kind": "Deployment", "name": "shop", "uid": "u-1",
                        "controller": true, "blockOwnerDeletion": true,
                    }],
                },
                "spec": {
                    "clusterIP": "None", "selector": {"app": "shop"},
                    "ports": [
                        {"name": "dapr-http", "port": 80, "targetPort": 3500, "protocol": "TCP"},
                        {"name": "dapr-grpc", "port": 50001, "targetPort": 50001, "protocol": "TCP"},
                        {"name": "dapr-internal", "port": 50002, "targetPort": 50002, "protocol": "TCP"},
                        {"name": "dapr-metrics", "port": 9090, "targetPort": 9090, "protocol": "TCP"},
                    ],
                },
            })
        );
    }

    #[test]
    fn without_metrics_the_port_stays() {
        let service = json_of(&of(&App {
            is_measured: false,
            metrics_port: 9191,
            ..app()
        }));
        assert_eq!(
            service["metadata"]["annotations"],
            json!({"dapr.io/app-id": "shop"})
        );
        assert_eq!(service["spec"]["ports"][3]["port"], 9191);
    }

    #[test]
    fn the_users_annotations_come_last() {
        let extra = [
            ("team", "a"),
            ("dapr.io/app-id", "x"),
            ("prometheus.io/port", "1"),
        ];
        let service = json_of(&of(&App {
            extra: extra
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..app()
        }));
        let found = &service["metadata"]["annotations"];
        assert_eq!(found["team"], "a");
        assert_eq!(found["dapr.io/app-id"], "shop");
        assert_eq!(found["prometheus.io/port"], "9090");
    }

    /// A Service as an API server shows it.
    fn shown() -> Value {
        let mut service = json_of(&of(&app()));
        service["metadata"]["uid"] = json!("s");
        service["metadata"]["resourceVersion"] = json!("12");
        service["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
        service["metadata"]["managedFields"] = json!([{"manager": "operator"}]);
        service["spec"]["type"] = json!("ClusterIP");
        service["spec"]["sessionAffinity"] = json!("None");
        service["spec"]["internalTrafficPolicy"] = json!("Cluster");
        service["spec"]["clusterIPs"] = json!(["None"]);
        service["spec"]["ipFamilies"] = json!(["IPv4"]);
        service["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        service["status"] = json!({"loadBalancer": {}});
        service
    }

    fn digest(service: &Value) -> Digest {
        Digest::of(&serde_json::from_value(service.clone()).expect("a Service"))
    }

    #[test]
    fn what_the_api_server_adds_is_no_difference() {
        assert_eq!(digest(&shown()), Digest::of(&of(&app())));
        let without_selector = desired(&app(), "default", owner(), &BTreeMap::new());
        let mut shown = shown();
        shown["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("selector");
        assert_eq!(digest(&shown), Digest::of(&without_selector));
    }

    #[test]
    fn every_edit_is_a_difference() {
        for (pointer, value) in [
            ("/metadata/labels/dapr.io~1enabled", json!("false")),
            ("/metadata/annotations/prometheus.io~1port", json!("1")),
            ("/metadata/ownerReferences/0/uid", json!("other")),
            ("/metadata/ownerReferences/0/controller", json!(false)),
            ("/spec/selector/app", json!("other")),
            ("/spec/clusterIP", json!("10.0.0.1")),
            ("/spec/type", json!("NodePort")),
            ("/spec/sessionAffinity", json!("ClientIP")),
            ("/spec/ports/0/targetPort", json!(3501)),
            ("/spec/ports/1/port", json!(1)),
            ("/spec/ports/2/name", json!("x")),
            ("/spec/ports/3", json!({"port": 9090})),
        ] {
            let mut edited = shown();
            *edited.pointer_mut(pointer).expect(pointer) = value;
            assert_ne!(digest(&edited), Digest::of(&of(&app())), "{pointer}");
        }
        let added = [
            ("/metadata/labels", "x"),
            ("/metadata/annotations", "x"),
            ("/spec/selector", "x"),
            ("/spec/ports/0", "appProtocol"),
        ];
        for (pointer, key) in added {
            let mut edited = shown();
            edited.pointer_mut(pointer).expect(pointer)[key] = json!("y");
            assert_ne!(digest(&edited), Digest::of(&of(&app())), "{pointer} {key}");
        }
        let mut early = shown();
        early["spec"]["publishNotReadyAddresses"] = json!(true);
        assert_ne!(digest(&early), Digest::of(&of(&app())));
    }
}
