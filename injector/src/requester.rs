//! Who may create pods that get a sidecar: the controllers of the cluster, those an installation adds, and its masters.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::config::AccountPattern;
use crate::glob;

/// Accounts that are always allowed.
const BUILT_IN: [(&str, &str); 10] = [
    ("kube-system", "replicaset-controller"),
    ("kube-system", "replication-controller"),
    ("kube-system", "deployment-controller"),
    ("kube-system", "cronjob-controller"),
    ("kube-system", "job-controller"),
    ("kube-system", "statefulset-controller"),
    ("kube-system", "daemon-set-controller"),
    (
        "openshift-operator-lifecycle-manager",
        "olm-operator-serviceaccount",
    ),
    ("tekton-pipelines", "tekton-pipelines-controller"),
    ("mirrord", "mirrord-operator"),
];
/// The group of those who may do anything.
const MASTERS: &str = "system:masters";
/// What user names of service accounts begin with.
const ACCOUNT: &str = "system:serviceaccount:";

/// Who made a request, as the API server tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct UserInfo {
    /// The name.
    pub username: String,
    /// The unique id.
    pub uid: String,
    /// The groups.
    pub groups: Option<Vec<String>>,
}

/// The accounts that are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Vec<AccountPattern>);

impl Rules {
    /// The built-in ones and those of the installation.
    pub fn new(more: &[AccountPattern]) -> Self {
        let built_in = BUILT_IN.map(|(namespace, name)| AccountPattern {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        Self(built_in.into_iter().chain(more.iter().cloned()).collect())
    }

    /// Whether the user may, by name, group or the unique id of an allowed account.
    pub fn allow(&self, user: &UserInfo, is_allowed_uid: impl Fn(&str) -> bool) -> bool {
        let groups = user.groups.as_deref().unwrap_or_default();
        groups.iter().any(|group| group == MASTERS)
            || account(&user.username).is_some_and(|(namespace, name)| self.has(namespace, name))
            || (!user.uid.is_empty() && is_allowed_uid(&user.uid))
    }

    /// Whether the account is allowed by name.
    pub fn has(&self, namespace: &str, name: &str) -> bool {
        let patterns = &self.0;
        patterns.iter().any(|pattern| {
            glob::matches(&pattern.namespace, namespace) && glob::matches(&pattern.name, name)
        })
    }

    /// The accounts that are named without a pattern: their unique ids count too.
    pub fn exact(&self) -> BTreeSet<(String, String)> {
        let is_plain = |text: &str| !text.contains(['*', '?', '[', '\\']);
        let exact = self
            .0
            .iter()
            .filter(|it| is_plain(&it.namespace) && is_plain(&it.name));
        exact
            .map(|it| (it.namespace.clone(), it.name.clone()))
            .collect()
    }
}

/// Namespace and name of a service account; what follows them is ignored.
fn account(username: &str) -> Option<(&str, &str)> {
    let mut parts = username.strip_prefix(ACCOUNT)?.split(':');
    Some((parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let pattern = |namespace: &str, name: &str| AccountPattern {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        Rules::new(&[
            pattern("ci", "*"),
            pattern("team-*", "deploy-?"),
            pattern("one", "exact"),
        ])
    }

    #[test]
    fn names_groups_and_ids_open() {
        let check = |username: &str, uid: &str, groups: &[&str], expected: bool| {
            let user = UserInfo {
                username: username.to_owned(),
                uid: uid.to_owned(),
                groups: Some(groups.iter().map(|it| (*it).to_owned()).collect()),
            };
            let found = rules().allow(&user, |uid| uid == "known");
            assert_eq!(found, expected, "{username} {uid} {groups:?}");
        };
        check(
            "system:serviceaccount:kube-system:job-controller",
            "",
            &[],
            true,
        );
        check("system:serviceaccount:kube-system:other", "", &[], false);
        check("system:serviceaccount:ci:anybody", "", &[], true);
        check("system:serviceaccount:ci:anybody:more:parts", "", &[], true);
        check("system:serviceaccount:team-a:deploy-1", "", &[], true);
        check("system:serviceaccount:team-a:deploy-12", "", &[], false);
        check("system:serviceaccount:one", "", &[], false);
        check("jane", "", &["system:authenticated"], false);
        check("jane", "", &["a", "system:masters"], true);
        check("jane", "known", &[], true);
        check("jane", "unknown", &[], false);
        check("", "", &[], false);
    }

    #[test]
    fn only_plain_names_are_resolved_to_ids() {
        let exact = rules().exact();
        assert_eq!(exact.len(), BUILT_IN.len() + 1);
        assert!(exact.contains(&("one".to_owned(), "exact".to_owned())));
    }
}
