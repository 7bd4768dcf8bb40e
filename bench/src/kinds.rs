//! Dapr's kinds on a scripted API server, for baselines that ask which there are.

use dapr_e2e_apiserver::scripted::{Scope, Server};

const KINDS: [&str; 7] = [
    "Component",
    "Configuration",
    "HTTPEndpoint",
    "MCPServer",
    "Resiliency",
    "Subscription",
    "WorkflowAccessPolicy",
];

/// Tells whoever asks of them.
pub(crate) fn define(server: &Server) {
    for kind in KINDS {
        server.define("dapr.io/v1alpha1", kind, Scope::Namespaced);
    }
    server.define("dapr.io/v2alpha1", "Subscription", Scope::Namespaced);
}
