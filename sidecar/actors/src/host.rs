//! The actor types this sidecar hosts and their active actors. An actor at rest is one small object in a
//! map: no task, no timer, no channel.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dapr_sidecar_core::app::{Config, Reentrancy};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::app_host::AppHost;
use crate::claims::Claims;
use crate::turn::Turns;

const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60 * 60);
pub(crate) const DEFAULT_DRAIN: Duration = Duration::from_secs(2);

/// Locks per type: enough that calls of different actors rarely meet.
const SHARDS: usize = 16;

/// What the application says about one of its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TypeSettings {
    pub(crate) idle_timeout: Duration,
    /// Time calls in flight get when actors move; zero cuts them off at once.
    pub(crate) drain: Duration,
    pub(crate) reentrancy: Reentrancy,
}

impl TypeSettings {
    /// The settings of `actor_type`. A drain that would outlast a round is cut to four fifths of it.
    pub(crate) fn of(config: &Config, actor_type: &str, disseminate_timeout: Duration) -> Self {
        let own = config
            .entities_config
            .iter()
            .find(|own| own.entities.iter().any(|name| name == actor_type));
        let idle_timeout = match own {
            Some(own) => own.actor_idle_timeout.or(config.actor_idle_timeout),
            None => config.actor_idle_timeout,
        };
        let drain = own
            .and_then(|own| own.drain_ongoing_call_timeout)
            .or(config.drain_ongoing_call_timeout)
            .unwrap_or(DEFAULT_DRAIN);
        let drain = if config.drain_rebalanced_actors == Some(false) {
            Duration::ZERO
        } else if drain >= disseminate_timeout {
            (disseminate_timeout * 4 / 5).max(DEFAULT_DRAIN)
        } else {
            drain
        };
        Self {
            idle_timeout: idle_timeout.unwrap_or(DEFAULT_IDLE_TIMEOUT),
            drain,
            reentrancy: own
                .and_then(|own| own.reentrancy)
                .unwrap_or(config.reentrancy),
        }
    }
}

/// An active actor.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: Box<str>,
    pub(crate) turns: Turns,
    /// Milliseconds of the clock at the last call.
    last_used: AtomicU64,
}

impl Instance {
    pub(crate) fn touch(&self, now: u64) {
        self.last_used.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }
}

/// An instance in a set, found by its id.
#[derive(Debug)]
struct ById(Arc<Instance>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.id
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        str::hash(&self.0.id, state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

/// An actor for a call.
#[derive(Debug)]
pub(crate) enum Activation {
    Active(Arc<Instance>),
    /// Created by this call.
    Fresh(Arc<Instance>),
}

/// A type that this sidecar hosts.
pub(crate) struct HostedType {
    pub(crate) name: Arc<str>,
    pub(crate) settings: TypeSettings,
    pub(crate) app: Arc<dyn AppHost>,
    pub(crate) claims: Arc<Claims>,
    hasher: RandomState,
    shards: [Mutex<HashSet<ById>>; SHARDS],
    active: AtomicUsize,
    /// Somebody has left, for those who wait to activate the same actor again.
    left: Notify,
}

impl std::fmt::Debug for HostedType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostedType")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl HostedType {
    pub(crate) fn new(name: Arc<str>, settings: TypeSettings, app: Arc<dyn AppHost>) -> Self {
        Self {
            name,
            settings,
            app,
            claims: Arc::default(),
            hasher: RandomState::new(),
            shards: Default::default(),
            active: AtomicUsize::new(0),
            left: Notify::new(),
        }
    }

    /// Whether both say the same about the type.
    fn is_same(&self, other: &Self) -> bool {
        self.settings == other.settings && Arc::ptr_eq(&self.app, &other.app)
    }

    /// Number of active actors.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// The actor, if it is active.
    pub(crate) fn find(&self, id: &str) -> Option<Arc<Instance>> {
        let shard = self.shard(id).lock();
        shard.get(id).map(|ById(instance)| Arc::clone(instance))
    }

    /// The actor, created if need be. One that is just leaving is awaited first, so the application never
    /// sees a call overtake the deactivation before it.
    pub(crate) async fn activate(&self, id: &str, now: u64) -> Activation {
        loop {
            if let Some(activation) = self.look(id, now) {
                return activation;
            }
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if let Some(activation) = self.look(id, now) {
                return activation;
            }
            left.await;
        }
    }

    fn look(&self, id: &str, now: u64) -> Option<Activation> {
        let mut shard = self.shard(id).lock();
        if let Some(ById(instance)) = shard.get(id) {
            return (!instance.turns.is_closed()).then(|| Activation::Active(Arc::clone(instance)));
        }
        let instance = Arc::new(Instance {
            id: id.into(),
            turns: Turns::default(),
            last_used: AtomicU64::new(now),
        });
        shard.insert(ById(Arc::clone(&instance)));
        self.active.fetch_add(1, Ordering::Relaxed);
        Some(Activation::Fresh(instance))
    }

    /// All active actors of this moment.
    pub(crate) fn instances(&self) -> Vec<Arc<Instance>> {
        let mut all = Vec::with_capacity(self.active());
        for shard in &self.shards {
            all.extend(
                shard
                    .lock()
                    .iter()
                    .map(|ById(instance)| Arc::clone(instance)),
            );
        }
        all
    }

    /// Marks a closed instance as leaving; it is gone when the guard is dropped.
    pub(crate) fn departure<'a>(&'a self, instance: &'a Instance) -> Departure<'a> {
        Departure {
            hosted: self,
            instance,
        }
    }

    fn shard(&self, id: &str) -> &Mutex<HashSet<ById>> {
        let hash = self.hasher.hash_one(id);
        // The remainder is below the length, whatever the width of the number.
        &self.shards[(hash % SHARDS as u64) as usize]
    }
}

/// Removes an instance when dropped, also if the deactivation is given up half-way.
#[derive(Debug)]
pub(crate) struct Departure<'a> {
    hosted: &'a HostedType,
    instance: &'a Instance,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        let removed = self
            .hosted
            .shard(&self.instance.id)
            .lock()
            .remove(&*self.instance.id);
        if removed {
            self.hosted.active.fetch_sub(1, Ordering::Relaxed);
        }
        self.hosted.left.notify_waiters();
    }
}

