//! Admission reviews: whatever comes has an answer, and the patch in it makes one pod with one sidecar out of a pod.
#![no_main]

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dapr_injector::admission::{Answer, Cluster, Injector, Outcome};
use dapr_injector::config::Config;
use dapr_injector::patch::ComponentContainer;
use dapr_injector::requester::Rules;
use dapr_injector::settings::{Mode, Settings, Surroundings, Token};
use dapr_kit::flags::Environment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::value::RawValue;
use serde_json::{Value, json};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    whole(data);
    object(data);
});

/// The uid of every request made here.
const UID: &str = "u-1";

static INJECTOR: LazyLock<Injector> = LazyLock::new(|| {
    let variables = [
        ("SIDECAR_IMAGE", "daprd:1"),
        ("NAMESPACE", "dapr-system"),
        ("IGNORE_ENTRYPOINT_TOLERATIONS", r#"[{"key":"aws"}]"#),
    ];
    let config = Config::from_environment(&Environment::from(variables)).expect("it is valid");
    let surroundings = Surroundings {
        cluster_domain: "cluster.local".to_owned(),
        scheduler_enabled: true,
        token: Token::Projected,
        mode: Mode::Regular,
    };
    Injector {
        settings: Settings::new(&config, &surroundings),
        rules: Rules::new(&[]),
    }
});

/// One with a Component that brings a container.
struct Everything;

impl Cluster for Everything {
    fn trust_anchors(&self) -> Arc<str> {
        "PEM".into()
    }

    fn is_mtls(&self) -> bool {
        true
    }

    fn is_allowed_uid(&self, uid: &str) -> bool {
        uid == "known"
    }

    fn components(&self, _namespace: &str) -> Option<Vec<ComponentContainer>> {
        let container =
            json!({"image": "store:1", "volumeMounts": [{"name": "a", "mountPath": "/a"}]});
        Some(vec![ComponentContainer {
            name: "store".to_owned(),
            scopes: Vec::new(),
            container: container.to_string(),
        }])
    }
}

/// Any body has an answer that says something, and says the same as what is counted.
fn whole(body: &[u8]) {
    let answer = INJECTOR.review(body, &Everything);
    let reply = reply(&answer);
    assert!(reply["response"].is_object(), "{reply}");
}

/// The answer, looked at as the API server does.
fn reply(answer: &Answer) -> Value {
    let reply: Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    let response = &reply["response"];
    let allowed = response["allowed"].as_bool().expect("it says so");
    assert!(response["uid"].is_string());
    assert_eq!(allowed, response["status"].is_null());
    assert_eq!(response["patch"].is_null(), response["patchType"].is_null());
    let injected = matches!(answer.outcome, Outcome::Injected { .. });
    assert_eq!(injected, response["patch"].is_string());
    assert!(allowed || !injected);
    let warnings = response["warnings"].as_array().map_or(0, Vec::len);
    assert!(warnings <= 16, "{warnings}");
    reply
}

/// A pod, as the API server sends it: the patch can be carried out, and once is enough.
fn object(text: &[u8]) {
    let Ok(raw) = serde_json::from_slice::<&RawValue>(text) else {
        return;
    };
    let Some(patched) = admit(raw.get()) else {
        return;
    };
    // What is no pod to the API server never comes from it, nor does a pod without these.
    let (Ok(_), Ok(before)) = (pod(raw.get()), serde_json::from_str::<Value>(raw.get())) else {
        return;
    };
    if !before["metadata"].is_object() || !before["spec"].is_object() {
        return;
    }
    let operations: json_patch::Patch = serde_json::from_slice(&patched).expect("it is a patch");
    let mut after = before.clone();
    json_patch::patch(&mut after, &operations).expect("it can be carried out");
    let text = after.to_string();
    let spec = pod(&text)
        .expect("it is still a pod")
        .spec
        .expect("it has a spec");
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let sidecars = containers
        .filter(|container| container.name == "daprd")
        .count();
    assert_eq!(sidecars, 1, "{text}");
    assert!(kept(&before, &after), "{before} became {after}");
    assert_eq!(admit(&text), None, "once is enough");
}

fn pod(text: &str) -> serde_json::Result<Pod> {
    serde_json::from_str(text)
}

/// The patch for an object that a master creates.
fn admit(object: &str) -> Option<Vec<u8>> {
    let body = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"{UID}","kind":{{"kind":"Pod"}},"namespace":"shop","userInfo":{{"groups":["system:masters"]}},"object":{object}}}}}"#
    );
    let answer = INJECTOR.review(body.as_bytes(), &Everything);
    let reply = reply(&answer);
    assert_eq!(reply["response"]["uid"], UID, "{reply}");
    let patch = reply["response"]["patch"].as_str()?;
    Some(STANDARD.decode(patch).expect("it is base64"))
}

/// Whether everything that was there still is; null is what is absent, and lists may only grow at their ends.
fn kept(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Null, _) => true,
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .all(|(key, value)| value.is_null() || new.get(key).is_some_and(|it| kept(value, it))),
        (Value::Array(old), Value::Array(new)) => {
            old.len() <= new.len() && old.iter().zip(new).all(|(old, new)| kept(old, new))
        }
        (old, new) => old == new,
    }
}
