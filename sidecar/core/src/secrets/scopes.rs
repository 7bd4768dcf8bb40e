//! Which secrets of which store an application may read. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// One entry of `spec.secrets.scopes` of a Configuration, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScopeSpec {
    /// The store it is about.
    pub store_name: String,
    /// `allow` or `deny` in any letter case; empty allows.
    pub default_access: String,
    /// If there are any, only these.
    pub allowed_secrets: Vec<String>,
    /// Never these.
    pub denied_secrets: Vec<String>,
}

/// An entry that makes no sense. The texts are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadScope {
    /// Two entries for one store.
    #[error("{0} storeName is repeated in secrets configuration")]
    Repeated(String),
    /// Neither allowed nor denied.
    #[error("defaultAccess {0} can be either allow or deny")]
    DefaultAccess(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Scope {
    allows_others: bool,
    allowed: BTreeSet<String>,
    denied: BTreeSet<String>,
}

/// The entries by store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(BTreeMap<String, Scope>);

impl Scopes {
    /// Reads the entries of a Configuration.
    pub fn parse(specs: impl IntoIterator<Item = ScopeSpec>) -> Result<Self, BadScope> {
        let mut scopes = BTreeMap::new();
        for spec in specs {
            let allows_others = match spec.default_access.to_lowercase().as_str() {
                "" | "allow" => true,
                "deny" => false,
                _ => return Err(BadScope::DefaultAccess(spec.default_access)),
            };
            let scope = Scope {
                allows_others,
                allowed: spec.allowed_secrets.into_iter().collect(),
                denied: spec.denied_secrets.into_iter().collect(),
            };
            if scopes.insert(spec.store_name.clone(), scope).is_some() {
                return Err(BadScope::Repeated(spec.store_name));
            }
        }
        Ok(Self(scopes))
    }

    /// Whether a secret may be read; the comparison is exact.
    pub fn allows(&self, store: &str, secret: &str) -> bool {
        let Some(scope) = self.0.get(store) else {
            return true;
        };
        if !scope.allowed.is_empty() {
            return scope.allowed.contains(secret);
        }
        !scope.denied.contains(secret) && scope.allows_others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(access: &str, allowed: &[&str], denied: &[&str]) -> ScopeSpec {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ScopeSpec {
            store_name: "vault".to_owned(),
            default_access: access.to_owned(),
            allowed_secrets: owned(allowed),
            denied_secrets: owned(denied),
        }
    }

    #[test]
    fn allowed_before_denied_before_the_default() {
        let check = |spec: ScopeSpec, secret: &str, expected: bool| {
            let scopes = Scopes::parse([spec.clone()]).expect("valid");
            assert_eq!(
                scopes.allows("vault", secret),
                expected,
                "{spec:?} {secret}"
            );
            assert!(scopes.allows("another", secret));
        };
        check(spec("", &[], &[]), "a", true);
        check(spec("Deny", &[], &[]), "a", false);
        check(spec("deny", &["a"], &[]), "a", true);
        check(spec("allow", &["a"], &[]), "b", false);
        check(spec("allow", &["a"], &["a"]), "a", true);
        check(spec("allow", &[], &["a"]), "a", false);
        check(spec("allow", &[], &["a"]), "A", true);
        check(spec("deny", &[], &["a"]), "b", false);
    }

    #[test]
    fn entries_that_make_no_sense_are_refused() {
        let error = Scopes::parse([spec("", &[], &[]), spec("", &[], &[])]).expect_err("twice");
        assert_eq!(
            error.to_string(),
            "vault storeName is repeated in secrets configuration"
        );
        let error = Scopes::parse([spec("maybe", &[], &[])]).expect_err("neither");
        assert_eq!(
            error.to_string(),
            "defaultAccess maybe can be either allow or deny"
        );
    }
}
