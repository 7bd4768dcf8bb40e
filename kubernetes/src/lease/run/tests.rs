//! Replicas on a Lease in memory, with answers that are slow, lost or late, and processes that stand still or die.
//!
//! Time is paused, so minutes pass in milliseconds; whatever happens, no two terms are current at the same moment.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;

const REPLICAS: usize = 3;
const LOOK: Duration = Duration::from_millis(25);

/// The Lease, and who may act.
#[derive(Debug)]
struct World {
    lease: Mutex<(u64, Option<Lease>)>,
    terms: Mutex<BTreeMap<String, Term>>,
    random: Mutex<StdRng>,
    /// Whether calls are slow and get lost.
    is_rough: Mutex<bool>,
}

impl World {
    fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            lease: Mutex::default(),
            terms: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            is_rough: Mutex::new(false),
        })
    }

    fn random(&self, below: u64) -> u64 {
        self.random.lock().random_range(0..below)
    }

    fn acting(&self) -> Vec<String> {
        let terms = self.terms.lock();
        let current = terms.iter().filter(|(_, term)| term.is_current());
        current.map(|(name, _)| name.clone()).collect()
    }

    async fn await_leader(&self, limit: Duration, but: &str) -> Result<String, TestCaseError> {
        let end = Instant::now() + limit;
        loop {
            let acting = self.acting();
            prop_assert!(acting.len() <= 1, "{acting:?} act at the same time");
            if let Some(leader) = acting.into_iter().find(|leader| leader != but) {
                return Ok(leader);
            }
            prop_assert!(Instant::now() < end, "nobody leads after {limit:?}");
            sleep(LOOK).await;
        }
    }
}

/// One replica's way to the Lease.
#[derive(Clone, Debug)]
struct Link {
    world: Arc<World>,
    is_cut: watch::Receiver<bool>,
}

impl Link {
    /// The way of a message; some get lost.
    async fn pass(&self) -> Result<(), Failure> {
        let is_rough = *self.world.is_rough.lock();
        let slowest = if is_rough { 4000 } else { 5 };
        sleep(Duration::from_millis(self.world.random(slowest))).await;
        if *self.is_cut.borrow() {
            std::future::pending::<()>().await;
        }
        if is_rough && self.world.random(5) == 0 {
            return Err(Failure::Server("lost".to_owned()));
        }
        Ok(())
    }
}

impl Lock for Link {
    async fn read(&self) -> Result<Option<Lease>, Failure> {
        self.pass().await?;
        let lease = self.world.lease.lock().1.clone();
        self.pass().await?;
        Ok(lease)
    }

    async fn write(&self, mut lease: Lease) -> Result<Lease, Failure> {
        self.pass().await?;
        {
            let mut stored = self.world.lease.lock();
            let version = stored.1.as_ref().map(|_| stored.0.to_string());
            if lease.metadata.resource_version != version {
                return Err(Failure::Conflict);
            }
            stored.0 += 1;
            lease.metadata.resource_version = Some(stored.0.to_string());
            stored.1 = Some(lease.clone());
        }
        self.pass().await?;
        Ok(lease)
    }

    async fn tell(&self, _: &Lease) {}
}

/// A process that can be made to stand still: its code does not run, but its clock does.
struct Process<F> {
    inner: Pin<Box<F>>,
    is_still: watch::Receiver<bool>,
    wake: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<F: Future> Future for Process<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        while *self.is_still.borrow() {
            if self.wake.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.wake = changed(self.is_still.clone());
        }
        self.inner.as_mut().poll(context)
    }
}

fn changed(mut state: watch::Receiver<bool>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        if state.wait_for(|is_still| !is_still).await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}

/// A replica that starts again whenever it ends.
struct Replica {
    name: String,
    still: watch::Sender<bool>,
    cut: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<Ended<()>, Error>>,
}

