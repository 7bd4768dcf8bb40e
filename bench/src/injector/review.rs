//! The review of a pod of 20 KiB, as a ReplicaSet makes it.

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

/// Bytes of the pod.
const POD: usize = 20 << 10;

/// The body of the request.
pub fn body() -> Bytes {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": "CREATE", "dryRun": false,
            "userInfo": {
                "username": "system:serviceaccount:kube-system:replicaset-controller",
                "uid": "1f0e2d3c-4b5a-4697-8877-665544332211",
                "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system", "system:authenticated"],
            },
            "object": pod(), "oldObject": null,
            "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
        },
    });
    review.to_string().into()
}

fn pod() -> Value {
    let container = |name: &str| {
        let variable = |number| json!({"name": format!("SETTING_{number}"), "value": format!("https://{name}.example.org/{number}")});
        json!({
            "name": name, "image": format!("registry.example.org/shop/{name}:1.2.3"),
            "env": (0..60).map(variable).collect::<Vec<_>>(),
            "ports": [{"containerPort": 3000, "protocol": "TCP"}],
            "resources": {"limits": {"cpu": "1", "memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
            "volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "kube-api-access-x2b7l", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true},
            ],
            "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent",
        })
    };
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "cart-5d59d67564-", "namespace": "shop",
            "labels": {"app": "cart", "pod-template-hash": "5d59d67564"},
            "annotations": {
                "dapr.io/enabled": "true", "dapr.io/app-id": "cart", "dapr.io/app-port": "3000",
                "dapr.io/config": "tracing", "dapr.io/log-level": "warn", "dapr.io/sidecar-memory-limit": "128Mi",
            },
        },
        "spec": {
            "containers": [container("app"), container("proxy"), container("agent")],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "kube-api-access-x2b7l", "projected": {"defaultMode": 420}}],
            "serviceAccountName": "cart", "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
        },
    });
    let missing = POD.saturating_sub(pod.to_string().len());
    pod["metadata"]["annotations"]["example.org/notes"] = json!("x".repeat(missing));
    pod
}

/// The answer is the one that is worth measuring: a patch with the sidecar.
pub fn check(answer: &[u8]) -> Result<()> {
    let answer: Value = serde_json::from_slice(answer)?;
    let response = &answer["response"];
    ensure!(response["allowed"] == true, "refused: {answer}");
    let patch = response["patch"].as_str().context("there is no patch")?;
    let patch: Vec<Value> = serde_json::from_slice(&STANDARD.decode(patch)?)?;
    let mut values = patch.iter().map(|operation| &operation["value"]["name"]);
    ensure!(
        values.any(|name| name == "daprd"),
        "there is no sidecar in it"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_has_the_size_it_is_said_to_have() {
        let size = pod().to_string().len();
        assert!((POD..POD + 64).contains(&size), "{size}");
    }
}
