//! Replicas as they ship, on the library as it ships, with a clock and a network from a seed: crashes with and without
//! what was written, restarts, hand-overs, partitions, calls that are late, lost, doubled and out of order.
//!
//! What is kept under all of that: what was agreed on is in every later table, a version is one table, two never lead
//! at once, a disk is never contradicted; and once it is calm, there is a leader soon and all come to the same.
//!
//! Never is a majority without its log at once: then there is nothing left to keep (`standing`).
//! Rounds and sidecars are simulated beside it (`crate::simulation`). `PLACEMENT_SIM_SEEDS` says how many seeds run,
//! `PLACEMENT_SIM_SEED` replays one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft_rt_sim::SimRuntime;

use super::{LEASE, Node, ledger};
use crate::simulation::{number, text};

mod net;
mod story;

use story::Told;

/// What runs with all other tests: half a minute of one core, for nothing of the library is optimized there.
const SEEDS: u64 = 200;

openraft::declare_raft_types!(
    /// The types of the log, on a simulated clock.
    pub(crate) Simulated: D = ledger::Entry, R = (), Node = Node, AsyncRuntime = SimRuntime
);

fn tell(seed: u64) -> Told {
    SimRuntime::with_seed(seed).block_on(story::tell(seed))
}

/// Runs every so many seeds from one on.
fn tell_some(seeds: impl Iterator<Item = u64>) -> Told {
    let mut all = Told::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| tell(seed))) {
            Ok(told) => all.add(&told),
            Err(panic) => panic!(
                "seed {seed} breaks a promise; replay it with PLACEMENT_SIM_SEED={seed}: {}",
                text(&*panic)
            ),
        }
    }
    all
}

#[test]
fn every_seed_keeps_what_was_agreed_on() {
    let seeds = match number("PLACEMENT_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("PLACEMENT_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut all = Told::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|first| {
                let seeds = seeds.clone().skip(first).step_by(threads);
                scope.spawn(move || tell_some(seeds))
            })
            .collect();
        for part in parts {
            match part.join() {
                Ok(told) => all.add(&told),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    // A simulation in which nothing happens shows nothing.
    let count = seeds.count() as u64;
    if count >= 100 {
        assert!(all.leads > 2 * count, "{all:?}");
        assert!(all.forgotten > count, "{all:?}");
        assert!(all.troubles > count, "{all:?}");
        assert!(all.agreed > 10 * count, "{all:?}");
        assert!(all.snapshots > count / 2, "{all:?}");
    }
}

#[test]
fn those_that_cannot_know_what_was_agreed_on_wait_for_the_one_that_does() {
    for seed in 1..=5 {
        SimRuntime::with_seed(seed).block_on(story::amnesia(seed));
    }
}

#[test]
fn one_replica_becomes_three_without_a_second_leader() {
    let (mut cuts, mut restarts) = (0, 0);
    for seed in 1..=20 {
        let grown = SimRuntime::with_seed(seed).block_on(story::growth(seed));
        cuts += grown.cuts;
        restarts += grown.restarts;
    }
    assert!(cuts > 20 && restarts > 5, "{cuts} {restarts}");
}

#[test]
fn a_follower_that_was_cut_off_unseats_nobody() {
    for seed in 1..=5 {
        SimRuntime::with_seed(seed).block_on(story::isolation(seed));
    }
}

#[test]
fn leaders_that_die_or_go_are_replaced_soon() {
    for seed in 1..=10 {
        let (dead, gone) = SimRuntime::with_seed(seed).block_on(story::succession(seed));
        assert!(
            dead < LEASE + LEASE + Duration::from_millis(100),
            "{dead:?}"
        );
        // An election would take longer.
        assert!(gone < Duration::from_millis(200), "{gone:?}");
    }
}

#[test]
fn the_first_leader_may_die_at_once() {
    for seed in 1..=50 {
        let took = SimRuntime::with_seed(seed).block_on(story::founding(seed));
        let most = LEASE + LEASE + Duration::from_millis(500);
        assert!(took < most, "seed {seed}: {took:?}");
    }
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [3, 4] {
        assert_eq!(tell(seed), tell(seed), "seed {seed}");
    }
}
