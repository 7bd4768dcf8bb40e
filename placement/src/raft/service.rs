//! The raft port: hands the calls of other replicas to the library.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::service::Routes;
use tonic::{Response, Status};

use super::wire::{Answer, CALL, Call, Request, SERVICE};
use super::{Cluster, Member, Seat};
use crate::codec::JsonCodec;

pub(super) fn routes(seat: Seat, cluster: &Cluster) -> axum::Router {
    Routes::new(Service {
        seat,
        cluster: cluster.fingerprint().into(),
    })
    .into_axum_router()
}

#[derive(Clone)]
struct Service {
    seat: Seat,
    cluster: Arc<str>,
}

impl Service {
    async fn answer(self, Request { cluster, call }: Request) -> Result<Response<Answer>, Status> {
        if *cluster != *self.cluster {
            let text = format!(
                "--initial-cluster is {cluster} there and {} here: start all replicas with one list",
                self.cluster
            );
            return Err(Status::failed_precondition(text));
        }
        let member = self.seat.read().clone();
        let Some(Member {
            raft,
            log,
            contradicted,
        }) = member
        else {
            return Err(Status::unavailable("replica was started a moment ago"));
        };
        let answer = match call {
            Call::Append(request) if log.contradicts(&request) => {
                contradicted.cancel();
                return Err(Status::unavailable("replica starts over"));
            }
            Call::Append(request) => raft.append_entries(request).await.map(Answer::Append),
            Call::Vote(request) => raft.vote(request).await.map(Answer::Vote),
            Call::PreVote(request) => raft.pre_vote(request).await.map(Answer::Vote),
        };
        answer
            .map(Response::new)
            .map_err(|error| Status::unavailable(error.to_string()))
    }
}

impl UnaryService<Request> for Service {
    type Response = Answer;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Request>) -> Self::Future {
        Box::pin(self.clone().answer(request.into_inner()))
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
            Ok(Grpc::new(JsonCodec::<Answer, Request>::default())
                .unary(service, request)
                .await)
        })
    }
}
