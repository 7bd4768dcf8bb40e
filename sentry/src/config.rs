//! The part of the configuration that is Sentry's: `spec.mtls`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use dapr_kit::duration::GoDuration;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

pub(crate) const WORKLOAD_TTL: Duration = Duration::from_secs(24 * 60 * 60);
const CLOCK_SKEW: Duration = Duration::from_secs(15 * 60);
/// How long the object may be missing, or the API server away, before that is an error.
const APPEARANCE: Duration = Duration::from_secs(8);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("file cannot be read")]
    Read(#[source] std::io::Error),
    #[error("file is no valid configuration: {0}")]
    Parse(String),
    #[error("object cannot be read from the API server")]
    Get(#[source] kube::Error),
    #[error("object cannot be read from the API server: {0}")]
    Refused(String),
    #[error("object is no valid configuration")]
    Object(#[source] serde_json::Error),
    #[error("invalid spec.mtls.{field}: {reason}")]
    Duration { field: &'static str, reason: String },
    #[error(
        "spec.mtls.tokenValidators: {0:?} is no validator that can be configured, use \"jwks\""
    )]
    Validator(String),
    #[error("spec.mtls.tokenValidators: \"jwks\" is given more than once")]
    Repeated,
}

/// What Sentry takes from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mtls {
    pub(crate) workload_ttl: Duration,
    pub(crate) clock_skew: Duration,
    /// The options of the `jwks` validator, if it is configured.
    pub(crate) jwks: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Document {
    #[serde(default)]
    spec: Option<Spec>,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(default)]
    mtls: Option<Fields>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    #[serde(rename = "workloadCertTTL")]
    workload_cert_ttl: Option<String>,
    allowed_clock_skew: Option<String>,
    token_validators: Option<Vec<TokenValidator>>,
}

#[derive(Deserialize)]
struct TokenValidator {
    #[serde(default)]
    name: String,
    #[serde(default)]
    options: Option<BTreeMap<String, String>>,
}

impl Mtls {
    /// Reads the Configuration of this name in the control plane's namespace. It is waited for a moment: an
    /// installation creates it after the pods that read it.
    pub(crate) async fn fetch(client: &Client, namespace: &str, name: &str) -> Result<Self, Error> {
        let kind = GroupVersionKind::gvk("dapr.io", "v1alpha1", "Configuration");
        let resource = ApiResource::from_gvk_with_plural(&kind, "configurations");
        let objects = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &resource);
        let started = Instant::now();
        loop {
            let error = match objects.get(name).await {
                Ok(object) => return Self::from_object(object.data),
                Err(error) => error,
            };
            if started.elapsed() > APPEARANCE {
                return Err(unread(error));
            }
            sleep(LOOK).await;
        }
    }

    pub(crate) async fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(&tokio::fs::read_to_string(path).await.map_err(Error::Read)?)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        // Upstream reads YAML 1.1 as JSON: `010` is eight.
        let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
        let mut text = text.as_bytes();
        // Of several documents the first one counts; an empty one says nothing.
        let document: serde_json::Value = serde_saphyr::read_with_options(&mut text, options)
            .next()
            .transpose()
            .map_err(|error| Error::Parse(error.to_string()))?
            .unwrap_or_default();
        let document: Option<Document> =
            serde_json::from_value(document).map_err(|error| Error::Parse(error.to_string()))?;
        Self::checked(document)
    }

    /// Reads the object as the API server gives it.
    pub(crate) fn from_object(object: serde_json::Value) -> Result<Self, Error> {
        Self::checked(serde_json::from_value(object).map_err(Error::Object)?)
    }

    fn checked(document: Option<Document>) -> Result<Self, Error> {
        let fields = document
            .and_then(|it| it.spec)
            .and_then(|it| it.mtls)
            .unwrap_or_default();
        Ok(Self {
            workload_ttl: duration("workloadCertTTL", fields.workload_cert_ttl, WORKLOAD_TTL)?,
            clock_skew: duration("allowedClockSkew", fields.allowed_clock_skew, CLOCK_SKEW)?,
            jwks: jwks(fields.token_validators.unwrap_or_default())?,
        })
    }
}

