//! The CRD documents: equal to the files, and to the facts of the wire contract table by table.

use std::collections::BTreeMap;
use std::path::Path;

use dapr_crds::documents;
use serde_json::{Value, json};

/// Descriptions are sentences: `kubectl explain` prints many of them at once, and every API server keeps them.
const LONGEST_DESCRIPTION: usize = 160;

fn definition(plural: &str) -> Value {
    let file = format!("{plural}.yaml");
    documents::all()
        .into_iter()
        .find(|document| document.file_name == file)
        .expect("a kind of this plural")
        .definition
}

/// The schema of the only, or the stored, version.
fn schema(plural: &str) -> Value {
    let definition = definition(plural);
    let versions = definition["spec"]["versions"].as_array().unwrap();
    let stored = versions
        .iter()
        .find(|version| version["storage"] == true)
        .unwrap();
    stored["schema"]["openAPIV3Schema"].clone()
}

/// One line per path: the type, `!` when required, and whatever limits it.
fn table(schema: &Value) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    walk(schema, "", false, &mut rows);
    rows
}

fn walk(schema: &Value, path: &str, is_required: bool, rows: &mut BTreeMap<String, String>) {
    let mut row = schema["type"].as_str().unwrap_or("any").to_owned();
    if is_required {
        row.push('!');
    }
    for limit in [
        "format",
        "enum",
        "minLength",
        "minItems",
        "default",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
    ] {
        if let Some(value) = schema.get(limit) {
            row.push_str(&format!(
                " {}={value}",
                limit.trim_start_matches("x-kubernetes-")
            ));
        }
    }
    if !path.is_empty() {
        rows.insert(path.to_owned(), row);
    }
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        walk(field, &path, required.contains(&name.as_str()), rows);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{path}[]"), false, rows);
    }
    if let Some(values) = schema.get("additionalProperties") {
        walk(values, &format!("{path}{{}}"), false, rows);
    }
}

fn check(plural: &str, facts: &[(&str, &str)]) {
    let rows = table(&schema(plural));
    for (path, expected) in facts {
        assert_eq!(
            rows.get(*path).map(String::as_str),
            Some(*expected),
            "{plural} {path}"
        );
    }
}

fn check_paths(plural: &str, count: usize) {
    let rows = table(&schema(plural));
    assert_eq!(rows.len(), count, "{plural}: {:#?}", rows.keys());
}

const PAIR: [(&str, &str); 7] = [
    ("", "object"),
    (".name", "string!"),
    (".value", "any preserve-unknown-fields=true"),
    (".secretKeyRef", "object"),
    (".secretKeyRef.name", "string!"),
    (".secretKeyRef.key", "string"),
    (".envRef", "string"),
];

fn check_pairs(plural: &str, list: &str) {
    let rows = table(&schema(plural));
    for (field, expected) in PAIR {
        assert_eq!(
            rows.get(&format!("{list}[]{field}")).map(String::as_str),
            Some(expected),
            "{plural} {list}[]{field}"
        );
    }
}

#[test]
fn files_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut expected: Vec<String> = Vec::new();
    for document in documents::all() {
        let written = std::fs::read_to_string(folder.join(&document.file_name)).unwrap_or_default();
        assert_eq!(
            written,
            document.to_yaml().unwrap(),
            "{} is stale: run `make crds`",
            document.file_name
        );
        let read: Value = serde_yaml::from_str(&written).unwrap();
        assert_eq!(
            read, document.definition,
            "{} does not say what the definition says",
            document.file_name
        );
        expected.push(document.file_name);
    }
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    expected.sort();
    assert_eq!(files, expected);
}

