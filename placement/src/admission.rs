//! Which messages a stream may send: the rules every message has to pass, the first one and all later ones.

use dapr_proto::dapr::proto::placement::v1::{Host, HostOperation};
use dapr_security::Identity;

use crate::table::{self, TABLE_LIMIT};

/// How actor types begin that only the runtime of the app they name may host.
const INTERNAL: [&str; 2] = ["dapr", "internal"];

/// What one host may take up in a table: a quarter is for others, whatever it reports.
const SHARE_LIMIT: usize = TABLE_LIMIT / 4 * 3;

/// Why a message was refused. It ends the stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("both operation and version must be set or both must be unset")]
    VersionWithoutOperation,
    #[error("host ID and namespace must be provided")]
    Missing,
    #[error("provided app ID {claimed} doesn't match the one in the SPIFFE ID ({actual})")]
    AppId { claimed: String, actual: String },
    #[error(
        "provided client namespace {claimed} doesn't match the one in the SPIFFE ID ({actual})"
    )]
    Namespace { claimed: String, actual: String },
    #[error("entity {entity} is not allowed for app ID {id} in namespace {namespace}")]
    InternalType {
        entity: String,
        id: String,
        namespace: String,
    },
    #[error(
        "{types} actor types take {share} bytes of every table, at most {SHARE_LIMIT} are possible: host fewer types or give them shorter names"
    )]
    Share { types: usize, share: usize },
}

/// Checks a message; `identity` is that of the client certificate, none when TLS is off.
pub(crate) fn check(host: &Host, identity: Option<&Identity>) -> Result<(), Refusal> {
    if host.operation == i32::from(HostOperation::Unknown) && host.version.is_some() {
        return Err(Refusal::VersionWithoutOperation);
    }
    if host.id.is_empty() || host.namespace.is_empty() {
        return Err(Refusal::Missing);
    }
    if let Some(identity) = identity {
        check_identity(host, identity)?;
    }
    let share = table::share(host);
    if share > SHARE_LIMIT {
        let types = host.entities.len();
        return Err(Refusal::Share { types, share });
    }
    match host.entities.iter().find(|entity| !may_host(host, entity)) {
        Some(entity) => Err(Refusal::InternalType {
            entity: entity.clone(),
            id: host.id.clone(),
            namespace: host.namespace.clone(),
        }),
        None => Ok(()),
    }
}

/// The trust domain is not compared: sidecars and the control plane may be of different ones.
fn check_identity(host: &Host, identity: &Identity) -> Result<(), Refusal> {
    if host.id != identity.app_id {
        return Err(Refusal::AppId {
            claimed: host.id.clone(),
            actual: identity.app_id.clone(),
        });
    }
    if host.namespace != identity.namespace {
        return Err(Refusal::Namespace {
            claimed: host.namespace.clone(),
            actual: identity.namespace.clone(),
        });
    }
    Ok(())
}

fn may_host(host: &Host, entity: &str) -> bool {
    let mut parts = entity.split('.');
    if INTERNAL.iter().any(|part| parts.next() != Some(part)) {
        return true;
    }
    parts.next() == Some(&host.namespace) && parts.next() == Some(&host.id)
}

#[cfg(test)]
mod tests {
    use dapr_security::TrustDomain;

    use super::*;

    fn host(
        operation: HostOperation,
        version: Option<u64>,
        id: &str,
        namespace: &str,
        entities: &[&str],
    ) -> Host {
        Host {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            operation: operation.into(),
            version,
            entities: entities.iter().map(|entity| (*entity).to_owned()).collect(),
            ..Host::default()
        }
    }

    fn check_refusal(host: &Host, identity: Option<(&str, &str)>, expected: Option<&str>) {
        let identity = identity.map(|(namespace, app_id)| Identity {
            trust_domain: TrustDomain::new("elsewhere").expect("a valid trust domain"),
            namespace: namespace.to_owned(),
            app_id: app_id.to_owned(),
        });
        let refusal = check(host, identity.as_ref())
            .err()
            .map(|refusal| refusal.to_string());
        assert_eq!(refusal.as_deref(), expected, "{host:?}");
    }

    #[test]
    fn fields() {
        use HostOperation::{Lock, Report, Unknown};
        let unknown = "both operation and version must be set or both must be unset";
        check_refusal(&host(Unknown, Some(0), "a", "n", &[]), None, Some(unknown));
        check_refusal(&host(Unknown, None, "a", "n", &["t"]), None, None);
        check_refusal(&host(Lock, Some(1), "a", "n", &[]), None, None);
        let missing = "host ID and namespace must be provided";
        for (id, namespace) in [("", "n"), ("a", ""), ("", "")] {
            let report = host(Report, None, id, namespace, &[]);
            check_refusal(&report, None, Some(missing));
        }
        // The name may be empty, and numbers of a later protocol pass.
        check_refusal(
            &Host {
                operation: 77,
                version: Some(3),
                ..host(Report, None, "a", "n", &[])
            },
            None,
            None,
        );
    }

    #[test]
    fn identities() {
        let report = host(HostOperation::Report, None, "app", "ns", &["t"]);
        check_refusal(&report, Some(("ns", "app")), None);
        let id = "provided app ID app doesn't match the one in the SPIFFE ID (other)";
        check_refusal(&report, Some(("ns", "other")), Some(id));
        let namespace =
            "provided client namespace ns doesn't match the one in the SPIFFE ID (other)";
        check_refusal(&report, Some(("other", "app")), Some(namespace));
    }

    #[test]
    fn no_host_fills_the_tables() {
        let many: Vec<String> = (0..100_000)
            .map(|number| format!("type-{number}"))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let refused = check(&host(HostOperation::Report, None, "a", "n", &many), None);
        assert!(
            matches!(refused, Err(Refusal::Share { types: 100_000, .. })),
            "{refused:?}"
        );
        // A long name is one host's affair as long as it is in the table a few times.
        let long = "x".repeat(1 << 20);
        assert_eq!(
            check(&host(HostOperation::Report, None, "a", "n", &[&long]), None),
            Ok(())
        );
        let types = [long.as_str(), "b", "c", "d"];
        let refused = check(&host(HostOperation::Report, None, "a", "n", &types), None);
        assert!(
            matches!(refused, Err(Refusal::Share { types: 4, .. })),
            "{refused:?}"
        );
        // Two hundred types with usual names are no trouble.
        let usual: Vec<String> = (0..200)
            .map(|number| format!("com.example.orders.Actor{number}"))
            .collect();
        let usual: Vec<&str> = usual.iter().map(String::as_str).collect();
        assert_eq!(
            check(&host(HostOperation::Report, None, "a", "n", &usual), None),
            Ok(())
        );
    }

    #[test]
    fn internal_types() {
        let check_type = |entity: &str, allowed: bool| {
            let refusal = format!("entity {entity} is not allowed for app ID app in namespace ns");
            let report = host(HostOperation::Report, None, "app", "ns", &["t", entity]);
            check_refusal(&report, None, (!allowed).then_some(refusal.as_str()));
            check_refusal(
                &report,
                Some(("ns", "app")),
                (!allowed).then_some(refusal.as_str()),
            );
        };
        check_type("dapr.internal.ns.app.workflow", true);
        check_type("dapr.internal.ns.app", true);
        check_type("dapr.internal.ns.other.workflow", false);
        check_type("dapr.internal.other.app.workflow", false);
        check_type("dapr.internal.ns", false);
        check_type("dapr.internal.", false);
        check_type("dapr.internal", false);
        check_type("dapr..internal.other.app", true);
        check_type("dapr.internals.other.app", true);
    }
}
