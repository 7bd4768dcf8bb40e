//! DNS names as upstream writes them: texts split at their dots, no escapes, the app id as the service.

use dapr_components_core::{Error, ErrorKind};
use hickory_proto::rr::Name;

/// `<app id>.local.`
pub(crate) fn service(app_id: &str) -> Result<Name, Error> {
    name(&format!("{app_id}.local"))
}

/// `<instance>.<app id>.local.`
pub(crate) fn instance(instance: &str, app_id: &str) -> Result<Name, Error> {
    name(&format!("{instance}.{app_id}.local"))
}

/// `<hostname>.local.`
pub(crate) fn host(hostname: &str) -> Result<Name, Error> {
    name(&format!(
        "{}.local",
        hostname.trim_end_matches('.').trim_end_matches(".local")
    ))
}

/// The name under which all services of a link are listed.
pub(crate) fn services() -> Result<Name, Error> {
    name("_services._dns-sd._udp.local")
}

fn name(text: &str) -> Result<Name, Error> {
    let invalid = |why: &dyn std::fmt::Display| {
        Error::new(
            ErrorKind::Invalid,
            format!("{text:?} cannot be a DNS name: {why}"),
        )
    };
    if text.split('.').any(str::is_empty) {
        return Err(invalid(&"it has an empty part"));
    }
    Name::from_labels(text.split('.').map(str::as_bytes)).map_err(|error| invalid(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_labels() {
        let check = |text: &str, expected: &[&str]| {
            let name = name(text).expect(text);
            let labels: Vec<_> = name
                .iter()
                .map(|label| String::from_utf8_lossy(label).into_owned())
                .collect();
            assert_eq!(labels, expected, "{text}");
        };
        check("my-app.local", &["my-app", "local"]);
        check(
            "Host.example.com:12.my.app.local",
            &["Host", "example", "com:12", "my", "app", "local"],
        );
        check("_app Ü.local", &["_app Ü", "local"]);
    }

    #[test]
    fn impossible_names_are_refused() {
        for text in [
            "",
            ".local",
            "a..local",
            &format!("{}.local", "a".repeat(64)),
            &"a.".repeat(200),
        ] {
            assert!(name(text).is_err(), "{text}");
        }
    }
}
