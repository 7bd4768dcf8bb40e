//! What an HTTP application answers to `/dapr/config` and `/dapr/subscribe`, parsed.

use std::time::Duration;

use dapr_sidecar_core::app::{Config, EntityConfig, Error, Reentrancy};
use dapr_sidecar_core::fields::Fields;
use dapr_sidecar_core::pubsub::{BulkSubscribe, Rule, Source, Subscription};
use serde::Deserialize;

/// After which an actor is idle whose own type says something that is no duration.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Most messages of a bulk delivery unless the subscription says otherwise.
const BULK_MESSAGES: u32 = 100;
/// Longest wait of a bulk delivery unless the subscription says otherwise, in milliseconds.
const BULK_WAIT_MS: u32 = 1000;

struct ConfigAnswer {
    entities: Vec<String>,
    actor_idle_timeout: Option<String>,
    drain_ongoing_call_timeout: Option<String>,
    drain_rebalanced_actors: Option<bool>,
    reentrancy: Option<ReentrancyAnswer>,
    reminders_storage_partitions: i64,
    entities_config: Vec<EntityAnswer>,
}

impl ConfigAnswer {
    fn read(fields: &Fields<'_>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            entities: fields.get("entities")?,
            actor_idle_timeout: fields.borrowed("actorIdleTimeout")?,
            drain_ongoing_call_timeout: fields.borrowed("drainOngoingCallTimeout")?,
            drain_rebalanced_actors: fields.borrowed("drainRebalancedActors")?,
            reentrancy: ReentrancyAnswer::read(fields)?,
            reminders_storage_partitions: fields.get("remindersStoragePartitions")?,
            entities_config: each(fields, "entitiesConfig", EntityAnswer::read)?,
        })
    }
}

struct EntityAnswer {
    entities: Option<Vec<String>>,
    actor_idle_timeout: Option<String>,
    drain_ongoing_call_timeout: Option<String>,
    reentrancy: Option<ReentrancyAnswer>,
}

impl EntityAnswer {
    fn read(fields: &Fields<'_>) -> Result<Self, serde_json::Error> {
        Ok(Self {
            entities: fields.borrowed("entities")?,
            actor_idle_timeout: fields.borrowed("actorIdleTimeout")?,
            drain_ongoing_call_timeout: fields.borrowed("drainOngoingCallTimeout")?,
            reentrancy: ReentrancyAnswer::read(fields)?,
        })
    }
}

struct ReentrancyAnswer {
    enabled: bool,
    max_stack_depth: Option<i64>,
}

impl ReentrancyAnswer {
    /// Field `reentrancy` of `fields`.
    fn read(fields: &Fields<'_>) -> Result<Option<Self>, serde_json::Error> {
        let Some(fields) = fields.borrowed::<Fields<'_>>("reentrancy")? else {
            return Ok(None);
        };
        Ok(Some(Self {
            enabled: fields.get("enabled")?,
            max_stack_depth: fields.borrowed("maxStackDepth")?,
        }))
    }
}

/// The objects of the list in a field.
fn each<'a, T>(
    fields: &Fields<'a>,
    name: &str,
    read: impl Fn(&Fields<'a>) -> Result<T, serde_json::Error>,
) -> Result<Vec<T>, serde_json::Error> {
    let objects: Option<Vec<Fields<'a>>> = fields.borrowed(name)?;
    objects.iter().flatten().map(read).collect()
}

impl From<ReentrancyAnswer> for Reentrancy {
    fn from(answer: ReentrancyAnswer) -> Self {
        let default = Self::default();
        Self {
            enabled: answer.enabled,
            // Below zero nothing nests, as with zero.
            max_stack_depth: answer
                .max_stack_depth
                .map_or(default.max_stack_depth, |depth| {
                    u32::try_from(depth.max(0)).unwrap_or(u32::MAX)
                }),
        }
    }
}