impl Replica {
    fn start(world: &Arc<World>, name: String) -> Self {
        let (still, cut, stop) = (
            watch::Sender::new(false),
            watch::Sender::new(false),
            watch::Sender::new(false),
        );
        let link = Link {
            world: Arc::clone(world),
            is_cut: cut.subscribe(),
        };
        let candidate = Candidate::new(link, Settings::new("n", "l", name.clone()));
        let mut stopped = stop.subscribe();
        let (of, who) = (Arc::clone(world), name.clone());
        let process = Process {
            inner: Box::pin(candidate.hold(
                async move {
                    drop(stopped.wait_for(|stopped| *stopped).await);
                },
                move |term| {
                    of.terms.lock().insert(who.clone(), term);
                    std::future::pending::<()>()
                },
            )),
            wake: changed(still.subscribe()),
            is_still: still.subscribe(),
        };
        Self {
            name,
            still,
            cut,
            stop,
            task: tokio::spawn(process),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run<F: Future<Output = Result<(), TestCaseError>>>(story: F) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(story),
        Err(error) => Err(TestCaseError::fail(error.to_string())),
    }
}

/// Two minutes of trouble, and then peace.
async fn story(seed: u64) -> Result<(), TestCaseError> {
    let world = World::new(seed);
    *world.is_rough.lock() = true;
    let mut born = 0;
    let mut replicas: Vec<Replica> = Vec::new();
    let trouble = Instant::now() + Duration::from_secs(120);
    let mut next = Instant::now();
    while Instant::now() < trouble {
        replicas.retain(|replica| !replica.task.is_finished());
        while replicas.len() < REPLICAS {
            born += 1;
            replicas.push(Replica::start(&world, format!("replica-{born}")));
        }
        if Instant::now() >= next {
            next = Instant::now() + Duration::from_millis(world.random(6000));
            let chosen = usize::try_from(world.random(3)).unwrap_or_default();
            let replica = &replicas[chosen];
            match world.random(6) {
                0 => {
                    replica.still.send_modify(|is_still| *is_still = !*is_still);
                }
                1 => replica.cut.send_modify(|is_cut| *is_cut = !*is_cut),
                2 => {
                    replica.stop.send_replace(true);
                }
                3 => drop(replicas.remove(chosen)),
                _ => {}
            }
        }
        let acting = world.acting();
        prop_assert!(acting.len() <= 1, "{acting:?} act at the same time");
        sleep(LOOK).await;
    }
    *world.is_rough.lock() = false;
    for replica in &replicas {
        replica.still.send_replace(false);
        replica.cut.send_replace(false);
    }
    replicas.push(Replica::start(&world, "last".to_owned()));
    world.await_leader(Duration::from_secs(20), "").await?;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_two_act_whatever_happens(seed: u64) {
        run(story(seed))?;
    }
}

#[test]
fn a_dead_leader_is_followed_within_twenty_seconds() {
    let told = run(async {
        for seed in 0..20 {
            let world = World::new(seed);
            let mut replicas: Vec<Replica> = (0..REPLICAS)
                .map(|number| Replica::start(&world, format!("replica-{number}")))
                .collect();
            let leader = world.await_leader(Duration::from_secs(5), "").await?;
            // Some time into its term, at any point between two renewals.
            sleep(Duration::from_millis(5000 + world.random(2000))).await;
            replicas.retain(|replica| replica.name != leader);
            let died = Instant::now();
            world.await_leader(Duration::from_secs(20), &leader).await?;
            prop_assert!(died.elapsed() > Duration::from_secs(5), "too early");
        }
        Ok(())
    });
    told.expect("as told");
}

#[test]
fn a_leader_that_stood_still_does_not_act_again() {
    let told = run(async {
        let world = World::new(1);
        let first = Replica::start(&world, "first".to_owned());
        world.await_leader(Duration::from_secs(5), "").await?;
        let mut second = Replica::start(&world, "second".to_owned());
        sleep(Duration::from_secs(5)).await;
        first.still.send_replace(true);
        world.await_leader(Duration::from_secs(20), "first").await?;
        first.still.send_replace(false);
        let end = Instant::now() + Duration::from_secs(1);
        while !first.task.is_finished() {
            prop_assert!(Instant::now() < end, "it does not end");
            sleep(LOOK).await;
            prop_assert_eq!(world.acting(), ["second"]);
        }
        let mut first = first;
        let ended = (&mut first.task).await.expect("no panic");
        prop_assert!(matches!(ended, Err(Error::Taken { .. })), "{ended:?}");
        prop_assert!(!second.task.is_finished());
        second.stop.send_replace(true);
        let ended = (&mut second.task).await.expect("no panic");
        prop_assert!(matches!(ended, Ok(Ended::Stopped)));
        Ok(())
    });
    told.expect("as told");
}

#[test]
fn a_released_lease_is_taken_at_the_next_look() {
    let told = run(async {
        let world = World::new(2);
        let first = Replica::start(&world, "first".to_owned());
        world.await_leader(Duration::from_secs(5), "").await?;
        let _second = Replica::start(&world, "second".to_owned());
        sleep(Duration::from_secs(1)).await;
        first.stop.send_replace(true);
        world.await_leader(Duration::from_secs(3), "first").await?;
        let spec = world.lease.lock().1.clone().and_then(|lease| lease.spec);
        prop_assert_eq!(spec.and_then(|spec| spec.lease_transitions), Some(1));
        Ok(())
    });
    told.expect("as told");
}

#[test]
fn a_leader_without_a_server_stops_before_its_lease_ends_and_leads_again_with_it() {
    let told = run(async {
        let world = World::new(3);
        let first = Replica::start(&world, "first".to_owned());
        world.await_leader(Duration::from_secs(5), "").await?;
        sleep(Duration::from_secs(7)).await;
        first.cut.send_replace(true);
        let cut = Instant::now();
        while !world.acting().is_empty() {
            sleep(LOOK).await;
        }
        prop_assert!(
            cut.elapsed() <= Duration::from_secs(11),
            "{:?}",
            cut.elapsed()
        );
        while cut.elapsed() < Duration::from_secs(60) {
            sleep(LOOK).await;
            prop_assert!(world.acting().is_empty());
        }
        prop_assert!(!first.task.is_finished(), "it waits for the server");
        first.cut.send_replace(false);
        world.await_leader(Duration::from_secs(10), "").await?;
        prop_assert!(!first.task.is_finished());
        Ok(())
    });
    told.expect("as told");
}

#[test]
fn a_leader_without_a_server_ends_when_another_has_followed_it() {
    let told = run(async {
        let world = World::new(4);
        let mut first = Replica::start(&world, "first".to_owned());
        world.await_leader(Duration::from_secs(5), "").await?;
        let second = Replica::start(&world, "second".to_owned());
        sleep(Duration::from_secs(5)).await;
        first.cut.send_replace(true);
        world.await_leader(Duration::from_secs(20), "first").await?;
        prop_assert!(!first.task.is_finished(), "it cannot know");
        first.cut.send_replace(false);
        let ended = (&mut first.task).await.expect("no panic");
        prop_assert!(matches!(ended, Err(Error::Taken { .. })), "{ended:?}");
        prop_assert!(!second.task.is_finished());
        Ok(())
    });
    told.expect("as told");
}
