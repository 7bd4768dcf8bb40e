//! What the app's own containers get: where their sidecar is, and the socket towards it.

use dapr_crds::annotations as names;
use serde_json::{Value, json};

use super::arguments::{HTTP_PORT, Ports};
use super::environment::{literal, protocol};
use super::pod::Container;
use super::volumes::{Access, SOCKET_VOLUME, mount};
use super::{Operations, Sidecar, component_names};

/// Adds variables and mounts to every container that is neither a component nor an init container.
pub(super) fn add(sidecar: &Sidecar<'_>, operations: &mut Operations) {
    let annotations = sidecar.annotations;
    let tls = annotations.flag(names::APP_SSL).unwrap_or(false);
    let grpc = Ports::of(sidecar).grpc.to_string();
    let http = HTTP_PORT.to_string();
    let protocol = protocol(annotations.get(names::APP_PROTOCOL).unwrap_or("http"), tls);
    let mut variables = vec![("DAPR_HTTP_PORT", http.as_str()), ("DAPR_GRPC_PORT", &grpc)];
    variables.extend(protocol.map(|protocol| ("APP_PROTOCOL", protocol)));
    for (index, container) in apps(sidecar) {
        add_variables(index, container, &variables, operations);
    }
    let Some(path) = sidecar.app_socket() else {
        return;
    };
    for (index, container) in apps(sidecar) {
        add_mount(index, container, (SOCKET_VOLUME, path), operations);
    }
}

fn apps<'a>(sidecar: &Sidecar<'a>) -> impl Iterator<Item = (usize, &'a Container)> + use<'a> {
    let annotations = sidecar.annotations;
    let containers = sidecar.pod.spec.containers.iter().enumerate();
    containers.filter(move |(_, it)| !component_names(annotations).any(|name| name == it.name))
}

/// Adds the variables that are not there yet: what users set is never overridden.
pub(super) fn add_variables(
    index: usize,
    container: &Container,
    variables: &[(&str, &str)],
    operations: &mut Operations,
) {
    let missing = variables
        .iter()
        .filter(|(name, _)| !container.has_variable(name));
    let values: Vec<Value> = missing
        .map(|(name, value)| json!(literal(name, value)))
        .collect();
    let path = format!("/spec/containers/{index}/env");
    operations.add_all(&path, !container.env.is_empty(), values);
}

/// Adds a mount, unless its volume is mounted or its path taken.
pub(super) fn add_mount(
    index: usize,
    container: &Container,
    (volume, path): (&str, &str),
    operations: &mut Operations,
) {
    if container.has_mount(volume, path) {
        return;
    }
    let list = format!("/spec/containers/{index}/volumeMounts");
    let value = json!(mount(volume, path, Access::ReadWrite));
    operations.add_all(&list, !container.volume_mounts.is_empty(), vec![value]);
}
