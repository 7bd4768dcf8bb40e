//! Who may do what: tokens of service accounts, and kubeconfigs that are allowed little.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;

use super::objects::SETTLED;
use super::{ApiServer, kubeconfig};
use crate::condition::await_condition;

/// Where the rules of a kubeconfig hold.
#[derive(Debug, Clone, Copy)]
pub enum Reach<'a> {
    /// In the whole cluster, objects without a namespace included.
    Cluster,
    /// In one namespace.
    Namespace(&'a str),
}

/// A rule that allows `verbs` on `resources` (`pods`, `pods/status`) of an API group; the group of the core is `""`.
pub fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |words: &[&str]| words.iter().copied().map(str::to_owned).collect();
    PolicyRule {
        api_groups: Some(owned(&[group])),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

impl ApiServer {
    /// A token of a service account as a pod has it projected: for these audiences (none: the API server itself), and
    /// dead as soon as the pod is. The server grants no lifetime below ten minutes.
    pub async fn bound_token(
        &self,
        namespace: &str,
        service_account: &str,
        pod: &str,
        audiences: &[&str],
        lifetime: Duration,
    ) -> Result<String> {
        let client = self.client().await?;
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let found = pods.get(pod).await;
        let found = found.with_context(|| format!("looking for the pod {namespace}/{pod}"))?;
        let spec = TokenRequestSpec {
            audiences: audiences.iter().copied().map(str::to_owned).collect(),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(pod.to_owned()),
                uid: found.metadata.uid,
            }),
            expiration_seconds: Some(i64::try_from(lifetime.as_secs())?),
        };
        token(client, namespace, service_account, spec).await
    }

    /// A token of a service account that is bound to nothing, for the API server itself.
    pub async fn token(&self, namespace: &str, service_account: &str) -> Result<String> {
        let spec = TokenRequestSpec::default();
        token(self.client().await?, namespace, service_account, spec).await
    }

    /// Writes the kubeconfig of a service account that is allowed what `rules` say, and nothing else. It replaces
    /// what the same account was allowed by an earlier call for the same reach.
    pub async fn kubeconfig_for(
        &self,
        namespace: &str,
        service_account: &str,
        reach: Reach<'_>,
        rules: &[PolicyRule],
    ) -> Result<PathBuf> {
        let name = format!("{namespace}-{service_account}");
        self.allow(namespace, service_account, reach, rules)
            .await
            .with_context(|| format!("giving rules to the service account {name}"))?;
        let token = self.token(namespace, service_account).await?;
        let admin = kubeconfig::read(self.kubeconfig())?;
        let path = self.folder().join(format!("{name}.conf"));
        kubeconfig::write(&path, &kubeconfig::with_token(&admin, &token, namespace)?)?;
        Ok(path)
    }

    async fn allow(
        &self,
        namespace: &str,
        service_account: &str,
        reach: Reach<'_>,
        rules: &[PolicyRule],
    ) -> Result<()> {
        let name = format!("dapr-e2e-{namespace}-{service_account}");
        let (role, binding, place) = match reach {
            Reach::Cluster => ("ClusterRole", "ClusterRoleBinding", None),
            Reach::Namespace(place) => ("Role", "RoleBinding", Some(place)),
        };
        let mut metadata = json!({ "name": name });
        if let Some(place) = place {
            metadata["namespace"] = json!(place);
        }
        let version = "rbac.authorization.k8s.io/v1";
        self.apply(&json!({
            "apiVersion": version,
            "kind": role,
            "metadata": metadata,
            "rules": rules,
        }))
        .await?;
        self.apply(&json!({
            "apiVersion": version,
            "kind": binding,
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name },
            "subjects": [
                { "kind": "ServiceAccount", "namespace": namespace, "name": service_account },
            ],
        }))
        .await?;
        let Some(attributes) = rules.iter().find_map(|rule| sample(rule, place)) else {
            return Ok(());
        };
        let user = format!("system:serviceaccount:{namespace}:{service_account}");
        await_allowed(self.client().await?, user, attributes).await
    }
}

async fn token(
    client: Client,
    namespace: &str,
    service_account: &str,
    spec: TokenRequestSpec,
) -> Result<String> {
    let request = TokenRequest {
        spec,
        ..TokenRequest::default()
    };
    let accounts = Api::<ServiceAccount>::namespaced(client, namespace);
    let answer = accounts
        .create_token_request(service_account, &PostParams::default(), &request)
        .await
        .with_context(|| format!("asking for a token of {namespace}/{service_account}"))?;
    let status = answer.status.context("the answer holds no token")?;
    Ok(status.token)
}

/// Waits until the authorizer, which follows the objects with some delay, allows the user one of its requests.
async fn await_allowed(client: Client, user: String, sample: ResourceAttributes) -> Result<()> {
    let reviews = Api::<SubjectAccessReview>::all(client);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user),
            resource_attributes: Some(sample),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    await_condition("the rules hold", SETTLED, || async {
        let answer = reviews.create(&PostParams::default(), &review).await?;
        ensure!(
            answer.status.is_some_and(|status| status.allowed),
            "not allowed yet"
        );
        Ok(())
    })
    .await
}

/// One request that a rule allows, unless it is about paths.
fn sample(rule: &PolicyRule, namespace: Option<&str>) -> Option<ResourceAttributes> {
    let first = |words: &Option<Vec<String>>| words.as_ref()?.first().cloned();
    let resource = first(&rule.resources)?;
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), Some(subresource.to_owned())),
        None => (resource, None),
    };
    Some(ResourceAttributes {
        group: first(&rule.api_groups),
        resource: Some(resource),
        subresource,
        name: first(&rule.resource_names),
        verb: rule.verbs.first().cloned(),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    })
}

#[cfg(test)]
mod tests {
    use super::{rule, sample};

    #[test]
    fn a_sample_is_allowed_by_its_rule() {
        let status = rule(
            "dapr.io",
            &["components/status", "other"],
            &["patch", "get"],
        );
        let attributes = sample(&status, Some("shop")).expect("it is about resources");
        assert_eq!(attributes.group.as_deref(), Some("dapr.io"));
        assert_eq!(attributes.resource.as_deref(), Some("components"));
        assert_eq!(attributes.subresource.as_deref(), Some("status"));
        assert_eq!(attributes.verb.as_deref(), Some("patch"));
        assert_eq!(attributes.namespace.as_deref(), Some("shop"));
        assert_eq!(attributes.name, None);
    }

    #[test]
    fn a_rule_about_paths_has_no_sample() {
        let mut paths = rule("", &[], &["get"]);
        paths.non_resource_urls = Some(vec!["/metrics".to_owned()]);
        assert_eq!(sample(&paths, None), None);
    }
}
