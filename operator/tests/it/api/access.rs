//! Who may call what: every method, by callers who may not; and what a list keeps from an app it does not concern.

use dapr_proto::dapr::proto::operator::v1::operator_client::OperatorClient;
use tonic::Status;
use tonic::transport::Channel;

use super::*;

const METHODS: usize = 16;

/// How each method refuses a namespace, by the methods' names.
async fn refusals(
    client: &mut OperatorClient<Channel>,
    namespace: &str,
) -> Vec<(&'static str, Status)> {
    let mut refusals = Vec::new();
    macro_rules! call {
        ($($method:ident $request:ident $($name:ident)?,)*) => {$(
            let request = wire::$request { namespace: namespace.to_owned(), $($name: "x".to_owned())? };
            let answer = timeout(SOON, client.$method(request)).await.expect("in time");
            refusals.push((stringify!($method), answer.map(drop).expect_err(stringify!($method))));
        )*};
    }
    call! {
        list_components ListComponentsRequest,
        component_update ComponentUpdateRequest,
        get_configuration GetConfigurationRequest name,
        configuration_update ConfigurationUpdateRequest,
        list_subscriptions_v2 ListSubscriptionsRequest,
        subscription_update SubscriptionUpdateRequest,
        get_resiliency GetResiliencyRequest name,
        list_resiliency ListResiliencyRequest,
        resiliency_update ResiliencyUpdateRequest,
        list_http_endpoints ListHttpEndpointsRequest,
        http_endpoint_update HttpEndpointUpdateRequest,
        list_mcp_servers ListMcpServersRequest,
        mcp_server_update McpServerUpdateRequest,
        list_workflow_access_policy ListWorkflowAccessPolicyRequest,
        workflow_access_policy_update WorkflowAccessPolicyUpdateRequest,
    }
    let legacy = timeout(SOON, client.list_subscriptions(())).await;
    let legacy = legacy.expect("in time").map(drop).expect_err("legacy");
    refusals.push(("list_subscriptions", legacy));
    assert_eq!(refusals.len(), METHODS);
    refusals
}

#[tokio::test]
async fn every_method_is_refused_to_whom_it_does_not_concern() {
    const REFUSED: &str = "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = ";
    let place = Place::complete().await;
    place.put(component("a", "v1", &[]));
    let operator = place.operator().await;
    let shop = "spiffe://public/ns/default/shop";
    let nobody = "spiffe://public/sa/default/shop";
    let unknown = "failed to determine identity";
    for (id, namespace, reason) in [
        (
            shop,
            "other",
            "identity does not match requested namespace exp=other got=default",
        ),
        (
            shop,
            "",
            "identity does not match requested namespace exp= got=default",
        ),
        (nobody, "default", unknown),
        (nobody, "", unknown),
    ] {
        let mut client = operator.client(id).await;
        for (method, status) in refusals(&mut client, namespace).await {
            let expected = match (method, reason) {
                ("configuration_update", reason) => format!("{REFUSED}{reason}"),
                // It names no namespace, and so asks for the empty one.
                ("list_subscriptions", reason) => reason.replace("exp=other", "exp="),
                (_, reason) => reason.to_owned(),
            };
            assert_eq!(
                (status.code(), status.message()),
                (Code::PermissionDenied, &*expected),
                "{method} of {namespace:?} by {id}"
            );
        }
    }
}

#[tokio::test]
async fn a_caller_without_a_certificate_does_not_get_in() {
    let place = Place::complete().await;
    let operator = place.operator().await;
    let endpoint = tonic::transport::Endpoint::from_shared(operator.url()).expect("a URL");
    // Without TLS there is no certificate either.
    let refused = match timeout(SOON, endpoint.connect()).await.expect("in time") {
        Err(_) => return,
        Ok(channel) => components(&mut OperatorClient::new(channel), "default").await,
    };
    let (code, _) = refused.expect_err("refused");
    assert!(matches!(code, Code::Unavailable | Code::Unknown), "{code}");
}

/// An endpoint or server with a secret that is missing.
fn secretless(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "dapr.io/v1alpha1", "kind": kind,
        "metadata": {"name": "theirs", "namespace": "default"}, "spec": spec, "scopes": ["cart"],
    })
}

#[tokio::test]
async fn a_secret_that_others_lack_does_not_fail_a_list() {
    let place = Place::complete().await;
    let headers = json!([{"name": "h", "secretKeyRef": {"name": "absent", "key": "k"}}]);
    place.put(secretless(
        "HTTPEndpoint",
        json!({"baseUrl": "http://a", "headers": headers}),
    ));
    place.put(secretless(
        "MCPServer",
        json!({"endpoint": {"sse": {"url": "http://a", "headers": headers}}}),
    ));
    let operator = place.operator().await;
    for (app_id, expected) in [
        ("shop", [Ok(0), Ok(0)]),
        (
            "cart",
            [
                Err("Secret \"absent\" not found".to_owned()),
                Err(
                    "error resolving sse header secret for MCPServer \"theirs\": Secret \"absent\" not found"
                        .to_owned(),
                ),
            ],
        ),
    ] {
        let mut app = operator.app("default", app_id).await;
        let endpoints = wire::ListHttpEndpointsRequest {
            namespace: "default".to_owned(),
        };
        let endpoints = app.list_http_endpoints(endpoints).await;
        let servers = wire::ListMcpServersRequest {
            namespace: "default".to_owned(),
        };
        let servers = app.list_mcp_servers(servers).await;
        let told = [
            endpoints.map(|it| it.into_inner().http_endpoints.len()),
            servers.map(|it| it.into_inner().mcp_servers.len()),
        ];
        let told = told.map(|it| it.map_err(|status| status.message().to_owned()));
        assert_eq!(told, expected, "{app_id}");
    }
}
