//! Calls to other replicas. Names are resolved anew at each connect, and one that does not resolve is tried again.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use dapr_security::{Expect, Security};
use http::uri::PathAndQuery;
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use tokio::time::timeout;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::Types;
use super::wire::{Answer, CALL, Call, Request};
use crate::codec::JsonCodec;

/// How long a connect may take; a call that waits for it has a limit of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings on an idle connection, and how long one may stay unanswered: a replica that vanished without a word is
/// found before its next heartbeats pile up.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Dials other replicas.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    cluster: String,
    security: Security,
    expect: Expect,
    channels: HashMap<u64, Channel>,
}

impl Network {
    /// `cluster` is the fingerprint of the list of replicas.
    pub(crate) fn new(cluster: String, security: Security, expect: Expect) -> Self {
        Self {
            cluster,
            security,
            expect,
            channels: HashMap::new(),
        }
    }

    fn channel(
        &mut self,
        target: u64,
        node: &BasicNode,
    ) -> Result<Channel, tonic::transport::Error> {
        if let Some(channel) = self.channels.get(&target) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", node.addr))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel =
            endpoint.connect_with_connector_lazy(self.security.connector(self.expect.clone()));
        self.channels.insert(target, channel.clone());
        Ok(channel)
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        let channel = self.channel(target, node).map_err(|error| {
            tracing::error!(address = %node.addr, %error, "Address of a replica in --initial-cluster is invalid");
            Status::invalid_argument(format!("invalid address {}", node.addr))
        });
        Client {
            cluster: self.cluster.clone(),
            channel,
        }
    }
}

/// Calls one other replica.
#[derive(Debug)]
pub(crate) struct Client {
    cluster: String,
    channel: Result<Channel, Status>,
}

impl Client {
    async fn call(&self, call: Call, option: &RPCOption) -> Result<Answer, RPCError<Types>> {
        match timeout(option.hard_ttl(), self.send(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                tracing::debug!(error = %status.message(), "Replica does not answer");
                Err(RPCError::Unreachable(Unreachable::new(&status)))
            }
            Err(elapsed) => Err(RPCError::Network(NetworkError::new(&elapsed))),
        }
    }

    async fn send(&self, call: Call) -> Result<Answer, Status> {
        let mut client = Grpc::new(self.channel.clone()?);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let request = tonic::Request::new(Request {
            cluster: self.cluster.clone(),
            call,
        });
        let path = PathAndQuery::from_static(CALL);
        let answer = client
            .unary(request, path, JsonCodec::<Request, Answer>::default())
            .await?;
        Ok(answer.into_inner())
    }

    async fn vote(
        &self,
        call: Call,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(call, option).await? {
            Answer::Vote(response) => Ok(response),
            Answer::Append(_) => Err(mismatch()),
        }
    }
}

fn mismatch() -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&io::Error::other(
        "answer to another call",
    )))
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Call::Append(rpc), &option).await? {
            Answer::Append(response) => Ok(response),
            Answer::Vote(_) => Err(mismatch()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Self::vote(self, Call::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        Self::vote(self, Call::PreVote(rpc), &option).await
    }

    /// The log is never cut, so every replica can be brought up to date from its first entry.
    async fn full_snapshot(
        &mut self,
        _: VoteOf<Types>,
        _: SnapshotOf<Types, ()>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let error = io::Error::new(
            io::ErrorKind::Unsupported,
            "snapshots are never needed: the log is complete",
        );
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }
}
