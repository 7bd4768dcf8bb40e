//! The leader of Placement dies under load: no actor moves, and calls go on soon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, metric};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::actor_hosts::{Host, home};
use crate::support::{LIMIT, Stage, fetch, story};

/// Actors that are called, spread over the hosts.
const ACTORS: u32 = 30;
/// Fifty calls in a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How long calls may wait for the next leader.
const RESUME: Duration = Duration::from_secs(3);
/// How long a call may take once they have resumed.
const CALL: Duration = Duration::from_secs(1);
/// How long calls go on after the kill: longer than the lease of hosts that do not come back.
const AFTER: Duration = Duration::from_secs(8);

/// One call: when it was made and answered, and by whom.
struct Call {
    made: Instant,
    answered: Instant,
    actor: u32,
    by: Option<String>,
}

/// Calls actors in turn through all sidecars until the time is over.
async fn load(urls: &[String], until: Instant) -> Vec<Call> {
    let client = reqwest::Client::new();
    let mut calls = JoinSet::new();
    let mut pace = interval(PAUSE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for (number, url) in (0u32..).zip(urls.iter().cycle()) {
        pace.tick().await;
        if Instant::now() >= until {
            break;
        }
        let actor = number % ACTORS;
        let request = client
            .post(format!("{url}/{actor}/method/where"))
            .timeout(LIMIT);
        calls.spawn(async move {
            let made = Instant::now();
            let by = async {
                let response = request.send().await.ok()?.error_for_status().ok()?;
                response.text().await.ok()
            };
            Call {
                made,
                by: by.await,
                answered: Instant::now(),
                actor,
            }
        });
    }
    calls.join_all().await
}

/// The version of the table, as the leader shows it.
async fn version(stage: &Stage, control_plane: &ControlPlane, leader: usize) -> Result<u64> {
    let port = control_plane.placement[leader].health_port;
    let url = format!("http://127.0.0.1:{port}/placement/state");
    let state: Value = fetch(stage.http.get(url)).await?.expect(200)?.json()?;
    let version = &state["tables"]["default"]["version"];
    version
        .as_u64()
        .with_context(|| format!("no version: {state}"))
}

/// Who hosts which actor, once all sidecars say the same and every host has some.
async fn settled(stage: &Stage, hosts: &[Host]) -> Result<BTreeMap<u32, String>> {
    await_condition("all hosts are in the table", LIMIT, || async {
        let mut homes = BTreeMap::new();
        for actor in 0..ACTORS {
            for host in hosts {
                let by = home(stage, &host.sidecar, actor).await?;
                let known = homes.entry(actor).or_insert_with(|| by.clone());
                ensure!(*known == by, "actor {actor} is at {known} and at {by}");
            }
        }
        let names: BTreeSet<&String> = homes.values().collect();
        ensure!(names.len() == hosts.len(), "actors on {names:?} only");
        Ok(homes)
    })
    .await
}

/// How often each application was called for each actor.
fn seen(hosts: &[Host]) -> BTreeMap<(&'static str, u32), usize> {
    let pairs = hosts
        .iter()
        .flat_map(|host| (0..ACTORS).map(move |actor| (host, actor)));
    pairs
        .map(|(host, actor)| {
            let path = format!("/actors/Counter/{actor}/method/where");
            ((host.name, actor), host.app.seen(&path).len())
        })
        .collect()
}

/// A host that comes and goes makes two versions: a leader that had to collect the table anew would come to fewer.
async fn raise_version(stage: &Stage, control_plane: &ControlPlane) -> Result<()> {
    let mut passing = Host::start(stage, "passing", control_plane).await?;
    await_condition("the passing host is in the table", LIMIT, || async {
        let mut homes = BTreeSet::new();
        for actor in 0..ACTORS {
            homes.insert(home(stage, &passing.sidecar, actor).await?);
        }
        ensure!(homes.contains(passing.name), "actors on {homes:?} only");
        Ok(())
    })
    .await?;
    let status = passing.sidecar.process.terminate(LIMIT).await?;
    ensure!(status.success(), "the sidecar ended with {status}");
    Ok(())
}

#[test]
fn a_leader_dies_under_calls() {
    story("placement-failover", async |stage| {
        let mut control_plane = stage.control_plane(3).await?;
        let mut hosts = Vec::new();
        for name in ["one", "two", "three"] {
            hosts.push(Host::start(stage, name, &control_plane).await?);
        }
        raise_version(stage, &control_plane).await?;
        let homes = settled(stage, &hosts).await?;
        let leader = control_plane.leader(LIMIT).await?;
        let before = version(stage, &control_plane, leader).await?;
        ensure!(
            before > hosts.len() as u64,
            "version {before} could be that of a table collected anew"
        );
        let seen_before = seen(&hosts);

        let urls: Vec<String> = hosts
            .iter()
            .map(|host| host.sidecar.url("actors/Counter"))
            .collect();
        let start = Instant::now();
        let kill = async {
            await_condition("calls are under way", LIMIT, || async {
                ensure!(start.elapsed() > Duration::from_secs(1), "too early");
                Ok(())
            })
            .await?;
            control_plane.placement[leader].process.kill().await?;
            anyhow::Ok(Instant::now())
        };
        let (calls, killed) = tokio::join!(load(&urls, start + AFTER), kill);
        let killed = killed?;

        let mut late = Duration::ZERO;
        for call in &calls {
            if let Some(by) = &call.by {
                assert_eq!(
                    by, &homes[&call.actor],
                    "actor {} answered elsewhere",
                    call.actor
                );
            }
            let since = call.answered.duration_since(killed.min(call.answered));
            if call.made < killed + RESUME
                && call.by.is_some()
                && call.answered - call.made > PAUSE * 5
            {
                late = late.max(since);
            }
            if call.made > killed + RESUME {
                let took = call.answered - call.made;
                ensure!(
                    call.by.is_some() && took <= CALL,
                    "a call {:?} after the kill took {took:?} and was answered by {:?}",
                    call.made - killed,
                    call.by
                );
            }
        }
        // Also what a caller did not live to see answered came to the right one, or to nobody.
        for ((name, actor), times) in seen(&hosts) {
            let before = seen_before[&(name, actor)];
            ensure!(
                homes[&actor] == name || times == before,
                "actor {actor} was called on {name}, and lives on {}",
                homes[&actor]
            );
        }
        let scheduled = AFTER.as_millis() / PAUSE.as_millis();
        ensure!(
            calls.len() as u128 * 10 >= scheduled * 8,
            "only {} of {scheduled} calls were made",
            calls.len()
        );
        let answered = calls.iter().filter(|call| call.by.is_some()).count();
        ensure!(
            answered * 10 >= calls.len() * 5,
            "only {answered} of {} calls were answered",
            calls.len()
        );
        ensure!(
            late <= RESUME + Duration::from_millis(500),
            "calls waited until {late:?} after the kill"
        );

        // All three came back, and nobody was locked for it.
        let next = control_plane.leader(LIMIT).await?;
        let port = control_plane.placement[next].metrics_port;
        await_condition("all sidecars are back", LIMIT, || async {
            let connected = metric(port, "dapr_placement_runtimes_total").await?;
            ensure!(connected >= 3.0, "{connected} are connected");
            Ok(())
        })
        .await?;
        let after = version(stage, &control_plane, next).await?;
        assert_eq!(after, before, "nothing changed, so there was no round");
        Ok(())
    });
}