/// What an API server says is told without everything that comes with it.
fn unread(error: kube::Error) -> Error {
    match error {
        kube::Error::Api(status) => Error::Refused(status.message),
        error => Error::Get(error),
    }
}

fn duration(
    field: &'static str,
    text: Option<String>,
    default: Duration,
) -> Result<Duration, Error> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .map(|GoDuration(duration)| duration)
            .map_err(|error| Error::Duration {
                field,
                reason: error.to_string(),
            }),
    }
}

fn jwks(validators: Vec<TokenValidator>) -> Result<Option<BTreeMap<String, String>>, Error> {
    let mut found = None;
    for TokenValidator { name, options } in validators {
        if !name.eq_ignore_ascii_case("jwks") {
            return Err(Error::Validator(name));
        }
        if found.replace(options.unwrap_or_default()).is_some() {
            return Err(Error::Repeated);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<(u64, u64, Option<&str>), &str>) {
        let found = Mtls::parse(text).map_err(|error| error.to_string());
        match (found, expected) {
            (Ok(found), Ok((ttl, skew, source))) => {
                let found_source = found
                    .jwks
                    .map(|options| options.get("source").cloned().unwrap_or_default());
                assert_eq!(
                    (found.workload_ttl.as_secs(), found.clock_skew.as_secs()),
                    (ttl, skew),
                    "{text}"
                );
                assert_eq!(found_source.as_deref(), source, "{text}");
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{text}: {found}"),
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_mtls_section_is_read() {
        check("spec: {}", Ok((86_400, 900, None)));
        check(
            "kind: Configuration\nspec:\n  mtls:\n    enabled: true\n    workloadCertTTL: 1h\n    allowedClockSkew: 5m\n",
            Ok((3_600, 300, None)),
        );
        check(
            "spec: {mtls: {tokenValidators: [{name: jwks, options: {source: /keys.json}}]}}",
            Ok((86_400, 900, Some("/keys.json"))),
        );
        check(
            "spec: {mtls: {tokenValidators: [{name: JWKS, options: {source: /keys.json}}]}}",
            Ok((86_400, 900, Some("/keys.json"))),
        );
        check(
            "spec: {mtls: {workloadCertTTL: soon}}",
            Err("invalid spec.mtls.workloadCertTTL"),
        );
        check(
            "spec: {mtls: {allowedClockSkew: -1s}}",
            Err("invalid spec.mtls.allowedClockSkew"),
        );
        check(
            "spec: {mtls: {tokenValidators: [{name: insecure}]}}",
            Err("\"insecure\" is no validator"),
        );
        check(
            "spec: {mtls: {tokenValidators: [{name: jwks}, {name: jwks}]}}",
            Err("more than once"),
        );
        check(
            "\u{feff}---\nspec: {mtls: {workloadCertTTL: 1h}}\n---\nspec: {mtls: {workloadCertTTL: soon}}\n",
            Ok((3_600, 900, None)),
        );
        check(
            "spec: {mtls: {workloadCertTTL: 1h}}\n---\n: [",
            Ok((3_600, 900, None)),
        );
        check("", Ok((86_400, 900, None)));
        check("---\n", Ok((86_400, 900, None)));
        check("text", Err("no valid configuration"));
        check("spec: [", Err("no valid configuration"));
        check("spec: text", Err("no valid configuration"));
    }

    #[test]
    fn what_the_api_server_says_is_told() {
        let status = serde_json::json!({
            "status": "Failure", "code": 404, "reason": "NotFound",
            "message": "configurations.dapr.io \"daprsystem\" not found",
        });
        let status = serde_json::from_value(status).expect("a status");
        assert_eq!(
            unread(kube::Error::Api(Box::new(status))).to_string(),
            "object cannot be read from the API server: configurations.dapr.io \"daprsystem\" not found"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            drop(Mtls::parse(&text));
        }
    }
}
