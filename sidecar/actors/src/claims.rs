//! Claims: the calls of one actor type that run on this host, so that a round can wait for them or cut them
//! off.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long calls that were cut off get to notice it; they are dropped at their next poll.
const SETTLE: Duration = Duration::from_secs(1);

/// Why calls were cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Actors move; the caller tries again.
    Disseminating,
    /// The type is no longer hosted or the runtime stops; the caller gets an error.
    Halted,
}

/// The running calls of one type.
#[derive(Debug)]
pub(crate) struct Claims {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug)]
struct State {
    running: usize,
    /// Cancelled when the calls claimed so far are cut off.
    token: CancellationToken,
    cut: Cut,
}

/// One running call.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Arc<Claims>,
    token: CancellationToken,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.claims.state.lock();
        state.running -= 1;
        if state.running == 0 {
            self.claims.left.notify_waiters();
        }
    }
}

impl Claim {
    /// Resolves when the call is cut off.
    pub(crate) async fn cut(&self) -> Cut {
        self.token.cancelled().await;
        self.claims.state.lock().cut
    }
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                running: 0,
                token: CancellationToken::new(),
                cut: Cut::Disseminating,
            }),
            left: Notify::new(),
        }
    }
}

impl Claims {
    /// Claims first, looks afterwards: whoever blocks a type and then waits for its claims misses nobody.
    pub(crate) fn claim(self: &Arc<Self>) -> Claim {
        let mut state = self.state.lock();
        state.running += 1;
        Claim {
            claims: Arc::clone(self),
            token: state.token.clone(),
        }
    }

    /// Gives the running calls `patience`, then cuts them off; returns when none is left.
    pub(crate) async fn drain(&self, patience: Duration, cut: Cut) {
        if tokio::time::timeout(patience, self.idle()).await.is_ok() {
            return;
        }
        self.cut(cut);
        if tokio::time::timeout(SETTLE, self.idle()).await.is_err() {
            tracing::warn!("actor calls that were cut off have not ended");
        }
    }

    fn cut(&self, cut: Cut) {
        let token = {
            let mut state = self.state.lock();
            state.cut = cut;
            std::mem::take(&mut state.token)
        };
        token.cancel();
    }

    async fn idle(&self) {
        loop {
            let mut left = std::pin::pin!(self.left.notified());
            left.as_mut().enable();
            if self.state.lock().running == 0 {
                return;
            }
            left.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_ends_in_time_is_not_cut() {
        let claims = Arc::new(Claims::default());
        let claim = claims.claim();
        let call = tokio::spawn(async move {
            tokio::select! {
                cut = claim.cut() => Some(cut),
                () = tokio::time::sleep(Duration::from_secs(1)) => None,
            }
        });
        claims
            .drain(Duration::from_secs(2), Cut::Disseminating)
            .await;
        assert_eq!(call.await.expect("task"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_call_is_cut_and_later_ones_are_not() {
        let claims = Arc::new(Claims::default());
        let claim = claims.claim();
        let begin = tokio::time::Instant::now();
        let call = tokio::spawn(async move { claim.cut().await });
        claims.drain(Duration::from_secs(2), Cut::Halted).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(2));
        assert_eq!(call.await.expect("task"), Cut::Halted);
        let fresh = claims.claim();
        assert!(!fresh.token.is_cancelled());
    }
}
