use proptest::prelude::*;

use super::{Document, Ignored, Manifest, Reason, WarningKind, check_name, read};
use crate::meta::Object;

fn one(text: &str) -> Document {
    let mut documents = read("a.yaml", text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0)
}

fn error(text: &str) -> String {
    one(text).result.unwrap_err().to_string()
}

fn warnings(text: &str) -> Vec<String> {
    let document = one(text);
    assert!(document.result.is_ok(), "{:?}", document.result);
    document.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn each_kind_is_read() {
    let check = |version: &str, kind: &str, spec: &str, expected: Option<&str>| {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a, namespace: ns}}\nspec: {spec}\n"
        );
        let manifest = one(&text).result.unwrap();
        assert_eq!(manifest.kind(), expected, "{text}");
        if expected.is_some() {
            assert_eq!((manifest.name(), manifest.namespace()), ("a", "ns"));
        }
    };
    check("dapr.io/v1alpha1", "Component", "{}", Some("Component"));
    check(
        "dapr.io/v1alpha1",
        "Configuration",
        "{}",
        Some("Configuration"),
    );
    check(
        "dapr.io/v1alpha1",
        "HTTPEndpoint",
        "{}",
        Some("HTTPEndpoint"),
    );
    check(
        "dapr.io/v1alpha1",
        "MCPServer",
        "{endpoint: {sse: {url: u}}}",
        Some("MCPServer"),
    );
    check("dapr.io/v1alpha1", "Resiliency", "{}", Some("Resiliency"));
    check("anything", "Resiliency", "{}", Some("Resiliency"));
    check(
        "dapr.io/v1alpha1",
        "Subscription",
        "{}",
        Some("Subscription"),
    );
    check(
        "dapr.io/v2alpha1",
        "Subscription",
        "{}",
        Some("Subscription"),
    );
    check(
        "dapr.io/v1alpha1",
        "WorkflowAccessPolicy",
        "{}",
        Some("WorkflowAccessPolicy"),
    );
    check("dapr.io/v1", "Component", "{}", None);
    check("apps/v1", "Deployment", "{}", None);
}

