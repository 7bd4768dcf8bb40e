//! From a pod and the injector's settings to the operations that give it a sidecar. Pure: no clock, no API server.
//!
//! All operations are additions (RFC 6902), so nothing a user wrote is changed. A pod that has a container of the
//! sidecar's name gets none, which makes the patch safe to be asked for again.

use dapr_crds::annotations::{
    APP_ID, ENABLE_METRICS, LABEL_APP_ID, LABEL_METRICS_ENABLED, LABEL_SIDECAR_INJECTED,
    PLUGGABLE_COMPONENTS, SIDECAR_CONTAINER, UNIX_DOMAIN_SOCKET_PATH,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::annotations::Annotations;
use crate::settings::{Mode, Settings, Token};

mod applications;
mod arguments;
mod components;
mod container;
mod environment;
pub mod pod;
mod volumes;

pub use components::ComponentContainer;
pub(crate) use environment::{entries, protocol};
pub use pod::Pod;
pub(crate) use volumes::mounts;

use components::Components;

/// What makes the Service of an app, and so bounds its id.
const SERVICE_SUFFIX: &str = "-dapr";
/// Bytes of a name in DNS.
const LABEL_LIMIT: usize = 63;
const TOO_LONG: &str = "must be no more than 63 characters";
const NO_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
                        start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                        validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// What differs from one request to the next, beside the pod.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The namespace the pod is made in.
    pub namespace: &'a str,
    /// The current trust bundle as PEM.
    pub trust_anchors: &'a str,
    /// Whether sidecars talk mTLS to each other.
    pub mtls: bool,
    /// The Components of the namespace that bring a container; `None` if they are not known.
    pub components: Option<&'a [ComponentContainer]>,
}

/// One addition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    op: Op,
    /// Where, as a JSON pointer.
    pub path: String,
    /// What.
    pub value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Add,
}

/// The operations in their order, and what could not be done as asked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// Empty if there is a sidecar already.
    pub operations: Vec<Operation>,
    /// For whoever made the pod.
    pub notes: Vec<String>,
}

/// Why a pod gets no sidecar and must not start without.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither annotation nor name.
    #[error(
        "value for the dapr.io/app-id annotation is empty, and the pod has no name yet to take its place"
    )]
    NoAppId,
    /// An id that makes no name of a Service.
    #[error(
        "invalid app id (input: '{id}', service: '{id}{suffix}'): {}", .problems.join("\n"),
        suffix = SERVICE_SUFFIX
    )]
    AppId {
        /// The id.
        id: String,
        /// What is wrong with that name.
        problems: Vec<&'static str>,
    },
    /// The pod would miss containers for as long as it lives.
    #[error("error when fetching components: the API server has not listed any yet")]
    NoComponents,
}

/// The patch of a pod.
///
/// # Errors
/// See [`Error`].
pub fn patch(pod: &Pod, settings: &Settings, request: &Request<'_>) -> Result<Patch, Error> {
    let Some(sidecar) = Sidecar::plan(pod, settings, request)? else {
        return Ok(Patch::default());
    };
    Ok(sidecar.operations())
}

/// The sidecar's container alone, for those who show it; `None` if there is one already.
///
/// # Errors
/// See [`Error`].
pub fn container(
    pod: &Pod,
    settings: &Settings,
    request: &Request<'_>,
) -> Result<Option<Value>, Error> {
    let sidecar = Sidecar::plan(pod, settings, request)?;
    Ok(sidecar.map(|sidecar| container::container(&sidecar)))
}

/// Everything the parts of the patch read.
struct Sidecar<'a> {
    pod: &'a Pod,
    annotations: Annotations<'a>,
    settings: &'a Settings,
    request: &'a Request<'a>,
    app_id: &'a str,
    mode: Mode,
    components: Components,
}

impl<'a> Sidecar<'a> {
    fn plan(
        pod: &'a Pod,
        settings: &'a Settings,
        request: &'a Request<'a>,
    ) -> Result<Option<Self>, Error> {
        let mut containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        if containers.any(|container| container.name == SIDECAR_CONTAINER) {
            return Ok(None);
        }
        let annotations = Annotations::new(&pod.metadata.annotations);
        let app_id = app_id(annotations.text(APP_ID), &pod.metadata.name)?;
        let known = request.components.ok_or(Error::NoComponents)?;
        let components = Components::find(pod, annotations, settings, known, app_id);
        let native = annotations.flag(dapr_crds::annotations::ENABLE_NATIVE_SIDECAR);
        Ok(Some(Self {
            pod,
            annotations,
            settings,
            request,
            app_id,
            mode: native.map_or(settings.mode, Mode::of),
            components,
        }))
    }

