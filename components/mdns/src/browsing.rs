//! When to ask for an app, and whom to tell; time is an argument.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use dapr_components_core::{Error, ErrorKind};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a first lookup waits for an answer.
const FIRST: Duration = Duration::from_secs(1);
/// How long a refresh listens.
const REFRESH: Duration = Duration::from_secs(3);
/// From the first to the second question; the distance doubles from there.
const GAP: Duration = Duration::from_millis(200);

/// Gets the address, or why there is none.
pub(crate) type Waiter = oneshot::Sender<Result<SocketAddr, Error>>;

/// The browses that are going on, at most one per app.
#[derive(Debug, Default)]
pub(crate) struct Browsing {
    browses: BTreeMap<String, Browse>,
}

#[derive(Debug)]
struct Browse {
    until: Instant,
    ask_at: Instant,
    gap: Duration,
    waiters: Vec<Waiter>,
}

impl Browsing {
    /// Somebody needs an address of the app.
    pub(crate) fn look_up(&mut self, app_id: &str, waiter: Waiter, now: Instant) {
        let browse = self
            .browses
            .entry(app_id.to_owned())
            .or_insert_with(|| Browse::new(now, FIRST));
        if browse.waiters.is_empty() {
            // A refresh that found nothing so far: from now on it is a lookup with all its time.
            browse.until = browse.until.max(now + FIRST);
            browse.ask_at = browse.ask_at.min(now);
        }
        browse.waiters.push(waiter);
    }

    /// The app's addresses are to be seen again.
    pub(crate) fn refresh(&mut self, app_id: &str, now: Instant) {
        self.browses
            .entry(app_id.to_owned())
            .or_insert_with(|| Browse::new(now, REFRESH));
    }

    /// An instance was seen: whoever waits has an answer, and the browse goes on to find the others.
    pub(crate) fn found(&mut self, app_id: &str, address: SocketAddr, now: Instant) {
        let Some(browse) = self.browses.get_mut(app_id) else {
            return;
        };
        if browse.waiters.is_empty() {
            return;
        }
        browse.until = now + REFRESH;
        for waiter in browse.waiters.drain(..) {
            drop(waiter.send(Ok(address))); // Who has given up needs no answer.
        }
    }

    /// The app cannot be asked for at all.
    pub(crate) fn fail(&mut self, app_id: &str, error: &Error) {
        for waiter in self
            .browses
            .remove(app_id)
            .into_iter()
            .flat_map(|browse| browse.waiters)
        {
            drop(waiter.send(Err(Error::new(error.kind(), error.to_string()))));
        }
    }

    /// Ends what is over and returns the apps to ask for now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<String> {
        let over: Vec<_> = self
            .browses
            .iter()
            .filter(|(_, browse)| browse.until <= now)
            .map(|(app_id, _)| app_id.clone())
            .collect();
        for app_id in over {
            let text = format!("couldn't find service: {app_id}");
            self.fail(&app_id, &Error::new(ErrorKind::Unavailable, text));
        }
        let mut due = Vec::new();
        for (app_id, browse) in &mut self.browses {
            if browse.ask_at <= now {
                due.push(app_id.clone());
                browse.ask_at = now + browse.gap;
                browse.gap *= 2;
            }
        }
        due
    }

    /// When [`Self::due`] has something to do next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.browses
            .values()
            .map(|browse| browse.until.min(browse.ask_at))
            .min()
    }

    pub(crate) fn contains(&self, app_id: &str) -> bool {
        self.browses.contains_key(app_id)
    }
}

impl Browse {
    fn new(now: Instant, time: Duration) -> Self {
        Self {
            until: now + time,
            ask_at: now,
            gap: GAP,
            waiters: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 50002))
    }

    #[test]
    fn a_lookup_asks_with_growing_gaps_and_gives_up_after_a_second() {
        let start = Instant::now();
        let mut browsing = Browsing::default();
        let (waiter, mut answer) = oneshot::channel();
        browsing.look_up("orders", waiter, start);
        let mut asked = Vec::new();
        while let Some(now) = browsing.next() {
            if !browsing.due(now).is_empty() {
                asked.push((now - start).as_millis());
            }
        }
        assert_eq!(asked, [0, 200, 600]);
        let error = answer.try_recv().expect("answered").expect_err("not found");
        assert_eq!(error.to_string(), "couldn't find service: orders");
        assert!(!browsing.contains("orders"));
    }

    #[test]
    fn all_waiters_are_told_at_once_and_the_browse_goes_on() {
        let start = Instant::now();
        let mut browsing = Browsing::default();
        let (one, mut of_one) = oneshot::channel();
        let (two, mut of_two) = oneshot::channel();
        browsing.look_up("orders", one, start);
        assert_eq!(browsing.due(start), ["orders"]);
        browsing.look_up("orders", two, start);
        assert_eq!(
            browsing.due(start),
            Vec::<String>::new(),
            "one browse serves both"
        );
        browsing.found("orders", address(), start);
        assert_eq!(of_one.try_recv().expect("told").expect("found"), address());
        assert_eq!(of_two.try_recv().expect("told").expect("found"), address());
        browsing.due(start + Duration::from_millis(2_900));
        assert!(browsing.contains("orders"));
        browsing.due(start + Duration::from_secs(3));
        assert!(!browsing.contains("orders"));
    }

    #[test]
    fn a_lookup_during_a_refresh_has_all_its_time() {
        let start = Instant::now();
        let mut browsing = Browsing::default();
        browsing.refresh("orders", start);
        assert_eq!(browsing.due(start), ["orders"]);
        let late = start + Duration::from_millis(2_900);
        browsing.due(late);
        let (waiter, mut answer) = oneshot::channel();
        browsing.look_up("orders", waiter, late);
        assert_eq!(browsing.due(late), ["orders"], "it is asked for at once");
        browsing.due(start + Duration::from_millis(3_800));
        assert!(answer.try_recv().is_err(), "still waiting");
        browsing.due(start + Duration::from_millis(3_900));
        assert!(answer.try_recv().expect("told").is_err());
    }
}
