//! Every kind by its list and its stream, and the two methods that give one object.

use super::*;

/// An object of a kind in `default`, with this `spec`.
fn object(kind: &str, version: &str, spec: Value) -> Value {
    json!({
        "apiVersion": format!("dapr.io/{version}"), "kind": kind,
        "metadata": {"name": "it", "namespace": "default"}, "spec": spec,
    })
}

/// Lists nothing, streams what is created, and lists it then; streams another spec and no other label; shows neither list
/// nor stream what is not for the app.
macro_rules! check {
    ($kind:literal $version:literal $spec:expr, $other:expr, $list:ident $request:ident $objects:ident, $stream:ident $open:ident $event:ident) => {{
        let place = Place::complete().await;
        let operator = place.operator().await;
        let mut shop = operator.app("default", "shop").await;
        let namespace = || "default".to_owned();
        let request = || wire::$request {
            namespace: namespace(),
        };
        let list = shop.$list(request()).await.expect("a list").into_inner();
        assert!(list.$objects.is_empty(), $kind);
        let open = wire::$open {
            namespace: namespace(),
        };
        let mut stream = shop.$stream(open).await.expect("open").into_inner();
        let mut next = async || {
            let event = timeout(SOON, stream.message()).await.expect("in time");
            let event = event.expect("a stream").expect("an event");
            (event.r#type, read(&event.$event))
        };
        place.put(object($kind, $version, $spec));
        let (r#type, streamed) = next().await;
        assert_eq!(r#type, 1, $kind);
        assert_eq!(streamed["metadata"]["name"], "it", $kind);
        assert_eq!(streamed.get("kind"), None, $kind);
        let list = shop.$list(request()).await.expect("a list").into_inner();
        let listed = read(&list.$objects[0]);
        assert_eq!(
            (&listed["kind"], &listed["spec"]),
            (&json!($kind), &streamed["spec"])
        );
        // A label edit is nothing; the next event is the one after it.
        let mut labelled = object($kind, $version, $spec);
        labelled["metadata"]["labels"] = json!({"team": "a"});
        place.put(labelled);
        let changed = object($kind, $version, $other);
        place.put(changed.clone());
        let (r#type, updated) = next().await;
        assert_eq!(r#type, 2, $kind);
        assert_ne!(updated["spec"], streamed["spec"], $kind);
        let list = shop.$list(request()).await.expect("a list").into_inner();
        assert_eq!(read(&list.$objects[0])["spec"], updated["spec"], $kind);
        let mut scoped = changed;
        scoped["scopes"] = json!(["cart"]);
        place.put(scoped);
        assert_eq!(next().await.0, 3, $kind);
        let list = shop.$list(request()).await.expect("a list").into_inner();
        assert!(list.$objects.is_empty(), $kind);
        let mut cart = operator.app("default", "cart").await;
        let list = cart.$list(request()).await.expect("a list").into_inner();
        assert_eq!(list.$objects.len(), 1, $kind);
    }};
}

#[tokio::test]
async fn each_is_listed_and_streamed() {
    check!("Component" "v1alpha1" json!({"type": "state.redis", "version": "v1", "metadata": []}),
        json!({"type": "state.redis", "version": "v2", "metadata": []}),
        list_components ListComponentsRequest components,
        component_update ComponentUpdateRequest component);
    check!("HTTPEndpoint" "v1alpha1" json!({"baseUrl": "http://a"}), json!({"baseUrl": "http://b"}),
        list_http_endpoints ListHttpEndpointsRequest http_endpoints,
        http_endpoint_update HttpEndpointUpdateRequest http_endpoints);
    check!("MCPServer" "v1alpha1" json!({"endpoint": {"sse": {"url": "http://a"}}}),
        json!({"endpoint": {"sse": {"url": "http://b"}}}),
        list_mcp_servers ListMcpServersRequest mcp_servers,
        mcp_server_update McpServerUpdateRequest mcp_server);
    check!("Resiliency" "v1alpha1" json!({"policies": {}, "targets": {}}),
        json!({"policies": {"timeouts": {"short": "1s"}}, "targets": {}}),
        list_resiliency ListResiliencyRequest resiliencies,
        resiliency_update ResiliencyUpdateRequest resiliency);
    check!("Subscription" "v2alpha1" json!({"pubsubname": "p", "topic": "t", "routes": {"default": "/a"}}),
        json!({"pubsubname": "p", "topic": "t", "routes": {"default": "/b"}}),
        list_subscriptions_v2 ListSubscriptionsRequest subscriptions,
        subscription_update SubscriptionUpdateRequest subscription);
    check!("WorkflowAccessPolicy" "v1alpha1" json!({"rules": []}),
        json!({"rules": [{"callers": [{"appID": "shop"}], "workflows": []}]}),
        list_workflow_access_policy ListWorkflowAccessPolicyRequest policies,
        workflow_access_policy_update WorkflowAccessPolicyUpdateRequest policy);
}

/// Lists an object with a secret, and streams it with another value when the secret has one.
macro_rules! check_secret {
    ($kind:literal $spec:expr, $at:literal, $list:ident $request:ident $objects:ident, $stream:ident $open:ident $event:ident) => {{
        let place = Place::complete().await;
        place.secret("default", "s", "b25l");
        place.put(object($kind, "v1alpha1", $spec));
        let operator = place.operator().await;
        let mut shop = operator.app("default", "shop").await;
        let request = wire::$request {
            namespace: "default".to_owned(),
        };
        let list = shop.$list(request).await.expect("a list").into_inner();
        let listed = read(&list.$objects[0]);
        assert_eq!(listed.pointer($at), Some(&json!("b25l")), "{listed}");
        let open = wire::$open {
            namespace: "default".to_owned(),
        };
        let mut stream = shop.$stream(open).await.expect("open").into_inner();
        place.secret("default", "s", "dHdv");
        let event = timeout(SOON, stream.message()).await.expect("in time");
        let event = event.expect("a stream").expect("an event");
        let streamed = read(&event.$event);
        assert_eq!(event.r#type, 2, $kind);
        assert_eq!(streamed.pointer($at), Some(&json!("dHdv")), "{streamed}");
    }};
}

#[tokio::test]
async fn each_that_uses_a_secret_is_told_of_its_new_value() {
    let header = || json!([{"name": "h", "secretKeyRef": {"name": "s", "key": "k"}}]);
    check_secret!("HTTPEndpoint" json!({"baseUrl": "http://a", "headers": header()}), "/spec/headers/0/value",
        list_http_endpoints ListHttpEndpointsRequest http_endpoints,
        http_endpoint_update HttpEndpointUpdateRequest http_endpoints);
    check_secret!("MCPServer" json!({"endpoint": {"sse": {"url": "http://a", "headers": header()}}}),
        "/spec/endpoint/sse/headers/0/value",
        list_mcp_servers ListMcpServersRequest mcp_servers,
        mcp_server_update McpServerUpdateRequest mcp_server);
}

fn configuration(name: &str, rate: &str) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"tracing": {"samplingRate": rate, "otel": {
            "protocol": "grpc", "endpointAddress": "a:1", "isSecure": false,
            "headers": [{"name": "api-key", "secretKeyRef": {"name": "otel", "key": "k"}}],
        }}},
    })
}

#[tokio::test]
async fn one_object_is_given_by_its_name() {
    let place = Place::complete().await;
    place.secret("default", "otel", "c2VjcmV0");
    place.put(configuration("conf", "1"));
    place.put(object(
        "Resiliency",
        "v1alpha1",
        json!({"policies": {}, "targets": {}}),
    ));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let get = |name: &str| wire::GetConfigurationRequest {
        name: name.to_owned(),
        namespace: "default".to_owned(),
    };
    let got = shop
        .get_configuration(get("conf"))
        .await
        .expect("there")
        .into_inner();
    let got = read(&got.configuration);
    assert_eq!(
        got["spec"]["tracing"]["otel"]["headers"][0]["value"],
        "secret"
    );
    let status = shop
        .get_configuration(get("x"))
        .await
        .expect_err("not there");
    let text = "error getting configuration default/x: Configuration.dapr.io \"x\" not found";
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    let get = |name: &str| wire::GetResiliencyRequest {
        name: name.to_owned(),
        namespace: "default".to_owned(),
    };
    let got = shop
        .get_resiliency(get("it"))
        .await
        .expect("there")
        .into_inner();
    assert_eq!(read(&got.resiliency)["kind"], "Resiliency");
    let status = shop.get_resiliency(get("x")).await.expect_err("not there");
    let text = "error getting resiliency: Resiliency.dapr.io \"x\" not found";
    assert_eq!((status.code(), status.message()), (Code::Unknown, text));
    place.put(configuration("broken", "1"));
    place.server.delete(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "otel", "namespace": "default"},
    }));
    let get = wire::GetConfigurationRequest {
        name: "conf".to_owned(),
        namespace: "default".to_owned(),
    };
    eventually("the secret is gone", async || {
        let Err(status) = shop.get_configuration(get.clone()).await else {
            return false;
        };
        let text = "error processing configuration secrets: failed to get secret otel for header api-key: Secret \"otel\" not found";
        assert_eq!((status.code(), status.message()), (Code::Unknown, text));
        true
    })
    .await;
}

