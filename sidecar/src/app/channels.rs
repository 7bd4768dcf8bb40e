//! The channel to the application.

use std::sync::Arc;

use dapr_sidecar_core::app::{AppChannel, Protocol};

use super::api_settings;
use super::base::{Base, UNLIMITED_MESSAGE};
use crate::channel::grpc::GrpcChannel;
use crate::channel::http::HttpChannel;

/// The application, once as everybody calls it and once as frames are forwarded to it.
#[derive(Default)]
pub(super) struct Channels {
    pub(super) app: Option<Arc<dyn AppChannel>>,
    pub(super) grpc: Option<Arc<GrpcChannel>>,
}

impl Base {
    /// Both channels; none without an application.
    pub(super) fn channel(&self) -> anyhow::Result<Channels> {
        let settings = &self.process.settings;
        let Some(port) = settings.app.port else {
            return Ok(Channels::default());
        };
        let tracing = api_settings::tracing(self.configuration.tracing.as_ref());
        match settings.app.protocol {
            Protocol::Grpc | Protocol::Grpcs => {
                let max_message = settings.max_body_size.unwrap_or(UNLIMITED_MESSAGE);
                let grpc = Arc::new(
                    GrpcChannel::new(&settings.app, port, max_message, self.metrics.clone())?
                        .with_tracing(tracing),
                );
                Ok(Channels {
                    app: Some(Arc::clone(&grpc) as _),
                    grpc: Some(grpc),
                })
            }
            Protocol::Http | Protocol::Https | Protocol::H2c => {
                let http =
                    HttpChannel::new(&settings.app_id, &settings.app, port, self.metrics.clone())?
                        .with_tracing(tracing);
                Ok(Channels {
                    app: Some(Arc::new(http)),
                    grpc: None,
                })
            }
        }
    }
}