/// The hosted types, in order of registration.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) order: Vec<Arc<HostedType>>,
    by_name: HashMap<Arc<str>, Arc<HostedType>>,
}

/// All hosted types, and whether there is a store for their state.
#[derive(Debug)]
pub(crate) struct Hosts {
    registry: ArcSwap<Registry>,
    /// No actor state store: types are kept but not reported.
    suspended: AtomicBool,
    /// What placement shall know.
    reported: watch::Sender<Vec<Arc<str>>>,
    writing: Mutex<()>,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            registry: ArcSwap::default(),
            suspended: AtomicBool::new(true),
            reported: watch::Sender::default(),
            writing: Mutex::new(()),
        }
    }
}

impl Hosts {
    /// A hosted type, also while hosting is suspended.
    pub(crate) fn get(&self, actor_type: &str) -> Option<Arc<HostedType>> {
        self.registry.load().by_name.get(actor_type).cloned()
    }

    /// Whether this registration of the type is still the one in force.
    pub(crate) fn is_current(&self, hosted: &Arc<HostedType>) -> bool {
        let registry = self.registry.load();
        registry
            .by_name
            .get(&hosted.name)
            .is_some_and(|current| Arc::ptr_eq(current, hosted))
    }

    pub(crate) fn all(&self) -> Arc<Registry> {
        self.registry.load_full()
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.load(Ordering::Acquire)
    }

    /// What placement shall know; changes are reported again.
    pub(crate) fn reported(&self) -> watch::Receiver<Vec<Arc<str>>> {
        self.reported.subscribe()
    }

    pub(crate) fn suspend(&self, suspended: bool) {
        let _writing = self.writing.lock();
        self.suspended.store(suspended, Ordering::Release);
        self.report();
    }

    /// Adds types. A type that is registered again as it was stays; one that differs is replaced and returned.
    pub(crate) fn add(&self, types: Vec<Arc<HostedType>>) -> Vec<Arc<HostedType>> {
        let _writing = self.writing.lock();
        let old = self.registry.load_full();
        let mut order = old.order.clone();
        let mut replaced = Vec::new();
        for hosted in types {
            match order.iter_mut().find(|known| known.name == hosted.name) {
                Some(known) if known.is_same(&hosted) => {}
                Some(known) => replaced.push(std::mem::replace(known, hosted)),
                None => order.push(hosted),
            }
        }
        self.store(order);
        replaced
    }

    /// Removes the types that `which` names and returns them.
    pub(crate) fn remove(&self, which: impl Fn(&HostedType) -> bool) -> Vec<Arc<HostedType>> {
        let _writing = self.writing.lock();
        let old = self.registry.load_full();
        let (removed, kept) = old
            .order
            .iter()
            .map(Arc::clone)
            .partition(|hosted| which(hosted));
        self.store(kept);
        removed
    }

    fn store(&self, order: Vec<Arc<HostedType>>) {
        let by_name = order
            .iter()
            .map(|hosted| (Arc::clone(&hosted.name), Arc::clone(hosted)))
            .collect();
        self.registry.store(Arc::new(Registry { order, by_name }));
        self.report();
    }

    fn report(&self) {
        let types: Vec<_> = if self.is_suspended() {
            Vec::new()
        } else {
            let registry = self.registry.load();
            registry
                .order
                .iter()
                .map(|hosted| Arc::clone(&hosted.name))
                .collect()
        };
        self.reported.send_if_modified(|reported| {
            let changed = *reported != types;
            *reported = types;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use dapr_sidecar_core::app::EntityConfig;

    use super::*;

    #[test]
    fn settings_per_type() {
        let config = Config {
            entities: vec!["a".to_owned(), "b".to_owned()],
            actor_idle_timeout: Some(Duration::from_secs(10)),
            drain_ongoing_call_timeout: Some(Duration::from_secs(40)),
            entities_config: vec![EntityConfig {
                entities: vec!["b".to_owned()],
                drain_ongoing_call_timeout: Some(Duration::from_secs(5)),
                reentrancy: Some(Reentrancy {
                    enabled: true,
                    max_stack_depth: 4,
                }),
                ..EntityConfig::default()
            }],
            ..Config::default()
        };
        let round = Duration::from_secs(30);
        let a = TypeSettings::of(&config, "a", round);
        assert_eq!(a.drain, Duration::from_secs(24));
        assert!(!a.reentrancy.enabled);
        let b = TypeSettings::of(&config, "b", round);
        assert_eq!(b.idle_timeout, Duration::from_secs(10));
        assert_eq!(b.drain, Duration::from_secs(5));
        assert_eq!(b.reentrancy.max_stack_depth, 4);
        let short = TypeSettings::of(&config, "a", Duration::from_secs(1));
        assert_eq!(short.drain, DEFAULT_DRAIN);
        let at_once = Config {
            drain_rebalanced_actors: Some(false),
            ..config
        };
        assert_eq!(TypeSettings::of(&at_once, "b", round).drain, Duration::ZERO);
        let none = TypeSettings::of(&Config::default(), "a", round);
        assert_eq!(none.idle_timeout, DEFAULT_IDLE_TIMEOUT);
    }
}
