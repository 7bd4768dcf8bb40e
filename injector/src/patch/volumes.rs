//! The volumes of the pod and the mounts of the sidecar.

use dapr_crds::annotations as names;
use k8s_openapi::api::core::v1::VolumeMount;
use serde_json::{Value, json};

use super::{Operations, Sidecar, sockets_folder};

/// The volume of the socket towards the app, and where the sidecar has it.
pub(super) const SOCKET_VOLUME: &str = "dapr-unix-domain-socket";
pub(super) const SOCKETS: &str = "/var/run/dapr-sockets";
/// The volume of the token for Sentry, and where the sidecar has it.
const TOKEN_VOLUME: &str = "dapr-identity-token";
const TOKEN_FOLDER: &str = "/var/run/secrets/dapr.io/sentrytoken";
/// The volume of the sockets of pluggable components.
pub(super) const COMPONENTS_VOLUME: &str = "dapr-components-unix-domain-socket";

/// Adds the volumes of socket and token. Says whether the pod has a list of volumes after that.
pub(super) fn add(sidecar: &Sidecar<'_>, operations: &mut Operations) -> bool {
    let socket = sidecar.app_socket().map(|_| {
        let value = json!({"name": SOCKET_VOLUME, "emptyDir": {"medium": "Memory"}});
        (SOCKET_VOLUME, value)
    });
    let token = sidecar.has_token().then(|| (TOKEN_VOLUME, token(sidecar)));
    let spec = &sidecar.pod.spec;
    let missing = socket.into_iter().chain(token);
    let missing = missing.filter(|(name, _)| !spec.has_volume(name));
    let values: Vec<Value> = missing.map(|(_, value)| value).collect();
    let exist = !spec.volumes.is_empty() || !values.is_empty();
    operations.add_all("/spec/volumes", !spec.volumes.is_empty(), values);
    exist
}

fn token(sidecar: &Sidecar<'_>) -> Value {
    let source = json!({
        "audience": sidecar.settings.token_audience,
        "expirationSeconds": 7200,
        "path": "token",
    });
    json!({
        "name": TOKEN_VOLUME,
        "projected": {"sources": [{"serviceAccountToken": source}], "defaultMode": 420},
    })
}

pub(super) fn sidecar_mounts(sidecar: &Sidecar<'_>) -> Vec<VolumeMount> {
    let mut all = Vec::new();
    for (name, path, access) in asked(sidecar) {
        if sidecar.pod.spec.has_volume(name) {
            all.push(mount(name, path, access));
        }
    }
    if sidecar.app_socket().is_some() {
        all.push(mount(SOCKET_VOLUME, SOCKETS, Access::ReadWrite));
    }
    if sidecar.has_token() {
        all.push(mount(TOKEN_VOLUME, TOKEN_FOLDER, Access::ReadOnly));
    }
    if sidecar.components.exist() {
        let folder = sockets_folder(sidecar.annotations, sidecar.settings);
        all.push(mount(COMPONENTS_VOLUME, folder, Access::ReadWrite));
    }
    all
}

/// Mounts that were asked for and cannot be.
pub(super) fn notes(sidecar: &Sidecar<'_>) -> Vec<String> {
    let missing = asked(sidecar).filter(|(name, ..)| !sidecar.pod.spec.has_volume(name));
    missing
        .map(|(name, path, _)| {
            format!("the pod has no volume {name:?} for the sidecar to mount at {path}")
        })
        .collect()
}

/// Whether a mount can be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

fn asked<'a>(sidecar: &Sidecar<'a>) -> impl Iterator<Item = (&'a str, &'a str, Access)> + use<'a> {
    let lists = [
        (names::VOLUME_MOUNTS, Access::ReadOnly),
        (names::VOLUME_MOUNTS_RW, Access::ReadWrite),
    ];
    let annotations = sidecar.annotations;
    lists.into_iter().flat_map(move |(annotation, access)| {
        let pairs = mounts(annotations.text(annotation)).flatten();
        pairs.map(move |(name, path)| (name, path, access))
    })
}

/// The pairs of a list `volume:path,volume:path`; `None` for what is none.
pub(crate) fn mounts(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let entries = text
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    entries.map(|entry| {
        let (name, path) = entry.split_once(':')?;
        (!path.contains(':')).then_some((name.trim(), path.trim()))
    })
}

pub(super) fn mount(name: &str, path: &str, access: Access) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: (access == Access::ReadOnly).then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::mounts;

    #[test]
    fn mounts_are_pairs() {
        let found: Vec<_> = mounts("a:/a, b : /b ,,c,d:e:f").collect();
        assert_eq!(found, [Some(("a", "/a")), Some(("b", "/b")), None, None]);
    }
}
