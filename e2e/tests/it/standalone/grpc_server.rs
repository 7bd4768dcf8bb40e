//! The gRPC API itself: what it shows of itself and whom it lets in.

use anyhow::{Context as _, Result};
use dapr_proto::dapr::proto::runtime::v1::GetMetadataRequest;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{connect, dapr, fetch, refused, story};

#[test]
fn reflection_lists_the_services() {
    story("grpc-reflection", async |stage| {
        let id = stage.id("shown");
        let sidecar = stage.sidecar(&stage.spec(&id, None), None).await?;
        let channel = connect(&sidecar).await?;
        let target: MetadataValue<Ascii> = id.parse()?;
        let bare = services_v1(channel.clone(), None).await?;
        // Tools written for upstream name an application, as its tracing asks of streams.
        let named = services_v1(channel.clone(), Some(target.clone())).await?;
        let older = services_v1alpha(channel, target).await?;
        for services in [bare, named, older] {
            assert!(
                services.contains(&"dapr.proto.runtime.v1.Dapr".to_owned()),
                "{services:?}"
            );
        }
        Ok(())
    });
}

async fn services_v1(
    channel: Channel,
    target: Option<MetadataValue<Ascii>>,
) -> Result<Vec<String>, Status> {
    use v1::server_reflection_request::MessageRequest;
    use v1::server_reflection_response::MessageResponse;
    let question = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(tokio_stream::iter([question]));
    if let Some(target) = target {
        request.metadata_mut().insert("dapr-app-id", target);
    }
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    let answer = answers
        .message()
        .await?
        .and_then(|answer| answer.message_response);
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        return Err(Status::data_loss(format!("{answer:?}")));
    };
    Ok(list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect())
}

async fn services_v1alpha(channel: Channel, target: MetadataValue<Ascii>) -> Result<Vec<String>> {
    use v1alpha::server_reflection_request::MessageRequest;
    use v1alpha::server_reflection_response::MessageResponse;
    let question = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut request = Request::new(tokio_stream::iter([question]));
    request.metadata_mut().insert("dapr-app-id", target);
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(request).await?.into_inner();
    let answer = answers.message().await?.context("no answer")?;
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        anyhow::bail!("{answer:?}");
    };
    Ok(list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect())
}

#[test]
fn only_who_knows_the_token_calls_the_api() {
    story("grpc-token", async |stage| {
        let mut spec = stage.spec(&stage.id("guarded"), None);
        spec.environment
            .insert("DAPR_API_TOKEN".to_owned(), "secret".to_owned());
        let sidecar = stage.sidecar(&spec, None).await?;
        let client = dapr(&sidecar).await?;
        let call = async |token: Option<&'static str>| {
            let mut request = Request::new(GetMetadataRequest {});
            if let Some(token) = token {
                let token = MetadataValue::from_static(token);
                request.metadata_mut().insert("dapr-api-token", token);
            }
            client.clone().get_metadata(request).await
        };
        for (token, reason) in [
            (None, "missing api token in request metadata"),
            (Some("guess"), "authentication error: api token mismatch"),
        ] {
            let status = refused(call(token).await, Code::Unauthenticated)?;
            assert_eq!(status.message(), "Unauthorized");
            let details = String::from_utf8_lossy(status.details()).into_owned();
            assert!(details.contains(reason), "{details}");
        }
        let metadata = call(Some("secret")).await?.into_inner();
        assert_eq!(metadata.id, spec.app_id);

        // The same on HTTP, but for the health routes: the story has waited for one.
        let url = sidecar.url("metadata");
        let reply = fetch(stage.http.get(&url)).await?.expect(401)?;
        assert_eq!(reply.body, "invalid api token\n");
        let known = stage.http.get(&url).header("dapr-api-token", "secret");
        fetch(known).await?.expect(200)?;
        Ok(())
    });
}
