//! What replicas say to each other: one unary gRPC method with postcard messages.

use std::collections::{BTreeMap, BTreeSet};

use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::Types;
use crate::ledger::Encoded;

/// The service on the raft port; it is internal to replicas of one release.
pub(super) const SERVICE: &str = "dapr.placement.raft.v1.Raft";
/// The path of its only method.
pub(super) const CALL: &str = "/dapr.placement.raft.v1.Raft/Call";
/// The largest message: a snapshot of more hosts than the orders to sidecars could carry.
pub(super) const MESSAGE_LIMIT: usize = 256 << 20;

/// A call and whom it is meant for: an address may have come to another replica.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) to: u64,
    pub(super) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot {
        vote: VoteOf<Types>,
        meta: SnapshotMetaOf<Types>,
        tables: Encoded,
    },
    Transfer(TransferLeaderRequest<Types>),
    Hello(Hello),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    Transfer(TransferLeaderResponse<Types>),
    Hello(Greeting),
}

/// What a replica says that wants to take part, or has another list of replicas than the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Addresses by number, from its command line.
    pub(super) list: BTreeMap<u64, String>,
    /// When it was started, in milliseconds since 1970. Of two lists, that of the later start counts.
    pub(super) started: u64,
}

/// What it hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// This one knows nothing either.
    Fresh,
    /// This one takes part, together with these voters.
    Whole(BTreeSet<u64>),
}
