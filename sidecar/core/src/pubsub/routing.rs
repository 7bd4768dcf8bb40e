//! From an event to the path of the application that takes it.

use std::sync::{Arc, LazyLock};

use cel::objects::{Key, Map};
use cel::{Context, Env, IdedExpr, Program, Value};
use serde_json::Value as Json;

use super::error::SubscribeError;
use super::presence;
use super::rule_check;
use super::subscription::Subscription;

/// The functions of the expression language, built once.
static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// The rules of a subscription, compiled.
#[derive(Debug, Default)]
pub(crate) struct Routes(Vec<Route>);

#[derive(Debug)]
struct Route {
    /// `None` takes every event.
    matches: Option<IdedExpr>,
    path: String,
}

/// A rule that could not be evaluated for an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Evaluation(String),
    #[error("the result of match expression was not a boolean")]
    NotBoolean,
}

/// Checks the rules of subscriptions: one that cannot be compiled spoils the list it came in.
pub fn check(subscriptions: &[Subscription]) -> Result<(), SubscribeError> {
    for subscription in subscriptions {
        Routes::compile(subscription)?;
    }
    Ok(())
}

impl Routes {
    pub(crate) fn compile(subscription: &Subscription) -> Result<Self, SubscribeError> {
        let routes = subscription.rules.iter().map(|rule| {
            let invalid = |reason| SubscribeError::InvalidRule {
                topic: subscription.topic.clone(),
                matches: rule.matches.clone(),
                reason,
            };
            let matches = match rule.matches.trim() {
                "" => None,
                source => Some(compile(source).map_err(invalid)?),
            };
            Ok(Route {
                matches,
                path: rule.path.clone(),
            })
        });
        routes.collect::<Result<_, _>>().map(Self)
    }

    /// One path that takes everything.
    pub(crate) fn always(path: &str) -> Self {
        Self(vec![Route {
            matches: None,
            path: path.to_owned(),
        }])
    }

    /// The path of the first rule that matches; `None` if there is none.
    pub(crate) fn find(
        &self,
        event: &serde_json::Map<String, Json>,
    ) -> Result<Option<&str>, Error> {
        // The event becomes a value of the language only when a rule asks for it.
        let mut context = None;
        for route in &self.0 {
            let Some(rule) = &route.matches else {
                return Ok(Some(&route.path));
            };
            let context = context.get_or_insert_with(|| {
                let mut context = Context::with_env(Arc::clone(&ENV));
                context.add_variable_from_value("event", object(event));
                context
            });
            match Value::resolve(rule, context) {
                Ok(Value::Bool(true)) => return Ok(Some(&route.path)),
                Ok(Value::Bool(false)) => {}
                Ok(_) => return Err(Error::NotBoolean),
                Err(error) => return Err(Error::Evaluation(error.to_string())),
            }
        }
        Ok(None)
    }
}

fn compile(source: &str) -> Result<IdedExpr, String> {
    let program = Program::compile(source).map_err(|error| error.to_string())?;
    rule_check::check(program.expression())?;
    let mut rule = program.expression().clone();
    presence::soften(&mut rule);
    Ok(rule)
}

fn object(members: &serde_json::Map<String, Json>) -> Value {
    let members: std::collections::HashMap<Key, Value> = members
        .iter()
        .map(|(name, value)| (Key::from(name.as_str()), convert(value)))
        .collect();
    Value::Map(Map::from(members))
}

