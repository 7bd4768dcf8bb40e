use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

struct Fake;

impl Cluster for Fake {
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
        None
    }
}

fn injector() -> Injector {
    Injector {
        settings: crate::patch::tests::settings(),
        rules: Rules::new(&[]),
    }
}

fn review(version: &str) -> Value {
    json!({
        "apiVersion": format!("admission.k8s.io/{version}"), "kind": "AdmissionReview",
        "request": {
            "uid": "u-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "namespace": "shop",
            "operation": "CREATE", "userInfo": {"username": "admin", "groups": ["system:masters"]},
            "object": {
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "cart", "annotations": {"dapr.io/enabled": "true"}},
                "spec": {"containers": [{"name": "app"}]},
            },
        },
    })
}

fn ask(body: &[u8]) -> (Value, Outcome) {
    let answer = injector().review(body, &Fake);
    (
        serde_json::from_slice(&answer.body).unwrap(),
        answer.outcome,
    )
}

fn changed(change: impl FnOnce(&mut Value)) -> (Value, Outcome) {
    let mut review = review("v1");
    change(&mut review);
    ask(review.to_string().as_bytes())
}

fn reason(outcome: &Outcome) -> Option<(&str, &str)> {
    match outcome {
        Outcome::Failed { app_id, reason, .. } => Some((app_id, reason.label())),
        Outcome::Ignored | Outcome::Injected { .. } => None,
    }
}

const ALLOWED: &str = r#"{"allowed":true,"uid":"u-1"}"#;

#[test]
fn row_9_both_versions_get_their_patch() {
    for version in ["v1", "v1beta1"] {
        let (reply, outcome) = ask(review(version).to_string().as_bytes());
        assert_eq!(reply["apiVersion"], format!("admission.k8s.io/{version}"));
        assert_eq!(reply["kind"], "AdmissionReview");
        let response = &reply["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u-1"), &json!(true))
        );
        assert_eq!(response["patchType"], "JSONPatch");
        assert_eq!(response.get("status"), None);
        assert_eq!(response.get("warnings"), None);
        let patch = STANDARD
            .decode(response["patch"].as_str().unwrap())
            .unwrap();
        let patch: Vec<Value> = serde_json::from_slice(&patch).unwrap();
        assert!(
            patch
                .iter()
                .all(|it| it["op"] == "add" && it["path"].is_string()),
            "{patch:?}"
        );
        assert_eq!(
            outcome,
            Outcome::Injected {
                app_id: "cart".to_owned()
            }
        );
    }
}

#[test]
fn row_3_what_is_no_review() {
    let mut bodies: Vec<Vec<u8>> = vec![
        b"x".to_vec(),
        b"{".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        b"\xff\xfe".to_vec(),
        vec![b'['; 100_000],
    ];
    for (path, value) in [
        ("/apiVersion", json!(1)),
        ("/request", Value::Null),
        ("/request/uid", json!(7)),
    ] {
        let mut review = review("v1");
        *review.pointer_mut(path).unwrap() = value;
        bodies.push(review.to_string().into_bytes());
    }
    for body in bodies {
        let (reply, outcome) = ask(&body);
        let keys: Vec<_> = reply.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["response"], "{reply}");
        let response = &reply["response"];
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!(""), &json!(false))
        );
        assert_eq!(response["status"]["metadata"], json!({}));
        assert!(!response["status"]["message"].as_str().unwrap().is_empty());
        assert_eq!(reason(&outcome), Some(("", "patch")));
    }
}

#[test]
fn any_version_and_kind_is_taken_and_repeated() {
    let check = |version: Value, kind: Value, keys: &[&str]| {
        let (reply, outcome) = changed(|it| {
            it["apiVersion"] = version.clone();
            it["kind"] = kind.clone();
        });
        assert!(matches!(outcome, Outcome::Injected { .. }), "{outcome:?}");
        let found: Vec<_> = reply.as_object().unwrap().keys().collect();
        assert_eq!(found, keys, "{version} {kind}");
        for (key, expected) in [("apiVersion", &version), ("kind", &kind)] {
            assert!(reply.get(key).is_none_or(|it| it == expected), "{reply}");
        }
    };
    let all = ["apiVersion", "kind", "response"];
    check(json!("admission.k8s.io/v2"), json!("Pod"), &all);
    check(json!(""), json!("AdmissionReview"), &["kind", "response"]);
    check(Value::Null, Value::Null, &["response"]);
}

#[test]
fn what_is_null_in_a_request_is_absent() {
    let null = |name: &str| changed(|it| it["request"][name] = Value::Null);
    assert_eq!(null("uid").0["response"]["uid"], "");
    assert!(matches!(null("namespace").1, Outcome::Injected { .. }));
    assert_eq!(reason(&null("kind").1), Some(("", "pod_patch")));
    assert_eq!(reason(&null("userInfo").1), Some(("cart", "pod_patch")));
}

#[test]
fn row_4_what_is_no_pod_is_allowed() {
    let (reply, outcome) = changed(|it| it["request"]["kind"]["kind"] = json!("Deployment"));
    assert_eq!(reply["response"].to_string(), ALLOWED);
    assert_eq!(reason(&outcome), Some(("", "pod_patch")));
}