fn pod(config: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "shop-1", "namespace": "default", "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": "shop", "dapr.io/config": config,
        }},
        "spec": {"containers": [{"name": "app"}]},
    })
}

#[tokio::test]
async fn the_configuration_of_an_app_is_the_one_its_pods_name() {
    let place = Place::complete().await;
    place.secret("default", "otel", "c2VjcmV0");
    place.put(configuration("one", "1"));
    place.put(configuration("two", "1"));
    place.put(pod("one"));
    let operator = place.operator().await;
    let mut shop = operator.app("default", "shop").await;
    let mut cart = operator.app("default", "cart").await;
    let request = || wire::ConfigurationUpdateRequest {
        namespace: "default".to_owned(),
    };
    let mut stream = shop
        .configuration_update(request())
        .await
        .expect("open")
        .into_inner();
    let mut other = cart
        .configuration_update(request())
        .await
        .expect("open")
        .into_inner();
    let mut next = async || {
        let event = timeout(SOON, stream.message()).await.expect("in time");
        let event = event.expect("a stream").expect("an event");
        let object = read(&event.configuration);
        let tracing = &object["spec"]["tracing"];
        assert_eq!(tracing["otel"]["headers"][0]["value"], "secret");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            event.r#type,
            text(&object["metadata"]["name"]),
            text(&tracing["samplingRate"]),
        )
    };
    place.put(configuration("two", "2"));
    place.put(configuration("one", "2"));
    assert_eq!(next().await, (2, "one".to_owned(), "2".to_owned()));
    place.put(pod("two"));
    assert_eq!(next().await, (1, "two".to_owned(), "2".to_owned()));
    place.put(configuration("one", "3"));
    place.put(configuration("two", "3"));
    assert_eq!(next().await, (2, "two".to_owned(), "3".to_owned()));
    let mut labelled = configuration("two", "3");
    labelled["metadata"]["labels"] = json!({"team": "a"});
    place.put(labelled);
    place.secret("default", "otel", "bmV3");
    let event = timeout(SOON, stream.message()).await.expect("in time");
    let event = event.expect("a stream").expect("an event");
    let object = read(&event.configuration);
    let header = &object["spec"]["tracing"]["otel"]["headers"][0];
    assert_eq!((event.r#type, &header["value"]), (2, &json!("new")));
    drop(operator);
    let end = timeout(SOON, other.message()).await.expect("in time");
    assert!(
        !matches!(end, Ok(Some(_))),
        "nothing is assigned to it: {end:?}"
    );
}
