//! Resolvers that find each other over the multicast of this host.

use std::time::{Duration, Instant};

use dapr_components_core::name_resolution::{Instance, ResolveRequest, Resolver as _};
use dapr_components_core::{ErrorKind, Registries, conformance};
use dapr_components_mdns::Mdns;

/// App ids must differ between test runs on one network.
fn unique(name: &str) -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{name}-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    )
}

fn instance(app_id: &str, address: &str, port: u16) -> Instance {
    Instance {
        app_id: app_id.to_owned(),
        namespace: "default".to_owned(),
        address: address.to_owned(),
        hostname: "box.example.com".to_owned(),
        internal_port: port,
        http_port: 3500,
        app_port: 0,
    }
}

fn request(app_id: &str) -> ResolveRequest {
    ResolveRequest {
        app_id: app_id.to_owned(),
        namespace: "default".to_owned(),
        port: 50002,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    conformance::name_resolution::run(|instance| {
        let mut registries = Registries::default();
        dapr_components_mdns::register(&mut registries);
        Box::pin(async move {
            registries
                .name_resolution
                .open("mdns", instance, serde_json::Value::Null)
                .await
        })
    })
    .await;
}

/// Skips time without packets or commands; the timers due meanwhile run.
async fn silence(length: Duration) {
    tokio::time::pause();
    tokio::time::advance(length).await;
    tokio::time::resume();
}

#[tokio::test(flavor = "current_thread")]
async fn the_first_lookup_after_a_long_silence_has_all_its_time() {
    let app_id = unique("silence");
    let target = instance(&app_id, "127.0.0.1", 1003);
    let asked = Mdns::open_as("asked", &target).await.expect("open");
    let asking = Mdns::open(instance(&unique("asking"), "127.0.0.1", 1004));
    let asking = asking.await.expect("open");
    // Past the announcements, after which nothing wakes the resolver for half a minute.
    silence(Duration::from_secs(2)).await;
    silence(Duration::from_secs(5)).await;
    let found = asking.resolve(&request(&app_id)).await;
    assert_eq!(found.expect("found"), "127.0.0.1:1003");
    asked.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_one_app_take_turns() {
    let app_id = unique("turns");
    let one = Mdns::open_as("one", &instance(&app_id, "127.0.0.1", 1001))
        .await
        .expect("open");
    let two = Mdns::open_as("two", &instance(&app_id, "127.0.0.1", 1002))
        .await
        .expect("open");
    let both = async {
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < 2 {
            seen.insert(one.resolve(&request(&app_id)).await.expect("found"));
            tokio::task::yield_now().await;
        }
        seen
    };
    let seen = tokio::time::timeout(Duration::from_secs(10), both)
        .await
        .expect("both in time");
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["127.0.0.1:1001", "127.0.0.1:1002"]
    );
    two.close().await;
    let alone = async {
        // The goodbye takes its way through the network.
        while one
            .resolve(&request(&app_id))
            .await
            .expect("found")
            .ends_with("1002")
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), alone)
        .await
        .expect("forgotten in time");
    one.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_failed_makes_way_for_its_successor() {
    let app_id = unique("restarted");
    // It crashes: nobody says goodbye for it.
    let crashing = tokio::runtime::Runtime::new().expect("a runtime");
    let first = instance(&app_id, "127.0.0.1", 1001);
    let open = crashing.spawn(async move { Mdns::open_as("old", &first).await });
    let _old = open.await.expect("no panic").expect("open");
    let asking = Mdns::open(instance(&unique("asking"), "127.0.0.1", 1004));
    let asking = asking.await.expect("open");
    let request = request(&app_id);
    let before = asking.resolve(&request).await.expect("found");
    assert_eq!(before, "127.0.0.1:1001");
    crashing.shutdown_background();
    let second = instance(&app_id, "127.0.0.1", 1002);
    let new = Mdns::open_as("new", &second).await.expect("open");

    // Answers of the old one may still be on their way, and count as signs of life.
    let found = async {
        let mut in_a_row = 0;
        while in_a_row < 4 {
            let address = asking.resolve(&request).await.expect("found");
            if address == before {
                in_a_row = 0;
                asking.failed(&request, &before);
                tokio::task::yield_now().await;
            } else {
                in_a_row += 1;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), found).await;
    found.expect("nobody is sent to the old one any more");
    new.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_addresses_can_be_dialled() {
    let app_id = unique("six");
    let target = Mdns::open(instance(&app_id, "[::1]", 1003))
        .await
        .expect("open");
    assert_eq!(
        target.resolve(&request(&app_id)).await.expect("found"),
        "[::1]:1003"
    );
    target.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_given_up_after_a_second_by_all_callers() {
    let resolver = Mdns::open(instance(&unique("me"), "127.0.0.1", 1004))
        .await
        .expect("open");
    let stranger = unique("stranger");
    let started = Instant::now();
    let asked = request(&stranger);
    let answers = tokio::join!(resolver.resolve(&asked), resolver.resolve(&asked));
    for answer in [answers.0, answers.1] {
        assert_eq!(
            answer.expect_err("nobody").to_string(),
            format!("couldn't find service: {stranger}")
        );
    }
    assert!(
        started.elapsed() >= Duration::from_millis(990),
        "{:?}",
        started.elapsed()
    );
    resolver.close().await;
    let error = resolver.resolve(&asked).await.expect_err("closed");
    assert_eq!(error.to_string(), "the mDNS resolver is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_app_ids_are_refused() {
    let long = "a".repeat(64);
    let error = Mdns::open(instance(&long, "127.0.0.1", 1))
        .await
        .expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let resolver = Mdns::open(instance(&unique("me"), "localhost", 1005))
        .await
        .expect("open");
    for app_id in [long.as_str(), "", "a..b"] {
        let error = resolver
            .resolve(&request(app_id))
            .await
            .expect_err("no DNS name");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    resolver.close().await;
}
