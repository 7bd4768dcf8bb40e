use proptest::prelude::*;
use serde_json::{Value, json};

use super::{convert, review};
use crate::meta::{V1ALPHA1, V2ALPHA1};

fn v1() -> Value {
    json!({
        "apiVersion": V1ALPHA1, "kind": "Subscription",
        "metadata": {"name": "orders", "namespace": "prod", "uid": "u", "managedFields": [{"manager": "kubectl"}], "futureField": 1},
        "spec": {"pubsubname": "bus", "topic": "orders", "route": "/orders", "deadLetterTopic": "dead", "metadata": {"k": "v"}},
        "scopes": ["app"],
    })
}

fn ask(version: &str, objects: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
           "request": {"uid": "42", "desiredAPIVersion": version, "objects": objects}})
}

#[test]
fn v1_becomes_v2() {
    let v2 = convert(&v1(), V2ALPHA1).unwrap();
    assert_eq!(
        v2,
        json!({
            "apiVersion": V2ALPHA1, "kind": "Subscription",
            "metadata": {"name": "orders", "namespace": "prod", "uid": "u", "managedFields": [{"manager": "kubectl"}],
                         "futureField": 1, "creationTimestamp": null},
            "spec": {"pubsubname": "bus", "topic": "orders", "routes": {"default": "/orders"}, "deadLetterTopic": "dead",
                     "metadata": {"k": "v"}, "bulkSubscribe": {"enabled": false}},
            "scopes": ["app"],
        })
    );
}

#[test]
fn names_with_nothing_behind_them_are_entries() {
    let mut v1 = v1();
    v1["spec"]["metadata"] = json!({"k": null});
    let v2 = convert(&v1, V2ALPHA1).unwrap();
    assert_eq!(v2["spec"]["metadata"], json!({"k": ""}));
    let mut v2 = v2;
    v2["spec"]["metadata"] = json!({"k": null});
    let v1 = convert(&v2, V1ALPHA1).unwrap();
    assert_eq!(v1["spec"]["metadata"], json!({"k": ""}));
}

#[test]
fn v2_becomes_v1_and_keeps_its_rules_in_an_annotation() {
    let v2 = json!({
        "apiVersion": V2ALPHA1, "kind": "Subscription", "metadata": {"name": "o", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"pubsubname": "bus", "topic": "t", "routes": {"rules": [{"match": "true", "path": "/a"}], "default": "/d"},
                 "bulkSubscribe": {"enabled": true, "maxMessagesCount": 5}},
    });
    assert_eq!(
        convert(&v2, V1ALPHA1).unwrap(),
        json!({
            "apiVersion": V1ALPHA1, "kind": "Subscription",
            "metadata": {
                "name": "o", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"dapr.io/subscription-rules": r#"[{"match":"true","path":"/a"}]"#},
            },
            "spec": {"pubsubname": "bus", "topic": "t", "route": "/d", "bulkSubscribe": {"enabled": true, "maxMessagesCount": 5}},
        })
    );
}

