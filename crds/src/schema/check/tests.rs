use serde_json::{Value, json};

use super::{Finding, FindingKind, refusals, settle};
use crate::schema::{Schema, any, boolean, int32, integer, list, map, object, text};

fn run(schema: &Schema, mut value: Value) -> (Value, Vec<String>) {
    let mut findings = Vec::new();
    settle(schema, &mut value, "", &mut findings);
    (value, findings.iter().map(shown).collect())
}

fn shown(finding: &Finding) -> String {
    let Finding { path, kind } = finding;
    match kind {
        FindingKind::WrongType { message } => format!("{path}: {message}"),
        FindingKind::Unknown { nearest } => format!("{path}: unknown, near {nearest:?}"),
        FindingKind::OtherCase { proper } => format!("{path}: means {proper}"),
        FindingKind::ReadAsText { text } => format!("{path}: as text {text}"),
    }
}

#[test]
fn values_are_read_as_upstream_reads_them() {
    let schema = object()
        .optional("flag", "", boolean())
        .optional("rate", "", text())
        .optional("size", "", int32())
        .optional("count", "", integer())
        .optional("free", "", any())
        .optional("labels", "", map(text()))
        .optional("names", "", list(text()));
    let check = |input: Value, settled: Value, findings: &[&str]| {
        let (value, found) = run(&schema, input.clone());
        assert_eq!(
            (value, found.iter().map(String::as_str).collect::<Vec<_>>()),
            (settled, findings.to_vec()),
            "{input}"
        );
    };
    check(
        json!({"rate": 1}),
        json!({"rate": "1"}),
        &["rate: as text 1"],
    );
    check(
        json!({"rate": 0.1}),
        json!({"rate": "0.1"}),
        &["rate: as text 0.1"],
    );
    check(
        json!({"rate": true}),
        json!({"rate": "true"}),
        &["rate: as text true"],
    );
    check(
        json!({"rate": null, "flag": null, "labels": null}),
        json!({"rate": null, "flag": null, "labels": null}),
        &[],
    );
    check(
        json!({"labels": {"a": 1}}),
        json!({"labels": {"a": "1"}}),
        &["labels.a: as text 1"],
    );
    check(
        json!({"size": 3.0, "count": -1}),
        json!({"size": 3, "count": -1}),
        &[],
    );
    check(
        json!({"free": {"a": 5.0, "b": [1.5]}}),
        json!({"free": {"a": 5, "b": [1.5]}}),
        &[],
    );
    check(
        json!({"Flag": true}),
        json!({"flag": true}),
        &["Flag: means flag"],
    );
    check(
        json!({"flags": true}),
        json!({"flags": true}),
        &[r#"flags: unknown, near Some("flag")"#],
    );
    check(
        json!({"health": {}}),
        json!({"health": {}}),
        &["health: unknown, near None"],
    );
    check(
        json!({"flag": true, "FLAG": false}),
        json!({"flag": true, "FLAG": false}),
        &[r#"FLAG: unknown, near Some("flag")"#],
    );
}

#[test]
fn values_that_cannot_be_read_name_the_way_out() {
    let schema = object()
        .optional("flag", "", boolean())
        .optional("size", "", int32())
        .optional("labels", "", map(text()))
        .optional("names", "", list(object().optional("a", "", text())));
    let check = |input: Value, finding: &str| {
        assert_eq!(run(&schema, input.clone()).1, [finding], "{input}");
    };
    check(
        json!({"flag": {"enabled": true}}),
        "flag: expected true or false, found a map; write `flag: true`",
    );
    check(
        json!({"flag": {"on": true}}),
        "flag: expected true or false, found a map",
    );
    check(
        json!({"flag": "false"}),
        "flag: expected true or false, found text; write `flag: false` without quotes",
    );
    check(
        json!({"flag": 1}),
        "flag: expected true or false, found a number",
    );
    check(
        json!({"size": "3"}),
        "size: expected a whole number, found text; write `size: 3` without quotes",
    );
    check(
        json!({"size": 2_147_483_648_i64}),
        "size: expected a whole number in range, found 2147483648",
    );
    check(
        json!({"size": 1.5}),
        "size: expected a whole number in range, found 1.5",
    );
    check(
        json!({"labels": [{"name": "a", "value": "x"}, {"name": "b", "value": 3}]}),
        r#"labels: expected a map of names to values, found a list; write `{a: "x", b: 3}`"#,
    );
    check(
        json!({"labels": ["a"]}),
        "labels: expected a map of names to values, found a list",
    );
    check(
        json!({"names": {"a": "x"}}),
        "names: expected a list, found a map; put `- ` before its first field",
    );
    check(
        json!({"names": [1]}),
        "names[0]: expected a map of fields, found a number",
    );
    check(
        json!({"names": [{"a": []}]}),
        "names[0].a: expected text, found a list",
    );
    check(json!([1]), ": expected a map of fields, found a list");
}

#[test]
fn texts_stand_for_pairs_only_where_files_allow_them() {
    let pairs = || list(object().required("name", "", text()));
    let (_, strict) = run(&pairs(), json!(["a=b"]));
    assert_eq!(strict, ["[0]: expected a map of fields, found text"]);
    let (_, lenient) = run(&pairs().or_texts_in_files(), json!(["a=b", {"name": "c"}]));
    assert_eq!(lenient, Vec::<String>::new());
}

#[test]
fn refusals_are_those_of_an_api_server() {
    let schema = object()
        .required("word", "", text().one_of(&["a", "b"]))
        .optional("url", "", text().min_length(1))
        .optional("items", "", list(text()).min_items(1).set())
        .optional(
            "defaulted",
            "",
            object()
                .required("enabled", "", boolean())
                .default_value(json!({"enabled": true})),
        );
    let check = |input: Value, expected: &[&str]| {
        let mut refused = Vec::new();
        refusals(&schema, &input, "spec", &mut refused);
        let refused: Vec<String> = refused
            .iter()
            .map(|(path, reason)| format!("{path} {reason}"))
            .collect();
        assert_eq!(refused, expected, "{input}");
    };
    check(json!({"word": "a", "url": "u", "items": ["x", "y"]}), &[]);
    check(json!({}), &["spec.word is required"]);
    check(json!({"word": null}), &["spec.word is required"]);
    check(json!({"word": "c"}), &[r#"spec.word "c" is none of a, b"#]);
    check(
        json!({"word": "a", "url": ""}),
        &["spec.url must not be empty"],
    );
    check(
        json!({"word": "a", "items": []}),
        &["spec.items must not be an empty list"],
    );
    check(
        json!({"word": "a", "items": ["x", "x"]}),
        &["spec.items must not name anything twice"],
    );
    check(
        json!({"word": "a", "defaulted": {}}),
        &["spec.defaulted.enabled is required"],
    );
}
