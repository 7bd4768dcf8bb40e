use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::metrics::{Off, PolicyKind, PolicyLabels, ResiliencyMetrics};

/// An attempt that failed with a class.
#[derive(Debug, PartialEq, Eq)]
struct Fault(Class);

impl Classify for Fault {
    fn class(&self) -> Class {
        self.0
    }
}

fn resource(name: &str, spec: serde_json::Value) -> Resource {
    Resource {
        name: name.to_owned(),
        spec: serde_json::from_value(spec).expect("a specification"),
        ..Resource::default()
    }
}

fn resiliency(spec: serde_json::Value) -> Resiliency {
    Resiliency::new("me", vec![resource("r", spec)], Arc::new(Off))
}

const STORE: Target<'_> = Target::Outbound {
    component: "store",
    kind: ComponentKind::Statestore,
};

const APP: Target<'_> = Target::App {
    name: "orders",
    endpoint: "orders:create",
};

/// Runs an operation that fails `failures` times with `class`; gives attempts, seconds and success.
async fn fails(
    resiliency: &Resiliency,
    target: Target<'_>,
    failures: u32,
    class: Class,
) -> (u32, u64, bool) {
    let attempts = AtomicU32::new(0);
    let started = Instant::now();
    let result = resiliency
        .run(target, || async {
            if attempts.fetch_add(1, Ordering::Relaxed) < failures {
                Err(Fault(class))
            } else {
                Ok(())
            }
        })
        .await;
    (
        attempts.into_inner(),
        started.elapsed().as_secs(),
        result.is_ok(),
    )
}

#[tokio::test(start_paused = true)]
async fn without_policies_there_is_one_attempt() {
    let none = Resiliency::default();
    assert!(none.is_empty() && none.policy(STORE).is_none());
    assert_eq!(fails(&none, STORE, 1, Class::Uncoded).await, (1, 0, false));
}

#[tokio::test(start_paused = true)]
async fn constant_retries_wait_their_interval() {
    let resiliency = resiliency(json!({
        "policies": {"retries": {"r": {"policy": "Constant", "duration": "2s", "maxRetries": 3}}},
        "targets": {"components": {"store": {"outbound": {"retry": "r"}}}}
    }));
    assert_eq!(
        fails(&resiliency, STORE, 2, Class::Uncoded).await,
        (3, 4, true)
    );
    assert_eq!(
        fails(&resiliency, STORE, 9, Class::Uncoded).await,
        (4, 6, false)
    );
    assert_eq!(
        fails(&resiliency, STORE, 9, Class::Permanent).await,
        (1, 0, false)
    );
    let inbound = Target::Inbound {
        component: "store",
        kind: ComponentKind::Statestore,
    };
    assert!(resiliency.policy(inbound).is_none());
}