#[test]
fn values_keep_their_json_and_scopes_their_place() {
    let document = one("
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.redis
  version: v1
  metadata:
  - {name: text, value: \"8080\"}
  - {name: number, value: 8080}
  - {name: float, value: 5.0}
  - {name: flag, value: yes}
  - {name: nothing}
  - {name: secret, secretKeyRef: {name: s, key: k}}
  - {name: env, envRef: HOST}
auth: {secretStore: vault}
scopes: [orders]
");
    assert!(document.warnings.is_empty(), "{:?}", document.warnings);
    let Ok(Manifest::Component(component)) = document.result else {
        panic!("not a component")
    };
    let texts: Vec<_> = component
        .spec
        .metadata
        .iter()
        .map(|pair| (pair.name.as_str(), pair.value.as_text().into_owned()))
        .collect();
    let expected = [
        ("text", "8080"),
        ("number", "8080"),
        ("float", "5"),
        ("flag", "true"),
        ("nothing", ""),
        ("secret", ""),
        ("env", ""),
    ];
    assert_eq!(texts, expected.map(|(name, text)| (name, text.to_owned())));
    assert_eq!(component.spec.metadata[5].secret_key_ref.field(), "k");
    assert_eq!(component.spec.metadata[6].env_ref, "HOST");
    assert_eq!(component.auth.secret_store, "vault");
    assert!(component.admits("orders") && !component.admits("shipping"));
}

#[test]
fn one_bad_document_leaves_the_others() {
    let documents = read(
        "many.yaml",
        "# nothing\n---\nkind: [\n---\napiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec: {type: t, version: v1, metadata: []}\n---\n\n---\n- 1\n",
    );
    let places: Vec<_> = documents
        .iter()
        .map(|document| (document.index, document.line, document.result.is_ok()))
        .collect();
    assert_eq!(places, [(2, 3, false), (3, 5, true), (5, 12, false)]);
    let syntax = documents[0].result.as_ref().unwrap_err();
    assert!(
        matches!(&syntax.reason, Reason::Syntax(message) if !message.contains('\n')),
        "{syntax}"
    );
    assert!(
        syntax
            .to_string()
            .starts_with("many.yaml, document 2 (line 3): not valid YAML: "),
        "{syntax}"
    );
    assert_eq!(
        documents[2].result.as_ref().unwrap_err().to_string(),
        "many.yaml, document 5 (line 12): expected a map of fields at the top of the document"
    );
}

#[test]
fn errors_name_document_field_and_way_out() {
    let subscription = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: orders}\nspec: {topic: t, pubsubname: p, route: /r, metadata: [{name: a, value: b}]}";
    assert_eq!(
        error(subscription),
        "a.yaml, document 1 (line 1), Subscription \"orders\": spec.metadata: expected a map of names to values, found a list; write `{a: \"b\"}`"
    );
    assert_eq!(
        error(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nspec: {type: {a: b}, metadata: {a: b}}\nscopes: orders"
        ),
        "a.yaml, document 1 (line 1), Component \"\": scopes: expected a list, found text; \
         spec.metadata: expected a list, found a map; put `- ` before its first field; spec.type: expected text, found a map"
    );
    assert_eq!(
        error("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: text"),
        "a.yaml, document 1 (line 1), Component \"\": metadata: expected a map of fields, found text"
    );
}

#[test]
fn the_rules_of_the_crd_hold_for_files_where_upstream_applies_them() {
    let mcp = |spec: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {{name: m}}\nspec: {spec}"
        )
    };
    let start = "a.yaml, document 1 (line 1), MCPServer \"m\": ";
    assert_eq!(
        error(&mcp("{endpoint: {}}")),
        format!("{start}spec.endpoint: exactly one of streamableHTTP, sse, or stdio must be set")
    );
    assert_eq!(
        error(&mcp("{}")),
        format!("{start}spec.endpoint: is required")
    );
    assert_eq!(
        error(&mcp("{endpoint: {sse: {url: \"\"}}}")),
        format!("{start}spec.endpoint.sse.url: must not be empty")
    );
    let policy = |rule: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: WorkflowAccessPolicy\nmetadata: {{name: w}}\nspec: {{rules: [{rule}]}}"
        )
    };
    let start = "a.yaml, document 1 (line 1), WorkflowAccessPolicy \"w\": ";
    assert_eq!(
        error(&policy("{callers: [{appID: a}]}")),
        format!(
            "{start}spec.rules[0]: at least one of workflows or activities must contain a rule"
        )
    );
    assert_eq!(
        error(&policy(
            "{callers: [], workflows: [{name: w, operations: [run]}]}"
        )),
        format!(
            "{start}spec.rules[0].callers: must not be an empty list; spec.rules[0].workflows[0].operations[0]: \
             \"run\" is none of schedule, terminate, raise, pause, resume, purge, get, rerun"
        )
    );
    assert_eq!(
        one(&policy(
            "{callers: [{appID: a}], activities: [{name: \"*\"}]}"
        ))
        .result
        .unwrap()
        .kind(),
        Some("WorkflowAccessPolicy")
    );
}

#[test]
fn surprises_are_warnings() {
    let head = "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: a, future: 1}\n";
    assert_eq!(
        warnings(&format!(
            "{head}spec: {{pubsubName: p, topic: 5, route: /r, routes: {{default: /d}}}}\nscope: [a]"
        )),
        [
            "scope: unknown field, it has no effect: did you mean `scopes`?",
            "spec.pubsubName: was read as `pubsubname`; write it so, Kubernetes knows no other spelling",
            "spec.route: unknown field, it has no effect: here write `routes: {default: /path}`; a single `route` needs apiVersion dapr.io/v1alpha1",
            "spec.topic: was read as the text \"5\"; put it in quotes, Kubernetes refuses it otherwise",
        ]
    );
    let document = one(&format!("{head}spec: {{pubsubname: p, topic: t}}"));
    assert_eq!(
        document
            .warnings
            .iter()
            .map(|it| (it.path.as_str(), it.kind))
            .collect::<Vec<_>>(),
        [("spec.routes", WarningKind::KubernetesRefuses)]
    );
    assert_eq!(
        warnings("apiVersion: v1\nkind: Resiliency\nspec: {policies: {}, targets: {}}"),
        ["apiVersion: must be dapr.io/v1alpha1, Kubernetes refuses the object otherwise"]
    );
}