#[test]
fn names_scope_and_versions() {
    let names = [
        ("Component", "components", "component"),
        ("Configuration", "configurations", "configuration"),
        ("HTTPEndpoint", "httpendpoints", "httpendpoint"),
        ("MCPServer", "mcpservers", "mcpserver"),
        ("Resiliency", "resiliencies", "resiliency"),
        ("Subscription", "subscriptions", "subscription"),
        (
            "WorkflowAccessPolicy",
            "workflowaccesspolicies",
            "workflowaccesspolicy",
        ),
    ];
    assert_eq!(documents::all().len(), names.len());
    for (kind, plural, singular) in names {
        let definition = definition(plural);
        assert_eq!(definition["apiVersion"], "apiextensions.k8s.io/v1");
        assert_eq!(definition["kind"], "CustomResourceDefinition");
        assert_eq!(
            definition["metadata"],
            json!({"name": format!("{plural}.dapr.io"), "labels": {"app.kubernetes.io/part-of": "dapr"}})
        );
        let spec = &definition["spec"];
        assert_eq!(
            spec["names"],
            json!({"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": singular})
        );
        assert_eq!(
            (&spec["group"], &spec["scope"]),
            (&json!("dapr.io"), &json!("Namespaced"))
        );
        let versions: Vec<(&str, bool, bool)> = spec["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|version| {
                assert_eq!(version.get("subresources"), None, "{kind}");
                (
                    version["name"].as_str().unwrap(),
                    version["served"] == true,
                    version["storage"] == true,
                )
            })
            .collect();
        if kind == "Subscription" {
            assert_eq!(
                versions,
                [("v1alpha1", true, false), ("v2alpha1", true, true)]
            );
        } else {
            assert_eq!(versions, [("v1alpha1", true, true)]);
            assert_eq!(spec.get("conversion"), None, "{kind}");
        }
    }
}

#[test]
fn every_column_shows_a_field_and_the_age_is_last() {
    for document in documents::all() {
        for version in document.definition["spec"]["versions"].as_array().unwrap() {
            let rows = table(&version["schema"]["openAPIV3Schema"]);
            let columns = version["additionalPrinterColumns"].as_array().unwrap();
            let (age, shown) = columns.split_last().unwrap();
            assert_eq!(age["name"], "Age");
            for column in shown {
                let path = column["jsonPath"].as_str().unwrap();
                let field = path.trim_start_matches('.');
                assert!(rows.contains_key(field), "{} {path}", document.file_name);
            }
        }
    }
}

#[test]
fn every_root_is_an_object_that_needs_nothing() {
    for document in documents::all() {
        for version in document.definition["spec"]["versions"].as_array().unwrap() {
            let root = &version["schema"]["openAPIV3Schema"];
            assert_eq!(root.get("required"), None, "{}", document.file_name);
            let rows = table(root);
            for (path, expected) in [
                ("apiVersion", "string"),
                ("kind", "string"),
                ("metadata", "object"),
                ("spec", "object"),
            ] {
                assert_eq!(rows[path], expected, "{} {path}", document.file_name);
            }
            let has_scopes = document.file_name != "configurations.yaml";
            assert_eq!(
                rows.get("scopes[]").map(String::as_str),
                has_scopes.then_some("string"),
                "{}",
                document.file_name
            );
            assert!(
                !rows.contains_key("spec.scopes") && !rows.contains_key("status"),
                "{}",
                document.file_name
            );
            assert!(
                !root.to_string().contains("nullable"),
                "{}",
                document.file_name
            );
        }
    }
}

/// Paths of the properties whose description is missing or is not a short sentence.
fn undescribed(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let description = field["description"].as_str().unwrap_or_default();
        if !description.ends_with('.') || description.len() > LONGEST_DESCRIPTION {
            found.push(path.clone());
        }
        undescribed(field, &path, found);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            undescribed(inner, path, found);
        }
    }
}

#[test]
fn every_field_says_what_it_is() {
    for document in documents::all() {
        for version in document.definition["spec"]["versions"].as_array().unwrap() {
            let mut found = Vec::new();
            undescribed(&version["schema"]["openAPIV3Schema"], "", &mut found);
            // An API server puts its own words there, and refuses others about the metadata.
            let left = [".apiVersion", ".kind", ".metadata"];
            assert_eq!(found, left, "{} {}", document.file_name, version["name"]);
        }
    }
}

#[test]
fn component() {
    check(
        "components",
        &[
            ("auth", "object"),
            ("auth.secretStore", "string!"),
            ("spec.type", "string!"),
            ("spec.version", "string!"),
            ("spec.metadata", "array!"),
            ("spec.ignoreErrors", "boolean"),
            ("spec.initTimeout", "string"),
        ],
    );
    check_pairs("components", "spec.metadata");
    check_paths("components", 20);
}

