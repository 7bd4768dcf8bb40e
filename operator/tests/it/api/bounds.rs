//! What is not usual: kinds that are missing, one namespace only, sizes, methods that do not exist.

use http::uri::PathAndQuery;
use tonic_prost::ProstCodec;

use super::*;

#[tokio::test]
async fn kinds_without_crd_have_no_objects() {
    let place = Place::complete().await;
    place.server.install("mcpservers", false);
    place.server.install("workflowaccesspolicies", false);
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let request = wire::ListMcpServersRequest {
        namespace: "default".to_owned(),
    };
    let list = shop
        .list_mcp_servers(request.clone())
        .await
        .expect("a list");
    assert!(list.into_inner().mcp_servers.is_empty());
    let open = wire::McpServerUpdateRequest {
        namespace: "default".to_owned(),
    };
    let mut stream = shop
        .mcp_server_update(open)
        .await
        .expect("open")
        .into_inner();
    // One that is installed later is served without a restart.
    place.server.install("mcpservers", true);
    place.put(json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "MCPServer",
        "metadata": {"name": "m", "namespace": "default"}, "spec": {},
    }));
    let event = timeout(2 * SOON, stream.message()).await.expect("in time");
    assert_eq!(event.expect("a stream").expect("an event").r#type, 1);
    let list = shop.list_mcp_servers(request).await.expect("a list");
    assert_eq!(list.into_inner().mcp_servers.len(), 1);
}

#[tokio::test]
async fn a_missing_crd_that_has_to_be_there_is_told() {
    let place = Place::complete().await;
    place.server.install("components", false);
    let operator = Operator::start(place.kubeconfig(), None).await;
    let mut shop = operator.app("default", "shop").await;
    let text = "error getting components: no matches for kind \"Component\" in version \"dapr.io/v1alpha1\"";
    let refused = components(&mut shop, "default").await;
    assert_eq!(refused, Err((Code::Unknown, text.to_owned())));
    assert_eq!(operator.health.unready(), ["cluster"]);
}

#[tokio::test]
async fn only_the_watched_namespace_is_known() {
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = Operator::ready(place.kubeconfig(), Some("default")).await;
    let mut inside = operator.app("default", "shop").await;
    assert_eq!(
        components(&mut inside, "default").await.map(|it| it.len()),
        Ok(1)
    );
    let mut outside = operator.app("other", "shop").await;
    let (code, text) = components(&mut outside, "other")
        .await
        .expect_err("unknown");
    assert_eq!(code, Code::Unknown);
    assert!(
        text.ends_with("because of unknown namespace for the cache"),
        "{text}"
    );
    let request = wire::GetConfigurationRequest {
        name: "c".to_owned(),
        namespace: "other".to_owned(),
    };
    let status = outside
        .get_configuration(request)
        .await
        .expect_err("unknown");
    let text = status.message();
    assert!(
        text.ends_with("because of unknown namespace for the cache"),
        "{text}"
    );
}

#[tokio::test]
async fn a_list_may_be_larger_than_a_message_usually_is() {
    let place = Place::complete().await;
    let text = "x".repeat(1 << 20);
    for index in 0..5 {
        let mut large = component(&format!("large-{index}"), "v1", &[]);
        large["spec"]["metadata"] = json!([{"name": "n", "value": text}]);
        place.put(large);
    }
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    // As upstream's sidecar: what is too large for it is refused by itself.
    let (code, _) = components(&mut shop, "default")
        .await
        .expect_err("too large");
    assert_eq!(code, Code::OutOfRange);
    let mut shop = shop.max_decoding_message_size(16 << 20);
    assert_eq!(
        components(&mut shop, "default").await.map(|it| it.len()),
        Ok(5)
    );
}

#[tokio::test]
async fn there_is_no_other_method() {
    let place = Place::complete().await;
    let operator = place.operator().await;
    let connector = operator
        .authority
        .security("spiffe://public/ns/default/shop");
    let expect = dapr_security::Expect::Id(
        dapr_security::SpiffeId::new(crate::support::OPERATOR).expect("an id"),
    );
    let endpoint = tonic::transport::Endpoint::from_shared(operator.url()).expect("a URL");
    let channel = endpoint
        .connect_with_connector(connector.connector(expect))
        .await
        .expect("connected");
    let mut grpc = tonic::client::Grpc::new(channel);
    for path in [
        "/dapr.proto.operator.v1.Operator/GetHTTPEndpoint",
        "/other.Service/Method",
    ] {
        grpc.ready().await.expect("ready");
        let request = tonic::Request::new(wire::ListComponentsRequest::default());
        let codec =
            ProstCodec::<wire::ListComponentsRequest, wire::ListComponentResponse>::default();
        let answer = grpc
            .unary(request, PathAndQuery::from_static(path), codec)
            .await;
        assert_eq!(
            answer.expect_err("unknown").code(),
            Code::Unimplemented,
            "{path}"
        );
    }
}

#[tokio::test]
async fn many_sidecars_hear_of_one_change() {
    const SIDECARS: usize = 50;
    let place = Place::complete().await;
    let operator = place.operator().await;
    let mut streams = Vec::new();
    for _ in 0..SIDECARS {
        let mut client = operator.app("default", "shop").await;
        streams.push(component_stream(&mut client, "default").await);
    }
    place.put(component("a", "v1", &[]));
    for stream in &mut streams {
        assert_eq!(next(stream).await.0, 1);
    }
}

#[tokio::test]
async fn a_request_that_is_too_large_is_told_so_as_by_upstream() {
    let place = Place::complete().await;
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let namespace = "x".repeat(5 << 20);
    let request = wire::ListMcpServersRequest {
        namespace: namespace.clone(),
    };
    let refused = shop.list_mcp_servers(request).await.expect_err("too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let request = wire::McpServerUpdateRequest { namespace };
    let refused = shop
        .mcp_server_update(request)
        .await
        .expect_err("too large");
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
}
