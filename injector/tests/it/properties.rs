//! What holds for every pod: one patch is enough, and nothing a user wrote is touched.

use dapr_injector::explain::explain;
use dapr_injector::patch::{ComponentContainer, Pod, Request, patch};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::apply::apply;
use crate::support::settings;

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("false".to_owned()),
        "[0-9]{1,6}",
        "[a-z]{1,8}",
        "[a-z]{1,4}:/[a-z]{1,4}",
        "[A-Z]{1,4}=[a-z,]{0,6},[A-Z]{1,4}=[a-z]{0,4}",
        ".{0,20}",
    ]
}

fn annotations() -> impl Strategy<Value = Map<String, Value>> {
    let names: Vec<&str> = dapr_crds::annotations::ALL
        .iter()
        .map(|annotation| annotation.name)
        .filter(|name| *name != "dapr.io/app-id")
        .collect();
    let pairs = (prop::sample::select(names), values());
    prop::collection::vec(pairs, 0..12).prop_map(|pairs| {
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)));
        pairs.collect()
    })
}

fn container() -> impl Strategy<Value = Value> {
    let env = prop::collection::vec(
        prop_oneof![Just("DAPR_HTTP_PORT"), Just("APP_PROTOCOL"), Just("OWN")],
        0..3,
    );
    let mounts = prop::collection::vec("[a-d]", 0..3);
    ("[a-d]", env, mounts, any::<bool>()).prop_map(|(name, env, mounts, has_lists)| {
        let mut container = json!({"name": name, "image": "i"});
        if has_lists || !env.is_empty() {
            container["env"] = env
                .iter()
                .map(|it| json!({"name": it, "value": "mine"}))
                .collect();
        }
        if has_lists || !mounts.is_empty() {
            let mounts = mounts
                .iter()
                .map(|it| json!({"name": it, "mountPath": format!("/{it}")}));
            container["volumeMounts"] = mounts.collect();
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = || prop::option::of(prop::collection::vec(container(), 0..3));
    let volumes = prop::option::of(prop::collection::vec("[a-d]", 0..3));
    (
        annotations(),
        containers(),
        containers(),
        volumes,
        any::<bool>(),
    )
        .prop_map(|(annotations, containers, init, volumes, has_labels)| {
            let mut pod =
                json!({"metadata": {"name": "cart", "annotations": annotations}, "spec": {}});
            if has_labels {
                pod["metadata"]["labels"] = json!({"app": "mine"});
            }
            for (field, list) in [("containers", containers), ("initContainers", init)] {
                if let Some(list) = list {
                    pod["spec"][field] = json!(list);
                }
            }
            if let Some(volumes) = volumes {
                let volumes = volumes.iter().map(|it| json!({"name": it, "emptyDir": {}}));
                pod["spec"]["volumes"] = volumes.collect();
            }
            pod
        })
}

fn patched(pod: &Value) -> Value {
    let components = [ComponentContainer {
        name: "store".to_owned(),
        scopes: Vec::new(),
        container: r#"{"image": "store", "volumeMounts": [{"name": "a", "mountPath": "/a"}]}"#
            .to_owned(),
    }];
    let request = Request {
        namespace: "shop",
        trust_anchors: "PEM",
        mtls: true,
        components: Some(&components),
    };
    let read: Pod = serde_json::from_value(pod.clone()).unwrap();
    assert!(!explain(&read, &settings(&[]), &request).is_empty());
    let patch = patch(&read, &settings(&[]), &request).unwrap();
    apply(pod, &patch.operations)
}

/// Whether everything of `old` is in `new`; lists may only grow at their ends.
fn kept(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old
            .iter()
            .all(|(key, value)| new.get(key).is_some_and(|it| kept(value, it))),
        (Value::Array(old), Value::Array(new)) => {
            old.len() <= new.len() && old.iter().zip(new).all(|(old, new)| kept(old, new))
        }
        (old, new) => old == new,
    }
}

proptest! {
    #[test]
    fn a_second_patch_changes_nothing(pod in pod()) {
        let once = patched(&pod);
        prop_assert_eq!(&patched(&once), &once);
    }

    #[test]
    fn what_users_wrote_stays(pod in pod()) {
        let new = patched(&pod);
        prop_assert!(kept(&pod, &new), "{} became {}", pod, new);
        let empty = Vec::new();
        let old = pod["spec"]["containers"].as_array().unwrap_or(&empty);
        for (old, new) in old.iter().zip(new["spec"]["containers"].as_array().unwrap()) {
            for (field, value) in new.as_object().unwrap() {
                let may_change = ["env", "volumeMounts"].contains(&field.as_str());
                prop_assert!(may_change || old.get(field) == Some(value), "{} of {}", field, old);
            }
        }
        let init = pod["spec"]["initContainers"].as_array().unwrap_or(&empty);
        for (old, new) in init.iter().zip(new["spec"]["initContainers"].as_array().unwrap_or(&empty)) {
            prop_assert_eq!(old, new);
        }
    }

    #[test]
    fn names_stay_unique(pod in pod()) {
        let new = patched(&pod);
        let names = |value: &Value| -> Vec<String> {
            let list = value.as_array().cloned().unwrap_or_default();
            list.iter().filter_map(|it| it["name"].as_str().map(str::to_owned)).collect()
        };
        let count = |pod: &Value, name: &str| names(&pod["spec"]["volumes"]).iter().filter(|it| *it == name).count();
        for name in names(&new["spec"]["volumes"]) {
            prop_assert!(count(&new, &name) == count(&pod, &name).max(1), "{} in {}", name, new);
        }
    }
}