#[test]
fn what_is_written_through_v1_erases_no_rules() {
    let mut v2 = json!({
        "apiVersion": V2ALPHA1, "kind": "Subscription", "metadata": {"name": "o", "creationTimestamp": null},
        "spec": {"pubsubname": "bus", "topic": "t", "routes": {"rules": [{"match": "true", "path": "/a"}], "default": "/d"},
                 "bulkSubscribe": {"enabled": false}},
    });
    let mut v1 = convert(&v2, V1ALPHA1).unwrap();
    assert_eq!(convert(&v1, V2ALPHA1).unwrap(), v2);
    v1["spec"]["route"] = json!("/other");
    v1["metadata"]["annotations"]["mine"] = json!("x");
    v2["spec"]["routes"]["default"] = json!("/other");
    v2["metadata"]["annotations"] = json!({"mine": "x"});
    assert_eq!(convert(&v1, V2ALPHA1).unwrap(), v2);
    // Rules that an object of the new version only has in the annotation are none.
    let mut odd = v2.clone();
    odd["spec"]["routes"] = json!({"default": "/d"});
    odd["metadata"]["annotations"]["dapr.io/subscription-rules"] =
        json!(r#"[{"match":"x","path":"/a"}]"#);
    let back = convert(&convert(&odd, V1ALPHA1).unwrap(), V2ALPHA1).unwrap();
    assert_eq!(back["spec"], odd["spec"]);
    // What somebody else wrote there is his.
    v1["metadata"]["annotations"]["dapr.io/subscription-rules"] = json!("?");
    let other = convert(&v1, V2ALPHA1).unwrap();
    assert_eq!(other["metadata"], v1["metadata"]);
    assert_eq!(other["spec"]["routes"], json!({"default": "/other"}));
}

#[test]
fn what_cannot_be_converted_says_why() {
    let check = |object: Value, version: &str, expected: &str| {
        assert_eq!(
            convert(&object, version).unwrap_err().to_string(),
            expected,
            "{object}"
        );
    };
    check(
        v1(),
        V1ALPHA1,
        "conversion is not allowed between same type *v1alpha1.Subscription",
    );
    check(
        v1(),
        "dapr.io/v3",
        r#"no kind "Subscription" is registered for version "dapr.io/v3""#,
    );
    let component = json!({"apiVersion": V1ALPHA1, "kind": "Component"});
    check(
        component.clone(),
        V2ALPHA1,
        r#"no kind "Component" is registered for version "dapr.io/v2alpha1""#,
    );
    check(
        component,
        V1ALPHA1,
        "conversion is not allowed between same type *v1alpha1.Component",
    );
    check(
        json!({"apiVersion": V1ALPHA1, "kind": "Pod"}),
        V2ALPHA1,
        r#"no kind "Pod" is registered for version "dapr.io/v1alpha1""#,
    );
    check(json!({}), V2ALPHA1, "Object 'Kind' is missing in '{}'");
    let mut wrong = v1();
    wrong["spec"]["topic"] = json!(["a"]);
    assert!(
        convert(&wrong, V2ALPHA1)
            .unwrap_err()
            .to_string()
            .starts_with("invalid type: sequence, expected a string")
    );
}

#[test]
fn a_review_keeps_order_and_echoes_version_and_uid() {
    let mut second = v1();
    second["metadata"]["name"] = json!("second");
    let mut question = ask(V2ALPHA1, json!([v1(), second]));
    question["apiVersion"] = json!("apiextensions.k8s.io/v1beta1");
    let reply = review(&question).unwrap();
    assert_eq!(reply["apiVersion"], "apiextensions.k8s.io/v1beta1");
    assert_eq!(reply["kind"], "ConversionReview");
    assert!(reply.get("request").is_none());
    let response = &reply["response"];
    assert_eq!(response["uid"], "42");
    assert_eq!(response["result"]["status"], "Success");
    let names: Vec<_> = response["convertedObjects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["metadata"]["name"].clone())
        .collect();
    assert_eq!(names, ["orders", "second"]);
}

#[test]
fn one_failure_fails_the_review() {
    let response = review(&ask(
        V2ALPHA1,
        json!([v1(), {"kind": "Pod", "apiVersion": "v1"}]),
    ))
    .unwrap()["response"]
        .take();
    assert_eq!(response["convertedObjects"], Value::Null);
    assert_eq!(response["result"]["status"], "Failure");
    assert_eq!(
        response["result"]["message"],
        r#"no kind "Pod" is registered for version "v1""#
    );
}

#[test]
fn reviews_without_objects_or_request() {
    let response = review(&ask(V2ALPHA1, json!([]))).unwrap()["response"].take();
    assert_eq!(response["convertedObjects"], Value::Null);
    assert_eq!(response["result"]["status"], "Success");
    assert_eq!(review(&json!({"kind": "ConversionReview"})), None);
    assert_eq!(review(&json!([1])), None);
}

proptest! {
    #[test]
    fn there_and_back_changes_nothing_v1_can_say(
        route in "[a-z/]{0,8}", topic in ".{0,8}", scopes in prop::collection::vec("[a-z]{1,5}", 0..3), count in 0_i32..9,
    ) {
        let mut object = v1();
        object["metadata"]["creationTimestamp"] = Value::Null;
        object["spec"]["route"] = json!(route);
        object["spec"]["topic"] = json!(topic);
        object["spec"]["bulkSubscribe"] = if count == 0 { json!({"enabled": false}) } else { json!({"enabled": true, "maxMessagesCount": count}) };
        if scopes.is_empty() {
            object.as_object_mut().unwrap().remove("scopes");
        } else {
            object["scopes"] = json!(scopes);
        }
        let back = convert(&convert(&object, V2ALPHA1).unwrap(), V1ALPHA1).unwrap();
        prop_assert_eq!(back, object);
    }
}

#[test]
fn what_is_no_review_deserves_no_answer() {
    let asked = |field: &str, value: Value| {
        let mut asked = ask(V2ALPHA1, json!([v1()]));
        asked["request"][field] = value;
        review(&asked)
    };
    for field in ["objects", "uid", "desiredAPIVersion"] {
        for value in [json!(1), json!(true), json!({"a": "b"})] {
            assert_eq!(asked(field, value.clone()), None, "{field} {value}");
        }
        assert!(asked(field, Value::Null).is_some(), "{field}");
    }
    assert_eq!(
        asked("uid", Value::Null).expect("an answer")["response"]["uid"],
        ""
    );
}
