//! The secrets methods.

use dapr_components_core::secret_store::Secret;
use dapr_proto::dapr::proto::runtime::v1::{
    GetBulkSecretRequest, GetBulkSecretResponse, GetSecretRequest, GetSecretResponse,
    SecretResponse,
};
use tonic::Status;

use crate::error;
use crate::services::Core;

pub(super) async fn get(
    core: &Core,
    request: GetSecretRequest,
) -> Result<GetSecretResponse, Status> {
    let metadata = request.metadata.into_iter().collect();
    let found = core
        .secrets
        .get(&request.store_name, &request.key, metadata);
    let Secret(values) = found.await.map_err(|error| error::secrets(&error))?;
    Ok(GetSecretResponse {
        data: values.into_iter().collect(),
    })
}

pub(super) async fn get_bulk(
    core: &Core,
    request: GetBulkSecretRequest,
) -> Result<GetBulkSecretResponse, Status> {
    let metadata = request.metadata.into_iter().collect();
    let found = core.secrets.bulk_get(&request.store_name, metadata).await;
    let found = found.map_err(|error| error::secrets(&error))?;
    let response = |Secret(values): Secret| SecretResponse {
        secrets: values.into_iter().collect(),
    };
    Ok(GetBulkSecretResponse {
        data: found
            .into_iter()
            .map(|(name, secret)| (name, response(secret)))
            .collect(),
    })
}
