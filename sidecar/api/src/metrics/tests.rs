//! Series as the endpoint shows them.

use std::time::Duration;

use dapr_sidecar_core::metrics::{
    Block, ComponentMetrics, InvokeMetrics, PolicyKind, PolicyLabels, ProcessStatus,
    ResiliencyMetrics,
};
use dapr_sidecar_core::rpc::Code;
use http::{Method, StatusCode};

use super::*;

fn metrics(settings: MetricsSettings) -> (Registry, ApiMetrics) {
    let registry = Registry::new();
    let metrics = ApiMetrics::new(&registry, "app", "ns", settings).expect("registers");
    (registry, metrics)
}

fn text(registry: &Registry) -> String {
    dapr_kit::metrics::encode(&registry.gather())
}

fn has(registry: &Registry, line: &str) {
    let text = text(registry);
    assert!(
        text.lines().any(|shown| shown == line),
        "{line}\nnot in\n{text}"
    );
}

fn increased() -> MetricsSettings {
    MetricsSettings {
        paths: PathMatching::new(true, &[]),
        ..MetricsSettings::default()
    }
}

fn call<'a>(method: &'a Method, path: &'a str) -> HttpCall<'a> {
    HttpCall {
        method,
        path,
        status: StatusCode::OK,
        request_bytes: 10,
        response_bytes: 2000,
        elapsed: Duration::from_micros(4500),
    }
}

#[test]
fn nothing_is_shown_before_it_is_recorded() {
    let (registry, _metrics) = metrics(increased());
    assert_eq!(text(&registry), "");
}

#[test]
fn http_server() {
    let (registry, metrics) = metrics(increased());
    metrics.http_server(&call(&Method::GET, "/v1.0/state/s/k"));
    metrics.http_server(&call(&Method::GET, "/v1.0/state/s/other"));
    let purge = Method::from_bytes(b"PURGE").expect("a verb");
    metrics.http_server(&call(&purge, "/x"));
    let labels = r#"{app_id="app",method="GET",path="/v1.0/state/s",status="200"}"#;
    has(
        &registry,
        &format!("dapr_http_server_request_count{labels} 2"),
    );
    has(
        &registry,
        &format!("dapr_http_server_response_count{labels} 2"),
    );
    has(
        &registry,
        &format!("dapr_http_server_latency_sum{labels} 8"),
    );
    has(
        &registry,
        r#"dapr_http_server_request_count{app_id="app",method="UNKNOWN",path="/x",status="200"} 1"#,
    );
    has(
        &registry,
        r#"dapr_http_server_request_bytes_sum{app_id="app"} 30"#,
    );
    has(
        &registry,
        r#"dapr_http_server_response_bytes_bucket{app_id="app",le="1024"} 0"#,
    );
}

