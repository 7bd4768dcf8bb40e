//! The rights of the control plane, against what the API server's audit log says that it did. Named so that it is told last.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use dapr_charts::Helm;
use dapr_e2e_cluster::{Cluster, Node, told_all};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// How long the authorizer may go on with roles that it knew.
const CACHED: SignedDuration = SignedDuration::from_secs(10);

/// What nothing in the log can show, and why it is granted all the same.
const UNSEEN: &[(&str, &str, &str)] = &[
    // Checked by an admission plugin, where one is on, when a Service gets an owner; never a request of its own.
    ("dapr-operator", "apps/deployments/finalizers", "update"),
    ("dapr-operator", "apps/statefulsets/finalizers", "update"),
];

/// Who may do what, or did: account, `group/resource`, verb.
type Right = (String, String, String);

/// The rights that an install without values grants to the accounts of the control plane.
fn granted(helm: &Helm, system: &str) -> Result<BTreeSet<Right>> {
    let documents = helm.render(system, &[])?;
    let named = |kind: &str, name: &Value| {
        let mut all = documents.iter();
        all.find(|it| it["kind"] == *kind && it["metadata"]["name"] == *name)
    };
    let mut rights = BTreeSet::new();
    for binding in &documents {
        let role = &binding["roleRef"];
        let Some(kind) = role["kind"].as_str() else {
            continue;
        };
        let role = named(kind, &role["name"]).context("a binding without a role")?;
        for account in list(&binding["subjects"]) {
            if account["namespace"] != *system {
                continue;
            }
            let account = text(&account["name"]);
            for rule in list(&role["rules"]) {
                for (group, resource, verb) in product(rule) {
                    rights.insert((account.clone(), format!("{group}/{resource}"), verb));
                }
            }
        }
    }
    Ok(rights)
}

fn product(rule: &Value) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    for group in list(&rule["apiGroups"]) {
        for resource in list(&rule["resources"]) {
            for verb in list(&rule["verbs"]) {
                all.push((text(group), text(resource), text(verb)));
            }
        }
    }
    all
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What the log says.
#[derive(Debug, Default)]
struct Log {
    /// When a right was used first.
    used: BTreeMap<Right, Timestamp>,
    /// What was refused although all roles were there.
    refused: Vec<String>,
}

/// Reads the log. While helm has taken a role away, and shortly after it is there again, refusals mean nothing.
fn read(log: &str, system: &str) -> Result<Log> {
    let prefix = format!("system:serviceaccount:{system}:");
    let mut found = Log::default();
    let mut absent = BTreeSet::new();
    let mut whole_since = Timestamp::MIN;
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).context("a line of the audit log")?;
        let object = &event["objectRef"];
        // A refusal without this is one of admission, for instance of what is new in a namespace that goes.
        let is_forbidden = event.pointer("/annotations/authorization.k8s.io~1decision")
            == Some(&Value::from("forbid"));
        let code = event["responseStatus"]["code"].as_u64().unwrap_or_default();
        let time: Timestamp = text(&event["stageTimestamp"]).parse()?;
        let verb = text(&event["verb"]);
        let user = text(&event["user"]["username"]);
        let Some(account) = user.strip_prefix(&prefix) else {
            let role = (text(&object["resource"]), text(&object["name"]));
            let is_ours = role.1.starts_with("dapr-") && role.1 != "dapr-crds";
            match verb.as_str() {
                "delete" if is_ours => {
                    absent.insert(role);
                }
                "create" | "patch" if is_ours && code < 300 => {
                    absent.remove(&role);
                    whole_since = time;
                }
                _ => {}
            }
            continue;
        };
        let group = text(&object["apiGroup"]);
        let mut resource = text(&object["resource"]);
        if let Some(more) = object["subresource"].as_str() {
            resource = format!("{resource}/{more}");
        }
        let right = (account.to_owned(), format!("{group}/{resource}"), verb);
        if is_forbidden {
            if absent.is_empty() && time.duration_since(whole_since) > CACHED {
                let why = event.pointer("/annotations/authorization.k8s.io~1reason");
                found.refused.push(format!(
                    "{time} {right:?} {}",
                    why.map_or_else(String::new, text)
                ));
            }
            continue;
        }
        if code == 403 {
            continue;
        }
        let first = found.used.entry(right).or_insert(time);
        *first = time.min(*first);
    }
    Ok(found)
}

#[tokio::test]
async fn every_right_is_used_and_none_is_missing() -> Result<()> {
    let story = "rights";
    let (Some(cluster), Some(node)) = (Cluster::take(story).await?, Node::find(story)?) else {
        return Ok(());
    };
    let helm = Helm::find(story)?.context("a cluster without helm")?;
    let log = read(&node.audit().await?, cluster.system())?;
    ensure!(log.refused.is_empty(), "refused: {:#?}", log.refused);
    let granted = granted(&helm, cluster.system())?;
    let stories = Cluster::stories();
    let mut unused = Vec::new();
    for right in &granted {
        let (account, resource, verb) = right;
        let unseen = (account.as_str(), resource.as_str(), verb.as_str());
        match log.used.get(right) {
            Some(first) => {
                let told = stories.iter().rev().find(|(began, _)| began <= first);
                let told = told.map_or("before the stories", |(_, story)| story);
                println!("{account}: {verb} {resource}: {told}");
            }
            None if UNSEEN.contains(&unseen) => {}
            None => unused.push(right),
        }
    }
    if told_all() {
        ensure!(
            unused.is_empty(),
            "granted, and not used by any story: {unused:#?}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::read;

    fn event(user: &str, verb: &str, resource: &str, code: u16, second: u8) -> String {
        let decision = if code == 403 { "forbid" } else { "allow" };
        format!(
            r#"{{"annotations":{{"authorization.k8s.io/decision":"{decision}"}},"user":{{"username":"{user}"}},"verb":"{verb}","objectRef":{{"apiGroup":"g","resource":"{resource}","name":"dapr-x"}},"responseStatus":{{"code":{code}}},"stageTimestamp":"2026-01-01T00:00:{second:02}.0Z"}}"#
        )
    }

    #[test]
    fn refusals_count_while_the_roles_are_there() {
        let ours = "system:serviceaccount:sys:dapr-operator";
        let check = |lines: &[String], refused: usize, used: usize| {
            let log = read(&lines.join("\n"), "sys").expect("a log");
            assert_eq!(
                (log.refused.len(), log.used.len()),
                (refused, used),
                "{log:?}"
            );
        };
        check(&[event(ours, "list", "pods", 200, 1)], 0, 1);
        check(&[event(ours, "list", "pods", 403, 1)], 1, 0);
        let deleted = event("admin", "delete", "roles", 200, 1);
        let created = event("admin", "create", "roles", 201, 5);
        check(
            &[deleted.clone(), event(ours, "list", "pods", 403, 2)],
            0,
            0,
        );
        check(
            &[
                deleted.clone(),
                created.clone(),
                event(ours, "list", "pods", 403, 6),
            ],
            0,
            0,
        );
        check(
            &[deleted, created, event(ours, "list", "pods", 403, 20)],
            1,
            0,
        );
    }
}
