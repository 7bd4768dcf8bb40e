//! TLS handshakes in flight: bounded, and a flood of silent clients pushes out its own oldest instead of keeping honest
//! clients waiting, whose handshakes take milliseconds.

use std::collections::VecDeque;

use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Handshakes {
    limit: usize,
    /// Oldest first; those that have ended are closed.
    running: VecDeque<oneshot::Sender<()>>,
}

/// One handshake in flight; dropped at its end.
#[derive(Debug)]
pub(super) struct Slot(oneshot::Receiver<()>);

impl Handshakes {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            running: VecDeque::new(),
        }
    }

    /// Makes room for one more.
    pub(super) fn admit(&mut self) -> Slot {
        if self.running.len() >= self.limit {
            self.running.retain(|slot| !slot.is_closed());
        }
        if self.running.len() >= self.limit {
            self.running.pop_front();
        }
        let (sender, receiver) = oneshot::channel();
        self.running.push_back(sender);
        Slot(receiver)
    }
}

impl Slot {
    /// Waits until the handshake has to make room for another.
    pub(super) async fn evicted(self) {
        // Nothing is ever sent: the sender being gone is the message.
        self.0.await.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(slot: &mut Slot) -> bool {
        matches!(slot.0.try_recv(), Err(oneshot::error::TryRecvError::Closed))
    }

    #[test]
    fn the_oldest_that_still_runs_makes_room() {
        let mut handshakes = Handshakes::new(3);
        let mut first = handshakes.admit();
        let second = handshakes.admit();
        let mut third = handshakes.admit();
        drop(second);
        let mut fourth = handshakes.admit();
        assert!(!is_evicted(&mut first), "the second had ended");
        let mut fifth = handshakes.admit();
        assert!(is_evicted(&mut first));
        for slot in [&mut third, &mut fourth, &mut fifth] {
            assert!(!is_evicted(slot));
        }
    }
}
