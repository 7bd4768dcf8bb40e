use proptest::prelude::*;
use serde_json::json;

use super::*;

fn token(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

#[test]
fn a_token_is_bound_to_a_pod() {
    let check = |token: &str, expected: Result<(&str, Option<&str>), Denied>| {
        let found = bound_pod(token);
        let expected = expected.map(|(name, uid)| BoundPod {
            name: name.to_owned(),
            uid: uid.map(str::to_owned),
        });
        assert_eq!(found, expected, "{token}");
    };
    let pod = |pod: Value| token(&json!({"kubernetes.io": {"namespace": "n", "pod": pod}}));
    check(&pod(json!({"name": "a", "uid": "u"})), Ok(("a", Some("u"))));
    check(&pod(json!({"name": "a"})), Ok(("a", None)));
    check(&pod(json!({"name": ""})), Err(Denied::Unbound));
    check(&pod(json!({"name": 1})), Err(Denied::Unbound));
    check(&pod(json!(null)), Err(Denied::Unbound));
    check(&token(&json!({})), Err(Denied::Unbound));
    check(&token(&json!([])), Err(Denied::Unbound));
    check("", Err(Denied::NoToken));
    check("a", Err(Denied::Malformed));
    check("a.b.c", Err(Denied::Malformed));
    check(&"a".repeat(TOKEN_LIMIT + 1), Err(Denied::TokenLimit));
}

#[test]
fn user_names_have_four_parts() {
    let check = |user: &str, expected: Option<(&str, &str)>| {
        let found = service_account(user).ok();
        let expected = expected.map(|(namespace, name)| ServiceAccount {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        assert_eq!(found, expected, "{user}");
    };
    check("system:serviceaccount:shop:cart", Some(("shop", "cart")));
    check("kubernetes-admin", None);
    check("system:node:one", None);
    check("user:serviceaccount:shop:cart", None);
    check("system:serviceaccount:shop:cart:more", None);
    check("", None);
}

/// Everything that decides; the default is granted.
struct Case {
    id: &'static str,
    namespace: &'static str,
    trust_domain: &'static str,
    account: [&'static str; 2],
    pod_account: &'static str,
    annotations: Vec<(&'static str, &'static str)>,
    configurations: Vec<[&'static str; 3]>,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            id: "orders",
            namespace: "shop",
            trust_domain: "",
            account: ["shop", "sa"],
            pod_account: "sa",
            annotations: vec![("dapr.io/app-id", "orders")],
            configurations: Vec::new(),
        }
    }
}

fn check(change: impl FnOnce(&mut Case), expected: Result<&str, &str>) {
    let mut case = Case::default();
    change(&mut case);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "orders-0", "namespace": case.account[0],
            "annotations": case.annotations.iter().copied().collect::<BTreeMap<_, _>>(),
        },
        "spec": {"serviceAccountName": case.pod_account},
    }))
    .unwrap();
    let request = SignCertificateRequest {
        id: case.id.to_owned(),
        namespace: case.namespace.to_owned(),
        trust_domain: case.trust_domain.to_owned(),
        ..Default::default()
    };
    let account = ServiceAccount {
        namespace: case.account[0].to_owned(),
        name: case.account[1].to_owned(),
    };
    let control_plane = ControlPlane {
        trust_domain: TrustDomain::new("cluster.local").unwrap(),
        namespace: "dapr-system".to_owned(),
    };
    let configuration = |namespace: &str, name: &str| {
        let found = case
            .configurations
            .iter()
            .find(|it| it[..2] == [namespace, name])?;
        let object = json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"accessControl": {"trustDomain": found[2]}},
        });
        Some(Arc::new(serde_json::from_value(object).unwrap()))
    };
    let found = decide(&request, &account, &pod, &control_plane, configuration);
    match (&found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found.as_str(), expected),
        (Err(found), Err(expected)) => {
            assert_eq!(found.to_string(), expected);
        }
        _ => panic!("{found:?}, expected {expected:?}"),
    }
}