#[test]
fn http_endpoint() {
    check(
        "httpendpoints",
        &[
            ("auth.secretStore", "string!"),
            ("spec.baseUrl", "string!"),
            ("spec.headers", "array"),
            (
                "spec.clientTLS.rootCA.value",
                "any preserve-unknown-fields=true",
            ),
            ("spec.clientTLS.certificate.secretKeyRef.name", "string!"),
            ("spec.clientTLS.privateKey.secretKeyRef.key", "string"),
            (
                "spec.clientTLS.renegotiation",
                r#"string enum=["Never","OnceAsClient","FreelyAsClient"] default="Never""#,
            ),
        ],
    );
    check_pairs("httpendpoints", "spec.headers");
    check_paths("httpendpoints", 34);
}

#[test]
fn resiliency() {
    check(
        "resiliencies",
        &[
            ("spec.policies", "object!"),
            ("spec.targets", "object!"),
            ("spec.policies.timeouts{}", "string"),
            ("spec.policies.retries{}.policy", "string"),
            ("spec.policies.retries{}.duration", "string"),
            ("spec.policies.retries{}.maxInterval", "string"),
            ("spec.policies.retries{}.maxRetries", "integer"),
            ("spec.policies.retries{}.matching.httpStatusCodes", "string"),
            ("spec.policies.retries{}.matching.gRPCStatusCodes", "string"),
            ("spec.policies.circuitBreakers{}.maxRequests", "integer"),
            ("spec.policies.circuitBreakers{}.interval", "string"),
            ("spec.policies.circuitBreakers{}.timeout", "string"),
            ("spec.policies.circuitBreakers{}.trip", "string"),
            ("spec.targets.apps{}.circuitBreakerCacheSize", "integer"),
            ("spec.targets.actors{}.circuitBreakerScope", "string"),
            ("spec.targets.actors{}.circuitBreakerCacheSize", "integer"),
            ("spec.targets.components{}.inbound.retry", "string"),
            (
                "spec.targets.components{}.outbound.circuitBreaker",
                "string",
            ),
        ],
    );
}

#[test]
fn subscription() {
    let routed = [
        ("spec.pubsubname", "string!"),
        ("spec.topic", "string!"),
        ("spec.routes", "object!"),
        ("spec.routes.default", "string"),
        ("spec.routes.rules[].match", "string!"),
        ("spec.routes.rules[].path", "string!"),
        ("spec.deadLetterTopic", "string"),
        ("spec.metadata{}", "string"),
        ("spec.bulkSubscribe.enabled", "boolean!"),
        (
            "spec.bulkSubscribe.maxMessagesCount",
            r#"integer format="int32""#,
        ),
        (
            "spec.bulkSubscribe.maxAwaitDurationMs",
            r#"integer format="int32""#,
        ),
    ];
    check("subscriptions", &routed);
    let definition = definition("subscriptions");
    let older = table(&definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
    assert_eq!(older["spec.route"], "string!");
    for (path, expected) in routed
        .iter()
        .filter(|(path, _)| !path.starts_with("spec.routes"))
    {
        assert_eq!(older[*path], *expected, "{path}");
    }
    assert!(!older.contains_key("spec.routes"));
    assert_eq!(
        definition["spec"]["conversion"],
        json!({
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": {"service": {"namespace": "replaceme", "name": "dapr-webhook", "path": "/convert"}},
                "conversionReviewVersions": ["v1", "v2alpha1"],
            },
        })
    );
}

