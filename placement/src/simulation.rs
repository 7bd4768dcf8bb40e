//! Replicas, sidecars and everything that can happen to them, from a seed.
//!
//! What decides is the code that ships: `dissemination`, `table`, `ledger` and `proposals`. The log of the replicas
//! is a model with terms, elections, divergence and loss (`model`), for it is the library's; time and network are
//! simulated, so that a seed always tells the same story.
//!
//! `PLACEMENT_SIM_SEEDS` says how many seeds run, `PLACEMENT_SIM_SEED` replays one.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

mod model;
mod sidecar;
mod world;

use world::World;

/// What runs with all other tests.
const SEEDS: u64 = 200;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a length")
    }

    /// True once in `of` times.
    pub(crate) fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no arguments; these two say what to run"
)]
pub(crate) fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_seed_keeps_the_promises() {
    let seeds = match number("PLACEMENT_SIM_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("PLACEMENT_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut failovers = 0;
    let mut quiet_returns = 0;
    let mut lies = 0;
    for seed in seeds.clone() {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed).run())) {
            Ok(told) => {
                failovers += told.failovers;
                quiet_returns += told.quiet_returns;
                lies += told.lies;
            }
            Err(panic) => {
                tracing::error!(seed, "A seed breaks a promise");
                assert!(
                    seed == 0,
                    "seed {seed} breaks a promise; replay it with PLACEMENT_SIM_SEED={seed}: {}",
                    text(&*panic)
                );
                resume_unwind(panic);
            }
        }
    }
    // A simulation in which nothing happens shows nothing.
    if seeds.count() >= 100 {
        assert!(failovers >= 100, "leaders changed only {failovers} times");
        assert!(
            quiet_returns >= 100,
            "only {quiet_returns} sidecars came back without a round"
        );
        assert!(lies >= 100, "only {lies} lies");
    }
}

pub(crate) fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [3, 4] {
        assert_eq!(World::new(seed).run(), World::new(seed).run());
    }
}
