//! The environment of the sidecar, in upstream's order, and the grammar of the annotations that extend it.

use dapr_crds::annotations as names;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, SecretKeySelector};

use super::{Sidecar, sockets_folder};

/// A sidecar that is given certificates this way runs on Windows.
pub(super) const SSL_CERT_DIR: &str = "SSL_CERT_DIR";
/// Where pluggable components have their sockets.
pub(super) const SOCKETS_FOLDER: &str = "DAPR_COMPONENT_SOCKETS_FOLDER";
/// The key of tokens in their Secrets.
const TOKEN_KEY: &str = "token";

/// The variables but for those that come from components and tokens.
pub(super) struct Environment(Vec<EnvVar>);

pub(super) fn environment(sidecar: &Sidecar<'_>) -> Environment {
    let (settings, annotations) = (sidecar.settings, sidecar.annotations);
    let mut all = vec![
        literal("NAMESPACE", sidecar.request.namespace),
        literal("DAPR_TRUST_ANCHORS", sidecar.request.trust_anchors),
        field("POD_NAME", "metadata.name"),
        literal("DAPR_CONTROLPLANE_NAMESPACE", &settings.namespace),
        literal("DAPR_CONTROLPLANE_TRUST_DOMAIN", &settings.trust_domain),
    ];
    if settings.downward_apis {
        all.push(field("DAPR_HOST_IP", "status.podIP"));
    }
    let mut keys = Vec::new();
    for (key, value) in entries(annotations.text(names::ENV)) {
        keys.push(key);
        all.push(literal(key, value));
    }
    for (key, value) in entries(annotations.text(names::ENV_FROM_SECRET)) {
        keys.push(key);
        all.extend(secret_and_key(value).map(|(secret, item)| from_secret(key, secret, item)));
    }
    if !keys.is_empty() {
        all.push(literal("DAPR_ENV_KEYS", &keys.join(" ")));
    }
    Environment(all)
}

impl Environment {
    pub(super) fn sets(&self, name: &str) -> bool {
        self.0.iter().any(|variable| variable.name == name)
    }

    pub(super) fn all(mut self, sidecar: &Sidecar<'_>) -> Vec<EnvVar> {
        let annotations = sidecar.annotations;
        if sidecar.components.exist() {
            let folder = sockets_folder(annotations, sidecar.settings);
            self.0.push(literal(SOCKETS_FOLDER, folder));
        }
        for (variable, name) in [
            ("DAPR_API_TOKEN", names::API_TOKEN_SECRET),
            ("APP_API_TOKEN", names::APP_TOKEN_SECRET),
        ] {
            let secret = annotations.non_empty(name);
            self.0
                .extend(secret.map(|secret| from_secret(variable, secret, TOKEN_KEY)));
        }
        self.0
    }
}

/// A variable with a value. The API leaves out what is empty.
pub(super) fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()).filter(|value| !value.is_empty()),
        value_from: None,
    }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: path.to_owned(),
    };
    let source = EnvVarSource {
        field_ref: Some(field),
        ..EnvVarSource::default()
    };
    from(name, source)
}

fn from_secret(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector {
        name: secret.to_owned(),
        key: key.to_owned(),
        optional: None,
    };
    let source = EnvVarSource {
        secret_key_ref: Some(selector),
        ..EnvVarSource::default()
    };
    from(name, source)
}

fn from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(source),
    }
}

/// The secret and the key in it, without the blanks around them; `None` with more than one colon.
pub(crate) fn secret_and_key(text: &str) -> Option<(&str, &str)> {
    match text.split_once(':') {
        None => Some((text.trim(), text.trim())),
        Some((secret, key)) if !key.contains(':') => Some((secret.trim(), key.trim())),
        Some(_) => None,
    }
}

/// The pairs of a list `KEY=value,OTHER=value`. A comma that is not followed by a key belongs to the value before it.
pub(crate) fn entries(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut start, mut from) = (0, 0);
    while let Some(at) = text[from..].find(',').map(|at| from + at) {
        from = at + 1;
        if let Some(length) = key(&text[from..]) {
            found.push(&text[start..at]);
            start = from;
            from += length;
        }
    }
    found.push(&text[start..]);
    let pairs = found.into_iter().map(str::trim);
    pairs.filter_map(|entry| entry.split_once('=')).collect()
}

/// Bytes of the blanks, the name and the `=` a text begins with, if it does.
fn key(text: &str) -> Option<usize> {
    // The blanks of Go's `\s`.
    let rest = text.trim_start_matches(['\t', '\n', '\x0C', '\r', ' ']);
    let is_first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if !rest.bytes().next().is_some_and(is_first) {
        return None;
    }
    let end = rest
        .bytes()
        .position(|byte| !(is_first(byte) || byte.is_ascii_digit()))?;
    let blanks = text.len() - rest.len();
    rest[end..].starts_with('=').then_some(blanks + end + 1)
}

/// What the app is told about its own protocol; `None` for one nobody knows.
pub(crate) fn protocol(text: &str, tls: bool) -> Option<&'static str> {
    Some(match (text.to_ascii_lowercase().as_str(), tls) {
        ("", _) | ("http", false) => "http",
        ("http", true) | ("https", _) => "https",
        ("grpc", false) => "grpc",
        ("grpc", true) | ("grpcs", _) => "grpcs",
        ("h2c", _) => "h2c",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_comma_before_a_key_separates() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            assert_eq!(entries(text), expected, "{text:?}");
        };
        check("", &[]);
        check("A=1", &[("A", "1")]);
        check(" A=1 ,\n B_2= x ", &[("A", "1"), ("B_2", " x")]);
        check("A=1,2,3,B=4", &[("A", "1,2,3"), ("B", "4")]);
        check("A=b=c,1X=2", &[("A", "b=c,1X=2")]);
        check("A=,B=,C=", &[("A", ""), ("B", ""), ("C", "")]);
        check("novalue,A=1", &[("A", "1")]);
        check("A=ü,B=ö", &[("A", "ü"), ("B", "ö")]);
        check("A=1,B", &[("A", "1,B")]);
    }

    #[test]
    fn a_secret_is_its_own_key_unless_told() {
        assert_eq!(secret_and_key("a"), Some(("a", "a")));
        assert_eq!(secret_and_key("a:b"), Some(("a", "b")));
        assert_eq!(secret_and_key(" a "), Some(("a", "a")));
        assert_eq!(secret_and_key(" a : b "), Some(("a", "b")));
        assert_eq!(secret_and_key("a:b:c"), None);
    }

    #[test]
    fn protocols_are_upgraded_with_tls() {
        let check = |text: &str, tls: bool, expected: Option<&str>| {
            assert_eq!(protocol(text, tls), expected, "{text} {tls}");
        };
        check("", false, Some("http"));
        check("", true, Some("http"));
        check("HTTP", true, Some("https"));
        check("grpc", false, Some("grpc"));
        check("gRPC", true, Some("grpcs"));
        check("https", false, Some("https"));
        check("h2c", true, Some("h2c"));
        check("tcp", false, None);
    }
}
