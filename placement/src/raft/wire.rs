//! What replicas say to each other: one unary gRPC method with JSON messages.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::Types;

/// The service on the raft port; it is internal to replicas of one release.
pub(super) const SERVICE: &str = "dapr.placement.raft.v1.Raft";
/// The path of its only method.
pub(super) const CALL: &str = "/dapr.placement.raft.v1.Raft/Call";

/// A call and the list of replicas the caller knows: others must not vote with each other.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) cluster: String,
    pub(super) call: Call,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
}
