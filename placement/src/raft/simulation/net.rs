//! The network between simulated replicas.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::AsyncRuntime;
use openraft::type_config::TypeConfigExt;
use openraft_rt_sim::SimRuntime;
use parking_lot::Mutex;
use tonic::Status;

use super::Simulated;
use crate::raft::Seat;
use crate::raft::network::{Carrier, KEEPALIVE};
use crate::raft::wire::{Answer, Call, Request};
use crate::simulation::Dice;

/// Everything between the replicas; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Net {
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    dice: Dice,
    calm: bool,
    /// By the number of the replica, those that run, each with the number of its life.
    homes: BTreeMap<u64, (u64, Seat<Simulated>)>,
    /// Replicas with the same number can talk.
    islands: BTreeMap<u64, u64>,
    /// One whose calls take long.
    slow: Option<u64>,
    /// How many snapshots arrived.
    snapshots: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// What becomes of a call.
struct Fate {
    there: Duration,
    back: Duration,
    again: Option<Duration>,
    lost: bool,
    unanswered: bool,
}

impl Net {
    pub(super) fn new(dice: Dice) -> Self {
        let shared = Shared {
            dice,
            calm: true,
            homes: BTreeMap::new(),
            islands: BTreeMap::new(),
            slow: None,
            snapshots: 0,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
        }
    }

    pub(super) fn set_calm(&self, calm: bool) {
        self.shared.lock().calm = calm;
    }

    pub(super) fn arrive(&self, replica: u64, life: u64, seat: Seat<Simulated>) {
        self.shared.lock().homes.insert(replica, (life, seat));
    }

    pub(super) fn leave(&self, replica: u64) {
        self.shared.lock().homes.remove(&replica);
    }

    pub(super) fn set_islands(&self, islands: BTreeMap<u64, u64>) {
        self.shared.lock().islands = islands;
    }

    pub(super) fn set_slow(&self, slow: Option<u64>) {
        self.shared.lock().slow = slow;
    }

    pub(super) fn snapshots(&self) -> u64 {
        self.shared.lock().snapshots
    }

    pub(super) fn wire(&self, from: u64, life: u64) -> Wire {
        Wire {
            net: self.clone(),
            from,
            life,
        }
    }

    fn fate(&self, from: u64, to: u64) -> Fate {
        let mut shared = self.shared.lock();
        let Shared {
            dice, calm, slow, ..
        } = &mut *shared;
        let slow = [Some(from), Some(to)].contains(slow) && slow.is_some();
        let mut late = || {
            let most = match (*calm, dice.once_in(12), slow) {
                (true, ..) => 3,
                (false, _, true) => 250,
                (false, true, false) => 400,
                (false, false, false) => 6,
            };
            Duration::from_micros(200 + dice.below(most * 1000))
        };
        let (there, back, again) = (late(), late(), late());
        let mut once_in = |of| !*calm && dice.once_in(of);
        Fate {
            there,
            back,
            again: once_in(12).then_some(again),
            lost: once_in(20),
            unanswered: once_in(20),
        }
    }

    /// The seat of the other, if both run and can talk.
    fn reach(&self, from: u64, life: u64, to: u64) -> Result<Seat<Simulated>, Status> {
        let shared = self.shared.lock();
        let lives = shared.homes.get(&from).is_some_and(|home| home.0 == life);
        let island = |id: u64| shared.islands.get(&id);
        match shared.homes.get(&to) {
            Some((_, seat)) if lives && island(from) == island(to) => Ok(seat.clone()),
            Some(_) | None => Err(Status::unavailable("nobody there")),
        }
    }
}

/// The end of one life of a replica.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    net: Net,
    from: u64,
    life: u64,
}

/// A connection that has lost something: a ping stays unanswered.
async fn broken() -> Result<Answer<Simulated>, Status> {
    Simulated::sleep(2 * KEEPALIVE).await;
    Err(Status::unavailable("connection is broken"))
}

impl Carrier<Simulated> for Wire {
    async fn carry(
        &self,
        _: &str,
        request: Request<Simulated>,
    ) -> Result<Answer<Simulated>, Status> {
        let Self { net, from, life } = self;
        let to = request.to;
        let fate = net.fate(*from, to);
        if let Some(again) = fate.again {
            // It arrives a second time, whatever the caller does meanwhile.
            let (net, from, life) = (net.clone(), *from, *life);
            let request = request.clone();
            drop(SimRuntime::spawn(async move {
                Simulated::sleep(again).await;
                if let Ok(seat) = net.reach(from, life, to) {
                    drop(seat.answer(request).await);
                }
            }));
        }
        Simulated::sleep(fate.there).await;
        let seat = net.reach(*from, *life, to)?;
        if fate.lost {
            return broken().await;
        }
        if matches!(request.call, Call::Snapshot { .. }) {
            net.shared.lock().snapshots += 1;
        }
        // The caller may give up, and the other goes on.
        let answer = SimRuntime::spawn(seat.answer(request)).await;
        let answer = answer.map_err(|error| Status::internal(error.to_string()))?;
        Simulated::sleep(fate.back).await;
        net.reach(*from, *life, to)?;
        if fate.unanswered {
            return broken().await;
        }
        answer
    }
}
