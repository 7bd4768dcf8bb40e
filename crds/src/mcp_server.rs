//! MCPServer: a Model Context Protocol server whose tools the workflow engine calls.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::meta::{V1Alpha1, is_false, or_default, or_default_values, resource};
use crate::schema::{Rule, Schema, boolean, list, map, object, text};
use crate::value::{
    NameValuePair, SecretKeyRef, pairs_schema, scopes_schema, secret_key_ref_schema,
};

/// One MCP server and how it is reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename = "MCPServer", default, rename_all = "camelCase")]
pub struct McpServer {
    /// Always `dapr.io/v1alpha1`.
    pub api_version: V1Alpha1,
    /// Name, namespace and the rest.
    #[serde(deserialize_with = "or_default")]
    pub metadata: ObjectMeta,
    /// How it is reached.
    #[serde(deserialize_with = "or_default")]
    pub spec: McpServerSpec,
    /// App ids that may use it; empty means all.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

resource!(McpServer, "MCPServer", "v1alpha1", "mcpservers", |it| &it
    .scopes);

/// Transport, hooks and the catalogue entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct McpServerSpec {
    /// The transport.
    #[serde(deserialize_with = "or_default")]
    pub endpoint: Endpoint,
    /// Hooks around listing and calling tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Middleware>,
    /// Information for people only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catalog: Option<Catalog>,
    /// Whether a server that cannot be set up is tolerated instead of stopping the sidecar.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub ignore_errors: bool,
}

/// Exactly one of the three transports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Streamable HTTP.
    #[serde(rename = "streamableHTTP", skip_serializing_if = "Option::is_none")]
    pub streamable_http: Option<HttpTransport>,
    /// Server-sent events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sse: Option<HttpTransport>,
    /// A child process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdio: Option<Stdio>,
}

/// An HTTP transport.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpTransport {
    /// Address of the server.
    #[serde(deserialize_with = "or_default")]
    pub url: String,
    /// Pins the protocol's date version.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub protocol_version: String,
    /// Go duration per call.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub timeout: String,
    /// Headers of each request.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<NameValuePair>,
    /// How the sidecar authenticates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<McpAuth>,
}

/// A server started as a child process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Stdio {
    /// The executable.
    #[serde(deserialize_with = "or_default")]
    pub command: String,
    /// Its arguments.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its environment.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<NameValuePair>,
}

/// How the sidecar authenticates to an MCP server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct McpAuth {
    /// The store that resolves header references; empty or `kubernetes` means the operator does.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub secret_store: String,
    /// Client-credentials flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth2: Option<OAuth2>,
    /// A JWT SVID in a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spiffe: Option<Spiffe>,
}

/// Client-credentials flow of OAuth 2.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OAuth2 {
    /// The token endpoint.
    #[serde(deserialize_with = "or_default")]
    pub issuer: String,
    /// Client id.
    #[serde(
        rename = "clientID",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub client_id: String,
    /// Audience asked for.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub audience: String,
    /// Scopes asked for.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The client secret; resolved by the sidecar at call time, not by the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// SPIFFE credentials.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spiffe {
    /// A JWT SVID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<SpiffeJwt>,
}

/// The header that carries a JWT SVID.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpiffeJwt {
    /// Header name.
    #[serde(deserialize_with = "or_default")]
    pub header: String,
    /// Audience of the token.
    #[serde(deserialize_with = "or_default")]
    pub audience: String,
    /// Text before the token, for example `Bearer ` with its blank.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub header_value_prefix: String,
}

/// Hooks, each list run in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Middleware {
    /// Before a tool is called.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub before_call_tool: Vec<Hook>,
    /// After a tool was called.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub after_call_tool: Vec<Hook>,
    /// Before tools are listed; such a hook cannot replace anything.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub before_list_tools: Vec<Hook>,
    /// After tools were listed.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub after_list_tools: Vec<Hook>,
}

/// A workflow run as a hook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hook {
    /// The workflow.
    #[serde(deserialize_with = "or_default")]
    pub workflow: HookWorkflow,
    /// Whether its output replaces the data.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub mutate: bool,
}

/// A workflow by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HookWorkflow {
    /// Its name.
    #[serde(deserialize_with = "or_default")]
    pub workflow_name: String,
    /// The app that runs it; empty means this one.
    #[serde(
        rename = "appID",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub app_id: String,
}

/// Information for people only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Catalog {
    /// Name shown.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub display_name: String,
    /// What the server does.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub description: String,
    /// Who runs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<CatalogOwner>,
    /// Free words.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Links by title.
    #[serde(
        deserialize_with = "or_default_values",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub links: BTreeMap<String, String>,
}

/// Who runs a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CatalogOwner {
    /// Team name.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub team: String,
    /// How to reach it.
    #[serde(
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub contact: String,
}

const ONE_TRANSPORT: Rule = Rule {
    cel: "(has(self.streamableHTTP) ? 1 : 0) + (has(self.sse) ? 1 : 0) + (has(self.stdio) ? 1 : 0) == 1",
    message: "exactly one of streamableHTTP, sse, or stdio must be set",
    holds: has_one_transport,
};

fn has_one_transport(endpoint: &Value) -> bool {
    let set = |name: &&str| endpoint.get(name).is_some_and(|value| !value.is_null());
    ["streamableHTTP", "sse", "stdio"]
        .iter()
        .filter(|name| set(name))
        .count()
        == 1
}

