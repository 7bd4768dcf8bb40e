//! A component's metadata: text properties under case-insensitive names, weakly converted on reading.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Error, ErrorKind};

/// What a component is opened with. Property values have all templates and references resolved.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Name of the component resource.
    pub name: String,
    /// `<category>.<technology>`, for instance `state.sqlite`.
    pub component_type: String,
    /// Version as written, for instance `v1`; may be empty.
    pub version: String,
    properties: BTreeMap<String, String>,
}

impl Metadata {
    /// Metadata of component `name`; two properties whose names differ only in case are refused.
    pub fn new(
        name: impl Into<String>,
        component_type: impl Into<String>,
        version: impl Into<String>,
        properties: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        let mut lowered = BTreeMap::new();
        for (key, value) in properties {
            if lowered.insert(key.to_lowercase(), value).is_some() {
                let text = format!("key {key} is duplicate in the metadata");
                return Err(Error::new(ErrorKind::Configuration, text));
            }
        }
        Ok(Self {
            name: name.into(),
            component_type: component_type.into(),
            version: version.into(),
            properties: lowered,
        })
    }

    /// The text of property `name`, in any letter case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties
            .get(&name.to_lowercase())
            .map(String::as_str)
    }

    /// The first of `names` that is there: the main name, then its aliases.
    pub fn get_any(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.get(name))
    }

    /// A boolean: true for `y`, `yes`, `true`, `t`, `on`, `1` in any case, false for any other text.
    pub fn bool(&self, name: &str) -> Option<bool> {
        self.get(name).map(is_truthy)
    }

    /// A duration: Go's notation, or a bare integer meaning seconds; empty means zero.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, Error> {
        self.get(name).map(|text| duration(name, text)).transpose()
    }

    /// A decimal number; empty means zero.
    pub fn number<T: std::str::FromStr + Default>(&self, name: &str) -> Result<Option<T>, Error> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        if text.is_empty() {
            return Ok(Some(T::default()));
        }
        text.trim().parse().map(Some).map_err(|_| {
            let text = format!(
                "1 error(s) decoding:\n\n* cannot parse '{name}' as int: strconv.ParseInt: parsing {text:?}: invalid syntax"
            );
            Error::new(ErrorKind::Configuration, text)
        })
    }

    /// All properties, names in lower case.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.properties
    }

    /// `<name> (<type>/<version>)`, as logs name a component.
    pub fn log_name(&self) -> String {
        format!("{} ({}/{})", self.name, self.component_type, self.version)
    }
}

/// Upstream's truthy texts: `y`, `yes`, `true`, `t`, `on`, `1`, trimmed, in any case.
pub fn is_truthy(text: &str) -> bool {
    matches!(
        text.trim().to_lowercase().as_str(),
        "y" | "yes" | "true" | "t" | "on" | "1"
    )
}

/// The duration `text` of the property `name`: Go's notation, or a bare integer meaning seconds; empty means zero.
///
/// # Errors
/// It is neither.
pub fn duration(name: &str, text: &str) -> Result<Duration, Error> {
    if text.is_empty() {
        return Ok(Duration::ZERO);
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    go_duration(text).ok_or_else(|| {
        let text = format!(
            "1 error(s) decoding:\n\n* error decoding '{name}': time: invalid duration {text:?}"
        );
        Error::new(ErrorKind::Configuration, text)
    })
}

/// Go's duration notation for the non-negative durations components take; `None` when it is not one.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |i| digits + i);
        let seconds = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" | "μs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += value * seconds;
        rest = &rest[unit_end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Metadata::new("store", "state.test", "v1", pairs).expect("no duplicates")
    }

    #[test]
    fn names_are_case_insensitive_and_duplicates_refused() {
        assert_eq!(
            metadata(&[("ConnectionString", "x")]).get("connectionstring"),
            Some("x")
        );
        let twice = [
            ("a".to_owned(), String::new()),
            ("A".to_owned(), String::new()),
        ];
        let error = Metadata::new("s", "t", "v1", twice).expect_err("duplicate");
        assert_eq!(error.to_string(), "key A is duplicate in the metadata");
    }

    #[test]
    fn durations_are_go_texts_or_seconds() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(
                metadata(&[("d", text)]).duration("d").ok().flatten(),
                expected,
                "{text}"
            );
        };
        check("5", Some(Duration::from_secs(5)));
        check("", Some(Duration::ZERO));
        check("1m30s", Some(Duration::from_secs(90)));
        check("250ms", Some(Duration::from_millis(250)));
        check("soon", None);
        check("5x", None);
        check("1.5h", Some(Duration::from_secs(5400)));
    }

    #[test]
    fn a_bad_number_names_the_field() {
        let error = metadata(&[("port", "x")])
            .number::<u16>("port")
            .expect_err("not a number");
        assert!(error.to_string().contains("'port'"), "{error}");
    }
}
