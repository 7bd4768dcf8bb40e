//! Actors of applications that open a stream for them: whether they may, and who owns the stream's task.

use std::sync::Arc;

use dapr_sidecar_actors::Runtime;
use dapr_sidecar_actors::stream_host::StreamHost;
use dapr_sidecar_api::services::{ActorAnswers, ActorCalls, ActorStreams};
use dapr_sidecar_core::app::Protocol;
use dapr_sidecar_core::rpc::{Code, Status};
use futures::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::adapters::Tasks;
use crate::settings::Settings;

/// The actor streams of one run of the sidecar.
#[derive(Debug)]
pub struct Streams {
    host: Arc<StreamHost>,
    runtime: Arc<Runtime>,
    is_possible: bool,
    tasks: Tasks,
    over: CancellationToken,
}

impl Streams {
    /// No stream yet. They stay open until `over` is cancelled, which is due when the actors are deactivated:
    /// that goes over them.
    pub fn new(settings: &Settings, runtime: Arc<Runtime>, over: CancellationToken) -> Self {
        let app = &settings.app;
        let is_possible = app.port.is_none()
            || match app.protocol {
                Protocol::Grpc | Protocol::Grpcs => true,
                Protocol::Http | Protocol::Https | Protocol::H2c => false,
            };
        Self {
            host: StreamHost::new(&settings.app_id, settings.identity_namespace()),
            runtime,
            is_possible,
            tasks: Tasks::default(),
            over,
        }
    }
}

impl ActorStreams for Streams {
    fn serve(&self, incoming: ActorAnswers) -> Result<ActorCalls, Status> {
        if !self.is_possible {
            let text = "actor callback streaming requires a gRPC app channel";
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        let (serve, outgoing) = self.host.serve(Arc::clone(&self.runtime), incoming);
        self.tasks
            .spawn_until("actor stream", self.over.clone(), serve);
        Ok(ReceiverStream::new(outgoing).boxed())
    }
}
