//! Calls to other replicas. Names are resolved anew at each connect, and one that does not resolve is tried again.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dapr_security::{Expect, Security};
use futures::future::{Either, select};
use http::uri::PathAndQuery;
use openraft::alias::VoteOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tokio::time::timeout;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::Types;
use super::machine::Snapshot;
use super::wire::{Answer, CALL, Call, Greeting, Hello, MESSAGE_LIMIT, Request};
use crate::codec::PostcardCodec;
use crate::ledger::Encoded;

/// How long a connect may take; a call that waits for it has a limit of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings on an idle connection, and how long one may stay unanswered: a replica that vanished without a word is
/// found before its next heartbeats pile up.
const KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a snapshot may take: the library's own limit is meant for pieces of one.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a greeting may take. It is repeated anyway.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Dials other replicas; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    security: Security,
    expect: Expect,
    /// By number and address: a replica may come back elsewhere.
    channels: Arc<Mutex<HashMap<(u64, String), Channel>>>,
}

impl Network {
    pub(crate) fn new(security: Security, expect: Expect) -> Self {
        Self {
            security,
            expect,
            channels: Arc::default(),
        }
    }

    fn channel(&self, target: u64, address: &str) -> Result<Channel, tonic::transport::Error> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&(target, address.to_owned())) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel =
            endpoint.connect_with_connector_lazy(self.security.connector(self.expect.clone()));
        channels.retain(|(known, _), _| *known != target);
        channels.insert((target, address.to_owned()), channel.clone());
        Ok(channel)
    }

    pub(super) fn client(&self, target: u64, address: &str) -> Client {
        let channel = self.channel(target, address).map_err(|error| {
            tracing::error!(address, %error, "Address of a replica in --initial-cluster is invalid");
            Status::invalid_argument(format!("invalid address {address}"))
        });
        Client { target, channel }
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        self.client(target, &node.addr)
    }
}

/// Calls one other replica.
#[derive(Debug)]
pub(crate) struct Client {
    target: u64,
    channel: Result<Channel, Status>,
}

impl Client {
    /// None when there is no answer.
    pub(super) async fn hello(&self, hello: Hello) -> Option<Greeting> {
        match timeout(HELLO_TIMEOUT, self.send(Call::Hello(hello))).await {
            Ok(Ok(Answer::Hello(greeting))) => Some(greeting),
            Ok(Ok(_)) | Err(_) => None,
            Ok(Err(status)) => {
                tracing::debug!(replica = self.target, error = %status.message(), "Replica does not greet");
                None
            }
        }
    }

    async fn call(&self, call: Call, limit: Duration) -> Result<Answer, RPCError<Types>> {
        match timeout(limit, self.send(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                tracing::debug!(replica = self.target, error = %status.message(), "Replica does not answer");
                Err(RPCError::Unreachable(Unreachable::new(&status)))
            }
            Err(elapsed) => Err(RPCError::Network(NetworkError::new(&elapsed))),
        }
    }

    async fn send(&self, call: Call) -> Result<Answer, Status> {
        let mut client = Grpc::new(self.channel.clone()?)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let request = tonic::Request::new(Request {
            to: self.target,
            call,
        });
        let path = PathAndQuery::from_static(CALL);
        let answer = client
            .unary(request, path, PostcardCodec::<Request, Answer>::default())
            .await?;
        Ok(answer.into_inner())
    }

    async fn vote(
        &self,
        call: Call,
        option: &RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(call, option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }
}

fn mismatch() -> RPCError<Types> {
    RPCError::Network(NetworkError::new(&io::Error::other(
        "answer to another call",
    )))
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Call::Append(rpc), option.hard_ttl()).await? {
            Answer::Append(response) => Ok(response),
            _ => Err(mismatch()),
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

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<Types>,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let call = Call::Snapshot {
            vote,
            meta: snapshot.meta,
            tables: Encoded(snapshot.snapshot),
        };
        let sent = std::pin::pin!(self.call(call, SNAPSHOT_TIMEOUT));
        match select(sent, std::pin::pin!(cancel)).await {
            Either::Left((Ok(Answer::Snapshot(response)), _)) => Ok(response),
            Either::Left((Ok(_), _)) => Err(StreamingError::Unreachable(Unreachable::new(
                &io::Error::other("answer to another call"),
            ))),
            Either::Left((Err(error), _)) => {
                Err(StreamingError::Unreachable(Unreachable::new(&error)))
            }
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(Call::Transfer(rpc), option.hard_ttl()).await? {
            Answer::Transfer(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }
}