/// The body of `GET /dapr/config`. A bad global duration refuses the whole answer, one of a single type falls
/// back to the default with a warning.
pub fn config(body: &[u8]) -> Result<Config, Error> {
    let answer = serde_json::from_slice(body)
        .and_then(|fields| ConfigAnswer::read(&fields))
        .map_err(|error| Error::BadAnswer(format!("error parsing app configuration: {error}")))?;
    if answer.reminders_storage_partitions > 0 {
        tracing::warn!(
            target: "dapr.runtime",
            "remindersStoragePartitions of /dapr/config has no effect: reminders are kept by the scheduler"
        );
    }
    Ok(Config {
        entities: answer.entities,
        actor_idle_timeout: duration("actorIdleTimeout", answer.actor_idle_timeout.as_deref())?,
        drain_ongoing_call_timeout: duration(
            "drainOngoingCallTimeout",
            answer.drain_ongoing_call_timeout.as_deref(),
        )?,
        drain_rebalanced_actors: answer.drain_rebalanced_actors,
        reentrancy: answer.reentrancy.map(Reentrancy::from).unwrap_or_default(),
        entities_config: answer.entities_config.into_iter().map(entity).collect(),
    })
}

fn entity(answer: EntityAnswer) -> EntityConfig {
    let lenient = |name: &str, text: Option<&str>, default: Option<Duration>| {
        duration(name, text).unwrap_or_else(|error| {
            tracing::warn!(target: "dapr.runtime", %error, "entitiesConfig of /dapr/config: the default applies");
            default
        })
    };
    EntityConfig {
        actor_idle_timeout: lenient(
            "actorIdleTimeout",
            answer.actor_idle_timeout.as_deref(),
            Some(DEFAULT_IDLE_TIMEOUT),
        ),
        drain_ongoing_call_timeout: lenient(
            "drainOngoingCallTimeout",
            answer.drain_ongoing_call_timeout.as_deref(),
            None,
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

/// The first JSON document of an answer; as Go reads one, what is behind it counts for nothing.
pub(super) fn first<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, serde_json::Error> {
    let mut documents = serde_json::Deserializer::from_slice(body).into_iter();
    let first = documents.next();
    first.unwrap_or_else(|| serde_json::from_slice(body))
}

/// The body of `GET /dapr/subscribe`; an empty body is no subscription.
pub fn subscriptions(body: &[u8]) -> Result<Vec<Subscription>, Error> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let read = || {
        let answers: Option<Vec<Fields<'_>>> = first(body)?;
        let subscriptions: Result<Vec<_>, _> = answers.iter().flatten().map(subscription).collect();
        subscriptions
    };
    let subscriptions = read().map_err(|error: serde_json::Error| {
        Error::BadAnswer(format!("error getting topics from app: {error}"))
    })?;
    Ok(subscriptions.into_iter().flatten().collect())
}

/// One entry of the list; `None` without a route.
fn subscription(fields: &Fields<'_>) -> Result<Option<Subscription>, serde_json::Error> {
    let (pubsub_name, topic): (String, String) = (fields.get("pubsubname")?, fields.get("topic")?);
    let text = |fields: &Fields<'_>, name: &str| -> Result<Option<String>, serde_json::Error> {
        let text: String = fields.get(name)?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    let routes: Fields<'_> = fields.borrowed("routes")?.unwrap_or_default();
    let mut rules = each(&routes, "rules", |rule| {
        Ok(Rule {
            matches: rule.get("match")?,
            path: rule.get("path")?,
        })
    })?;
    let default = text(&routes, "default")?.or(text(fields, "route")?);
    rules.extend(default.map(|path| Rule {
        matches: String::new(),
        path,
    }));
    let subscription = Subscription {
        rules,
        dead_letter_topic: text(fields, "deadLetterTopic")?,
        metadata: fields.metadata("metadata")?,
        bulk: bulk(fields)?,
        source: Source::Programmatic,
        pubsub_name,
        topic,
    };
    if subscription.rules.is_empty() {
        tracing::warn!(
            target: "dapr.runtime",
            "topic {} of pubsub {} has no route: the subscription is left out",
            subscription.topic,
            subscription.pubsub_name
        );
        return Ok(None);
    }
    Ok(Some(subscription))
}

fn bulk(fields: &Fields<'_>) -> Result<Option<BulkSubscribe>, serde_json::Error> {
    let bulk: Fields<'_> = fields.borrowed("bulkSubscribe")?.unwrap_or_default();
    let settings = bulk_settings(
        bulk.get("maxMessagesCount")?,
        bulk.get("maxAwaitDurationMs")?,
    );
    let is_enabled: bool = bulk.get("enabled")?;
    Ok(is_enabled.then_some(settings))
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
            br#"{"entities":["a","b"],"actorIdleTimeout":"10m","drainOngoingCallTimeout":"30s","drainRebalancedActors":false,
                 "reentrancy":{"enabled":true,"maxStackDepth":4},"unknown":1,
                 "entitiesConfig":[{"entities":["b"],"actorIdleTimeout":"x","reentrancy":{"enabled":true}}]}"#,
        )
        .expect("valid");
        assert_eq!(config.entities, ["a", "b"]);
        assert_eq!(config.actor_idle_timeout, Some(Duration::from_secs(600)));
        assert_eq!(config.drain_rebalanced_actors, Some(false));
        assert_eq!(
            config.reentrancy,
            Reentrancy {
                enabled: true,
                max_stack_depth: 4
            }
        );
        // Not that of all types.
        assert_eq!(
            config.entities_config[0].actor_idle_timeout,
            Some(Duration::from_secs(3600))
        );
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
    fn field_names_in_any_case_and_nulls() {
        // As the SDKs of Java and .NET serialise what is not set.
        let list = subscriptions(
            br#"[{"pubsubName":"p","Topic":"t","deadLetterTopic":null,"Metadata":{"rawPayload":"true","x":null},"route":null,
                  "Routes":{"Rules":[{"Match":"event.type == 'a'","Path":"/a"},{"match":null,"path":"/b"}],"default":null},
                  "bulkSubscribe":{"Enabled":true,"maxMessagesCount":null,"MaxAwaitDurationMs":5}},
                 {"PubsubName":"p","topic":"u","Route":"/u","bulkSubscribe":null}]"#,
        )
        .expect("valid");
        let [first, second] = &list[..] else {
            panic!("two subscriptions: {list:?}")
        };
        assert_eq!((&*first.pubsub_name, &*first.topic), ("p", "t"));
        assert_eq!(first.dead_letter_topic, None);
        assert_eq!(first.metadata["rawPayload"], "true");
        assert_eq!(first.metadata["x"], "");
        let rules: Vec<_> = first
            .rules
            .iter()
            .map(|r| (&*r.matches, &*r.path))
            .collect();
        assert_eq!(rules, [("event.type == 'a'", "/a"), ("", "/b")]);
        let bulk = first.bulk.expect("enabled");
        assert_eq!(
            (bulk.max_messages_count, bulk.max_await_duration_ms),
            (100, 5)
        );
        assert_eq!((&*second.pubsub_name, second.bulk), ("p", None));

        let shallow = br#"{"entities":["a"],"reentrancy":{"enabled":true,"maxStackDepth":-1}}"#;
        let reentrancy = config(shallow).expect("valid").reentrancy;
        assert_eq!((reentrancy.enabled, reentrancy.max_stack_depth), (true, 0));

        let config = config(
            br#"{"Entities":["a"],"ActorIdleTimeout":"10m","drainOngoingCallTimeout":null,"drainRebalancedActors":null,
                 "remindersStoragePartitions":null,"Reentrancy":{"Enabled":true,"maxStackDepth":null},
                 "EntitiesConfig":[{"Entities":["a"],"reentrancy":null}]}"#,
        )
        .expect("valid");
        assert_eq!(config.entities, ["a"]);
        assert_eq!(config.actor_idle_timeout, Some(Duration::from_secs(600)));
        assert_eq!(config.drain_rebalanced_actors, None);
        let reentrancy = Reentrancy {
            enabled: true,
            max_stack_depth: 32,
        };
        assert_eq!(config.reentrancy, reentrancy);
        assert_eq!(config.entities_config[0].entities, ["a"]);
        assert_eq!(config.entities_config[0].reentrancy, None);
    }

    #[test]
    fn the_first_document_is_the_answer() {
        let list = br#"[{"pubsubname":"p","topic":"t","route":"/x"}] and more"#;
        assert_eq!(subscriptions(list).expect("valid").len(), 1);
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
