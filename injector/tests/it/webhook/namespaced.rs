//! An installation whose rights end at its own namespace.

use dapr_e2e_apiserver::real::{Reach, rule};
use serde_json::json;

use super::{Injector, NAME, REGISTRATION, listener, pod, register};
use crate::support::server;

#[tokio::test]
async fn components_of_its_own_namespace_count_where_no_others_may_be_listed() {
    let Some(server) = server("injector: namespaced").await else {
        return;
    };
    let _alone = REGISTRATION.lock().await;
    let namespace = server.create_namespace("dapr-system").await.unwrap();
    for account in ["app", "dapr-injector"] {
        server.service_account(&namespace, account).await.unwrap();
    }
    // The rights of the original's chart with `global.rbac.namespaced`.
    let mut patch = rule(
        "admissionregistration.k8s.io",
        &["mutatingwebhookconfigurations"],
        &["patch"],
    );
    patch.resource_names = Some(vec![NAME.to_owned()]);
    let everywhere = [rule("", &["serviceaccounts"], &["get", "list"]), patch];
    let here = [
        rule("dapr.io", &["configurations"], &["get"]),
        rule("dapr.io", &["components"], &["get", "list"]),
    ];
    let reach = Reach::Namespace(&namespace);
    server
        .kubeconfig_for(&namespace, "dapr-injector", reach, &here)
        .await
        .unwrap();
    let least = server
        .kubeconfig_for(&namespace, "dapr-injector", Reach::Cluster, &everywhere)
        .await
        .unwrap();
    let component = json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {
            "name": "store", "namespace": namespace,
            "annotations": {"dapr.io/component-container": r#"{"image": "store:1"}"#},
        },
        "spec": {"type": "state.in-memory", "version": "v1", "metadata": []},
    });
    server.apply(&component).await.unwrap();

    let (socket, port) = listener().await;
    register(server, &namespace, port, "Fail").await;
    let injector = Injector::start(&least, &namespace, socket).await;
    injector.ready().await;
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "cart", "dapr.io/inject-pluggable-components": "true",
    });
    let created = pod(server, &namespace, annotations).await;
    let containers = created.spec.unwrap().containers;
    let names: Vec<_> = containers.iter().map(|it| &it.name).collect();
    assert_eq!(names, ["app", "daprd", "store"]);
}
