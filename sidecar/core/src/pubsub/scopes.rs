//! Which topics this application may use, by the metadata of a component.

use dapr_components_core::Metadata;

/// The topics of one component, as this application sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes {
    /// Empty allows every topic.
    allowed: Vec<String>,
    /// Usable only where listed for the application.
    protected: Vec<String>,
    publishing: Vec<String>,
    subscribing: Vec<String>,
}

impl Scopes {
    /// Reads `allowedTopics`, `protectedTopics`, `publishingScopes` and `subscriptionScopes` for `app_id`.
    pub fn parse(metadata: &Metadata, app_id: &str) -> Self {
        let text = |name: &str| metadata.get(name).unwrap_or_default().replace(' ', "");
        Self {
            allowed: list(&text("allowedTopics")),
            protected: list(&text("protectedTopics")),
            publishing: scoped(&text("publishingScopes"), app_id),
            subscribing: scoped(&text("subscriptionScopes"), app_id),
        }
    }

    /// Whether the application may publish to `topic`.
    pub fn may_publish(&self, topic: &str) -> bool {
        self.decide(topic, &self.publishing)
    }

    /// Whether the application may subscribe to `topic`.
    pub fn may_subscribe(&self, topic: &str) -> bool {
        self.decide(topic, &self.subscribing)
    }

    fn decide(&self, topic: &str, scoped: &[String]) -> bool {
        let lists = |topics: &[String]| topics.iter().any(|listed| listed == topic);
        if !self.allowed.is_empty() && !lists(&self.allowed) {
            return false;
        }
        (scoped.is_empty() && !lists(&self.protected)) || lists(scoped)
    }
}

fn list(text: &str) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(',').map(str::to_owned).collect()
}

/// The topics of all entries `<app_id>=a,b`; `<app_id>=` lists one topic without a name, so nothing.
fn scoped(text: &str, app_id: &str) -> Vec<String> {
    text.split(';')
        .filter_map(|entry| entry.split_once('='))
        .filter(|(app, _)| *app == app_id)
        .flat_map(|(_, topics)| topics.split(','))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scopes(properties: &[(&str, &str)]) -> Scopes {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let metadata = Metadata::new("p", "pubsub.test", "v1", properties).expect("no duplicates");
        Scopes::parse(&metadata, "app1")
    }

    #[test]
    fn publishing() {
        let check = |properties: &[(&str, &str)], topic: &str, expected: bool| {
            assert_eq!(
                scopes(properties).may_publish(topic),
                expected,
                "{properties:?} {topic}"
            );
        };
        check(&[], "a", true);
        check(&[("allowedTopics", "a, b")], "b", true);
        check(&[("AllowedTopics", "a,b")], "c", false);
        check(&[("publishingScopes", "app1=a,b;app2=c")], "a", true);
        check(&[("publishingScopes", "app1=a,b;app2=c")], "c", false);
        check(&[("publishingScopes", "app2=c")], "x", true);
        check(&[("publishingScopes", "app1=")], "a", false);
        check(&[("publishingScopes", "app1=a;app1=b")], "b", true);
        check(&[("publishingScopes", "App1=a")], "b", true);
        check(&[("protectedTopics", "a")], "a", false);
        check(&[("protectedTopics", "a")], "b", true);
        check(
            &[("protectedTopics", "a"), ("publishingScopes", "app1=a")],
            "a",
            true,
        );
        check(
            &[("allowedTopics", "b"), ("publishingScopes", "app1=a")],
            "a",
            false,
        );
        check(&[("subscriptionScopes", "app1=")], "a", true);
    }

    #[test]
    fn subscribing() {
        let scopes = scopes(&[
            ("subscriptionScopes", "app1 = a"),
            ("publishingScopes", "app1="),
        ]);
        assert!(scopes.may_subscribe("a"));
        assert!(!scopes.may_subscribe("b"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-b=;, ]{0,30}", topic in "[a-b]{0,2}") {
            let scopes = scopes(&[("publishingScopes", &text), ("allowedTopics", &text)]);
            let bare = text.replace(' ', "");
            let is_listed = bare.contains(&topic);
            prop_assert!(bare.is_empty() || is_listed || !scopes.may_publish(&topic));
        }
    }
}