#[tokio::test(start_paused = true)]
async fn codes_decide_about_retries() {
    let resiliency = resiliency(json!({
        "policies": {"retries": {"r": {"duration": "1ms", "maxRetries": 1,
            "matching": {"httpStatusCodes": "500-503", "gRPCStatusCodes": "14"}}}},
        "targets": {"apps": {"orders": {"retry": "r"}}}
    }));
    let cases = [
        (Class::Code(500), 2),
        (Class::Code(404), 1),
        (Class::Code(14), 2),
        (Class::Code(5), 1),
        (Class::Uncoded, 2),
    ];
    for (class, attempts) in cases {
        assert_eq!(
            fails(&resiliency, APP, 9, class).await.0,
            attempts,
            "{class:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_ends_every_attempt() {
    let resiliency = resiliency(json!({
        "policies": {"timeouts": {"t": "1s"}, "retries": {"r": {"duration": "1s", "maxRetries": 2}}},
        "targets": {"apps": {"orders": {"timeout": "t", "retry": "r"}}}
    }));
    let started = Instant::now();
    let result: Result<(), Failed<Fault>> = resiliency
        .run(APP, std::future::pending::<Result<(), Fault>>)
        .await;
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    assert!(matches!(result, Err(Failed::Timeout)));
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_ends_retries_and_is_the_result() {
    let resiliency = resiliency(json!({
        "policies": {
            "retries": {"r": {"duration": "1ms", "maxRetries": 10}},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2", "timeout": "30s"}}
        },
        "targets": {"apps": {"orders": {"retry": "r", "circuitBreaker": "b"}}}
    }));
    assert_eq!(fails(&resiliency, APP, 9, Class::Uncoded).await.0, 2);
    let result: Result<(), Failed<Fault>> = resiliency.run(APP, || async { Ok(()) }).await;
    assert!(matches!(
        result,
        Err(Failed::Rejected(breaker::Rejected::Open))
    ));
    let other = Target::App {
        name: "orders",
        endpoint: "orders:list",
    };
    assert!(fails(&resiliency, other, 0, Class::Uncoded).await.2);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert!(fails(&resiliency, APP, 0, Class::Uncoded).await.2);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_does_not_block_a_half_open_breaker() {
    let resiliency = resiliency(json!({
        "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1", "timeout": "1s"}}},
        "targets": {"apps": {"orders": {"circuitBreaker": "b"}}}
    }));
    assert_eq!(fails(&resiliency, APP, 1, Class::Uncoded).await.0, 1);
    tokio::time::advance(Duration::from_secs(2)).await;
    let hanging = resiliency.run(APP, std::future::pending::<Result<(), Fault>>);
    assert!(
        tokio::time::timeout(Duration::from_secs(1), hanging)
            .await
            .is_err()
    );
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(fails(&resiliency, APP, 0, Class::Uncoded).await.2);
}

#[tokio::test(start_paused = true)]
async fn defaults_are_tried_from_the_narrowest() {
    let retry = |retries: u32| json!({"duration": "1ms", "maxRetries": retries});
    let resiliency = resiliency(json!({
        "policies": {"retries": {
            "DefaultRetryPolicy": retry(1),
            "DefaultAppRetryPolicy": retry(2),
            "DefaultActorRetryPolicy": retry(3),
            "DefaultComponentRetryPolicy": retry(4),
            "DefaultComponentInboundRetryPolicy": retry(5),
            "DefaultStatestoreComponentOutboundRetryPolicy": retry(6)
        }},
        "targets": {"apps": {"configured": {}}}
    }));
    let actor = Target::ActorPreLock {
        actor_type: "T",
        actor_id: "1",
    };
    let pubsub = |inbound: bool| {
        let (component, kind) = ("bus", ComponentKind::Pubsub);
        if inbound {
            Target::Inbound { component, kind }
        } else {
            Target::Outbound { component, kind }
        }
    };
    let configured = Target::App {
        name: "configured",
        endpoint: "configured:x",
    };
    let cases = [
        (APP, 3),
        (actor, 4),
        (STORE, 7),
        (pubsub(true), 6),
        (pubsub(false), 5),
        // A target of its own has no defaults.
        (configured, 1),
    ];
    for (target, attempts) in cases {
        assert_eq!(
            fails(&resiliency, target, 99, Class::Uncoded).await.0,
            attempts,
            "{target:?}"
        );
    }
    let post_lock = Target::ActorPostLock {
        actor_type: "T",
        actor_id: "1",
    };
    assert_eq!(fails(&resiliency, post_lock, 1, Class::Uncoded).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn actor_breakers_have_a_scope() {
    let spec = |scope: &str| {
        json!({
            "policies": {"circuitBreakers": {"b": {"trip": "consecutiveFailures >= 1"}}},
            "targets": {"actors": {"T": {"circuitBreaker": "b", "circuitBreakerScope": scope}}}
        })
    };
    let actor = |actor_id| Target::ActorPreLock {
        actor_type: "T",
        actor_id,
    };
    for (scope, other_is_open) in [("type", true), ("id", false), ("both", false)] {
        let resiliency = resiliency(spec(scope));
        assert_eq!(fails(&resiliency, actor("1"), 1, Class::Uncoded).await.0, 1);
        assert!(
            !fails(&resiliency, actor("1"), 0, Class::Uncoded).await.2,
            "{scope}"
        );
        let passed = fails(&resiliency, actor("2"), 0, Class::Uncoded).await.2;
        assert_eq!(passed, !other_is_open, "{scope}");
    }
}

#[tokio::test(start_paused = true)]
async fn built_in_policies_can_be_redefined_but_not_weakened() {
    let shipped = Resiliency::default();
    let builtin = Target::Builtin;
    assert_eq!(
        fails(
            &shipped,
            builtin(Builtin::ServiceRetries),
            9,
            Class::Uncoded
        )
        .await,
        (4, 3, false)
    );
    assert_eq!(
        fails(
            &shipped,
            builtin(Builtin::ActorNotFoundRetries),
            9,
            Class::Uncoded
        )
        .await,
        (6, 5, false)
    );
    assert_eq!(
        fails(
            &shipped,
            builtin(Builtin::ActorReminderRetries),
            9,
            Class::Uncoded
        )
        .await
        .0,
        1
    );
    assert_eq!(
        fails(
            &shipped,
            builtin(Builtin::InitializationRetries),
            9,
            Class::Uncoded
        )
        .await
        .0,
        4
    );
    let redefined = resiliency(json!({"policies": {"retries": {
        "DaprBuiltInServiceRetries": {"duration": "1ms", "maxRetries": 5},
        "DaprBuiltInActorRetries": {"duration": "1ms", "maxRetries": -1},
        "DaprBuiltInActorNotFoundRetries": {"duration": "1ms", "maxRetries": 50}
    }}}));
    assert_eq!(
        fails(
            &redefined,
            builtin(Builtin::ServiceRetries),
            9,
            Class::Uncoded
        )
        .await
        .0,
        6
    );
    assert_eq!(
        fails(
            &redefined,
            builtin(Builtin::ActorRetries),
            9,
            Class::Uncoded
        )
        .await
        .0,
        4
    );
    assert_eq!(
        fails(
            &redefined,
            builtin(Builtin::ActorNotFoundRetries),
            9,
            Class::Uncoded
        )
        .await
        .0,
        6
    );
}

#[test]
fn wrong_specifications_are_explained() {
    let check = |spec: serde_json::Value, expected: &str| {
        let spec: Spec = serde_json::from_value(spec).expect("a specification");
        let error = policies::Policies::default()
            .merge(spec)
            .expect_err("wrong");
        assert_eq!(error.to_string(), expected);
    };
    check(
        json!({"policies": {"timeouts": {"t": "soon"}}}),
        "invalid duration \"t\", soon: time: invalid duration \"soon\"",
    );
    check(
        json!({"policies": {"retries": {"r": {"matching": {"httpStatusCodes": "1-2"}}}}}),
        "invalid pattern 1-2, start code 1 is not valid",
    );
    check(
        json!({"targets": {"actors": {"T": {"circuitBreaker": "b"}}}}),
        "actor circuit breakers must include scope",
    );
    check(
        json!({"targets": {"actors": {"T": {"circuitBreakerScope": "all"}}}}),
        "unknown circuit breaker scope \"all\"",
    );
}

#[test]
fn resources_are_merged_and_scoped() {
    let first = resource(
        "first",
        json!({
            "policies": {"timeouts": {"t": "1000", "u": "2s"}},
            "targets": {"apps": {"orders": {"timeout": "t"}}}
        }),
    );
    let second = resource("second", json!({"policies": {"timeouts": {"t": "3s"}}}));
    let mut third = resource("third", json!({"policies": {"timeouts": {"t": "9s"}}}));
    third.scopes = vec!["other".to_owned()];
    let resiliency = Resiliency::new("me", vec![first, second, third], Arc::new(Off));
    let policy = resiliency.policy(APP).expect("configured");
    assert!(
        format!("{policy:?}").contains("timeout: Some(3s)"),
        "{policy:?}"
    );
    assert!(resiliency.has_app_target("orders") && !resiliency.has_app_target("other"));
}

#[derive(Default)]
struct Recorder(Mutex<Vec<String>>);

impl ResiliencyMetrics for Arc<Recorder> {
    fn wrapped(&self, labels: PolicyLabels<'_>) {
        self.0.lock().push(format!(
            "wrapped {} {}",
            labels.policy.name(),
            labels.target
        ));
    }

    fn activated(&self, labels: PolicyLabels<'_>) {
        assert_eq!((labels.name, labels.flow_direction), ("r", "outbound"));
        let status = if labels.policy == PolicyKind::CircuitBreaker {
            labels.status
        } else {
            ""
        };
        self.0
            .lock()
            .push(format!("activated {}{status}", labels.policy.name()));
    }
}

#[tokio::test(start_paused = true)]
async fn policies_are_measured() {
    let recorder = Arc::new(Recorder::default());
    let spec = json!({
        "policies": {
            "retries": {"r": {"duration": "1ms", "maxRetries": 1}},
            "circuitBreakers": {"b": {"trip": "consecutiveFailures >= 2"}}
        },
        "targets": {"components": {"store": {"outbound": {"retry": "r", "circuitBreaker": "b"}}}}
    });
    let metrics = Arc::new(Arc::clone(&recorder));
    let resiliency = Resiliency::new("me", vec![resource("r", spec)], metrics);
    assert_eq!(fails(&resiliency, STORE, 9, Class::Uncoded).await.0, 2);
    let expected = [
        "wrapped circuitbreaker Statestore_store",
        "wrapped retry Statestore_store",
        "activated retry",
        "activated circuitbreakeropen",
    ];
    assert_eq!(*recorder.0.lock(), expected);
}