    /// The socket towards the app, if it is wanted.
    fn app_socket(&self) -> Option<&'a str> {
        self.annotations.non_empty(UNIX_DOMAIN_SOCKET_PATH)
    }

    fn has_metrics(&self) -> bool {
        self.annotations.flag(ENABLE_METRICS).unwrap_or(true)
    }

    fn has_token(&self) -> bool {
        self.settings.token == Token::Projected
    }

    fn operations(&self) -> Patch {
        let mut operations = Operations::default();
        let spec = &self.pod.spec;
        if spec.containers.is_empty() {
            operations.add("/spec/containers", json!([]));
        }
        if self.pod.metadata.labels.is_empty() {
            operations.add("/metadata/labels", json!({}));
        }
        let has_volumes = volumes::add(self, &mut operations);
        let list = match self.mode {
            Mode::Native => {
                if spec.init_containers.is_empty() {
                    operations.add("/spec/initContainers", json!([]));
                }
                "/spec/initContainers/-"
            }
            Mode::Regular => "/spec/containers/-",
        };
        operations.add(list, container::container(self));
        for (label, value) in [
            (LABEL_SIDECAR_INJECTED, "true"),
            (LABEL_APP_ID, self.app_id),
            (
                LABEL_METRICS_ENABLED,
                if self.has_metrics() { "true" } else { "false" },
            ),
        ] {
            let name = label.replace('~', "~0").replace('/', "~1");
            operations.add(format!("/metadata/labels/{name}"), json!(value));
        }
        applications::add(self, &mut operations);
        self.components.add(self.pod, has_volumes, &mut operations);
        let mut notes = volumes::notes(self);
        notes.extend_from_slice(self.components.notes());
        Patch {
            operations: operations.0,
            notes,
        }
    }
}

/// The additions so far.
#[derive(Default)]
struct Operations(Vec<Operation>);

impl Operations {
    fn add(&mut self, path: impl Into<String>, value: Value) {
        let (op, path) = (Op::Add, path.into());
        self.0.push(Operation { op, path, value });
    }

    /// Whether a volume of this name is among them.
    fn has_volume(&self, name: &str) -> bool {
        let added = self
            .0
            .iter()
            .filter(|it| it.path.starts_with("/spec/volumes"));
        let mut volumes = added.flat_map(|it| match &it.value {
            Value::Array(volumes) => volumes.as_slice(),
            volume => std::slice::from_ref(volume),
        });
        volumes.any(|volume| volume.get("name").is_some_and(|it| it == name))
    }

    /// Adds to the list at `path`, or makes the list where there is none.
    fn add_all(&mut self, path: &str, exists: bool, values: Vec<Value>) {
        if values.is_empty() {
            return;
        }
        if exists {
            for value in values {
                self.add(format!("{path}/-"), value);
            }
        } else {
            self.add(path, Value::Array(values));
        }
    }
}

/// The id of the app: what its annotation says, else the pod's name.
fn app_id<'a>(annotation: &'a str, name: &'a str) -> Result<&'a str, Error> {
    let id = if annotation.is_empty() {
        name
    } else {
        annotation
    };
    if id.is_empty() {
        return Err(Error::NoAppId);
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let starts_well = id.bytes().next().is_some_and(is_plain);
    let is_valid = starts_well && id.bytes().all(|byte| is_plain(byte) || byte == b'-');
    let fits = id.len() + SERVICE_SUFFIX.len() <= LABEL_LIMIT;
    let problems = [(!fits).then_some(TOO_LONG), (!is_valid).then_some(NO_LABEL)];
    let problems: Vec<_> = problems.into_iter().flatten().collect();
    if problems.is_empty() {
        Ok(id)
    } else {
        let id = id.to_owned();
        Err(Error::AppId { id, problems })
    }
}

/// The folder of the sockets of pluggable components.
fn sockets_folder<'a>(annotations: Annotations<'a>, settings: &'a Settings) -> &'a str {
    let own = annotations.non_empty(dapr_crds::annotations::PLUGGABLE_COMPONENTS_SOCKETS_FOLDER);
    own.unwrap_or(&settings.sockets_folder)
}

/// The names of the containers that are components.
fn component_names<'a>(annotations: Annotations<'a>) -> impl Iterator<Item = &'a str> {
    let names = annotations.text(PLUGGABLE_COMPONENTS).split(',');
    names.map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
pub(crate) mod tests;