pub(crate) fn schema() -> Schema {
    let endpoint = object()
        .optional(
            "streamableHTTP",
            "Reaches the server over streamable HTTP.",
            http_schema(),
        )
        .optional(
            "sse",
            "Reaches the server over HTTP with server-sent events.",
            http_schema(),
        )
        .optional(
            "stdio",
            "Starts the server as a child process; refused in Kubernetes.",
            stdio_schema(),
        )
        .rule(ONE_TRANSPORT);
    let spec = object()
        .required(
            "endpoint",
            "How the server is reached: exactly one of the transports.",
            endpoint,
        )
        .optional(
            "middleware",
            "Workflows that run around the listing and calling of tools.",
            middleware_schema(),
        )
        .optional(
            "catalog",
            "Facts for people and catalogues, without effect on calls.",
            catalog_schema(),
        )
        .optional(
            "ignoreErrors",
            "Whether the sidecar goes on without a server that cannot be set up, instead of \
             ending; false by default.",
            boolean(),
        );
    object()
        .optional(
            "scopes",
            "App ids that may use it; all of the namespace when empty.",
            scopes_schema(),
        )
        .optional("spec", "How the server is reached and used.", spec)
}

fn http_schema() -> Schema {
    let oauth2 = object()
        .required("issuer", "URL of the token endpoint.", text().min_length(1))
        .optional("clientID", "Id of the client.", text())
        .optional("audience", "Audience that the token is asked for.", text())
        .optional(
            "scopes",
            "Scopes that the token is asked for.",
            list(text()),
        )
        .optional(
            "secretKeyRef",
            "The client's secret, which the sidecar reads when it asks for a token.",
            secret_key_ref_schema(),
        );
    let jwt = object()
        .required(
            "header",
            "Header that carries the token.",
            text().min_length(1),
        )
        .required("audience", "Audience of the token.", text().min_length(1))
        .optional(
            "headerValuePrefix",
            "What stands before the token, its blank included, for example Bearer and a \
             blank.",
            text(),
        );
    let auth = object()
        .optional(
            "secretStore",
            "Name of the secret store for headers and the client's secret; kubernetes by \
             default.",
            text(),
        )
        .optional("oauth2", "Client credentials of OAuth 2.", oauth2)
        .optional(
            "spiffe",
            "The identity of the sidecar.",
            object().optional("jwt", "A JWT of the sidecar's identity, from sentry.", jwt),
        );
    object()
        .required(
            "url",
            "URL of the server, http or https.",
            text().min_length(1),
        )
        .optional(
            "protocolVersion",
            "Date of the protocol version to speak, instead of a negotiated one.",
            text(),
        )
        .optional(
            "timeout",
            "Longest time of a call, a duration such as 10s; 30s by default.",
            text(),
        )
        .optional("headers", "Headers of every request.", pairs_schema())
        .optional("auth", "How the sidecar proves who it is.", auth)
}

fn stdio_schema() -> Schema {
    object()
        .required(
            "command",
            "The program; a relative path stays below the sidecar's working directory.",
            text().min_length(1),
        )
        .optional("args", "Its arguments.", list(text()))
        .optional("env", "Its environment variables.", pairs_schema())
}

fn middleware_schema() -> Schema {
    let workflow = || {
        object()
            .required(
                "workflowName",
                "Name of the workflow.",
                text().min_length(1),
            )
            .optional(
                "appID",
                "App that runs it; the sidecar's own when empty.",
                text(),
            )
    };
    let hook = || object().required("workflow", "The workflow to run.", workflow());
    let hooks = || {
        list(hook().optional(
            "mutate",
            "Whether its output replaces what it was given; false by default.",
            boolean(),
        ))
    };
    object()
        .optional(
            "beforeCallTool",
            "Run in order before a tool is called; an error becomes the result of the call.",
            hooks(),
        )
        .optional(
            "afterCallTool",
            "Run in order after a tool was called; an error fails the call.",
            hooks(),
        )
        .optional(
            "beforeListTools",
            "Run in order before tools are listed; an error fails the listing.",
            list(hook()),
        )
        .optional(
            "afterListTools",
            "Run in order after tools were listed; an error fails the listing.",
            hooks(),
        )
}

fn catalog_schema() -> Schema {
    let owner = object()
        .optional("team", "Name of the team.", text())
        .optional(
            "contact",
            "How the team is reached, for example a mail address.",
            text(),
        );
    object()
        .optional("displayName", "Name of the server for people.", text())
        .optional("description", "What the server does.", text())
        .optional("owner", "Who answers for the server.", owner)
        .optional("tags", "Words to find it by.", list(text()))
        .optional("links", "URLs by title.", map(text()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{McpServer, has_one_transport};

    #[test]
    fn exactly_one_transport() {
        let check = |endpoint: serde_json::Value, expected: bool| {
            assert_eq!(has_one_transport(&endpoint), expected, "{endpoint}");
        };
        check(json!({}), false);
        check(json!({"sse": {"url": "u"}}), true);
        check(json!({"sse": {}, "stdio": null}), true);
        check(json!({"sse": {}, "stdio": {}}), false);
        check(json!({"streamableHTTP": {}, "sse": {}, "stdio": {}}), false);
    }

    #[test]
    fn names_with_nothing_behind_them_are_entries() {
        let spec = json!({"catalog": {"links": {"docs": null}}});
        let server: McpServer = serde_json::from_value(json!({"spec": spec})).unwrap();
        let catalog = server.spec.catalog.unwrap();
        assert_eq!(catalog.links["docs"], "");
    }

    #[test]
    fn empty_fields_are_written_as_upstream_writes_them() {
        assert_eq!(
            serde_json::to_value(McpServer::default()).unwrap(),
            json!({"kind": "MCPServer", "apiVersion": "dapr.io/v1alpha1", "metadata": {}, "spec": {"endpoint": {}}})
        );
    }
}