/// Numbers are doubles, as everywhere in JSON: `1` and `1.0` are equal.
fn convert(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(elements) => Value::List(Arc::new(elements.iter().map(convert).collect())),
        Json::Object(members) => object(members),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pubsub::subscription::{Rule, Source};

    fn routes(rules: &[(&str, &str)]) -> Result<Routes, SubscribeError> {
        Routes::compile(&Subscription {
            pubsub_name: "bus".to_owned(),
            topic: "orders".to_owned(),
            rules: rules
                .iter()
                .map(|(matches, path)| Rule {
                    matches: (*matches).to_owned(),
                    path: (*path).to_owned(),
                })
                .collect(),
            dead_letter_topic: None,
            metadata: BTreeMap::new(),
            bulk: None,
            source: Source::Declarative,
        })
    }

    fn event(json: &str) -> serde_json::Map<String, Json> {
        serde_json::from_str(json).expect("an object")
    }

    fn valid(rules: &[(&str, &str)]) -> Routes {
        routes(rules).expect("valid rules")
    }

    fn find(rules: &[(&str, &str)], json: &str) -> Result<Option<String>, Error> {
        valid(rules)
            .find(&event(json))
            .map(|path| path.map(str::to_owned))
    }

    #[test]
    fn the_first_rule_that_matches() {
        let rules = [
            (r#"event.type == "a""#, "/a"),
            ("event.data.importance > 5", "/important"),
            (r#"event.data.tags.exists(t, t == "x")"#, "/x"),
            ("", "/default"),
        ];
        let check = |event: &str, expected: &str| {
            assert_eq!(
                find(&rules, event),
                Ok(Some(expected.to_owned())),
                "{event}"
            );
        };
        check(r#"{"type":"a"}"#, "/a");
        check(
            r#"{"type":"b","data":{"importance":6,"tags":[]}}"#,
            "/important",
        );
        check(
            r#"{"type":"b","data":{"importance":5.5,"tags":[]}}"#,
            "/important",
        );
        check(r#"{"type":"b","data":{"importance":5,"tags":["x"]}}"#, "/x");
        check(
            r#"{"type":"b","data":{"importance":1,"tags":[]}}"#,
            "/default",
        );
        assert_eq!(find(&rules[..1], r#"{"type":"b"}"#), Ok(None));
        assert_eq!(
            find(&[("event.n == 5", "/n")], r#"{"n":5}"#),
            Ok(Some("/n".to_owned()))
        );
    }

    #[test]
    fn what_has_no_fields_has_not_the_one_asked_for() {
        let check = |rule: &str, event: &str, expected: Option<&str>| {
            let found = find(&[(rule, "/x"), ("", "/default")], event);
            let expected = expected.map(|path| Some(path.to_owned()));
            assert_eq!(found.ok(), expected, "{rule} {event}");
        };
        let has = "has(event.data.x)";
        check(has, r#"{"data":{"x":1}}"#, Some("/x"));
        check(has, r#"{"data":{"y":1}}"#, Some("/default"));
        for data in [r#""text""#, "1", "[1]", "null", "true"] {
            check(has, &format!(r#"{{"data":{data}}}"#), Some("/default"));
        }
        check("!has(event.data.x)", r#"{"data":"text"}"#, Some("/x"));
        check(
            "has(event.data.x) && event.data.x == 1",
            r#"{"data":{"x":1}}"#,
            Some("/x"),
        );
        let each = "event.data.exists(e, has(e.x))";
        check(each, r#"{"data":["text",{"x":1}]}"#, Some("/x"));
        check(each, r#"{"data":["text"]}"#, Some("/default"));
        check("[has(event.data.x)][0]", r#"{"data":1}"#, Some("/default"));
        check(
            "{'a': has(event.data.x)}['a']",
            r#"{"data":1}"#,
            Some("/default"),
        );
        // What is asked is there, of whom is not.
        check(has, "{}", None);
    }

    #[test]
    fn tests_within_tests_do_not_double_a_rule() {
        let length = |depth: usize| {
            let of = (0..depth).fold("event".to_owned(), |of, _| format!("{{'k': has({of}.x)}}"));
            let rule = compile(&format!("has({of}.x)")).expect("compiles");
            format!("{rule:?}").len()
        };
        // The parser of an unoptimised build needs more of the stack than tests have.
        let lengths = std::thread::Builder::new().stack_size(64 << 20);
        let lengths = lengths.spawn(move || (length(5), length(10)));
        let (half, whole) = lengths.expect("a thread").join().expect("lengths");
        // Doubled at each level it would be 32 times as long.
        assert!(whole < half * 8, "{whole} beside {half}");
    }

    #[test]
    fn the_standard_library_is_there() {
        let event =
            r#"{"time":"2026-11-29T10:20:30Z","type":"abc","data":{"n":2,"l":[1,2],"t":"1h30m"}}"#;
        for rule in [
            "timestamp(event.time) > timestamp('2020-01-01T00:00:00Z')",
            "timestamp(event.time) - timestamp('2026-11-29T10:20:00Z') == duration('30s')",
            "timestamp(event.time) + duration('1m') > timestamp(event.time)",
            "timestamp(event.time).getFullYear() == 2026 && timestamp(event.time).getMonth() == 10",
            "timestamp(event.time).getDate() == 29 && timestamp(event.time).getDayOfMonth() == 28",
            "timestamp(event.time).getDayOfWeek() == 0 && timestamp(event.time).getDayOfYear() == 332",
            "timestamp(event.time).getHours() == 10 && timestamp(event.time).getMinutes() == 20",
            "timestamp(event.time).getSeconds() == 30 && timestamp(event.time).getMilliseconds() == 0",
            "timestamp(event.time).getHours('+02:00') == 12",
            "duration(event.data.t) > duration('30m') && duration('90m').getHours() == 1",
            "size(event.type) == 3 && event.data.l.size() == 2 && size(b'ab') == 2",
            "bytes('a') == b'a' && string(b'a') == 'a' && string(1) == '1' && int('7') == 7",
            "double(event.data.n) == 2.0 && int(event.data.n) == 2 && uint(2) == 2u && bool('true')",
            "type(event.type) == string && dyn(1) == 1",
            "event.type.contains('b') && event.type.startsWith('a') && event.type.endsWith('c')",
            "event.type.matches('^[a-c]+$') && has(event.data.n) && 'n' in event.data",
            "event.data.l.all(i, i > 0.0) && event.data.l.exists(i, i == 2.0)",
            "event.data.l.exists_one(i, i == 1.0) && event.data.l.map(i, i + 1.0) == [2.0, 3.0]",
            "event.data.l.filter(i, i > 1.0) == [2.0]",
        ] {
            let found = find(&[(rule, "/yes"), ("", "/no")], event);
            assert_eq!(found, Ok(Some("/yes".to_owned())), "{rule}");
        }
    }

    #[test]
    fn evaluation_errors_are_errors_even_before_the_default() {
        let missing = find(&[("event.missing == 1", "/a"), ("", "/default")], "{}");
        assert!(matches!(missing, Err(Error::Evaluation(_))), "{missing:?}");
        assert_eq!(
            find(&[("event.id", "/a")], r#"{"id":"x"}"#),
            Err(Error::NotBoolean)
        );
        assert_eq!(
            find(&[("has(event.missing)", "/a"), ("", "/d")], "{}"),
            Ok(Some("/d".to_owned()))
        );
    }

    #[test]
    fn a_broken_rule_is_named() {
        let error = routes(&[("event.type ==", "/a")]).expect_err("broken");
        assert!(error.to_string().contains("\"event.type ==\""), "{error}");
        let error = routes(&[("nofunc(event.type)", "/a")]).expect_err("unknown");
        let expected = "undeclared reference to 'nofunc'";
        assert!(error.to_string().ends_with(expected), "{error}");
    }
}
