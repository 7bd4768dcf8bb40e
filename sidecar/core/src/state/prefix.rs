//! From the key a caller gives to the key a store keeps, and back.

/// Between prefix and key; neither may contain it.
pub const SEPARATOR: &str = "||";

/// The prefix of a store's keys, by component metadata `keyPrefix`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPrefix {
    /// Prefix with separator; empty for `none`.
    prefix: String,
}

/// A key or prefix that contains [`SEPARATOR`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("input key/keyPrefix '{0}' can't contain '||'")]
pub struct Illegal(pub String);

impl KeyPrefix {
    /// The prefix that `strategy` (any letter case, `None` when the property is absent) means for
    /// store `store` of application `app_id`.
    pub fn parse(
        strategy: Option<&str>,
        store: &str,
        app_id: &str,
        namespace: Option<&str>,
    ) -> Result<Self, Illegal> {
        let strategy = strategy.unwrap_or_default().to_lowercase();
        check(&strategy)?;
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let name = match (strategy.as_str(), namespace) {
            ("none", _) => String::new(),
            ("name", _) => store.to_owned(),
            ("namespace", Some(namespace)) => format!("{namespace}.{app_id}"),
            ("" | "appid" | "namespace", _) => app_id.to_owned(),
            (custom, _) => custom.to_owned(),
        };
        let prefix = if name.is_empty() {
            name
        } else {
            name + SEPARATOR
        };
        Ok(Self { prefix })
    }

    /// The key a store keeps for `key`.
    pub fn apply(&self, key: &str) -> Result<String, Illegal> {
        check(key)?;
        Ok([self.prefix.as_str(), key].concat())
    }
}

/// The caller's key of a stored one: the second of at most three parts, the whole without a separator.
pub fn original(stored: &str) -> &str {
    stored.split(SEPARATOR).nth(1).unwrap_or(stored)
}

fn check(text: &str) -> Result<(), Illegal> {
    if text.contains(SEPARATOR) {
        Err(Illegal(text.to_owned()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn strategies() {
        let check = |strategy: Option<&str>, namespace: Option<&str>, expected: &str| {
            let prefix = KeyPrefix::parse(strategy, "store", "App", namespace).expect("legal");
            assert_eq!(
                prefix.apply("k").as_deref(),
                Ok(expected),
                "{strategy:?} {namespace:?}"
            );
        };
        check(None, None, "App||k");
        check(Some(""), None, "App||k");
        check(Some("AppID"), Some("ns"), "App||k");
        check(Some("name"), None, "store||k");
        check(Some("namespace"), Some("ns"), "ns.App||k");
        check(Some("namespace"), Some(""), "App||k");
        check(Some("namespace"), None, "App||k");
        check(Some("None"), None, "k");
        check(Some("Shared"), None, "shared||k");
    }

    #[test]
    fn the_separator_is_refused() {
        let error = KeyPrefix::parse(Some("a||b"), "s", "app", None).expect_err("illegal");
        assert_eq!(
            error.to_string(),
            "input key/keyPrefix 'a||b' can't contain '||'"
        );
        let prefix = KeyPrefix::parse(None, "s", "app", None).expect("legal");
        assert_eq!(prefix.apply("x||y"), Err(Illegal("x||y".to_owned())));
    }

    #[test]
    fn back_to_the_callers_key() {
        assert_eq!(original("app||key"), "key");
        assert_eq!(original("app||key||more"), "key");
        assert_eq!(original("key"), "key");
    }

    proptest! {
        #[test]
        fn apply_and_original_are_inverse(key in "[^|]{0,30}", app in "[^|]{1,10}") {
            let prefix = KeyPrefix::parse(None, "s", &app, None).expect("legal");
            let stored = prefix.apply(&key).expect("legal");
            prop_assert_eq!(original(&stored), key);
        }
    }
}
