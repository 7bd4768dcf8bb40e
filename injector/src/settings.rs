//! What the injector puts into every sidecar: flags and environment, made into the values of the patch. Pure.

use crate::config::{Config, PullPolicy, Service};
use crate::patch::pod::Toleration;

/// The app id of Sentry in its SPIFFE id.
const SENTRY: &str = "dapr-sentry";
/// The service name that means placement.
const PLACEMENT: &str = "placement";

/// The values of the patch that do not depend on the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The sidecar's image.
    pub image: String,
    /// When nodes fetch it.
    pub pull_policy: PullPolicy,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: String,
    /// `host:port` of Sentry.
    pub sentry: String,
    /// `host:port` of the operator.
    pub operator: String,
    /// `host:port` of placement; `None` with another actors service, or none.
    pub placement: Option<String>,
    /// `name:host:port` of an actors service other than placement.
    pub actors: Option<String>,
    /// `name:host:port` of the reminders service.
    pub reminders: Option<String>,
    /// `host:port` of the scheduler, where there is one.
    pub scheduler: Option<String>,
    /// For whom tokens of sidecars are made: Sentry.
    pub token_audience: String,
    /// Whether sidecars get a token of their own.
    pub token: Token,
    /// Where sidecars live unless a pod says otherwise.
    pub mode: Mode,
    /// `runAsNonRoot`.
    pub run_as_non_root: bool,
    /// `runAsUser`.
    pub run_as_user: Option<i64>,
    /// `runAsGroup`.
    pub run_as_group: Option<i64>,
    /// `readOnlyRootFilesystem`.
    pub read_only_root_filesystem: bool,
    /// Whether all capabilities are dropped.
    pub drop_all_capabilities: bool,
    /// Whether sidecars are told the IP of their host.
    pub downward_apis: bool,
    /// Pods with one of these need the executable as `command`.
    pub tolerations: Vec<Toleration>,
    /// Where the sockets of pluggable components are.
    pub sockets_folder: String,
}

/// Whether sidecars get a token of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A projected volume with a token for Sentry.
    Projected,
    /// None: the injector itself lives without.
    Absent,
}

/// Where a sidecar lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Beside the app's containers.
    Regular,
    /// An init container that goes on running, so that Jobs end by themselves.
    Native,
}

impl Mode {
    /// The mode a switch stands for.
    pub fn of(native: bool) -> Self {
        if native { Self::Native } else { Self::Regular }
    }
}

/// What is found out when the process starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Domain of the cluster.
    pub cluster_domain: String,
    /// Whether there is a scheduler.
    pub scheduler_enabled: bool,
    /// Whether the injector has a token itself.
    pub token: Token,
    /// The default mode.
    pub mode: Mode,
}

impl Settings {
    /// Puts both together.
    pub fn new(config: &Config, surroundings: &Surroundings) -> Self {
        let address = |service: &str, port: u16| {
            let (namespace, domain) = (&config.namespace, &surroundings.cluster_domain);
            format!("{service}.{namespace}.svc.{domain}:{port}")
        };
        let named = |service: &Service| {
            format!("{}:{}", service.name, address(&service.host, service.port))
        };
        let actors = config.actors_enabled.then_some(&config.actors_service);
        Self {
            image: config.sidecar_image.clone(),
            pull_policy: config.image_pull_policy,
            namespace: config.namespace.clone(),
            trust_domain: config.control_plane_trust_domain.clone(),
            sentry: address(SENTRY, 443),
            operator: address("dapr-api", 443),
            placement: actors
                .filter(|service| service.name == PLACEMENT)
                .map(|service| address(&service.host, service.port)),
            actors: actors
                .filter(|service| service.name != PLACEMENT)
                .map(named),
            reminders: config.reminders_service.as_ref().map(named),
            scheduler: surroundings
                .scheduler_enabled
                .then(|| address("dapr-scheduler-server-a", 443)),
            token_audience: format!(
                "spiffe://{}/ns/{}/{SENTRY}",
                config.control_plane_trust_domain, config.namespace
            ),
            token: surroundings.token,
            mode: surroundings.mode,
            run_as_non_root: config.run_as_non_root,
            run_as_user: config.run_as_user,
            run_as_group: config.run_as_group,
            read_only_root_filesystem: config.read_only_root_filesystem,
            drop_all_capabilities: config.drop_all_capabilities,
            downward_apis: config.downward_apis,
            tolerations: config.entrypoint_tolerations(),
            sockets_folder: config
                .component_sockets_folder
                .to_string_lossy()
                .into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::Environment;

    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let required = [("SIDECAR_IMAGE", "daprd:1"), ("NAMESPACE", "dapr-system")];
        let environment: Environment = required.iter().chain(variables).copied().collect();
        let surroundings = Surroundings {
            cluster_domain: "cluster.local".to_owned(),
            scheduler_enabled: true,
            token: Token::Projected,
            mode: Mode::Regular,
        };
        Settings::new(
            &Config::from_environment(&environment).expect("valid"),
            &surroundings,
        )
    }

    #[test]
    fn addresses_are_those_of_services() {
        let found = settings(&[]);
        let expected = "dapr-sentry.dapr-system.svc.cluster.local:443";
        assert_eq!(found.sentry, expected);
        assert_eq!(found.operator, "dapr-api.dapr-system.svc.cluster.local:443");
        assert_eq!(
            found.scheduler.as_deref(),
            Some("dapr-scheduler-server-a.dapr-system.svc.cluster.local:443")
        );
        assert_eq!(
            found.token_audience,
            "spiffe://cluster.local/ns/dapr-system/dapr-sentry"
        );
    }

    #[test]
    fn actors_are_served_by_placement_or_another_or_nobody() {
        let check = |variables: &[(&str, &str)], placement: Option<&str>, actors: Option<&str>| {
            let found = settings(variables);
            assert_eq!(found.placement.as_deref(), placement, "{variables:?}");
            assert_eq!(found.actors.as_deref(), actors, "{variables:?}");
        };
        let placement = Some("dapr-placement-server.dapr-system.svc.cluster.local:50005");
        check(&[], placement, None);
        let own = [
            ("ACTORS_SERVICE_NAME", "own"),
            ("ACTORS_SERVICE_ADDRESS", "a:1"),
        ];
        check(&own, None, Some("own:a.dapr-system.svc.cluster.local:1"));
        check(&[("ACTORS_ENABLED", "no")], None, None);
        check(&[("ACTORS_SERVICE_NAME", "")], placement, None);
    }
}