#[test]
fn workflow_access_policy() {
    check(
        "workflowaccesspolicies",
        &[
            ("spec.rules[].callers", "array! minItems=1"),
            ("spec.rules[].callers[].appID", "string! minLength=1"),
            ("spec.rules[].workflows", "array"),
            ("spec.rules[].workflows[].name", "string! minLength=1"),
            (
                "spec.rules[].workflows[].operations",
                r#"array! minItems=1 list-type="set""#,
            ),
            (
                "spec.rules[].workflows[].operations[]",
                r#"string enum=["schedule","terminate","raise","pause","resume","purge","get","rerun"]"#,
            ),
            ("spec.rules[].activities[].name", "string! minLength=1"),
        ],
    );
    check_paths("workflowaccesspolicies", 19);
    assert_eq!(
        schema("workflowaccesspolicies")["properties"]["spec"]["properties"]["rules"]["items"]["x-kubernetes-validations"],
        json!([{
            "rule": "(has(self.workflows) && size(self.workflows) > 0) || (has(self.activities) && size(self.activities) > 0)",
            "message": "at least one of workflows or activities must contain a rule",
        }])
    );
}

#[test]
fn mcp_server() {
    for transport in ["streamableHTTP", "sse"] {
        let facts = [
            ("", "object"),
            (".url", "string! minLength=1"),
            (".protocolVersion", "string"),
            (".timeout", "string"),
            (".auth.secretStore", "string"),
            (".auth.oauth2.issuer", "string! minLength=1"),
            (".auth.oauth2.clientID", "string"),
            (".auth.oauth2.audience", "string"),
            (".auth.oauth2.scopes[]", "string"),
            (".auth.oauth2.secretKeyRef.name", "string!"),
            (".auth.oauth2.secretKeyRef.key", "string"),
            (".auth.spiffe.jwt.header", "string! minLength=1"),
            (".auth.spiffe.jwt.audience", "string! minLength=1"),
            (".auth.spiffe.jwt.headerValuePrefix", "string"),
        ];
        let rows = table(&schema("mcpservers"));
        for (field, expected) in facts {
            assert_eq!(
                rows[&format!("spec.endpoint.{transport}{field}")],
                expected,
                "{transport}{field}"
            );
        }
        check_pairs("mcpservers", &format!("spec.endpoint.{transport}.headers"));
    }
    check_pairs("mcpservers", "spec.endpoint.stdio.env");
    check(
        "mcpservers",
        &[
            ("spec.endpoint", "object!"),
            ("spec.endpoint.stdio.command", "string! minLength=1"),
            ("spec.endpoint.stdio.args[]", "string"),
            ("spec.ignoreErrors", "boolean"),
            ("spec.catalog.displayName", "string"),
            ("spec.catalog.description", "string"),
            ("spec.catalog.owner.team", "string"),
            ("spec.catalog.owner.contact", "string"),
            ("spec.catalog.tags[]", "string"),
            ("spec.catalog.links{}", "string"),
            ("spec.middleware.beforeCallTool[].workflow", "object!"),
            (
                "spec.middleware.beforeCallTool[].workflow.workflowName",
                "string! minLength=1",
            ),
            ("spec.middleware.afterCallTool[].workflow.appID", "string"),
            ("spec.middleware.afterListTools[].mutate", "boolean"),
            (
                "spec.middleware.beforeListTools[].workflow.workflowName",
                "string! minLength=1",
            ),
        ],
    );
    assert!(!table(&schema("mcpservers")).contains_key("spec.middleware.beforeListTools[].mutate"));
    assert_eq!(
        schema("mcpservers")["properties"]["spec"]["properties"]["endpoint"]["x-kubernetes-validations"],
        json!([{
            "rule": "(has(self.streamableHTTP) ? 1 : 0) + (has(self.sse) ? 1 : 0) + (has(self.stdio) ? 1 : 0) == 1",
            "message": "exactly one of streamableHTTP, sse, or stdio must be set",
        }])
    );
}

