//! Crashes: a Sentry that is killed between any two writes of a step, and the one that starts then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use dapr_e2e_apiserver::scripted::{Options, Server};
use dapr_security::certificate::chain_from_pem;
use dapr_security::{SpiffeId, TrustDomain};
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::json;

use super::*;
use crate::app::keeper::Again;
use crate::app::open::Place;
use crate::app::workloads::Workloads;
use crate::args::Jwt;
use crate::jwt;
use crate::metrics::Metrics;
use crate::rotation::ledger::Ledger;
use crate::server::Policy;
use crate::storage::{BUNDLE, Cluster, Directory, Storage};

const HOUR: Duration = Duration::from_secs(3600);
/// The steps of a rotation in their order, and the phase after each.
const STEPS: [(Step, Option<Phase>); 4] = [
    (Step::Begin, Some(Phase::Publishing)),
    (Step::Switch, Some(Phase::Switched)),
    (Step::Retire, Some(Phase::Retired)),
    (Step::Finish, None),
];

fn directory(folder: &Path) -> Directory {
    let names = ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"];
    let paths = names.map(|name| folder.join(name));
    let [root, chain, key, jwt_key, keys] = &paths;
    Directory::new(folder, [root, chain, key, jwt_key, keys])
}

/// An API server with the two objects, as an installation leaves them.
async fn server() -> Server {
    let server = Server::start(Options::complete()).await.unwrap();
    for kind in ["Secret", "ConfigMap"] {
        server.put(json!({
            "apiVersion": "v1", "kind": kind,
            "metadata": {"name": BUNDLE, "namespace": "dapr-system"},
        }));
    }
    server
}

fn cluster(server: &Server) -> Storage {
    let config = kube::Config::new(server.url().parse().unwrap());
    let client = kube::Client::try_from(config).unwrap();
    let keys = ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"].map(str::to_owned);
    Storage::Cluster(Box::new(Cluster::new(client, "dapr-system", keys)))
}

fn place(storage: Storage) -> Place {
    Place {
        storage,
        jwt: Jwt {
            enabled: false,
            config: jwt::Config {
                algorithm: jwt::Algorithm::default(),
                key_id: None,
                issuer: None,
                ttl: HOUR,
                clock_skew: Duration::ZERO,
            },
        },
        trust_domain: TrustDomain::new("localhost").unwrap(),
        id: SpiffeId::new("spiffe://localhost/ns/default/dapr-sentry").unwrap(),
        clock_skew: Duration::ZERO,
        root_validity: 48 * HOUR,
        workload_ttl: HOUR,
        metrics: Metrics::register(&Registry::new()).unwrap(),
    }
}

/// A Sentry that starts: what it finds must be a valid authority.
async fn start(place: &Place) -> Keeper {
    let opened = place.open().await.unwrap();
    Keeper {
        place: place.clone(),
        authority: Arc::new(ArcSwap::from_pointee(opened.authority)),
        signer: None,
        policy: Policy {
            namespace: "default".to_owned(),
            workload_ttl: place.workload_ttl,
            clock_skew: Duration::ZERO,
            cluster_domain: String::new(),
        },
        ledger: Arc::new(Mutex::new(Ledger::default())),
        workloads: Workloads::Processes {
            known_from: SystemTime::UNIX_EPOCH,
        },
        rotate_before: Duration::ZERO,
        kept: opened.kept,
        record: opened.record,
        again: Again::default(),
    }
}

fn phase(keeper: &Keeper) -> Option<Phase> {
    keeper.record.as_ref().map(|record| record.phase)
}

fn roots(keeper: &Keeper) -> Vec<rustls_pki_types::CertificateDer<'static>> {
    chain_from_pem(keeper.kept.get(Item::Root).unwrap()).unwrap()
}

