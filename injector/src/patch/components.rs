//! Pluggable components: containers of the pod that are named as such, and containers that Components bring.

use std::collections::BTreeSet;

use dapr_crds::annotations as names;
use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use serde_json::json;

use super::applications::{add_mount, add_variables};
use super::environment::{SOCKETS_FOLDER, literal};
use super::pod::Pod;
use super::volumes::{Access, COMPONENTS_VOLUME, mount};
use super::{Operations, component_names, sockets_folder};
use crate::annotations::Annotations;
use crate::settings::Settings;

/// A Component with a container of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComponentContainer {
    /// Name of the Component.
    pub name: String,
    /// The apps that may load it; empty means all.
    pub scopes: Vec<String>,
    /// The container as JSON, as the Component has it.
    pub container: String,
}

/// The pluggable components of one pod.
pub(super) struct Components {
    /// Indices of containers of the pod.
    named: Vec<usize>,
    /// Containers of Components.
    brought: Vec<Container>,
    folder: String,
    notes: Vec<String>,
}

impl Components {
    pub(super) fn find(
        pod: &Pod,
        annotations: Annotations<'_>,
        settings: &Settings,
        known: &[ComponentContainer],
        app_id: &str,
    ) -> Self {
        let containers = pod.spec.containers.iter().enumerate();
        let is_named = |name: &str| component_names(annotations).any(|it| it == name);
        let named = containers.filter(|(_, it)| is_named(&it.name));
        let mut components = Self {
            named: named.map(|(index, _)| index).collect(),
            brought: Vec::new(),
            folder: sockets_folder(annotations, settings).to_owned(),
            notes: Vec::new(),
        };
        let inject = annotations.flag(names::INJECT_PLUGGABLE_COMPONENTS);
        if inject.unwrap_or(false) {
            components.bring(known, app_id);
        }
        components
    }

    pub(super) fn exist(&self) -> bool {
        !self.named.is_empty() || !self.brought.is_empty()
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// One container for each image.
    fn bring(&mut self, all: &[ComponentContainer], app_id: &str) {
        let mut images = BTreeSet::new();
        let is_ours = |scopes: &[String]| scopes.is_empty() || scopes.iter().any(|it| it == app_id);
        for component in all.iter().filter(|it| is_ours(&it.scopes)) {
            match serde_json::from_str::<Container>(&component.container) {
                Ok(mut container) => {
                    if images.insert(container.image.clone()) {
                        self.complete(&mut container, &component.name);
                        self.brought.push(container);
                    }
                }
                Err(error) => self.notes.push(format!(
                    "annotation {} of Component {:?} is no container, so it is not injected: {error}",
                    names::COMPONENT_CONTAINER, component.name
                )),
            }
        }
    }

    fn complete(&self, container: &mut Container, name: &str) {
        if container.name.is_empty() {
            name.clone_into(&mut container.name);
        }
        container
            .resources
            .get_or_insert_with(ResourceRequirements::default);
        // Of two variables of one name the last counts: the sidecar looks for sockets in this folder alone.
        let env = container.env.get_or_insert_default();
        env.push(literal(SOCKETS_FOLDER, &self.folder));
        let mounts = container.volume_mounts.get_or_insert_default();
        if !mounts.iter().any(|it| it.mount_path == self.folder) {
            mounts.push(mount(COMPONENTS_VOLUME, &self.folder, Access::ReadWrite));
        }
    }

    /// Adds the volume they share and, at the end of the patch, the containers that were brought.
    pub(super) fn add(&self, pod: &Pod, has_volumes: bool, operations: &mut Operations) {
        if !self.exist() {
            return;
        }
        let mut missing = BTreeSet::new();
        let mut volumes = Vec::new();
        let wanted = self
            .brought
            .iter()
            .flat_map(|it| it.volume_mounts.iter().flatten());
        let wanted = wanted.map(|mount| mount.name.as_str());
        for name in std::iter::once(COMPONENTS_VOLUME).chain(wanted) {
            let is_there = pod.spec.has_volume(name) || operations.has_volume(name);
            if !is_there && missing.insert(name) {
                volumes.push(json!({"name": name, "emptyDir": {}}));
            }
        }
        // Upstream replaces a list that the sidecar's own volumes have just begun; here it is continued.
        operations.add_all("/spec/volumes", has_volumes, volumes);
        for &index in &self.named {
            if let Some(container) = pod.spec.containers.get(index) {
                let variables = [(SOCKETS_FOLDER, self.folder.as_str())];
                add_variables(index, container, &variables, operations);
                add_mount(
                    index,
                    container,
                    (COMPONENTS_VOLUME, &self.folder),
                    operations,
                );
            }
        }
        for container in &self.brought {
            operations.add("/spec/containers/-", json!(container));
        }
    }
}
