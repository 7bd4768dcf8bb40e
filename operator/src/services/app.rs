//! An app as the annotations of its workload's template describe it. Pure.

use std::collections::BTreeMap;

use dapr_crds::annotations::{
    APP_ID, ENABLE_METRICS, ENABLED, GRPC_PORT, INTERNAL_GRPC_PORT, METRICS_PORT,
    SIDECAR_SVC_ANNOTATIONS, is_truthy,
};

/// The annotations that decide; a workload's others are not kept.
pub(super) const READ: [&str; 7] = [
    APP_ID,
    ENABLE_METRICS,
    ENABLED,
    GRPC_PORT,
    INTERNAL_GRPC_PORT,
    METRICS_PORT,
    SIDECAR_SVC_ANNOTATIONS,
];

/// What follows the app id in the name of its Service.
const SUFFIX: &str = "-dapr";
/// The longest name of a Service.
const NAME_LIMIT: usize = 63;

/// An app that is to have a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct App {
    pub(super) id: String,
    pub(super) grpc_port: i32,
    pub(super) internal_grpc_port: i32,
    pub(super) metrics_port: i32,
    /// Whether the sidecar serves metrics; the port is named either way.
    pub(super) is_measured: bool,
    /// What the user wants on the Service besides.
    pub(super) extra: BTreeMap<String, String>,
    /// Annotations that are no integers, for which the default stands.
    pub(super) ignored: Vec<&'static str>,
}

/// Annotations that make no Service. Only who wrote them can mend that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("value for the {APP_ID} annotation is empty")]
    NoId,
    #[error(
        "invalid app id {id:?} in the annotation {APP_ID}: {name:?} has to be lower-case letters, digits and dashes, \
         begin and end with a letter or digit, and have at most {NAME_LIMIT} characters"
    )]
    Id { id: String, name: String },
    #[error("the annotation {annotation} is {value}: a port is between 1 and 65535")]
    Port {
        annotation: &'static str,
        value: i32,
    },
}

/// Whether a workload with these annotations on its template is to have a Service.
pub(super) fn is_enabled(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(ENABLED).is_some_and(|text| is_truthy(text))
}

/// The name of an app's Service.
pub(super) fn service_name(id: &str) -> String {
    format!("{id}{SUFFIX}")
}

impl App {
    /// The app, if the template asks for one.
    pub(super) fn read(annotations: &BTreeMap<String, String>) -> Result<Option<Self>, Error> {
        if !is_enabled(annotations) {
            return Ok(None);
        }
        let id = annotations.get(APP_ID).map_or("", String::as_str);
        check_id(id)?;
        let metrics = annotations.get(ENABLE_METRICS).map_or("", String::as_str);
        let extra = annotations.get(SIDECAR_SVC_ANNOTATIONS);
        let mut ignored = Vec::new();
        let mut port = |annotation, default| match port(annotations, annotation)? {
            Port::Is(port) => Ok(port),
            Port::Absent => Ok(default),
            Port::NoInteger => {
                ignored.push(annotation);
                Ok(default)
            }
        };
        Ok(Some(Self {
            id: id.to_owned(),
            grpc_port: port(GRPC_PORT, 50001)?,
            internal_grpc_port: port(INTERNAL_GRPC_PORT, 50002)?,
            metrics_port: port(METRICS_PORT, 9090)?,
            is_measured: metrics.is_empty() || is_truthy(metrics),
            extra: pairs(extra.map_or("", String::as_str)),
            ignored,
        }))
    }

    pub(super) fn service_name(&self) -> String {
        service_name(&self.id)
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() {
        return Err(Error::NoId);
    }
    let name = service_name(id);
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_valid = name.len() <= NAME_LIMIT
        && name.bytes().all(|byte| is_plain(byte) || byte == b'-')
        && name.bytes().next().is_some_and(is_plain);
    if is_valid {
        return Ok(());
    }
    Err(Error::Id {
        id: id.to_owned(),
        name,
    })
}

enum Port {
    Absent,
    Is(i32),
    NoInteger,
}

/// What is no integer is not there, as upstream has it. An integer that is no port would be refused by the API server
/// again and again; here it is said once.
fn port(annotations: &BTreeMap<String, String>, annotation: &'static str) -> Result<Port, Error> {
    let Some(text) = annotations.get(annotation) else {
        return Ok(Port::Absent);
    };
    // Of 32 bits: upstream takes others for no integers.
    let Ok(value) = text.parse::<i32>() else {
        return Ok(Port::NoInteger);
    };
    match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(Port::Is(i32::from(port))),
        _ => Err(Error::Port { annotation, value }),
    }
}

