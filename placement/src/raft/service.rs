//! The raft port: hands the calls of other replicas to the library.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use openraft::alias::{LogIdOf, VoteOf};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::RaftEntry;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::service::Routes;
use tonic::{Response, Status};

use super::machine::Snapshot;
use super::wire::{Answer, CALL, Call, Greeting, MESSAGE_LIMIT, Request, SERVICE};
use super::{Kind, Member, Seat, Types};
use crate::codec::PostcardCodec;

pub(super) fn routes(seat: Seat) -> axum::Router {
    Routes::new(Service { seat }).into_axum_router()
}

impl<C: Kind> Seat<C> {
    /// Answers a call of another replica.
    pub(super) async fn answer(
        self,
        Request {
            to,
            incarnation,
            call,
        }: Request<C>,
    ) -> Result<Answer<C>, Status> {
        if to != self.own {
            return Err(Status::failed_precondition(
                "address belongs to another replica than --initial-cluster says there",
            ));
        }
        let member = self.member.read().clone();
        let Some(member) = member else {
            return Err(Status::unavailable("replica was started a moment ago"));
        };
        Ok(match call {
            Call::Hello(hello) => {
                self.hear(hello);
                Answer::Hello(member.standing().name(self.own), member.greeting())
            }
            _ if !member.standing().answers_for(incarnation) => {
                return Err(Status::unavailable(
                    "replica has lost its log and is not let in again yet",
                ));
            }
            Call::Append(request) => {
                let sent = request.entries.iter().map(RaftEntry::log_id);
                member.check(request.vote, sent.chain(request.prev_log_id))?;
                Answer::Append(member.raft.append_entries(request).await.map_err(down)?)
            }
            Call::Snapshot { vote, meta, tables } => {
                member.check(vote, meta.last_log_id)?;
                let snapshot = Snapshot {
                    meta,
                    snapshot: tables.0,
                };
                let installed = member.raft.install_full_snapshot(vote, snapshot).await;
                Answer::Snapshot(installed.map_err(down)?)
            }
            Call::Vote(request) => Answer::Vote(member.raft.vote(request).await.map_err(down)?),
            Call::PreVote(request) => {
                Answer::Vote(member.raft.pre_vote(request).await.map_err(down)?)
            }
            Call::Transfer(request) => {
                let handled = member.raft.handle_transfer_leader(request).await;
                Answer::Transfer(handled.map_err(down)?)
            }
        })
    }
}

impl<C: Kind> Member<C> {
    /// What it says to one that wants to take part.
    pub(super) fn greeting(&self) -> Greeting {
        if self.has_just_begun() {
            return Greeting::Begun;
        }
        // One that joined and was sent nothing remembers nothing: those that wait for it would wait for ever.
        if !self.standing().is_whole() || self.has_nothing() {
            return Greeting::Fresh;
        }
        let metrics = self.raft.metrics();
        let members = &metrics.borrow_watched().committed_membership_config;
        Greeting::Whole(members.voter_ids().collect())
    }

    /// Refuses what contradicts the own log, which then is over.
    fn check(
        &self,
        vote: VoteOf<C>,
        sent: impl IntoIterator<Item = LogIdOf<Types>>,
    ) -> Result<(), Status> {
        // A leader of before is told so by the library.
        if vote < self.raft.metrics().borrow_watched().vote {
            return Ok(());
        }
        let sent: Vec<LogIdOf<Types>> = sent.into_iter().collect();
        if self.log.contradicts(&sent).map_err(down)? {
            self.contradicted.cancel();
            return Err(Status::unavailable("replica starts over"));
        }
        Ok(())
    }
}

fn down(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// The seat as a gRPC service.
#[derive(Clone)]
struct Service {
    seat: Seat,
}

impl UnaryService<Request> for Service {
    type Response = Answer;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
        let seat = self.seat.clone();
        Box::pin(async move { seat.answer(request.into_inner()).await.map(Response::new) })
    }
}

impl NamedService for Service {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CALL {
                return Ok(Status::unimplemented("").into_http());
            }
            Ok(Grpc::new(PostcardCodec::<Answer, Request>::default())
                .max_decoding_message_size(MESSAGE_LIMIT)
                .max_encoding_message_size(MESSAGE_LIMIT)
                .unary(service, request)
                .await)
        })
    }
}
