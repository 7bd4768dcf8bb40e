//! The sidecar's container.

use std::collections::BTreeMap;

use dapr_crds::Quantity as Amount;
use dapr_crds::annotations as names;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, HTTPGetAction, Probe, ResourceRequirements,
    SeccompProfile, SecurityContext, TCPSocketAction, WindowsSecurityContextOptions,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use super::arguments::{HTTP_PORT, PUBLIC_PORT, Ports, flags};
use super::environment::{self, SSL_CERT_DIR};
use super::{Sidecar, volumes};
use crate::config::PullPolicy;
use crate::settings::Mode;

/// What is wrong with a quantity.
type Malformed = <Amount as std::str::FromStr>::Err;

const DAPRD: &str = "/daprd";
const DEBUGGER: &str = "/dlv";

/// The container as it stands in the patch.
pub(super) fn container(sidecar: &Sidecar<'_>) -> Value {
    let ports = Ports::of(sidecar);
    let (command, args) = command(sidecar, &ports);
    let env = environment::environment(sidecar);
    let container = Container {
        name: names::SIDECAR_CONTAINER.to_owned(),
        image: Some(image(sidecar)),
        image_pull_policy: Some(pull_policy(sidecar.settings.pull_policy).to_owned()),
        command,
        args: Some(args),
        ports: Some(container_ports(sidecar, &ports)),
        security_context: Some(security_context(sidecar, env.sets(SSL_CERT_DIR))),
        env: Some(env.all(sidecar)),
        volume_mounts: Some(volumes::sidecar_mounts(sidecar)).filter(|mounts| !mounts.is_empty()),
        readiness_probe: Some(readiness(sidecar)),
        liveness_probe: Some(liveness(sidecar)),
        resources: Some(resources(sidecar)),
        restart_policy: (sidecar.mode == Mode::Native).then(|| "Always".to_owned()),
        ..Container::default()
    };
    // These types have string keys and no numbers JSON lacks, so nothing can fail.
    serde_json::to_value(container).unwrap_or_default()
}

fn image(sidecar: &Sidecar<'_>) -> String {
    let own = sidecar.annotations.non_empty(names::SIDECAR_IMAGE);
    own.unwrap_or(&sidecar.settings.image).to_owned()
}

fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
        PullPolicy::IfNotPresent => "IfNotPresent",
    }
}

fn is_debugged(sidecar: &Sidecar<'_>) -> bool {
    let flag = sidecar.annotations.flag(names::ENABLE_DEBUG);
    flag.unwrap_or(false)
}

/// Command and arguments. Some virtual nodes ignore the image's entrypoint; their pods get the executable as command.
fn command(sidecar: &Sidecar<'_>, ports: &Ports) -> (Option<Vec<String>>, Vec<String>) {
    let (executable, mut args) = if is_debugged(sidecar) {
        let listen = format!(":{}", ports.debug);
        let words = [
            "--listen",
            &listen,
            "--accept-multiclient",
            "--headless=true",
            "--log",
            "--api-version=2",
            "exec",
            DAPRD,
            "--",
        ];
        (DEBUGGER, words.map(str::to_owned).to_vec())
    } else {
        (DAPRD, Vec::new())
    };
    args.extend(flags(sidecar));
    let tolerations = &sidecar.pod.spec.tolerations;
    let is_ignored = sidecar
        .settings
        .tolerations
        .iter()
        .any(|configured| tolerations.iter().any(|it| configured.matches(it)));
    if is_ignored {
        return (Some(vec![executable.to_owned()]), args);
    }
    args.insert(0, executable.to_owned());
    (None, args)
}

fn container_ports(sidecar: &Sidecar<'_>, ports: &Ports) -> Vec<ContainerPort> {
    let debug = is_debugged(sidecar).then_some(("dapr-debug", ports.debug));
    [
        ("dapr-http", HTTP_PORT),
        ("dapr-grpc", ports.grpc),
        ("dapr-internal", ports.internal_grpc),
        ("dapr-metrics", ports.metrics),
    ]
    .into_iter()
    .chain(debug)
    .map(|(name, port)| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        ..ContainerPort::default()
    })
    .collect()
}

