//! Kubeconfigs, written as JSON, which every reader of YAML takes.

use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pki::Admin;

/// That of the administrator of a server on `port`.
pub(super) fn admin(port: u16, admin: &Admin) -> Value {
    let cluster = json!({
        "server": format!("https://127.0.0.1:{port}"),
        "certificate-authority-data": STANDARD.encode(&admin.authority),
    });
    let user = json!({
        "client-certificate-data": STANDARD.encode(&admin.certificate),
        "client-key-data": STANDARD.encode(&admin.key),
    });
    of(&cluster, &user, "default")
}

/// For the same server as another one, with a token and a default namespace.
pub(super) fn with_token(other: &Value, token: &str, namespace: &str) -> Result<Value> {
    let cluster = current_cluster(other).context("the kubeconfig names no current cluster")?;
    Ok(of(cluster, &json!({ "token": token }), namespace))
}

/// Reads one that this module wrote.
pub(super) fn read(path: &Path) -> Result<Value> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Writes one.
pub(super) fn write(path: &Path, kubeconfig: &Value) -> Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(kubeconfig)?)
        .with_context(|| format!("writing {}", path.display()))
}

fn of(cluster: &Value, user: &Value, namespace: &str) -> Value {
    let context = json!({ "cluster": "test", "user": "test", "namespace": namespace });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": context }],
        "current-context": "test",
    })
}

fn current_cluster(kubeconfig: &Value) -> Option<&Value> {
    let context = named(kubeconfig, "contexts", &kubeconfig["current-context"])?;
    let cluster = named(kubeconfig, "clusters", &context["context"]["cluster"])?;
    cluster.get("cluster")
}

fn named<'a>(kubeconfig: &'a Value, list: &str, name: &Value) -> Option<&'a Value> {
    let entries = kubeconfig.get(list)?.as_array()?;
    entries.iter().find(|entry| entry["name"] == *name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::with_token;

    #[test]
    fn the_cluster_is_that_of_the_current_context() {
        let other = json!({
            "clusters": [
                { "name": "a", "cluster": { "server": "https://a" } },
                { "name": "b", "cluster": { "server": "https://b" } },
            ],
            "contexts": [
                { "name": "first", "context": { "cluster": "a", "user": "x" } },
                { "name": "second", "context": { "cluster": "b", "user": "x" } },
            ],
            "current-context": "second",
        });
        let found = with_token(&other, "secret", "shop").expect("a kubeconfig");
        assert_eq!(found["clusters"][0]["cluster"]["server"], "https://b");
        assert_eq!(found["users"][0]["user"]["token"], "secret");
        assert_eq!(found["contexts"][0]["context"]["namespace"], "shop");
        with_token(&json!({}), "secret", "shop").expect_err("no cluster");
    }
}
