//! What is counted. The sidecar records it under upstream's names.

/// Takes what the actor runtime counts; every method may do nothing.
pub trait Metrics: Send + Sync + 'static {
    /// Calls waiting for a turn went up or down by `change`.
    fn pending(&self, actor_type: &str, change: i64) {
        let _ = (actor_type, change);
    }

    /// Registered timers went up or down by `change`.
    fn timers(&self, actor_type: &str, change: i64) {
        let _ = (actor_type, change);
    }

    /// A timer fired.
    fn timer_fired(&self, actor_type: &str, success: bool) {
        let _ = (actor_type, success);
    }

    /// A reminder fired.
    fn reminder_fired(&self, actor_type: &str, success: bool) {
        let _ = (actor_type, success);
    }

    /// An actor object was created.
    fn activated(&self, actor_type: &str) {
        let _ = actor_type;
    }

    /// An actor object was removed; `success` is false if the application did not confirm.
    fn deactivated(&self, actor_type: &str, success: bool) {
        let _ = (actor_type, success);
    }

    /// An actor moved to another host.
    fn rebalanced(&self, actor_type: &str) {
        let _ = actor_type;
    }

    /// A type was reported to placement.
    fn reported(&self, actor_type: &str) {
        let _ = actor_type;
    }

    /// An order of placement (`lock`, `update`, `unlock`) arrived while this type was hosted.
    fn ordered(&self, actor_type: &str, operation: &str) {
        let _ = (actor_type, operation);
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoMetrics;

impl Metrics for NoMetrics {}
