//! Patches written down, and proof that the pods they make are pods: a real API server takes them under the strictest
//! pod security.

use dapr_e2e_apiserver::real::ApiServer;
use dapr_injector::patch::{ComponentContainer, Pod, Request, patch};
use dapr_injector::settings::{Mode, Settings};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::apply::apply;
use crate::support::{server, settings};

/// A pod, and what the injector is told.
struct Case {
    name: &'static str,
    pod: Value,
    settings: Settings,
    components: Vec<ComponentContainer>,
    security: &'static str,
}

fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]},
    })
}

/// A pod with what most pods have: a label, a volume, a variable.
fn usual(annotations: &[(&str, &str)]) -> Value {
    let mut all =
        json!({"dapr.io/enabled": "true", "dapr.io/app-id": "cart", "dapr.io/app-port": "3000"});
    for (name, value) in annotations {
        all[format!("dapr.io/{name}")] = json!(value);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "cart", "labels": {"app": "cart"}, "annotations": all},
        "spec": {
            "serviceAccountName": "app", "automountServiceAccountToken": false,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "app:1", "securityContext": restricted(),
                "env": [{"name": "OWN", "value": "1"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn case(name: &'static str, pod: Value) -> Case {
    Case {
        name,
        pod,
        settings: settings(&[]),
        components: Vec::new(),
        security: "restricted",
    }
}

fn changed(mut pod: Value, change: impl FnOnce(&mut Value)) -> Value {
    change(&mut pod);
    pod
}

fn cases() -> Vec<Case> {
    let plain = changed(usual(&[]), |pod| {
        pod["metadata"]["labels"] = Value::Null;
        pod["spec"]["containers"][0]
            .as_object_mut()
            .unwrap()
            .remove("env");
    });
    let generated = changed(usual(&[]), |pod| {
        pod["metadata"].as_object_mut().unwrap().remove("name");
        pod["metadata"]["generateName"] = json!("cart-");
    });
    let bare = |annotations: &[(&str, &str)]| {
        changed(usual(annotations), |pod| {
            pod["spec"].as_object_mut().unwrap().remove("volumes");
            pod["spec"]["containers"][0]
                .as_object_mut()
                .unwrap()
                .remove("volumeMounts");
        })
    };
    let with_init = |annotations: &[(&str, &str)]| {
        changed(usual(annotations), |pod| {
            let init = json!({"name": "init", "image": "init:1", "securityContext": restricted()});
            pod["spec"]["initContainers"] = json!([init]);
        })
    };
    let component = |name: &str, container: Value| ComponentContainer {
        name: name.to_owned(),
        scopes: vec!["cart".to_owned()],
        container: container.to_string(),
    };
    let with_component = |annotations: &[(&str, &str)]| {
        changed(usual(annotations), |pod| {
            let store =
                json!({"name": "store", "image": "store:1", "securityContext": restricted()});
            pod["spec"]["containers"]
                .as_array_mut()
                .unwrap()
                .push(store);
        })
    };
    let tolerations = r#"[{"effect":"NoSchedule","key":"azure.com/aci"}]"#;
    let resources = [
        ("sidecar-cpu-request", "100m"),
        ("sidecar-cpu-limit", "0.5"),
        ("sidecar-memory-request", "64Mi"),
        ("sidecar-memory-limit", "1024Mi"),
    ];
    let tokens = [("api-token-secret", "api"), ("app-token-secret", "app")];
    let own = [
        ("volume-mounts", "data:/ro"),
        ("env", "A=1,2,B=3"),
        ("env-from-secret", "C=secret:key,D=other"),
        ("sidecar-seccomp-profile-type", "RuntimeDefault"),
    ];
    vec![
        case("plain", plain),
        case("generate_name", generated),
        case("no_volumes", bare(&[])),
        case("init_containers", with_init(&[])),
        Case {
            settings: Settings {
                mode: Mode::Native,
                ..settings(&[])
            },
            ..case("native_sidecar", usual(&[]))
        },
        case(
            "native_sidecar_after_init_containers",
            with_init(&[("enable-native-sidecar", "true")]),
        ),
        case(
            "unix_sockets",
            usual(&[("unix-domain-socket-path", "/sockets")]),
        ),
        case(
            "pluggable_components",
            with_component(&[("pluggable-components", "store")]),
        ),
        case(
            "pluggable_components_without_volumes",
            bare(&[("pluggable-components", "app")]),
        ),
        Case {
            components: vec![component(
                "store",
                json!({
                    "image": "store:1", "securityContext": restricted(),
                    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
                }),
            )],
            ..case(
                "injected_components",
                usual(&[("inject-pluggable-components", "true")]),
            )
        },
        Case {
            settings: settings(&[("IGNORE_ENTRYPOINT_TOLERATIONS", tolerations)]),
            ..case(
                "tolerations",
                changed(usual(&[]), |pod| {
                    pod["spec"]["tolerations"] =
                        json!([{"key": "azure.com/aci", "effect": "NoSchedule", "operator": ""}]);
                    pod["spec"]["tolerations"][0]
                        .as_object_mut()
                        .unwrap()
                        .remove("operator");
                }),
            )
        },
        Case {
            // An administrator of Windows is not what the strict level allows, whoever asks.
            security: "privileged",
            ..case(
                "windows_certificates",
                usual(&[("env", "SSL_CERT_DIR=c:/certificates")]),
            )
        },
        case("tokens", usual(&tokens)),
        case("resources", usual(&resources)),
        case("environment_and_mounts", usual(&own)),
        case("debugging", usual(&[("enable-debug", "true")])),
    ]
}

fn injected(case: &Case) -> (Value, Vec<dapr_injector::patch::Operation>) {
    let pod: Pod = serde_json::from_value(case.pod.clone()).unwrap();
    let request = Request {
        namespace: "shop",
        trust_anchors: "-----BEGIN CERTIFICATE-----\n",
        mtls: true,
        components: Some(&case.components),
    };
    let patch = patch(&pod, &case.settings, &request).unwrap();
    assert_eq!(patch.notes, [""; 0], "{}", case.name);
    (apply(&case.pod, &patch.operations), patch.operations)
}

#[test]
fn patches_are_as_written_down() {
    for case in cases() {
        insta::assert_json_snapshot!(case.name, injected(&case).1);
    }
}

#[tokio::test]
async fn every_patched_pod_is_accepted_under_the_strictest_pod_security() {
    let Some(server) = server("injector: golden patches").await else {
        return;
    };
    for case in cases() {
        let namespace = namespace(server, case.security).await;
        let (pod, _) = injected(&case);
        let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(
            server.client().await.unwrap(),
            &namespace,
        );
        let pod = serde_json::from_value(pod).unwrap();
        let created = pods.create(&PostParams::default(), &pod).await;
        let created = created.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let spec = created.spec.unwrap();
        let containers = spec
            .containers
            .iter()
            .chain(spec.init_containers.iter().flatten());
        let sidecars = containers.filter(|it| it.name == "daprd");
        assert_eq!(sidecars.count(), 1, "{}", case.name);
    }
}

#[tokio::test]
async fn the_strictest_pod_security_is_enforced_at_all() {
    let Some(server) = server("injector: pod security").await else {
        return;
    };
    let namespace = namespace(server, "restricted").await;
    let pods = Api::<k8s_openapi::api::core::v1::Pod>::namespaced(
        server.client().await.unwrap(),
        &namespace,
    );
    // The chart's default keeps the capabilities, and that is not allowed there.
    let keeps = settings(&[("SIDECAR_DROP_ALL_CAPABILITIES", "false")]);
    let (pod, _) = injected(&Case {
        settings: keeps,
        ..case("capabilities", usual(&[]))
    });
    let pod = serde_json::from_value(pod).unwrap();
    let error = pods.create(&PostParams::default(), &pod).await.unwrap_err();
    assert!(
        error.to_string().contains("unrestricted capabilities"),
        "{error}"
    );
}

/// A namespace that enforces a level of pod security, with the account of the pods.
async fn namespace(server: &ApiServer, level: &str) -> String {
    let name = server.create_namespace("golden").await.unwrap();
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
    });
    server.apply(&object).await.unwrap();
    server.service_account(&name, "app").await.unwrap();
    name
}
