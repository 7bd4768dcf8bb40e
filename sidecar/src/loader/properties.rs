//! The properties a component is opened with: values as text, references and templates resolved.

use dapr_components_core::Metadata;
use dapr_crds::{Component, NameValuePair};
use dapr_kit::flags::Environment;

/// A component that cannot be opened with what its resource says.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `{podName}` outside a pod.
    #[error(
        "Component {name}: property {property} uses {{podName}}, but the environment variable POD_NAME is not set"
    )]
    PodName {
        /// The component.
        name: String,
        /// The property.
        property: String,
    },
    /// The properties contradict each other.
    #[error(transparent)]
    Metadata(#[from] dapr_components_core::Error),
}

/// What templates in values stand for.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// `{appID}`
    pub app_id: &'a str,
    /// First half of `{namespace}`, if there is one.
    pub namespace: Option<&'a str>,
}

/// Resolves the properties of `component`. References to the environment that are not allowed leave the property
/// without a value and a warning in the log, as upstream does.
pub fn resolve(
    component: &Component,
    names: Names<'_>,
    environment: &Environment,
) -> Result<Metadata, Error> {
    let name = component.metadata.name.clone().unwrap_or_default();
    let mut properties = Vec::with_capacity(component.spec.metadata.len());
    for pair in &component.spec.metadata {
        let text = value(&name, pair, environment);
        properties.push((
            pair.name.clone(),
            expand(&name, pair, &text, names, environment)?,
        ));
    }
    Ok(Metadata::new(
        name,
        component.spec.r#type.as_str(),
        component.spec.version.as_str(),
        properties,
    )?)
}

/// Whether topics of this pub/sub component carry the namespace: a value uses the template.
pub fn is_namespace_scoped(component: &Component) -> bool {
    component
        .spec
        .metadata
        .iter()
        .any(|pair| pair.value.as_text().contains("{namespace}"))
}

fn value(component: &str, pair: &NameValuePair, environment: &Environment) -> String {
    if pair.value.is_set() || pair.env_ref.is_empty() {
        return pair.value.as_text().into_owned();
    }
    let variable = &pair.env_ref;
    if !is_env_allowed(variable, environment.get("DAPR_ENV_KEYS")) {
        tracing::warn!(
            target: "dapr.runtime",
            "Component {component} references an env variable that isn't allowed: {variable}"
        );
        return String::new();
    }
    environment.get(variable).unwrap_or_default().to_owned()
}

/// Whether a resource may read a variable: none of ours, none with blanks, and only those on the list if there is one.
fn is_env_allowed(variable: &str, allowed: Option<&str>) -> bool {
    let upper = variable.to_uppercase();
    if upper.is_empty()
        || upper == "APP_API_TOKEN"
        || upper.starts_with("DAPR_")
        || upper.contains(' ')
    {
        return false;
    }
    allowed
        .filter(|list| !list.is_empty())
        .is_none_or(|list| list.split(' ').any(|word| word.to_uppercase() == upper))
}

fn expand(
    component: &str,
    pair: &NameValuePair,
    text: &str,
    names: Names<'_>,
    environment: &Environment,
) -> Result<String, Error> {
    if !text.contains('{') {
        return Ok(text.to_owned());
    }
    let mut text = text.to_owned();
    while text.contains("{uuid}") {
        // One at a time: each occurrence gets an id of its own.
        text = text.replacen("{uuid}", &uuid::Uuid::new_v4().to_string(), 1);
    }
    if text.contains("{podName}") {
        let pod = environment
            .non_empty("POD_NAME")
            .ok_or_else(|| Error::PodName {
                name: component.to_owned(),
                property: pair.name.clone(),
            })?;
        text = text.replace("{podName}", pod);
    }
    // Without one it is that of the identity. Set but empty it is empty: consumer groups are named after it.
    let namespace = (names.namespace)
        .or_else(|| environment.get("NAMESPACE"))
        .unwrap_or("default");
    let namespace = format!("{namespace}.{}", names.app_id);
    Ok(text
        .replace("{namespace}", &namespace)
        .replace("{appID}", names.app_id))
}

#[cfg(test)]
mod tests {
    use dapr_crds::manifest::{self, Manifest};

    use super::*;

    fn component(metadata: &str, more: &str) -> Component {
        let text = format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: c}}\nspec:\n  type: state.x\n  version: v1\n  metadata:\n{metadata}\n{more}"
        );
        match manifest::read("c.yaml", &text).remove(0).result {
            Ok(Manifest::Component(component)) => *component,
            other => panic!("{other:?}"),
        }
    }

    fn property(metadata: &str, environment: &Environment) -> Result<String, Error> {
        property_in(Some("prod"), metadata, environment)
    }

    fn property_in(
        namespace: Option<&str>,
        metadata: &str,
        environment: &Environment,
    ) -> Result<String, Error> {
        let names = Names {
            app_id: "shop",
            namespace,
        };
        resolve(&component(metadata, ""), names, environment)
            .map(|m| m.get("p").unwrap_or("<none>").to_owned())
    }

    #[test]
    fn scalars_and_templates_become_text() {
        let none = Environment::default();
        let check = |value: &str, expected: &str| {
            assert_eq!(
                property(&format!("  - {{name: p, value: {value}}}"), &none).expect(value),
                expected
            );
        };
        check("5", "5");
        check("true", "true");
        check("\"5\"", "5");
        check("\"{namespace}/{appID}\"", "prod.shop/shop");
        let uuids = property("  - {name: p, value: \"{uuid} {uuid}\"}", &none).expect("uuids");
        let (first, second) = uuids.split_once(' ').expect("two");
        assert_ne!(first, second);
    }

    #[test]
    fn a_namespace_that_is_not_set_is_the_default_one() {
        let value = "  - {name: p, value: \"{namespace}\"}";
        let check = |environment: &Environment, expected: &str| {
            let found = property_in(None, value, environment).expect("resolved");
            assert_eq!(found, expected);
        };
        check(&Environment::default(), "default.shop");
        check(&Environment::from([("NAMESPACE", "")]), ".shop");
    }

    #[test]
    fn a_pod_name_is_needed_only_where_it_is_used() {
        let value = "  - {name: p, value: \"{podName}\"}";
        let error = property(value, &Environment::default()).expect_err("no pod");
        assert!(error.to_string().contains("property p"), "{error}");
        assert_eq!(
            property(value, &Environment::from([("POD_NAME", "a-0")])).expect("pod"),
            "a-0"
        );
    }

    #[test]
    fn only_allowed_variables_are_read() {
        let check = |variable: &str, allowed: Option<&str>, expected: bool| {
            assert_eq!(
                is_env_allowed(variable, allowed),
                expected,
                "{variable} {allowed:?}"
            );
        };
        check("HOME", None, true);
        check("dapr_api_token", None, false);
        check("APP_API_TOKEN", None, false);
        check("A B", None, false);
        check("", None, false);
        check("KEY", Some("OTHER KEY"), true);
        check("KEY", Some("OTHER"), false);
        let environment = Environment::from([("KEY", "v"), ("DAPR_X", "secret")]);
        assert_eq!(
            property("  - {name: p, envRef: KEY}", &environment).expect("read"),
            "v"
        );
        assert_eq!(
            property("  - {name: p, envRef: DAPR_X}", &environment).expect("empty"),
            ""
        );
    }
}