#[test]
fn calls_below_a_millisecond_are_measured() {
    let (registry, metrics) = metrics(increased());
    let quick = |path| HttpCall {
        elapsed: Duration::from_micros(10),
        ..call(&Method::GET, path)
    };
    metrics.http_server(&quick("/x"));
    metrics.http_client(&quick("echo"));
    metrics.http_client(&quick("/echo"));
    let labels = |path| format!(r#"{{app_id="app",method="GET",path="{path}",status="200"}}"#);
    let (server, client) = (labels("/x"), labels("/echo"));
    has(
        &registry,
        &format!("dapr_http_server_latency_count{server} 1"),
    );
    for name in ["roundtrip_latency_count", "completed_count"] {
        has(&registry, &format!("dapr_http_client_{name}{client} 2"));
    }
    metrics.grpc_server(&GrpcCall {
        method: "/dapr.proto.runtime.v1.Dapr/GetState",
        code: Code::Ok,
        received: 1,
        sent: 1,
        elapsed: Duration::ZERO,
    });
    has(
        &registry,
        r#"dapr_grpc_io_server_server_latency_count{app_id="app",grpc_server_method="/dapr.proto.runtime.v1.Dapr/GetState",grpc_server_status="OK"} 1"#,
    );
}

#[test]
fn http_without_paths_and_verbs() {
    let settings = MetricsSettings {
        exclude_verbs: true,
        ..MetricsSettings::default()
    };
    let (registry, metrics) = metrics(settings);
    metrics.http_server(&call(&Method::GET, "/v1.0/state/s/k"));
    has(
        &registry,
        r#"dapr_http_server_request_count{app_id="app",method="",path="",status="200"} 1"#,
    );
    assert!(!text(&registry).contains("response_count"));
}

#[test]
fn grpc_server() {
    let (registry, metrics) = metrics(increased());
    let method = "/dapr.proto.runtime.v1.Dapr/GetState";
    for method in [method, "/other.Service/Method"] {
        metrics.grpc_server(&GrpcCall {
            method,
            code: Code::NotFound,
            received: 5,
            sent: 7,
            elapsed: Duration::from_millis(3),
        });
        has(
            &registry,
            &format!(
                r#"dapr_grpc_io_server_completed_rpcs{{app_id="app",grpc_server_method="{method}",grpc_server_status="NotFound"}} 1"#
            ),
        );
        has(
            &registry,
            &format!(
                r#"dapr_grpc_io_server_sent_bytes_per_rpc_sum{{app_id="app",grpc_server_method="{method}"}} 7"#
            ),
        );
    }
}

#[test]
fn core_reports() {
    let settings = MetricsSettings {
        latency_buckets: vec![5., 1., 5.],
        ..MetricsSettings::default()
    };
    let (registry, metrics) = metrics(settings);
    metrics.record(Block::State, "redis", "get", true, Duration::from_millis(2));
    let labels = r#"app_id="app",component="redis",namespace="ns",operation="get",success="true""#;
    has(
        &registry,
        &format!("dapr_component_state_count{{{labels}}} 1"),
    );
    has(
        &registry,
        &format!("dapr_component_state_latencies_bucket{{{labels},le=\"5\"}} 1"),
    );
    metrics.delivered("bus", "t", ProcessStatus::Drop, "", Duration::ZERO);
    has(
        &registry,
        r#"dapr_component_pubsub_ingress_count{app_id="app",component="bus",namespace="ns",process_status="drop",status="drop",topic="t"} 1"#,
    );
    metrics.delivered_bulk("bus", "t", &[ProcessStatus::Retry], Duration::ZERO);
    has(
        &registry,
        r#"dapr_component_pubsub_ingress_bulk_event_count{app_id="app",component="bus",namespace="ns",process_status="RETRY",topic="t"} 1"#,
    );
    metrics.published("bus", "t", false, Duration::ZERO);
    has(
        &registry,
        r#"dapr_component_pubsub_egress_count{app_id="app",component="bus",namespace="ns",success="false",topic="t"} 1"#,
    );
    metrics.response_received("b", -3, true, Duration::from_millis(9));
    has(
        &registry,
        r#"dapr_runtime_service_invocation_res_recv_total{app_id="app",src_app_id="b",status="-3",type="streaming"} 1"#,
    );
    metrics.response_sent("b", 0);
    has(
        &registry,
        r#"dapr_runtime_service_invocation_res_sent_total{app_id="app",dst_app_id="b",status="0"} 1"#,
    );
    metrics.access_decided("caller", "public", "ns", false, true);
    has(
        &registry,
        r#"dapr_runtime_acl_app_policy_action_blocked_total{app_id="caller",namespace="ns",trustDomain="public"} 1"#,
    );
}

#[test]
fn breakers_show_all_states() {
    let (registry, metrics) = metrics(MetricsSettings::default());
    metrics.breaker_state(PolicyLabels {
        name: "r",
        namespace: "ns",
        policy: PolicyKind::CircuitBreaker,
        flow_direction: "outbound",
        target: "app_b",
        status: "open",
    });
    for (status, value) in [("closed", 0), ("half-open", 0), ("open", 1), ("unknown", 0)] {
        has(
            &registry,
            &format!(
                r#"dapr_resiliency_cb_state{{app_id="app",flow_direction="outbound",name="r",namespace="ns",policy="circuitbreaker",status="{status}",target="app_b"}} {value}"#
            ),
        );
    }
}

#[test]
fn error_codes_are_counted_on_demand() {
    let (registry, metrics) = metrics(MetricsSettings {
        record_error_codes: true,
        ..MetricsSettings::default()
    });
    metrics.error("ERR_STATE_GET");
    metrics.error("ERR_API_UNIMPLEMENTED");
    has(
        &registry,
        r#"dapr_error_code_total{app_id="app",category="state",error_code="ERR_STATE_GET"} 1"#,
    );
    has(
        &registry,
        r#"dapr_error_code_total{app_id="app",category="common",error_code="ERR_API_UNIMPLEMENTED"} 1"#,
    );
    let (registry, off) = self::metrics(MetricsSettings::default());
    off.error("ERR_STATE_GET");
    assert_eq!(text(&registry), "");
}
