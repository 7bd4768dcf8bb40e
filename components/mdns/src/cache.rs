//! Addresses of the apps that were asked for.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::findings::Finding;

/// How long an address is good after it was last seen.
const LIFE: Duration = Duration::from_secs(60);

/// Instances of one app; a flood of made-up ones must not fill the memory.
const MAX_INSTANCES: usize = 1024;

/// Instances by app. It learns about apps it tracks only.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    apps: HashMap<String, App>,
}

#[derive(Debug, Default)]
struct App {
    /// By instance name and port, so an instance that moves to another host address has one.
    instances: BTreeMap<String, Entry>,
    turn: usize,
}

#[derive(Debug)]
struct Entry {
    address: SocketAddr,
    until: Instant,
    /// It could not be called since it was last seen.
    has_failed: bool,
}

impl Cache {
    /// The address whose turn it is; IPv4 goes before IPv6, and who failed comes last: it may be there again.
    pub(crate) fn pick(&mut self, app_id: &str, now: Instant) -> Option<SocketAddr> {
        let app = self.apps.get_mut(app_id)?;
        let is_live = |entry: &&Entry| now < entry.until;
        let mut instances = app.instances.values().filter(is_live);
        let all_failed = instances.all(|entry| entry.has_failed);
        let live = || {
            app.instances
                .values()
                .filter(is_live)
                .filter(|entry| all_failed || !entry.has_failed)
                .map(|entry| entry.address)
        };
        let v4 = live().filter(SocketAddr::is_ipv4).count();
        let address = if v4 > 0 {
            live().filter(SocketAddr::is_ipv4).nth(app.turn % v4)
        } else {
            live().nth(app.turn % live().count().max(1))
        };
        app.turn = app.turn.wrapping_add(1);
        address
    }

    /// Takes note that an address could not be called; whether that is news.
    pub(crate) fn failed(&mut self, app_id: &str, address: SocketAddr) -> bool {
        let Some(app) = self.apps.get_mut(app_id) else {
            return false;
        };
        let mut is_news = false;
        for entry in app.instances.values_mut() {
            if entry.address == address {
                is_news |= !std::mem::replace(&mut entry.has_failed, true);
            }
        }
        is_news
    }

    /// Begins to learn about an app.
    pub(crate) fn track(&mut self, app_id: &str) {
        self.apps.entry(app_id.to_owned()).or_default();
    }

    pub(crate) fn learn(&mut self, finding: &Finding, now: Instant) {
        let (Finding::Seen {
            app_id, instance, ..
        }
        | Finding::Gone { app_id, instance }) = finding;
        let Some(app) = self.apps.get_mut(app_id) else {
            return;
        };
        match finding {
            Finding::Seen { address, .. } => {
                if app.instances.len() < MAX_INSTANCES || app.instances.contains_key(instance) {
                    app.instances.insert(
                        instance.clone(),
                        Entry {
                            address: *address,
                            until: now + LIFE,
                            has_failed: false,
                        },
                    );
                }
            }
            Finding::Gone { .. } => {
                app.instances.remove(instance);
            }
        }
    }

    /// Forgets addresses that are past, and apps without addresses unless `is_wanted`.
    pub(crate) fn prune(&mut self, now: Instant, is_wanted: impl Fn(&str) -> bool) {
        self.apps.retain(|app_id, app| {
            app.instances.retain(|_, entry| now < entry.until);
            !app.instances.is_empty() || is_wanted(app_id)
        });
    }

    /// The apps it tracks.
    pub(crate) fn apps(&self) -> Vec<String> {
        self.apps.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(instance: &str, address: &str) -> Finding {
        let address = address.parse().expect("address");
        Finding::Seen {
            app_id: "orders".to_owned(),
            instance: instance.to_owned(),
            address,
        }
    }

    fn tracking() -> Cache {
        let mut cache = Cache::default();
        cache.track("orders");
        cache
    }

    fn picks(cache: &mut Cache, now: Instant, count: usize) -> Vec<String> {
        (0..count)
            .filter_map(|_| cache.pick("orders", now))
            .map(|address| address.to_string())
            .collect()
    }

    #[test]
    fn takes_turns_and_prefers_ipv4() {
        let now = Instant::now();
        let mut cache = tracking();
        cache.learn(&seen("c", "[2001:db8::1]:1"), now);
        cache.learn(&seen("d", "[2001:db8::2]:1"), now);
        assert_eq!(
            picks(&mut cache, now, 3),
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::1]:1"]
        );
        cache.learn(&seen("a", "192.0.2.1:1"), now);
        cache.learn(&seen("b", "192.0.2.2:1"), now);
        let mut both = picks(&mut cache, now, 4);
        both.sort();
        assert_eq!(
            both,
            ["192.0.2.1:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.2:1"]
        );
    }

    #[test]
    fn addresses_live_a_minute_after_they_were_seen_or_until_the_goodbye() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut cache = tracking();
        cache.learn(&seen("a", "192.0.2.1:1"), start);
        assert_eq!(
            cache.pick("orders", at(59)).map(|address| address.port()),
            Some(1)
        );
        cache.learn(&seen("a", "192.0.2.1:2"), at(59));
        assert_eq!(
            cache.pick("orders", at(118)).map(|address| address.port()),
            Some(2)
        );
        assert_eq!(cache.pick("orders", at(119)), None);
        cache.learn(&seen("a", "192.0.2.1:1"), at(200));
        let gone = Finding::Gone {
            app_id: "orders".to_owned(),
            instance: "a".to_owned(),
        };
        cache.learn(&gone, at(200));
        assert_eq!(cache.pick("orders", at(200)), None);
    }

    #[test]
    fn who_failed_comes_last_until_it_is_seen_again() {
        let now = Instant::now();
        let mut cache = tracking();
        let gone: SocketAddr = "192.0.2.1:1".parse().expect("address");
        cache.learn(&seen("a", "192.0.2.1:1"), now);
        assert!(!cache.failed("other", gone));
        assert!(cache.failed("orders", gone));
        assert!(!cache.failed("orders", gone), "it is known");
        // It is all there is.
        assert_eq!(picks(&mut cache, now, 2), ["192.0.2.1:1"; 2]);
        cache.learn(&seen("b", "192.0.2.1:2"), now);
        assert_eq!(picks(&mut cache, now, 2), ["192.0.2.1:2"; 2]);
        cache.learn(&seen("a", "192.0.2.1:1"), now);
        let mut both = picks(&mut cache, now, 2);
        both.sort();
        assert_eq!(both, ["192.0.2.1:1", "192.0.2.1:2"]);
        assert!(cache.failed("orders", gone));
    }

    #[test]
    fn only_apps_that_were_asked_for_are_kept() {
        let now = Instant::now();
        let mut cache = Cache::default();
        cache.learn(&seen("a", "192.0.2.1:1"), now);
        assert_eq!(cache.pick("orders", now), None);
        cache.track("orders");
        cache.prune(now, |app_id| app_id == "orders");
        assert_eq!(cache.apps(), ["orders"]);
        cache.prune(now, |_| false);
        assert_eq!(cache.apps(), Vec::<String>::new());
    }

    #[test]
    fn made_up_instances_do_not_fill_the_memory() {
        let now = Instant::now();
        let mut cache = tracking();
        for n in 0..MAX_INSTANCES + 10 {
            cache.learn(&seen(&n.to_string(), "192.0.2.1:1"), now);
        }
        assert_eq!(cache.apps["orders"].instances.len(), MAX_INSTANCES);
    }
}
