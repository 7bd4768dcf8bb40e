//! The environment, read once and handed on as a value.

use std::collections::BTreeMap;
use std::fmt;

/// A snapshot of the environment variables. Tests and the parts that need a variable take this value instead of
/// the process's own environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The environment of the process. Bytes that are not UTF-8 are replaced.
    pub fn of_process() -> Self {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        Self(
            std::env::vars_os()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
        )
    }

    /// The value of a variable; `None` when it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All variables by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of a variable; `None` when it is not set or empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// Whether the variable holds one of the words of [`crate::truthy`].
    pub fn truthy(&self, name: &str) -> bool {
        self.get(name).is_some_and(crate::truthy)
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        variables.into_iter().collect()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }
}

/// Names only: values hold tokens.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Environment;

    #[test]
    fn tells_unset_from_empty_and_hides_values() {
        let environment = Environment::from([("TOKEN", "secret"), ("EMPTY", ""), ("ON", "Yes")]);
        assert_eq!(environment.get("TOKEN"), Some("secret"));
        assert_eq!(environment.get("EMPTY"), Some(""));
        assert_eq!(environment.non_empty("EMPTY"), None);
        assert_eq!(environment.get("ABSENT"), None);
        assert!(
            environment.truthy("ON")
                && !environment.truthy("TOKEN")
                && !environment.truthy("ABSENT")
        );
        assert_eq!(format!("{environment:?}"), r#"{"EMPTY", "ON", "TOKEN"}"#);
    }
}