#[test]
fn what_is_not_ours_says_what_it_is() {
    let check = |text: &str, expected: &str| {
        let Ok(Manifest::Ignored(ignored)) = one(text).result else {
            panic!("{text} is not ignored")
        };
        assert_eq!(ignored.to_string(), expected);
    };
    check(
        "apiVersion: apps/v1\nkind: Deployment",
        "Deployment (apps/v1) is not a Dapr resource and is left to Kubernetes",
    );
    check(
        "apiVersion: dapr.io/v1\nkind: Component",
        "there is no Component in dapr.io/v1; write apiVersion dapr.io/v1alpha1",
    );
    check(
        "apiVersion: dapr.io/v1\nkind: Subscription",
        "there is no Subscription in dapr.io/v1; write apiVersion dapr.io/v1alpha1 or dapr.io/v2alpha1",
    );
    check(
        "apiVersion: dapr.io/v1alpha1\nkind: Components",
        "there is no Components in dapr.io/v1alpha1; the kinds of Dapr are Component, Configuration, \
         HTTPEndpoint, MCPServer, Resiliency, Subscription, WorkflowAccessPolicy",
    );
    let Ok(Manifest::Ignored(compose)) = one("version: '3'\nservices: {a: {}}").result else {
        panic!()
    };
    assert_eq!(compose, Ignored::Compose);
}

#[test]
fn names_must_be_path_segments() {
    let check = |name: &str, expected: Result<(), &str>| {
        assert_eq!(
            check_name("Component", name),
            expected.map_err(str::to_owned),
            "{name}"
        );
    };
    check("store", Ok(()));
    check("with space", Ok(()));
    check("", Ok(()));
    check(
        "a/b",
        Err(r#"invalid name "a/b" for "Component": may not contain '/'"#),
    );
    check(
        "50%",
        Err(r#"invalid name "50%" for "Component": may not contain '%'"#),
    );
    check(
        "..",
        Err(r#"invalid name ".." for "Component": may not be '..'"#),
    );
}

/// Lines out of which a mutilated manifest can be made.
const LINES: [&str; 14] = [
    "apiVersion: dapr.io/v1alpha1",
    "apiVersion: dapr.io/v2alpha1",
    "kind: Component",
    "kind: Configuration",
    "kind: Subscription",
    "kind: MCPServer",
    "metadata:",
    "  name: a",
    "spec:",
    "  metadata:",
    "  - name: x",
    "    value: *a",
    "---",
    "scopes: &a [a, 1]",
];

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        read("any.yaml", &text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        read("any.yaml", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_mixture_of_lines_panics(lines in prop::collection::vec(prop::sample::select(LINES.as_slice()), 0..20)) {
        for document in read("any.yaml", &lines.join("\n")) {
            if let Err(error) = document.result {
                let text = error.to_string();
                prop_assert!(text.starts_with("any.yaml, document "), "{}", text);
            }
        }
    }

    #[test]
    fn no_nesting_panics(depth in 0_usize..3000) {
        read("deep.yaml", &"[".repeat(depth));
        read("deep.yaml", &"a:\n ".repeat(depth));
    }
}

#[test]
fn of_two_fields_the_last_counts_and_is_told() {
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a, name: b}\nspec: {type: t, version: v1, metadata: []}\n";
    assert_eq!(one(text).result.unwrap().name(), "b");
    let [told] = &warnings(text)[..] else {
        panic!("{:?}", warnings(text))
    };
    assert!(
        told.starts_with("a field stands there twice: ") && told.contains("line 3"),
        "{told}"
    );
    assert!(!told.contains("Policy"), "no word of the parser's: {told}");
}
