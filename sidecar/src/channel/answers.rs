//! What an HTTP application answers to `/dapr/config` and `/dapr/subscribe`, parsed.

use std::collections::BTreeMap;
use std::time::Duration;

use dapr_sidecar_core::app::{Config, EntityConfig, Error, Reentrancy};
use dapr_sidecar_core::pubsub::{BulkSubscribe, Rule, Source, Subscription};
use serde::Deserialize;

/// Most messages of a bulk delivery unless the subscription says otherwise.
const BULK_MESSAGES: u32 = 100;
/// Longest wait of a bulk delivery unless the subscription says otherwise, in milliseconds.
const BULK_WAIT_MS: u32 = 1000;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConfigAnswer {
    entities: Option<Vec<String>>,
    actor_idle_timeout: Option<String>,
    drain_ongoing_call_timeout: Option<String>,
    drain_rebalanced_actors: Option<bool>,
    reentrancy: Option<ReentrancyAnswer>,
    reminders_storage_partitions: Option<i64>,
    entities_config: Option<Vec<EntityAnswer>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EntityAnswer {
    entities: Option<Vec<String>>,
    actor_idle_timeout: Option<String>,
    drain_ongoing_call_timeout: Option<String>,
    reentrancy: Option<ReentrancyAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ReentrancyAnswer {
    enabled: bool,
    max_stack_depth: Option<u32>,
}

impl From<ReentrancyAnswer> for Reentrancy {
    fn from(answer: ReentrancyAnswer) -> Self {
        let default = Self::default();
        Self {
            enabled: answer.enabled,
            max_stack_depth: answer.max_stack_depth.unwrap_or(default.max_stack_depth),
        }
    }
}

/// The body of `GET /dapr/config`. A bad global duration refuses the whole answer, one of a single type falls
/// back to the default with a warning.
pub fn config(body: &[u8]) -> Result<Config, Error> {
    let answer: ConfigAnswer = serde_json::from_slice(body)
        .map_err(|error| Error::BadAnswer(format!("error parsing app configuration: {error}")))?;
    if answer
        .reminders_storage_partitions
        .is_some_and(|partitions| partitions > 0)
    {
        tracing::warn!(
            target: "dapr.runtime",
            "remindersStoragePartitions of /dapr/config has no effect: reminders are kept by the scheduler"
        );
    }
    Ok(Config {
        entities: answer.entities.unwrap_or_default(),
        actor_idle_timeout: duration("actorIdleTimeout", answer.actor_idle_timeout.as_deref())?,
        drain_ongoing_call_timeout: duration(
            "drainOngoingCallTimeout",
            answer.drain_ongoing_call_timeout.as_deref(),
        )?,
        drain_rebalanced_actors: answer.drain_rebalanced_actors,
        reentrancy: answer.reentrancy.map(Reentrancy::from).unwrap_or_default(),
        entities_config: answer
            .entities_config
            .unwrap_or_default()
            .into_iter()
            .map(entity)
            .collect(),
    })
}

fn entity(answer: EntityAnswer) -> EntityConfig {
    let lenient = |name: &str, text: Option<&str>| {
        duration(name, text).unwrap_or_else(|error| {
            tracing::warn!(target: "dapr.runtime", %error, "entitiesConfig of /dapr/config: the default applies");
            None
        })
    };
    EntityConfig {
        actor_idle_timeout: lenient("actorIdleTimeout", answer.actor_idle_timeout.as_deref()),
        drain_ongoing_call_timeout: lenient(
            "drainOngoingCallTimeout",
            answer.drain_ongoing_call_timeout.as_deref(),
        ),
        entities: answer.entities.unwrap_or_default(),
        reentrancy: answer.reentrancy.map(Reentrancy::from),
    }
}

fn duration(name: &str, text: Option<&str>) -> Result<Option<Duration>, Error> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bad = |reason: String| Error::BadAnswer(format!("{name} of /dapr/config: {reason}"));
    let parsed = dapr_kit::duration::parse(text).map_err(|error| bad(error.to_string()))?;
    Duration::try_from(parsed)
        .map(Some)
        .map_err(|_| bad(format!("{text} is negative")))
}

#[derive(Deserialize)]
struct SubscriptionAnswer {
    #[serde(default)]
    pubsubname: String,
    #[serde(default)]
    topic: String,
    #[serde(default, rename = "deadLetterTopic")]
    dead_letter_topic: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    route: Option<String>,
    #[serde(default)]
    routes: Option<RoutesAnswer>,
    #[serde(default, rename = "bulkSubscribe")]
    bulk_subscribe: Option<BulkAnswer>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RoutesAnswer {
    rules: Option<Vec<RuleAnswer>>,
    default: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RuleAnswer {
    r#match: String,
    path: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct BulkAnswer {
    enabled: bool,
    max_messages_count: i64,
    max_await_duration_ms: i64,
}

/// The body of `GET /dapr/subscribe`; an empty body is no subscription.
pub fn subscriptions(body: &[u8]) -> Result<Vec<Subscription>, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let answers: Option<Vec<SubscriptionAnswer>> = serde_json::from_slice(body)
        .map_err(|error| Error::BadAnswer(format!("error getting topics from app: {error}")))?;
    Ok(answers
        .unwrap_or_default()
        .into_iter()
        .filter_map(subscription)
        .collect())
}

fn subscription(answer: SubscriptionAnswer) -> Option<Subscription> {
    let routes = answer.routes.unwrap_or_default();
    let mut rules: Vec<Rule> = routes
        .rules
        .unwrap_or_default()
        .into_iter()
        .map(|rule| Rule {
            matches: rule.r#match,
            path: rule.path,
        })
        .collect();
    let default = routes
        .default
        .filter(|path| !path.is_empty())
        .or(answer.route.filter(|path| !path.is_empty()));
    rules.extend(default.map(|path| Rule {
        matches: String::new(),
        path,
    }));
    if rules.is_empty() {
        tracing::warn!(
            target: "dapr.runtime",
            "topic {} of pubsub {} has no route: the subscription is left out",
            answer.topic,
            answer.pubsubname
        );
        return None;
    }
    Some(Subscription {
        pubsub_name: answer.pubsubname,
        topic: answer.topic,
        rules,
        dead_letter_topic: answer.dead_letter_topic.filter(|topic| !topic.is_empty()),
        metadata: answer.metadata.unwrap_or_default(),
        bulk: answer
            .bulk_subscribe
            .filter(|bulk| bulk.enabled)
            .map(|bulk| bulk_settings(bulk.max_messages_count, bulk.max_await_duration_ms)),
        source: Source::Programmatic,
    })
}

/// Bulk settings with upstream's defaults where a number is missing.
pub fn bulk_settings(max_messages_count: i64, max_await_duration_ms: i64) -> BulkSubscribe {
    let or_default = |value: i64, default: u32| {
        u32::try_from(value)
            .ok()
            .filter(|v| *v > 0)
            .unwrap_or(default)
    };
    BulkSubscribe {
        max_messages_count: or_default(max_messages_count, BULK_MESSAGES),
        max_await_duration_ms: or_default(max_await_duration_ms, BULK_WAIT_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_config_is_read() {
        let config = config(
            br#"{"entities":["a","b"],"actorIdleTimeout":"1h","drainOngoingCallTimeout":"30s","drainRebalancedActors":false,
                 "reentrancy":{"enabled":true,"maxStackDepth":4},"unknown":1,
                 "entitiesConfig":[{"entities":["b"],"actorIdleTimeout":"x","reentrancy":{"enabled":true}}]}"#,
        )
        .expect("valid");
        assert_eq!(config.entities, ["a", "b"]);
        assert_eq!(config.actor_idle_timeout, Some(Duration::from_secs(3600)));
        assert_eq!(config.drain_rebalanced_actors, Some(false));
        assert_eq!(
            config.reentrancy,
            Reentrancy {
                enabled: true,
                max_stack_depth: 4
            }
        );
        assert_eq!(config.entities_config[0].actor_idle_timeout, None);
        assert_eq!(
            config.entities_config[0].reentrancy,
            Some(Reentrancy {
                enabled: true,
                max_stack_depth: 32
            })
        );
    }

    #[test]
    fn a_bad_global_duration_refuses_the_config() {
        let error =
            config(br#"{"entities":["a"],"actorIdleTimeout":"soon"}"#).expect_err("bad duration");
        assert!(
            error
                .to_string()
                .starts_with("actorIdleTimeout of /dapr/config"),
            "{error}"
        );
    }

    #[test]
    fn routes_come_in_order_with_the_default_last() {
        let list = subscriptions(
            br#"[{"pubsubname":"p","topic":"t","routes":{"rules":[{"match":"event.type == 'a'","path":"/a"}],"default":"/d"}},
                {"pubsubname":"p","topic":"u","route":"/x","bulkSubscribe":{"enabled":true}},
                {"pubsubname":"p","topic":"none"}]"#,
        )
        .expect("valid");
        let paths: Vec<Vec<&str>> = list
            .iter()
            .map(|s| s.rules.iter().map(|r| r.path.as_str()).collect())
            .collect();
        assert_eq!(paths, [vec!["/a", "/d"], vec!["/x"]]);
        assert_eq!(
            list[1].bulk,
            Some(BulkSubscribe {
                max_messages_count: 100,
                max_await_duration_ms: 1000
            })
        );
    }

    #[test]
    fn no_body_is_no_subscription() {
        assert_eq!(subscriptions(b"").expect("valid"), []);
        assert_eq!(subscriptions(b"null").expect("valid"), []);
        assert!(subscriptions(b"{}").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_read_or_refused(body: Vec<u8>) {
            drop(config(&body));
            drop(subscriptions(&body));
        }
    }
}
