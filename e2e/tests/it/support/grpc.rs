//! The gRPC API of a sidecar, as a client sees it.

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::standalone::Sidecar;
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::LIMIT;

/// A connection to the gRPC API of `sidecar`.
pub(crate) async fn connect(sidecar: &Sidecar) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", sidecar.grpc_port))?;
    let channel = endpoint.timeout(LIMIT).connect().await;
    channel.context("connecting to the gRPC API")
}

/// A client of the `Dapr` service of `sidecar`.
pub(crate) async fn dapr(sidecar: &Sidecar) -> Result<DaprClient<Channel>> {
    Ok(DaprClient::new(connect(sidecar).await?))
}

/// The status of a call that has to fail with `code`.
pub(crate) fn refused<T>(result: Result<T, Status>, code: Code) -> Result<Status> {
    let Err(status) = result else {
        anyhow::bail!("answered instead of {code:?}");
    };
    ensure!(status.code() == code, "not {code:?}: {status:?}");
    Ok(status)
}