/// Takes the steps from one on until the rotation is over, and looks at what it leaves.
async fn go_on(mut keeper: Keeper, from: usize, old: &[rustls_pki_types::CertificateDer<'static>]) {
    for (step, _) in &STEPS[from..] {
        keeper.take_step(*step).await.unwrap();
    }
    let new = roots(&keeper);
    assert_eq!((phase(&keeper), new.len()), (None, 1));
    assert_ne!(new, old);
    for item in [Item::Rotation, Item::NextChain, Item::NextKey] {
        assert_eq!(keeper.kept.get(item), None, "{item:?}");
    }
    // Nothing is left to be done: there is no second rotation.
    assert!(
        matches!(keeper.step(), Step::Wait(_)),
        "{:?}",
        keeper.step()
    );
    if let Some(published) = &keeper.kept.published {
        assert_eq!(published.root.as_deref(), keeper.kept.get(Item::Root));
        assert_eq!(published.phase, None);
    }
}

#[tokio::test]
async fn a_crash_after_any_write_of_any_step_is_survived() {
    for (at, (step, after)) in STEPS.iter().enumerate() {
        let mut written = 0;
        let mut has_more = true;
        while has_more {
            let folder = tempfile::tempdir().unwrap();
            let directory = directory(folder.path());
            let place = place(Storage::Directory(directory.clone()));
            let mut keeper = start(&place).await;
            let old = roots(&keeper);
            for (step, _) in &STEPS[..at] {
                keeper.take_step(*step).await.unwrap();
            }
            let before = phase(&keeper);
            let changes = keeper.changes(*step, SystemTime::now()).unwrap();
            has_more = directory.begin(&changes, written).await;
            drop(keeper);

            let keeper = start(&place).await;
            let is_done = written > 0;
            let expected = if is_done { *after } else { before };
            assert_eq!(phase(&keeper), expected, "{step:?} after {written} writes");
            if let Some(record) = &keeper.record {
                assert!(record.is_about(&keeper.authority.load()), "{step:?}");
            }
            go_on(keeper, at + usize::from(is_done), &old).await;
            written += 1;
        }
        // None of them, and after each: the files of the step, and the journal's beginning and end where they are several.
        let states = 1 + [4 + 2, 5 + 2, 2 + 2, 1][at];
        assert_eq!(written, states, "{step:?}");
    }
}

#[tokio::test]
async fn a_crash_between_secret_and_config_map_is_survived_in_every_step() {
    for (at, (step, after)) in STEPS.iter().enumerate() {
        let server = server().await;
        let place = place(cluster(&server));
        let mut keeper = start(&place).await;
        let old = roots(&keeper);
        for (step, _) in &STEPS[..at] {
            keeper.take_step(*step).await.unwrap();
        }
        let changes = keeper.changes(*step, SystemTime::now()).unwrap();
        place.storage.save(&keeper.kept, &changes).await.unwrap();
        drop(keeper);

        let keeper = start(&place).await;
        assert_eq!(phase(&keeper), *after, "{step:?}");
        let published = place.storage.load().await.unwrap().published.unwrap();
        assert_eq!(
            published.root.as_deref(),
            keeper.kept.get(Item::Root),
            "{step:?}"
        );
        let name = after.map(|phase| phase.name().to_owned());
        assert_eq!(published.phase, name, "{step:?}");
        go_on(keeper, at + 1, &old).await;
    }
}

#[tokio::test]
async fn a_crash_before_the_request_is_taken_away_does_not_rotate_twice() {
    // The last step leaves nothing that tells which request it has answered.
    for at in 0..STEPS.len() - 1 {
        let server = server().await;
        let place = place(cluster(&server));
        drop(start(&place).await);
        place.storage.request("now").await.unwrap();
        let mut keeper = start(&place).await;
        let old = roots(&keeper);
        assert_eq!(keeper.step(), Step::Begin);
        for (step, _) in &STEPS[..=at] {
            keeper.take_step(*step).await.unwrap();
        }
        drop(keeper);

        let mut keeper = start(&place).await;
        assert_eq!(keeper.step(), Step::Acknowledge, "{at}");
        keeper.take_step(Step::Acknowledge).await.unwrap();
        assert_eq!(keeper.kept.request, None);
        go_on(keeper, at + 1, &old).await;
    }
}

/// Starts with a shorter TTL, a longer one, and one that nothing is known from before it.
async fn check_longest_ttl(storage: Storage) {
    let mut place = place(storage);
    drop(start(&place).await);
    let check = async |place: &Place, expected: u64| {
        let keeper = start(place).await;
        let recorded = keeper.kept.get(Item::LongestTtl);
        let expected_record = (expected != 24 * 3600).then(|| expected.to_string().into_bytes());
        assert_eq!(recorded, expected_record.as_deref());
        let now = SystemTime::now();
        assert!(keeper.until(now) >= seconds(now) + expected);
        keeper
    };
    place.workload_ttl = Duration::from_secs(1);
    check(&place, 3600).await;
    place.workload_ttl = 2 * HOUR;
    let keeper = check(&place, 7200).await;
    let unknown = Changes::from([(Item::LongestTtl, None)]);
    place.storage.save(&keeper.kept, &unknown).await.unwrap();
    check(&place, 24 * 3600).await;
}

#[tokio::test]
async fn the_longest_ttl_outlives_a_restart_with_a_shorter_one() {
    let folder = tempfile::tempdir().unwrap();
    check_longest_ttl(Storage::Directory(directory(folder.path()))).await;
    let server = server().await;
    check_longest_ttl(cluster(&server)).await;
}

#[tokio::test]
async fn nobody_is_waited_for_beyond_the_end_of_the_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let mut place = place(Storage::Directory(directory(folder.path())));
    place.workload_ttl = 10_000 * HOUR;
    let keeper = start(&place).await;
    let end = seconds(keeper.authority.load().not_after());
    assert_eq!(keeper.until(SystemTime::now()), end);
}
