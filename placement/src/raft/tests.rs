//! Replicas in one process, with mTLS between them.

use dapr_security::{Expect, SpiffeId};
use prometheus::Registry;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::testing::{Authority, id};

const PLACEMENT: &str = "spiffe://control/ns/dapr-system/dapr-placement";

#[test]
fn the_promise_of_a_restarted_replica_is_over_before_it_speaks() {
    let config = replica::config(COMPACTION).expect("settings are valid");
    assert!(SILENCE > LEASE);
    assert!(LEASE_MARGIN >= 2 * LEASE_CHECK);
    assert_eq!(Duration::from_millis(config.election_timeout_max), LEASE);
}

/// Starts one replica per identity and returns who leads, if anybody does within the time.
async fn leader(identities: [&str; 3], patience: Duration) -> Option<usize> {
    let authority = Authority::new();
    let mut listeners = Vec::new();
    for _ in identities {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
    }
    let address = |listener: &TcpListener| listener.local_addr().expect("bound");
    let entries: Vec<String> = (0..)
        .zip(&listeners)
        .map(|(number, listener)| format!("p{number}={}", address(listener)))
        .collect();
    let token = CancellationToken::new();
    let mut replicas = JoinSet::new();
    let mut led = Vec::new();
    for (number, (identity, listener)) in identities.into_iter().zip(listeners).enumerate() {
        let cluster =
            Cluster::parse(&format!("p{number}"), &entries.join(",")).expect("in the list");
        let expected: SpiffeId = id(PLACEMENT);
        let security = authority.security(&id(identity));
        let network = Network::new(security.clone(), Expect::Id(expected.clone()));
        let (leads, leading) = watch::channel(None);
        led.push(leading);
        let options = Options {
            cluster,
            listener,
            acceptor: Acceptor::MutualExactly(security, expected),
            network,
            metrics: Metrics::register(&Registry::new()).expect("names are valid"),
            disk: None,
            started: 1,
            draw: || 1,
            leads,
        };
        replicas.spawn(run(options, |_| (), token.clone()));
    }
    let any = led
        .iter_mut()
        .map(|leading| Box::pin(leading.wait_for(Option::is_some)));
    let first = timeout(patience, futures::future::select_all(any)).await;
    let leader = first.ok().map(|(outcome, number, _)| {
        drop(outcome.expect("still running"));
        number
    });
    token.cancel();
    while let Some(ended) = replicas.join_next().await {
        ended.expect("no panic").expect("ends in order");
    }
    leader
}

#[tokio::test]
async fn replicas_elect_over_mtls() {
    assert!(
        leader([PLACEMENT; 3], Duration::from_secs(30))
            .await
            .is_some()
    );
}

#[tokio::test]
async fn only_placement_takes_part() {
    // Two of three are somebody else: no quorum, however long one waits.
    let stranger = "spiffe://control/ns/dapr-system/dapr-operator";
    assert_eq!(
        leader([PLACEMENT, stranger, stranger], 2 * SILENCE + 2 * LEASE).await,
        None
    );
}
