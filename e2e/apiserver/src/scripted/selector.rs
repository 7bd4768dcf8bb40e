//! Label and field selectors, as far as the control plane uses them.

use serde_json::Value;

/// What a list or a watch is restricted to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    /// Also holds for objects without the field.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    pub(super) fn new(labels: Option<&str>, fields: Option<&str>) -> Self {
        let mut terms = Vec::new();
        for term in split(labels.unwrap_or_default()) {
            terms.push(parse(term, |key| {
                vec!["metadata".into(), "labels".into(), key.to_owned()]
            }));
        }
        for term in split(fields.unwrap_or_default()) {
            terms.push(parse(term, |key| {
                key.split('.').map(ToOwned::to_owned).collect()
            }));
        }
        Self(terms)
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|term| {
            let found = term
                .path
                .iter()
                .try_fold(object, |value, key| value.get(key))
                .and_then(Value::as_str);
            match &term.test {
                Test::In(values) => {
                    found.is_some_and(|found| values.iter().any(|value| value == found))
                }
                Test::NotIn(values) => {
                    found.is_none_or(|found| values.iter().all(|value| value != found))
                }
                Test::Exists => found.is_some(),
                Test::Absent => found.is_none(),
            }
        })
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    let terms = text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    });
    terms.map(str::trim).filter(|term| !term.is_empty())
}

fn parse(term: &str, path: impl Fn(&str) -> Vec<String>) -> Term {
    let one = |value: &str| vec![value.trim().to_owned()];
    let many = |values: &str| {
        values
            .trim()
            .trim_matches(['(', ')'])
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect()
    };
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(one(value)))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(one(value)))
    } else if let Some((key, values)) = term.split_once(" notin ") {
        (key, Test::NotIn(many(values)))
    } else if let Some((key, values)) = term.split_once(" in ") {
        (key, Test::In(many(values)))
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Test::Absent)
    } else {
        (term, Test::Exists)
    };
    Term {
        path: path(key.trim()),
        test,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_select() {
        let object = json!({"metadata": {"name": "x", "labels": {"app": "a", "tier": "web"}}, "status": {"phase": "Running"}});
        let check = |labels: &str, fields: &str, expected: bool| {
            let selector = Selector::new(Some(labels), Some(fields));
            assert_eq!(selector.matches(&object), expected, "{labels} {fields}");
        };
        check("", "", true);
        check("app=a", "", true);
        check("app==a,tier!=db", "", true);
        check("app in (a, b),tier", "", true);
        check("app in (b),tier", "", false);
        check("tier notin (web)", "", false);
        check("!missing", "metadata.name=x,status.phase!=Failed", true);
        check("missing", "", false);
        check("", "metadata.name=y", false);
    }
}