#[test]
fn configuration() {
    check(
        "configurations",
        &[
            ("spec.accessControl.defaultAction", "string"),
            ("spec.accessControl.trustDomain", "string"),
            ("spec.accessControl.policies[].appId", "string!"),
            ("spec.accessControl.policies[].defaultAction", "string"),
            ("spec.accessControl.policies[].trustDomain", "string"),
            ("spec.accessControl.policies[].namespace", "string"),
            ("spec.accessControl.policies[].operations[].name", "string!"),
            (
                "spec.accessControl.policies[].operations[].action",
                "string!",
            ),
            (
                "spec.accessControl.policies[].operations[].httpVerb[]",
                "string",
            ),
            ("spec.api.allowed[].name", "string!"),
            ("spec.api.denied[].version", "string!"),
            ("spec.api.denied[].protocol", "string"),
            ("spec.appHttpPipeline.handlers", "array!"),
            ("spec.httpPipeline.handlers[].name", "string!"),
            ("spec.httpPipeline.handlers[].type", "string!"),
            ("spec.httpPipeline.handlers[].selector.fields", "array!"),
            (
                "spec.httpPipeline.handlers[].selector.fields[].field",
                "string!",
            ),
            (
                "spec.httpPipeline.handlers[].selector.fields[].value",
                "string!",
            ),
            ("spec.components.deny[]", "string"),
            ("spec.features[].name", "string!"),
            ("spec.features[].enabled", "boolean!"),
            ("spec.logging.apiLogging.enabled", "boolean"),
            ("spec.logging.apiLogging.obfuscateURLs", "boolean"),
            ("spec.logging.apiLogging.omitHealthChecks", "boolean"),
            ("spec.mtls.enabled", "boolean!"),
            ("spec.mtls.workloadCertTTL", "string"),
            ("spec.mtls.allowedClockSkew", "string"),
            ("spec.mtls.controlPlaneTrustDomain", "string!"),
            ("spec.mtls.sentryAddress", "string!"),
            (
                "spec.mtls.tokenValidators[].name",
                r#"string! enum=["jwks"]"#,
            ),
            (
                "spec.mtls.tokenValidators[].options",
                "object preserve-unknown-fields=true",
            ),
            ("spec.nameResolution.component", "string!"),
            ("spec.nameResolution.version", "string!"),
            (
                "spec.nameResolution.configuration",
                "object! preserve-unknown-fields=true",
            ),
            ("spec.secrets.scopes", "array!"),
            ("spec.secrets.scopes[].storeName", "string!"),
            ("spec.secrets.scopes[].defaultAccess", "string"),
            ("spec.secrets.scopes[].allowedSecrets[]", "string"),
            ("spec.secrets.scopes[].deniedSecrets[]", "string"),
            ("spec.tracing.samplingRate", "string!"),
            ("spec.tracing.stdout", "boolean"),
            ("spec.tracing.zipkin.endpointAddress", "string!"),
            ("spec.tracing.otel.protocol", "string!"),
            ("spec.tracing.otel.endpointAddress", "string!"),
            ("spec.tracing.otel.isSecure", "boolean!"),
            ("spec.tracing.otel.timeout", "string"),
            ("spec.wasm.strictSandbox", "boolean"),
            ("spec.workflow.stateRetentionPolicy.anyTerminal", "string"),
            ("spec.workflow.stateRetentionPolicy.terminated", "string"),
        ],
    );
    check_pairs("configurations", "spec.tracing.otel.headers");
    for limit in [
        "maxConcurrentWorkflowInvocations",
        "globalMaxConcurrentActivityInvocations",
        "workflowConcurrencyLimits[].maxConcurrent",
    ] {
        check(
            "configurations",
            &[(
                &format!("spec.workflow.{limit}"),
                r#"integer format="int32""#,
            )],
        );
    }
    assert!(!table(&schema("configurations")).contains_key("spec.httpPipeline.handlers[].version"));
}

#[test]
fn both_spellings_of_metrics_are_defaulted() {
    for metric in ["metric", "metrics"] {
        let facts = [
            ("", r#"object default={"enabled":true}"#),
            (".enabled", "boolean!"),
            (".recordErrorCodes", "boolean"),
            (".http.increasedCardinality", "boolean"),
            (".http.excludeVerbs", "boolean"),
            (".http.pathMatching[]", "string"),
            (".latencyDistributionBuckets[]", "integer"),
            (".rules[].name", "string!"),
            (".rules[].labels", "array!"),
            (".rules[].labels[].name", "string!"),
            (".rules[].labels[].regex", "object!"),
            (".rules[].labels[].regex{}", "string"),
        ];
        for (field, expected) in facts {
            check(
                "configurations",
                &[(&format!("spec.{metric}{field}"), expected)],
            );
        }
    }
}
