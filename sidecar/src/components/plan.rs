//! Which changes lead from the components that are open to those that shall be. Pure.

use std::collections::BTreeMap;

use dapr_crds::Component;

/// Changes, in the order in which they are made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// Names of those that go.
    pub deletes: Vec<String>,
    /// Those that are there under this name, but are not the same.
    pub updates: Vec<Component>,
    /// Those that are new, secret stores first.
    pub creates: Vec<Component>,
}

impl Plan {
    /// From `open` to `desired`. What is written about a resource, but for its name, makes no difference.
    pub fn new<'a>(open: impl Iterator<Item = &'a Component>, desired: &[Component]) -> Self {
        let name = |component: &Component| component.metadata.name.clone().unwrap_or_default();
        let mut left: BTreeMap<String, &Component> = open.map(|it| (name(it), it)).collect();
        let mut plan = Self::default();
        for component in desired {
            match left.remove(&name(component)) {
                Some(open) if is_same(open, component) => {}
                Some(_) => plan.updates.push(component.clone()),
                None => plan.creates.push(component.clone()),
            }
        }
        plan.deletes = left.into_keys().collect();
        plan.updates
            .sort_by_key(|component| !super::is_secret_store(component));
        plan.creates
            .sort_by_key(|component| !super::is_secret_store(component));
        plan
    }

    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.updates.is_empty() && self.creates.is_empty()
    }
}

fn is_same(a: &Component, b: &Component) -> bool {
    a.spec == b.spec && a.auth == b.auth
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, kind: &str, version: &str) -> Component {
        let mut component = Component::default();
        component.metadata.name = Some(name.to_owned());
        component.spec.r#type = kind.to_owned();
        component.spec.version = version.to_owned();
        component
    }

    #[test]
    fn deletes_updates_and_creates() {
        let open = [
            component("same", "state.x", "v1"),
            component("gone", "state.x", "v1"),
            component("changed", "state.x", "v1"),
        ];
        let mut same = open[0].clone();
        same.metadata.resource_version = Some("7".to_owned());
        let desired = [
            component("new", "state.x", "v1"),
            same,
            component("changed", "state.x", "v2"),
            component("vault", "secretstores.x", "v1"),
        ];
        let plan = Plan::new(open.iter(), &desired);
        let names = |components: &[Component]| -> Vec<String> {
            components
                .iter()
                .filter_map(|it| it.metadata.name.clone())
                .collect()
        };
        assert_eq!(plan.deletes, ["gone"]);
        assert_eq!(names(&plan.updates), ["changed"]);
        assert_eq!(names(&plan.creates), ["vault", "new"]);
        assert!(Plan::new(open.iter(), &open).is_empty());
    }
}
