//! Calls to other replicas. Names are resolved anew at each connect, and one that does not resolve is tried again.

use std::collections::HashMap;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dapr_security::{Expect, Security};
use futures::future::{Either, select};
use http::uri::PathAndQuery;
use openraft::alias::VoteOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use parking_lot::Mutex;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::machine::Snapshot;
use super::wire::{Answer, CALL, Call, Greeting, Hello, MESSAGE_LIMIT, Name, Request};
use super::{Kind, Node, Types};
use crate::codec::PostcardCodec;
use crate::ledger::Encoded;

/// How long a connect may take; a call that waits for it has a limit of its own.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings on an idle connection, and how long one may stay unanswered: a replica that vanished without a word is
/// found before its next heartbeats pile up.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(1);
/// How long a snapshot may take: the library's own limit is meant for pieces of one.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a greeting may take. It is repeated anyway.
const HELLO_TIMEOUT: Duration = Duration::from_millis(500);

/// Brings a call to an address and the answer back.
pub(super) trait Carrier<C: Kind>: Clone + Send + Sync + 'static {
    fn carry(
        &self,
        address: &str,
        request: Request<C>,
    ) -> impl Future<Output = Result<Answer<C>, Status>> + Send;
}

/// Dials other replicas; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    security: Security,
    expect: Expect,
    /// By number, with the address: a replica may come back elsewhere.
    channels: Arc<Mutex<HashMap<u64, (String, Channel)>>>,
}

impl Network {
    pub(crate) fn new(security: Security, expect: Expect) -> Self {
        Self {
            security,
            expect,
            channels: Arc::default(),
        }
    }

    fn channel(&self, target: u64, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock();
        if let Some((known, channel)) = channels.get(&target)
            && known == address
        {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
            tracing::error!(address, %error, "Address of a replica in --initial-cluster is invalid");
            Status::invalid_argument(format!("invalid address {address}"))
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true);
        let channel =
            endpoint.connect_with_connector_lazy(self.security.connector(self.expect.clone()));
        channels.insert(target, (address.to_owned(), channel.clone()));
        Ok(channel)
    }
}

impl Carrier<Types> for Network {
    async fn carry(&self, address: &str, request: Request) -> Result<Answer, Status> {
        let mut client = Grpc::new(self.channel(request.to, address)?)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        client
            .ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static(CALL);
        let codec = PostcardCodec::<Request, Answer>::default();
        let answer = client
            .unary(tonic::Request::new(request), path, codec)
            .await?;
        Ok(answer.into_inner())
    }
}

/// Makes a client for each other replica.
#[derive(Clone, Debug)]
pub(super) struct Clients<P>(pub(super) P);

impl<C: Kind, P: Carrier<C>> RaftNetworkFactory<C> for Clients<P> {
    type Network = Client<C, P>;

    async fn new_client(&mut self, target: u64, node: &Node) -> Client<C, P> {
        Client::new(self.0.clone(), target, node.clone())
    }
}

/// Calls one incarnation of one other replica.
#[derive(Debug)]
#[doc(hidden)]
pub(super) struct Client<C, P> {
    carrier: P,
    target: u64,
    node: Node,
    kind: PhantomData<fn() -> C>,
}

impl<C: Kind, P: Carrier<C>> Client<C, P> {
    pub(super) fn new(carrier: P, target: u64, node: Node) -> Self {
        Self {
            carrier,
            target,
            node,
            kind: PhantomData,
        }
    }

    /// None when there is no answer.
    pub(super) async fn hello(&self, hello: Hello) -> Option<(Name, Greeting)> {
        match C::timeout(HELLO_TIMEOUT, self.send(Call::Hello(hello))).await {
            Ok(Ok(Answer::Hello(name, greeting))) => Some((name, greeting)),
            Ok(Ok(_)) | Err(_) => None,
            Ok(Err(status)) => {
                tracing::debug!(replica = self.target, error = %status.message(), "Replica does not greet");
                None
            }
        }
    }

    async fn call(&self, call: Call<C>, limit: Duration) -> Result<Answer<C>, RPCError<C>> {
        match C::timeout(limit, self.send(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => {
                tracing::debug!(replica = self.target, error = %status.message(), "Replica does not answer");
                Err(RPCError::Unreachable(Unreachable::new(&status)))
            }
            Err(_) => {
                let late = io::Error::from(io::ErrorKind::TimedOut);
                Err(RPCError::Network(NetworkError::new(&late)))
            }
        }
    }

    async fn send(&self, call: Call<C>) -> Result<Answer<C>, Status> {
        let request = Request {
            to: self.target,
            incarnation: self.node.incarnation,
            call,
        };
        self.carrier.carry(&self.node.address, request).await
    }

    async fn vote(
        &self,
        call: Call<C>,
        option: &RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        match self.call(call, option.hard_ttl()).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }
}

fn mismatch<C: Kind>() -> RPCError<C> {
    RPCError::Network(NetworkError::new(&io::Error::other(
        "answer to another call",
    )))
}

impl<C: Kind, P: Carrier<C>> RaftNetworkV2<C> for Client<C, P> {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        match self.call(Call::Append(rpc), option.hard_ttl()).await? {
            Answer::Append(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        Self::vote(self, Call::Vote(rpc), &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        Self::vote(self, Call::PreVote(rpc), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<C>,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
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
        rpc: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        match self.call(Call::Transfer(rpc), option.hard_ttl()).await? {
            Answer::Transfer(response) => Ok(response),
            _ => Err(mismatch()),
        }
    }
}