#[test]
fn a_workload_gets_the_identity_of_its_pod() {
    check(|_| {}, Ok("public"));
    check(|it| it.trust_domain = "example.org", Ok("public"));
    check(
        |it| (it.id, it.annotations) = ("orders-0", vec![]),
        Ok("public"),
    );
    check(
        |it| it.namespace = "other",
        Err("namespace mismatch; received namespace: other"),
    );
    check(
        |it| it.account = ["other", "sa"],
        Err("namespace mismatch; received namespace: shop"),
    );
    check(
        |it| it.account = ["shop", "cart"],
        Err("pod service account mismatch: pod shop/orders-0 does not run as \"cart\""),
    );
    check(
        |it| it.id = "cart",
        Err("app-id mismatch. expected: orders, received: cart"),
    );
    check(
        |it| it.annotations = vec![],
        Err("app-id mismatch. expected: orders-0, received: orders"),
    );
}

#[test]
fn a_configuration_names_the_trust_domain() {
    let configured = |it: &mut Case| it.annotations.push(("dapr.io/config", "settings"));
    let with = |found: [&'static str; 3]| {
        move |it: &mut Case| {
            configured(it);
            it.configurations = vec![found];
        }
    };
    check(with(["shop", "settings", "example.org"]), Ok("example.org"));
    check(with(["shop", "settings", ""]), Ok("public"));
    check(
        with(["other", "settings", "example.org"]),
        Err("failed to get configuration: \"shop/settings\" of the pod does not exist"),
    );
    check(
        |it| it.annotations.push(("dapr.io/config", "")),
        Err("failed to get configuration: \"shop/\" of the pod does not exist"),
    );
    check(
        with(["shop", "settings", "No Name"]),
        Err(
            "failed to parse trust domain \"No Name\": trust domain characters are limited to lowercase letters, numbers, dots, \
             dashes, and underscores",
        ),
    );
}

#[test]
fn the_control_plane_is_known_by_its_namespace() {
    let part = |part: &'static str, id: &'static str| {
        move |it: &mut Case| {
            it.id = id;
            it.namespace = "dapr-system";
            it.account = ["dapr-system", "sa"];
            it.annotations = vec![("dapr.io/control-plane", part)];
        }
    };
    for (name, id) in [
        ("operator", "dapr-operator"),
        ("placement", "dapr-placement"),
        ("injector", "dapr-injector"),
        ("sentry", "dapr-sentry"),
        ("scheduler", "dapr-scheduler"),
    ] {
        check(part(name, id), Ok("cluster.local"));
    }
    check(
        part("operator", "dapr-injector"),
        Err("app-id mismatch. expected: dapr-operator, received: dapr-injector"),
    );
    check(
        part("king", "dapr-king"),
        Err(
            "unknown control plane service 'orders-0': annotation \"dapr.io/control-plane\" is \"king\"",
        ),
    );
    check(
        |it| {
            part("operator", "dapr-operator")(it);
            it.annotations.push(("dapr.io/app-id", "orders"));
        },
        Err("control plane service 'orders-0' cannot have annotation 'dapr.io/app-id'"),
    );
    check(
        |it| {
            it.id = "dapr-operator";
            it.annotations = vec![("dapr.io/control-plane", "operator")];
        },
        Err("control plane service in namespace 'shop' is not allowed"),
    );
    // Without the annotation an app is free to be called so; it is in another namespace and trust domain.
    check(
        |it| (it.id, it.annotations) = ("dapr-operator", vec![("dapr.io/app-id", "dapr-operator")]),
        Ok("public"),
    );
}

proptest! {
    #[test]
    fn no_token_panics(token in ".{0,200}", claims in "[ -~]{0,100}") {
        drop(bound_pod(&token));
        let claims = URL_SAFE_NO_PAD.encode(claims);
        drop(bound_pod(&format!("a.{claims}.b")));
    }
}
