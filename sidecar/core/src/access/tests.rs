use super::*;

fn policy(app_id: &str, default_action: &str, operations: Vec<Operation>) -> Policy {
    Policy {
        app_id: app_id.to_owned(),
        default_action: default_action.to_owned(),
        trust_domain: "public".to_owned(),
        namespace: "default".to_owned(),
        operations,
    }
}

fn caller(app_id: &str, namespace: &str, trust_domain: &str) -> CallerId {
    CallerId {
        trust_domain: trust_domain.to_owned(),
        namespace: namespace.to_owned(),
        app_id: app_id.to_owned(),
        url: format!("spiffe://{trust_domain}/ns/{namespace}/{app_id}"),
    }
}

fn spec(default_action: &str, policies: Option<Vec<Policy>>) -> Spec {
    Spec {
        default_action: default_action.to_owned(),
        trust_domain: "public".to_owned(),
        policies,
    }
}

#[test]
fn nothing_said_allows_everything() {
    let parsed = AccessControl::parse(&Spec::default(), Protocol::Http).expect("valid");
    assert!(parsed.is_none());
}

#[test]
fn the_default_action_depends_on_the_policies() {
    let check = |action: &str, policies: Option<Vec<Policy>>, expected: bool| {
        let access = AccessControl::parse(&spec(action, policies), Protocol::Http)
            .expect("valid")
            .expect("something is said");
        let decision = access.decide(None, "/x", Some(&Method::GET), Protocol::Http);
        assert_eq!(decision.allowed, expected, "{action}");
        assert!(!decision.by_app_policy);
    };
    check("allow", None, true);
    check("ALLOW", None, true);
    check("deny", None, false);
    check("", None, false);
    check("", Some(Vec::new()), true);
    check("", Some(vec![policy("a", "", Vec::new())]), false);
}

#[test]
fn a_policy_decides_for_its_caller() {
    let operation = Operation {
        name: "/pay".to_owned(),
        http_verb: vec!["POST".to_owned()],
        action: "allow".to_owned(),
    };
    let policies = vec![
        policy("shop", "deny", vec![operation]),
        policy("open", "", Vec::new()),
    ];
    let access = AccessControl::parse(&spec("allow", Some(policies)), Protocol::Http)
        .expect("valid")
        .expect("something is said");
    let check =
        |caller: CallerId, operation: &str, verb: Option<Method>, allowed: bool, by_app: bool| {
            let decision = access.decide(Some(&caller), operation, verb.as_ref(), Protocol::Http);
            assert_eq!(
                decision,
                Decision {
                    allowed,
                    by_app_policy: by_app
                },
                "{caller:?} {operation}"
            );
        };
    let shop = || caller("shop", "default", "public");
    check(shop(), "pay", Some(Method::POST), true, true);
    check(shop(), "pay", Some(Method::GET), false, true);
    check(shop(), "pay", None, false, true);
    check(shop(), "other", Some(Method::POST), false, true);
    check(
        caller("shop", "other", "public"),
        "pay",
        Some(Method::GET),
        true,
        false,
    );
    check(
        caller("shop", "default", "other"),
        "pay",
        Some(Method::GET),
        true,
        false,
    );
    check(
        caller("open", "default", "public"),
        "x",
        Some(Method::GET),
        true,
        true,
    );
    check(
        caller("unknown", "default", "public"),
        "x",
        Some(Method::GET),
        true,
        false,
    );
}

#[test]
fn incomplete_policies_are_refused() {
    let mut first = policy("a", "", Vec::new());
    first.trust_domain.clear();
    let mut second = policy("b", "", Vec::new());
    second.namespace.clear();
    let third = policy("", "", Vec::new());
    let spec = spec("", Some(vec![first, second, third]));
    let error = AccessControl::parse(&spec, Protocol::Http).expect_err("incomplete");
    assert_eq!(
        error.to_string(),
        "invalid access control spec. missing trustdomain for apps: [a], missing namespace for apps: [b], missing app name on at least one of the app policies: true"
    );
}

#[test]
fn a_specification_is_read_from_json() {
    let json = r#"{"defaultAction":"deny","policies":[{"appId":"a","trustDomain":"t","namespace":"n",
        "operations":[{"name":"/x","httpVerb":["GET"],"action":"allow"}]}]}"#;
    let spec: Spec = serde_json::from_str(json).expect("valid");
    let policies = spec.policies.expect("given");
    assert_eq!(policies[0].operations[0].http_verb, ["GET"]);
}
