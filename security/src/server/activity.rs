//! Which requests of a connection are still running, so that an idle connection, one that never asks for anything and
//! one whose requests never end can be told from a busy one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// Since when it is idle, or busy without a pause.
    since: Instant,
    /// Whether there ever was a request.
    asked: bool,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                running: 0,
                since: Instant::now(),
                asked: false,
            }),
        })
    }

    /// Counts a request until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Guard {
        let mut state = self.state.lock();
        if state.running == 0 {
            state.since = Instant::now();
        }
        state.running += 1;
        state.asked = true;
        Guard(Arc::clone(self))
    }

    /// Starts the idle time, or the busy one, anew.
    pub(super) fn touch(&self) {
        self.state.lock().since = Instant::now();
    }

    /// Returns once the connection is `limit` old and nothing was asked on it.
    pub(super) async fn silent_for(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        sleep(limit).await;
        if self.state.lock().asked {
            std::future::pending().await
        }
    }

    /// Returns once nothing has run for `limit`; never without a limit.
    pub(super) async fn idle_for(&self, limit: Option<Duration>) {
        self.lasts(limit, |state| state.running == 0).await;
    }

    /// Returns once something has run all the time for `limit`; never without a limit.
    pub(super) async fn busy_for(&self, limit: Option<Duration>) {
        self.lasts(limit, |state| state.running > 0).await;
    }

    async fn lasts(&self, limit: Option<Duration>, holds: impl Fn(&State) -> bool) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        loop {
            let now = Instant::now();
            let deadline = {
                let state = self.state.lock();
                // While it does not hold, the earliest possible end is a whole limit away.
                if holds(&state) {
                    state.since + limit
                } else {
                    now + limit
                }
            };
            if deadline <= now {
                return;
            }
            sleep_until(deadline).await;
        }
    }
}

/// One running request.
#[derive(Debug)]
pub(super) struct Guard(Arc<Activity>);

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.running -= 1;
        if state.running == 0 {
            state.since = Instant::now();
        }
    }
}

/// A response body that holds its request's guard to the end.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    body: B,
    _guard: Guard,
}

impl<B> Tracked<B> {
    pub(super) fn new(body: B, guard: Guard) -> Self {
        Self {
            body,
            _guard: guard,
        }
    }
}

impl<B: Body + Unpin> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(180);

    #[tokio::test(start_paused = true)]
    async fn idle_time_counts_from_the_last_request() {
        let activity = Activity::new();
        let start = Instant::now();
        let guard = activity.begin();
        let wait = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { activity.idle_for(Some(LIMIT)).await }
        });
        tokio::time::advance(LIMIT * 2).await;
        drop(guard);
        wait.await.unwrap();
        assert!(start.elapsed() >= LIMIT * 3, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_is_idle() {
        let activity = Activity::new();
        let wait = tokio::time::timeout(LIMIT * 100, activity.idle_for(None));
        assert!(wait.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn busy_time_counts_from_the_last_pause() {
        let activity = Activity::new();
        let start = Instant::now();
        let first = activity.begin();
        tokio::time::advance(LIMIT / 2).await;
        let second = activity.begin();
        drop(first);
        activity.busy_for(Some(LIMIT)).await;
        assert_eq!(start.elapsed(), LIMIT, "one was always running");
        drop(second);
        let _third = activity.begin();
        let wait = tokio::time::timeout(LIMIT / 2, activity.busy_for(Some(LIMIT)));
        assert!(wait.await.is_err(), "there was a pause");
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_never_asked_is_silent() {
        let activity = Activity::new();
        let start = Instant::now();
        activity.silent_for(Some(LIMIT)).await;
        assert_eq!(start.elapsed(), LIMIT);
        drop(activity.begin());
        let wait = tokio::time::timeout(LIMIT * 100, activity.silent_for(Some(LIMIT)));
        assert!(wait.await.is_err());
    }
}
