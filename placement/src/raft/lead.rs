//! Brings proposals into the log, one entry at a time. While one is on its way, all others gather for the next.

use super::{Kind, Raft};
use crate::proposals::Proposals;

/// Works until this replica leads no longer.
pub(super) async fn propose<C: Kind>(raft: Raft<C>, proposals: Proposals) {
    loop {
        let batch = proposals.next().await;
        match raft.client_write(batch.entry.clone()).await {
            Ok(_) => batch.agreed(),
            Err(error) => {
                tracing::debug!(%error, "Changes were not agreed on");
                return;
            }
        }
    }
}