#[test]
fn row_5_only_the_word_true_enables() {
    let with = |value: Value| {
        changed(|it| {
            it["request"]["object"]["metadata"]["annotations"] = json!({"dapr.io/enabled": value});
            // Nobody, so that the order of the checks shows.
            it["request"]["userInfo"] = json!({});
        })
    };
    for value in ["false", ""] {
        let (reply, outcome) = with(json!(value));
        assert_eq!(reply["response"].to_string(), ALLOWED, "{value}");
        assert_eq!(outcome, Outcome::Ignored);
    }
    for value in ["yes", "1", "on"] {
        let (reply, outcome) = with(json!(value));
        assert_eq!(reply["response"].get("patch"), None);
        let warning = reply["response"]["warnings"][0].as_str().unwrap();
        assert!(warning.contains("only \"true\" does"), "{warning}");
        assert_eq!(outcome, Outcome::Ignored);
    }
    let (_, outcome) = with(json!("TRUE"));
    assert_eq!(
        reason(&outcome),
        Some(("cart", "pod_patch")),
        "enabled, but by nobody"
    );
}

#[test]
fn row_6_strangers_get_their_pod_without_a_sidecar() {
    let (reply, outcome) = changed(|it| it["request"]["userInfo"] = json!({"username": "jane"}));
    assert_eq!(reply["response"].to_string(), ALLOWED);
    assert_eq!(reason(&outcome), Some(("cart", "pod_patch")));
    let (_, outcome) =
        changed(|it| it["request"]["userInfo"] = json!({"uid": "known", "groups": null}));
    assert!(matches!(outcome, Outcome::Injected { .. }));
}

#[test]
fn row_7_what_cannot_be_patched_is_refused() {
    let check = |object: Value, message: &str, app_id: &str| {
        let (reply, outcome) = changed(|it| it["request"]["object"] = object.clone());
        assert_eq!(reply["response"]["allowed"], false, "{object}");
        assert_eq!(reply["response"]["uid"], "u-1");
        let text = reply["response"]["status"]["message"].as_str().unwrap();
        assert!(text.contains(message), "{text}");
        assert_eq!(reason(&outcome), Some((app_id, "patch")));
    };
    let raw = "could not unmarshal raw object: ";
    check(json!("text"), raw, "");
    check(json!(null), raw, "");
    check(json!({"metadata": 7}), raw, "");
    check(json!({"spec": {"containers": {}}}), raw, "");
    let enabled = |more: Value| {
        let mut annotations = more;
        annotations["dapr.io/enabled"] = json!("true");
        json!({"metadata": {"generateName": "cart-", "annotations": annotations}})
    };
    check(
        enabled(json!({})),
        "value for the dapr.io/app-id annotation is empty",
        "",
    );
    check(
        enabled(json!({"dapr.io/app-id": "A"})),
        "invalid app id (input: 'A', service: 'A-dapr'): ",
        "A",
    );
    check(
        enabled(json!({"dapr.io/app-id": "cart", "dapr.io/inject-pluggable-components": "true"})),
        "error when fetching components: ",
        "cart",
    );
}

#[test]
fn row_8_a_pod_with_a_sidecar_is_allowed_as_it_is() {
    let (reply, outcome) = changed(|it| {
        it["request"]["object"]["spec"]["containers"] = json!([{"name": "daprd"}]);
    });
    assert_eq!(reply["response"].to_string(), ALLOWED);
    assert_eq!(outcome, Outcome::Ignored);
}

#[test]
fn warnings_are_told_and_bounded() {
    let (reply, _) = changed(|it| {
        let annotations = &mut it["request"]["object"]["metadata"]["annotations"];
        annotations["dapr.io/app-prt"] = json!("1");
        annotations["dapr.io/volume-mounts"] = json!("none:/x");
    });
    let warnings = reply["response"]["warnings"].to_string();
    assert!(
        warnings.contains("did you mean dapr.io/app-port?"),
        "{warnings}"
    );
    assert!(warnings.contains("the pod has no volume"), "{warnings}");
    let (reply, _) = changed(|it| {
        for number in 0..100 {
            let name = format!("dapr.io/unknown-{number}");
            it["request"]["object"]["metadata"]["annotations"][name] = json!("1");
        }
    });
    let count = reply["response"]["warnings"].as_array().unwrap().len();
    assert_eq!(count, warnings::LIMIT);
}

#[test]
fn an_object_of_any_depth_is_read() {
    let deep = format!("{}1{}", "[".repeat(50_000), "]".repeat(50_000));
    let review =
        review("v1")
            .to_string()
            .replacen("\"spec\":{", &format!("\"spec\":{{\"x\":{deep},"), 1);
    let (_, outcome) = ask(review.as_bytes());
    assert!(matches!(outcome, Outcome::Injected { .. }), "{outcome:?}");
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z./=:,-]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![
            Just("containers".to_owned()),
            Just("metadata".to_owned()),
            Just("spec".to_owned()),
            Just("name".to_owned()),
            Just("annotations".to_owned()),
            "[a-z]{0,6}",
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_body_has_an_answer(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let (reply, _) = ask(&body);
        prop_assert_eq!(&reply["response"]["allowed"], false);
    }

    #[test]
    fn any_object_has_an_answer(object in json_value()) {
        let (reply, _) = changed(|it| it["request"]["object"] = object);
        prop_assert!(reply["response"]["allowed"].is_boolean());
        prop_assert_eq!(&reply["response"]["uid"], "u-1");
    }

    #[test]
    fn a_cut_review_has_an_answer(share in 0.0..1.0_f64) {
        let body = review("v1").to_string();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
        let end = (body.len() as f64 * share) as usize;
        let (reply, _) = ask(&body.as_bytes()[..end]);
        prop_assert_eq!(&reply["response"]["allowed"], false);
    }
}