/// Windows needs an administrator to install certificates, and cannot be told the rest.
fn security_context(sidecar: &Sidecar<'_>, certificates: bool) -> SecurityContext {
    let settings = sidecar.settings;
    let profile = sidecar
        .annotations
        .non_empty(names::SIDECAR_SECCOMP_PROFILE_TYPE)
        .map(|kind| SeccompProfile {
            type_: kind.to_owned(),
            ..SeccompProfile::default()
        });
    let capabilities = settings.drop_all_capabilities.then(|| Capabilities {
        drop: Some(vec!["ALL".to_owned()]),
        ..Capabilities::default()
    });
    let windows = certificates.then(|| WindowsSecurityContextOptions {
        run_as_user_name: Some("ContainerAdministrator".to_owned()),
        ..WindowsSecurityContextOptions::default()
    });
    SecurityContext {
        allow_privilege_escalation: Some(false),
        run_as_non_root: Some(settings.run_as_non_root && !certificates),
        read_only_root_filesystem: Some(settings.read_only_root_filesystem && !certificates),
        run_as_user: settings.run_as_user.filter(|_| !certificates),
        run_as_group: settings.run_as_group.filter(|_| !certificates),
        seccomp_profile: profile,
        capabilities,
        windows_options: windows,
        ..SecurityContext::default()
    }
}

/// Names of the four settings of a probe, and their defaults.
type ProbeSettings = [(&'static str, i32); 4];

fn probe(sidecar: &Sidecar<'_>, settings: ProbeSettings) -> Probe {
    // Zero is what is absent in the API.
    let [delay, timeout, period, threshold] = settings.map(|(name, default)| {
        let number = sidecar.annotations.int32(name, default);
        (number != 0).then_some(number)
    });
    Probe {
        initial_delay_seconds: delay,
        timeout_seconds: timeout,
        period_seconds: period,
        failure_threshold: threshold,
        ..Probe::default()
    }
}

fn readiness(sidecar: &Sidecar<'_>) -> Probe {
    let settings = [
        (names::SIDECAR_READINESS_PROBE_DELAY_SECONDS, 1),
        (names::SIDECAR_READINESS_PROBE_TIMEOUT_SECONDS, 1),
        (names::SIDECAR_READINESS_PROBE_PERIOD_SECONDS, 1),
        (names::SIDECAR_READINESS_PROBE_THRESHOLD, 5),
    ];
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/v1.0/healthz".to_owned()),
            port: IntOrString::Int(PUBLIC_PORT),
            ..HTTPGetAction::default()
        }),
        ..probe(sidecar, settings)
    }
}

/// Liveness is the port alone: a sidecar that waits for its app is alive.
fn liveness(sidecar: &Sidecar<'_>) -> Probe {
    let settings = [
        (names::SIDECAR_LIVENESS_PROBE_DELAY_SECONDS, 180),
        (names::SIDECAR_LIVENESS_PROBE_TIMEOUT_SECONDS, 3),
        (names::SIDECAR_LIVENESS_PROBE_PERIOD_SECONDS, 10),
        (names::SIDECAR_LIVENESS_PROBE_THRESHOLD, 5),
    ];
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::Int(PUBLIC_PORT),
            ..TCPSocketAction::default()
        }),
        ..probe(sidecar, settings)
    }
}

/// One bad quantity, and there are none at all.
fn resources(sidecar: &Sidecar<'_>) -> ResourceRequirements {
    let read = |name| -> Result<Option<Quantity>, Malformed> {
        let text = sidecar.annotations.non_empty(name);
        let amount = text.map(str::parse::<Amount>).transpose()?;
        Ok(amount.map(|amount| Quantity(amount.to_string())))
    };
    let pair = |cpu, memory| -> Result<_, Malformed> {
        let both = [("cpu", read(cpu)?), ("memory", read(memory)?)];
        let given = both
            .into_iter()
            .filter_map(|(key, it)| Some((key.to_owned(), it?)));
        let given: BTreeMap<_, _> = given.collect();
        Ok(Some(given).filter(|it| !it.is_empty()))
    };
    let requests = pair(names::SIDECAR_CPU_REQUEST, names::SIDECAR_MEMORY_REQUEST);
    let limits = pair(names::SIDECAR_CPU_LIMIT, names::SIDECAR_MEMORY_LIMIT);
    match (requests, limits) {
        (Ok(requests), Ok(limits)) => ResourceRequirements {
            requests,
            limits,
            ..ResourceRequirements::default()
        },
        (Err(_), _) | (_, Err(_)) => ResourceRequirements::default(),
    }
}
