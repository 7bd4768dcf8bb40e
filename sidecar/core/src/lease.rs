//! Telling when the last call of a component that was taken out has ended.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Part of what calls hold on to.
#[derive(Debug)]
pub(crate) struct InUse {
    _guard: DropGuard,
}

/// Ends when nobody uses a component any more.
#[derive(Debug, Clone)]
pub struct Lease(CancellationToken);

impl Lease {
    /// Waits for the last call.
    pub async fn ended(&self) {
        self.0.cancelled().await;
    }
}

pub(crate) fn lease() -> (InUse, Lease) {
    let token = CancellationToken::new();
    let guard = token.clone().drop_guard();
    (InUse { _guard: guard }, Lease(token))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_last_user_ends_it() {
        let (in_use, lease) = lease();
        let first = Arc::new(in_use);
        let second = Arc::clone(&first);
        drop(first);
        assert!(!lease.0.is_cancelled());
        drop(second);
        lease.ended().await;
    }
}
