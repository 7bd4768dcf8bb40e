//! Dapr's kinds on a scripted API server, for baselines that ask which there are.

use dapr_crds::meta::{KINDS, V1ALPHA1, V2ALPHA1};
use dapr_e2e_apiserver::scripted::{Scope, Server};

/// Tells whoever asks of them.
pub(crate) fn define(server: &Server) {
    for kind in KINDS {
        server.define(V1ALPHA1, kind, Scope::Namespaced);
    }
    server.define(V2ALPHA1, "Subscription", Scope::Namespaced);
}
