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
    let request = wire::ListResiliencyRequest {
        namespace: "other".to_owned(),
    };
    let status = outside.list_resiliency(request).await.expect_err("unknown");
    let text = "error listing resiliencies: unable to list: other because of unknown namespace for the cache";
    assert_eq!(status.message(), text);
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

#[tokio::test]
async fn a_sidecar_that_has_missed_more_than_is_remembered_lists_again() {
    const MORE: usize = 1100;
    let place = Place::complete().await;
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut cart = operator.app("default", "cart").await;
    assert_eq!(components(&mut shop, "default").await, Ok(Vec::new()));
    let last = MORE.to_string();
    for version in 1..=MORE {
        place.put(component("a", &version.to_string(), &[]));
    }
    eventually("the last one is known", async || {
        let list = components(&mut cart, "default").await.expect("a list");
        list.first().is_some_and(|it| it["spec"]["version"] == last)
    })
    .await;
    let open = || wire::ComponentUpdateRequest {
        namespace: "default".to_owned(),
    };
    let status = shop.component_update(open()).await.expect_err("a gap");
    let text = "changes since the last list are not known any more";
    assert_eq!((status.code(), status.message()), (Code::Aborted, text));
    // Upstream's sidecar opens its stream first and lists then.
    let mut stream = component_stream(&mut shop, "default").await;
    let list = components(&mut shop, "default").await.expect("a list");
    assert_eq!(list[0]["spec"]["version"], last);
    place.put(component("a", "next", &[]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["spec"]["version"]), (2, &json!("next")));
}

/// An object that upstream's sidecar refuses is no trouble to one that takes it, nor to the operator.
#[tokio::test]
async fn an_object_may_be_larger_than_a_message_usually_is() {
    let place = Place::complete().await;
    let operator = place.operator().await;
    let shop = operator.app("default", "shop").await;
    let mut usual = component_stream(&mut shop.clone(), "default").await;
    let mut shop = shop.max_decoding_message_size(16 << 20);
    let mut stream = component_stream(&mut shop, "default").await;
    let mut large = component("large", "v1", &[]);
    large["spec"]["metadata"] = json!([{"name": "n", "value": "x".repeat(5 << 20)}]);
    place.put(large);
    let (r#type, object) = next(&mut stream).await;
    let value = object["spec"]["metadata"][0]["value"].as_str();
    assert_eq!((r#type, value.map(str::len)), (1, Some(5 << 20)));
    let refused = timeout(SOON, usual.message()).await.expect("in time");
    assert_eq!(refused.expect_err("too large").code(), Code::OutOfRange);
    place.put(component("small", "v1", &[]));
    let (r#type, object) = next(&mut stream).await;
    assert_eq!((r#type, &object["metadata"]["name"]), (1, &json!("small")));
}

/// Over real connections: what one does not read fills its windows, and then only its own queue.
#[tokio::test]
async fn a_sidecar_that_reads_nothing_holds_up_no_other() {
    const CHANGES: usize = 60;
    // Far more together than two windows and the ten that are queued one by one.
    const SIZE: usize = 256 << 10;
    let place = Place::complete().await;
    let operator = place.operator().await;
    let mut still = operator.app("default", "shop").await;
    let mut stuck = component_stream(&mut still, "default").await;
    let mut quick = operator.app("default", "shop").await;
    let mut stream = component_stream(&mut quick, "default").await;
    let text = "x".repeat(SIZE);
    for version in 1..=CHANGES {
        let mut large = component("a", &version.to_string(), &[]);
        large["spec"]["metadata"] = json!([{"name": "n", "value": text}]);
        place.put(large);
        let (_, object) = next(&mut stream).await;
        assert_eq!(object["spec"]["version"], version.to_string());
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&CHANGES.to_string()) {
        let (_, object) = next(&mut stuck).await;
        seen.push(
            object["spec"]["version"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
    }
    // It has missed some, but not the last.
    assert!(seen.len() < CHANGES, "{seen:?}");
}