/// Reads `key=value, key=value`. Of a key that comes twice the first one counts.
fn pairs(text: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    for entry in text.split(',') {
        let Some((key, value)) = entry.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        if !key.is_empty() {
            pairs
                .entry(key.to_owned())
                .or_insert_with(|| value.to_owned());
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let enabled = [(ENABLED, "true"), (APP_ID, "shop")];
        enabled
            .iter()
            .chain(pairs)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[track_caller]
    fn read(pairs: &[(&str, &str)]) -> App {
        App::read(&annotations(pairs))
            .expect("valid")
            .expect("enabled")
    }

    #[test]
    fn defaults() {
        let expected = App {
            id: "shop".to_owned(),
            grpc_port: 50001,
            internal_grpc_port: 50002,
            metrics_port: 9090,
            is_measured: true,
            extra: BTreeMap::new(),
            ignored: Vec::new(),
        };
        assert_eq!(read(&[]), expected);
        assert_eq!(read(&[(GRPC_PORT, "x")]).ignored, [GRPC_PORT]);
    }

    #[test]
    fn only_enabled_workloads_count() {
        for value in ["", "false", "0", "no", "tru"] {
            let found = App::read(&annotations(&[(ENABLED, value), (APP_ID, "")]));
            assert_eq!(found, Ok(None), "{value:?}");
        }
        assert_eq!(App::read(&BTreeMap::new()), Ok(None));
        for value in ["true", " Yes ", "1", "on", "T"] {
            assert_eq!(read(&[(ENABLED, value)]).id, "shop", "{value:?}");
        }
    }

    #[test]
    fn ids() {
        let longest = "a".repeat(58);
        for id in ["a", "0", "1app", "my-app", "a--b", "ends-", &longest] {
            assert_eq!(read(&[(APP_ID, id)]).service_name(), format!("{id}-dapr"));
        }
        let too_long = "a".repeat(59);
        for id in [
            "Shop", "my_app", "my.app", "-shop", "sh op", " shop", "é", &too_long,
        ] {
            let found = App::read(&annotations(&[(APP_ID, id)]));
            assert!(matches!(found, Err(Error::Id { .. })), "{id:?}: {found:?}");
        }
        let mut without = annotations(&[]);
        without.remove(APP_ID);
        assert_eq!(App::read(&without), Err(Error::NoId));
        assert_eq!(App::read(&annotations(&[(APP_ID, "")])), Err(Error::NoId));
    }

    #[test]
    fn ports() {
        type Get = fn(&App) -> i32;
        let table: [(&str, i32, Get); 3] = [
            (GRPC_PORT, 50001, |app| app.grpc_port),
            (INTERNAL_GRPC_PORT, 50002, |app| app.internal_grpc_port),
            (METRICS_PORT, 9090, |app| app.metrics_port),
        ];
        for (annotation, default, get) in table {
            for (text, expected) in [
                ("7000", 7000),
                ("+7000", 7000),
                ("65535", 65535),
                ("", default),
                ("http", default),
                (" 7000", default),
                ("7000.0", default),
                ("0x10", default),
                ("2147483648", default),
                ("99999999999999999999", default),
            ] {
                assert_eq!(
                    get(&read(&[(annotation, text)])),
                    expected,
                    "{annotation} {text:?}"
                );
            }
            for (text, value) in [("0", 0), ("-1", -1), ("65536", 65536)] {
                let expected = Err(Error::Port { annotation, value });
                assert_eq!(
                    App::read(&annotations(&[(annotation, text)])),
                    expected,
                    "{annotation} {text}"
                );
            }
        }
    }

    #[test]
    fn metrics_are_on_unless_they_are_said_to_be_off() {
        for (text, expected) in [
            ("", true),
            ("true", true),
            ("1", true),
            ("false", false),
            ("nonsense", false),
        ] {
            assert_eq!(
                read(&[(ENABLE_METRICS, text)]).is_measured,
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn extra_annotations() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let expected: BTreeMap<_, _> = expected
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(
                read(&[(SIDECAR_SVC_ANNOTATIONS, text)]).extra,
                expected,
                "{text:?}"
            );
        };
        check("", &[]);
        check("a=1", &[("a", "1")]);
        check(" a = 1 , b=2=3 ", &[("a", "1"), ("b", "2=3")]);
        check("a=1,a=2", &[("a", "1")]);
        check("a,=b,,c=", &[("c", "")]);
    }
}
