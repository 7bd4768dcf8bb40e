//! The APIs of this run on their listeners, and what the metadata API shows.

use std::sync::Arc;

use dapr_crds::configuration::ConfigurationSpec;
use dapr_sidecar_actors::Runtime;
use dapr_sidecar_api::services::Core;
use dapr_sidecar_api::{grpc, http, internal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::base::Base;
use super::listeners::{Public, Socket};
use crate::adapters::Tasks;
use crate::components::Components;
use crate::metadata::{Listed, MetadataStore, app_connection};
use crate::settings::Listen;

/// The feature that resources are applied while the sidecar runs.
const HOT_RELOAD: &str = "HotReload";

impl Base {
    pub(super) fn metadata(
        &self,
        components: &Components,
        listed: &Arc<Listed>,
        actors: Arc<Runtime>,
    ) -> MetadataStore {
        let settings = &self.process.settings;
        MetadataStore {
            app_id: settings.app_id.clone(),
            features: features(&self.configuration),
            components: Arc::clone(&components.loaded),
            listed: Arc::clone(listed),
            app: app_connection(&settings.app),
            pubsubs: Arc::clone(&components.pubsubs),
            actors,
            extended: Arc::clone(&self.process.extended),
        }
    }

    pub(super) fn serve_internal(
        &self,
        listener: TcpListener,
        core: &Arc<Core>,
        apis: &Tasks,
        stop: &CancellationToken,
    ) {
        let options = internal::server_options();
        let api = internal::service(Arc::clone(core));
        let acceptor = self.security.peer_acceptor();
        apis.spawn(
            "internal API",
            dapr_security::serve(listener, acceptor, api, options, stop.clone()),
        );
    }
}

pub(super) fn serve_public(
    public: Public,
    core: &Arc<Core>,
    apis: &Tasks,
    stop: &CancellationToken,
) {
    for socket in public.grpc {
        let (core, stop) = (Arc::clone(core), stop.clone());
        match socket {
            Socket::Tcp(listener) => apis.spawn("gRPC API", grpc::serve(core, listener, stop)),
            Socket::Unix(listener) => apis.spawn("gRPC API", grpc::serve(core, listener, stop)),
        }
    }
    for socket in public.http {
        let (core, stop) = (Arc::clone(core), stop.clone());
        match socket {
            Socket::Tcp(listener) => apis.spawn("HTTP API", http::serve(core, listener, stop)),
            Socket::Unix(listener) => apis.spawn("HTTP API", http::serve(core, listener, stop)),
        }
    }
    if let Some(listener) = public.public {
        apis.spawn(
            "public server",
            http::serve_public(Arc::clone(core), listener, stop.clone()),
        );
    }
}

/// Says what is listened on. Test frameworks and scripts wait for these lines, that of the internal server above all.
pub(super) fn announce(listen: &Listen, internal_port: u16) {
    for line in announcements(listen, internal_port) {
        tracing::info!(target: "dapr.runtime", "{line}");
    }
}

fn announcements(listen: &Listen, internal_port: u16) -> [String; 3] {
    let public = |api: &str, port: u16| match &listen.socket_folder {
        Some(_) => format!("{api} server is running on a Unix Domain Socket"),
        None => format!("{api} server is running on port {port}"),
    };
    [
        public("API gRPC", listen.grpc_port),
        public("HTTP", listen.http_port),
        format!(
            "Internal gRPC server is running on {}:{internal_port}",
            listen.internal_address
        ),
    ]
}

/// What the metadata API lists: the features that are switched on, and those of ours that are on by themselves.
fn features(configuration: &ConfigurationSpec) -> Vec<String> {
    let named = configuration.features.iter();
    let mut features: Vec<String> = named
        .filter(|feature| feature.enabled)
        .map(|feature| feature.name.clone())
        .collect();
    if has_hot_reload(configuration) && !features.iter().any(|name| name == HOT_RELOAD) {
        features.push(HOT_RELOAD.to_owned());
    }
    features
}

/// Whether resources that change are applied.
pub(super) fn has_hot_reload(configuration: &ConfigurationSpec) -> bool {
    configuration.feature(HOT_RELOAD).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, Environment, try_parse_from};

    use super::*;
    use crate::args::Args;
    use crate::settings::Settings;

    #[test]
    fn the_servers_are_announced_as_upstream_does() {
        let check = |flags: &str, expected: [&str; 3]| {
            let flags = ["daprd", "--app-id", "a"]
                .into_iter()
                .chain(flags.split_whitespace());
            let args: Args = try_parse_from(Dashes::OneOrTwo, flags).expect("flags parse");
            let settings = Settings::check(&args, &Environment::default()).expect("valid");
            assert_eq!(announcements(&settings.listen, 47301), expected);
        };
        check(
            "--dapr-http-port 3501 --dapr-grpc-port 50002",
            [
                "API gRPC server is running on port 50002",
                "HTTP server is running on port 3501",
                "Internal gRPC server is running on :47301",
            ],
        );
        check(
            "--unix-domain-socket /tmp --dapr-internal-grpc-listen-address 127.0.0.1",
            [
                "API gRPC server is running on a Unix Domain Socket",
                "HTTP server is running on a Unix Domain Socket",
                "Internal gRPC server is running on 127.0.0.1:47301",
            ],
        );
    }
}
