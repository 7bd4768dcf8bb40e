//! What a path asks for.

use super::object::{Name, Resource};

/// A path of the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// All objects of a kind; an empty namespace means everywhere.
    Collection {
        resource: Resource,
        namespace: String,
    },
    /// One object, or a part of it.
    Object {
        resource: Resource,
        name: Name,
        part: Option<String>,
    },
    /// Something else.
    Other,
}

pub(super) fn parse(path: &str) -> Target {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    match parts.as_slice() {
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => Target::Other,
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Target {
    let resource = |plural: &str| Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: plural.to_owned(),
    };
    let object = |namespace: &str, plural: &str, name: &str, part: Option<&&str>| Target::Object {
        resource: resource(plural),
        name: Name {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        },
        part: part.map(|part| (*part).to_owned()),
    };
    match rest {
        [] => Target::Other,
        // A namespace is an object itself.
        ["namespaces", name, part @ ("status" | "finalize")] => {
            object("", "namespaces", name, Some(part))
        }
        ["namespaces", namespace, plural] => Target::Collection {
            resource: resource(plural),
            namespace: (*namespace).to_owned(),
        },
        ["namespaces", namespace, plural, name, part @ ..] => {
            object(namespace, plural, name, part.first())
        }
        [plural] => Target::Collection {
            resource: resource(plural),
            namespace: String::new(),
        },
        [plural, name, part @ ..] => object("", plural, name, part.first()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_collections_and_objects() {
        let collection = |path: &str| match parse(path) {
            Target::Collection {
                resource,
                namespace,
            } => (resource.group, resource.plural, namespace),
            other => panic!("{path}: {other:?}"),
        };
        let object = |path: &str| match parse(path) {
            Target::Object {
                resource,
                name,
                part,
            } => (resource.plural, name.namespace, name.name, part),
            other => panic!("{path}: {other:?}"),
        };
        let own = |text: &str| text.to_owned();
        assert_eq!(collection("/api/v1/pods"), (own(""), own("pods"), own("")));
        assert_eq!(
            collection("/api/v1/namespaces"),
            (own(""), own("namespaces"), own(""))
        );
        assert_eq!(
            collection("/apis/dapr.io/v1alpha1/namespaces/shop/components"),
            (own("dapr.io"), own("components"), own("shop"))
        );
        assert_eq!(
            object("/api/v1/namespaces/shop"),
            (own("namespaces"), own(""), own("shop"), None)
        );
        assert_eq!(
            object("/api/v1/namespaces/shop/pods/x"),
            (own("pods"), own("shop"), own("x"), None)
        );
        assert_eq!(
            object("/apis/apps/v1/namespaces/shop/deployments/x/status"),
            (
                own("deployments"),
                own("shop"),
                own("x"),
                Some(own("status"))
            )
        );
        assert_eq!(
            object("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/a.b"),
            (own("customresourcedefinitions"), own(""), own("a.b"), None)
        );
        for other in ["/version", "/healthz", "/api/v1", "/apis/dapr.io/v1alpha1"] {
            assert_eq!(parse(other), Target::Other, "{other}");
        }
    }
}
