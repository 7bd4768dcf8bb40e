//! What replicas say to each other: one unary gRPC method with postcard messages.

use std::collections::{BTreeMap, BTreeSet};

use openraft::alias::{SnapshotMetaOf, VoteOf};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::{Kind, Types};
use crate::ledger::Encoded;

/// The service on the raft port; it is internal to replicas of one release.
pub(super) const SERVICE: &str = "dapr.placement.raft.v1.Raft";
/// The path of its only method.
pub(super) const CALL: &str = "/dapr.placement.raft.v1.Raft/Call";
/// The largest message: a snapshot of more hosts than the orders to sidecars could carry.
pub(super) const MESSAGE_LIMIT: usize = 256 << 20;

/// A call and whom it is meant for: an address may have come to another replica, and a replica may have forgotten
/// what the one before it has promised under the same id.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
#[doc(hidden)]
pub(super) struct Request<C: Kind = Types> {
    pub(super) to: u64,
    pub(super) incarnation: u64,
    pub(super) call: Call<C>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
#[doc(hidden)]
pub(super) enum Call<C: Kind = Types> {
    Append(AppendEntriesRequest<C>),
    Vote(VoteRequest<C>),
    PreVote(VoteRequest<C>),
    Snapshot {
        vote: VoteOf<Types>,
        meta: SnapshotMetaOf<Types>,
        tables: Encoded,
    },
    Transfer(TransferLeaderRequest<C>),
    /// The only one that is for every incarnation.
    Hello(Hello),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
#[doc(hidden)]
pub(super) enum Answer<C: Kind = Types> {
    Append(AppendEntriesResponse<C>),
    Vote(VoteResponse<C>),
    Snapshot(SnapshotResponse<C>),
    Transfer(TransferLeaderResponse<C>),
    Hello(Name, Greeting),
}

/// Who says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Name {
    pub(super) id: u64,
    /// The only incarnation it answers for; none when it answers for all there were.
    pub(super) incarnation: Option<u64>,
}

/// Which replicas there should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct List {
    /// Addresses by number, from a command line.
    pub(super) addresses: BTreeMap<u64, String>,
    /// When that replica was started, in milliseconds since 1970. Of two lists, that of the later start counts.
    pub(super) started: u64,
}

/// What a replica says that wants to take part, or has another list of replicas than the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) from: Name,
    /// What it would hear from itself: whoever cannot reach it learns of its cluster all the same.
    pub(super) greeting: Greeting,
    /// The list that counts, as far as it knows.
    pub(super) list: List,
}

/// What it hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Greeting {
    /// This one knows nothing either, or it votes and has no entry at all yet.
    Fresh,
    /// This one begins with all others, or has a moment ago, and nothing was agreed on with it since.
    Begun,
    /// This one takes part, together with these voters.
    Whole(BTreeSet<u64>),
}
