//! The metadata API: one snapshot, as the JSON of HTTP and as the message of gRPC.

use std::collections::BTreeMap;

use dapr_proto::dapr::proto::runtime::v1::{
    ActiveActorsCount, ActorRuntime, AppConnectionHealthProperties, AppConnectionProperties,
    GetMetadataResponse, MetadataHttpEndpoint, MetadataResiliency, PubsubSubscription,
    PubsubSubscriptionRule, PubsubSubscriptionRules, PubsubSubscriptionType, RegisteredComponents,
    actor_runtime::ActorRuntimeStatus,
};
use dapr_sidecar_core::actors::{Phase, RuntimeStatus};
use dapr_sidecar_core::metadata::{AppConnection, Snapshot};
use dapr_sidecar_core::pubsub::{Source, Subscription};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Json<'a> {
    id: &'a str,
    runtime_version: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    enabled_features: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    actors: Vec<ActorJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    components: Vec<ComponentJson<'a>>,
    extended: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<SubscriptionJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    http_endpoints: Vec<NamedJson<'a>>,
    app_connection_properties: AppJson<'a>,
    actor_runtime: ActorRuntimeJson<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resiliencies: Vec<NamedJson<'a>>,
}

#[derive(Serialize)]
struct NamedJson<'a> {
    name: &'a str,
}

#[derive(Serialize, Clone)]
struct ActorJson<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    count: usize,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn is_none(number: &u32) -> bool {
    *number == 0
}

fn no_port(port: &u16) -> bool {
    *port == 0
}

#[derive(Serialize)]
struct ComponentJson<'a> {
    name: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    capabilities: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubscriptionJson<'a> {
    pubsubname: &'a str,
    topic: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleJson<'a>>,
    dead_letter_topic: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
struct RuleJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    r#match: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    path: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AppJson<'a> {
    #[serde(skip_serializing_if = "no_port")]
    port: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    protocol: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    channel_address: &'a str,
    #[serde(skip_serializing_if = "is_none")]
    max_concurrency: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<AppHealthJson<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AppHealthJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check_path: Option<&'a str>,
    health_probe_interval: &'a str,
    health_probe_timeout: &'a str,
    health_threshold: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ActorRuntimeJson<'a> {
    runtime_status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    active_actors: Vec<ActorJson<'a>>,
    host_ready: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    placement: &'static str,
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Initializing => "INITIALIZING",
        Phase::Disabled => "DISABLED",
        Phase::Running => "RUNNING",
    }
}

/// What is said about placement; nothing while the runtime starts.
fn placement(status: &RuntimeStatus) -> &'static str {
    match (status.phase, status.placement_connected) {
        (Phase::Initializing, _) => "",
        (_, true) => "placement: connected",
        (_, false) => "placement: disconnected",
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Declarative => "DECLARATIVE",
        Source::Programmatic => "PROGRAMMATIC",
        Source::Streaming => "STREAMING",
    }
}

/// Match and path of each rule; a stream shows the path its events carry.
fn rules(subscription: &Subscription) -> Vec<(&str, &str)> {
    match subscription.source {
        Source::Streaming => vec![("", "/")],
        Source::Declarative | Source::Programmatic => subscription
            .rules
            .iter()
            .map(|rule| (rule.matches.as_str(), rule.path.as_str()))
            .collect(),
    }
}

/// The body of `GET /v1.0/metadata`: one line and its end.
pub(crate) fn to_json(snapshot: &Snapshot) -> Vec<u8> {
    let active: Vec<_> = snapshot
        .actors
        .active
        .iter()
        .map(|(kind, count)| ActorJson {
            r#type: kind,
            count: *count,
        })
        .collect();
    let json = Json {
        id: &snapshot.app_id,
        runtime_version: &snapshot.runtime_version,
        enabled_features: &snapshot.enabled_features,
        actors: active.clone(),
        components: components(snapshot),
        extended: &snapshot.extended,
        subscriptions: snapshot.subscriptions.iter().map(subscription).collect(),
        http_endpoints: names(&snapshot.http_endpoints),
        app_connection_properties: app(&snapshot.app),
        actor_runtime: ActorRuntimeJson {
            runtime_status: phase_name(snapshot.actors.phase),
            active_actors: active,
            host_ready: snapshot.actors.host_ready,
            placement: placement(&snapshot.actors),
        },
        resiliencies: names(&snapshot.resiliencies),
    };
    let mut body = serde_json::to_vec(&json).unwrap_or_default();
    body.push(b'\n');
    body
}

fn names(names: &[String]) -> Vec<NamedJson<'_>> {
    names.iter().map(|name| NamedJson { name }).collect()
}

fn components(snapshot: &Snapshot) -> Vec<ComponentJson<'_>> {
    let components = snapshot.components.iter();
    components
        .map(|component| ComponentJson {
            name: &component.name,
            r#type: &component.component_type,
            version: &component.version,
            capabilities: &component.capabilities,
        })
        .collect()
}

fn subscription(subscription: &Subscription) -> SubscriptionJson<'_> {
    let rules = rules(subscription).into_iter();
    SubscriptionJson {
        pubsubname: &subscription.pubsub_name,
        topic: &subscription.topic,
        metadata: &subscription.metadata,
        rules: rules
            .map(|(matches, path)| RuleJson {
                r#match: matches,
                path,
            })
            .collect(),
        dead_letter_topic: subscription
            .dead_letter_topic
            .as_deref()
            .unwrap_or_default(),
        r#type: source_name(subscription.source),
    }
}

fn app(app: &AppConnection) -> AppJson<'_> {
    AppJson {
        port: app.port,
        protocol: &app.protocol,
        channel_address: &app.channel_address,
        max_concurrency: app.max_concurrency,
        health: app.health.as_ref().map(|health| AppHealthJson {
            health_check_path: health.path.as_deref(),
            health_probe_interval: &health.interval,
            health_probe_timeout: &health.timeout,
            health_threshold: health.threshold,
        }),
    }
}

/// The answer of `GetMetadata`.
pub(crate) fn to_message(snapshot: Snapshot) -> GetMetadataResponse {
    let active: Vec<_> = snapshot
        .actors
        .active
        .iter()
        .map(|(kind, count)| ActiveActorsCount {
            r#type: kind.clone(),
            count: i32::try_from(*count).unwrap_or(i32::MAX),
        })
        .collect();
    let status = match snapshot.actors.phase {
        Phase::Initializing => ActorRuntimeStatus::Initializing,
        Phase::Disabled => ActorRuntimeStatus::Disabled,
        Phase::Running => ActorRuntimeStatus::Running,
    };
    #[expect(
        deprecated,
        reason = "old SDKs read the alias of actor_runtime.active_actors"
    )]
    GetMetadataResponse {
        id: snapshot.app_id,
        active_actors_count: active.clone(),
        registered_components: snapshot
            .components
            .into_iter()
            .map(|component| RegisteredComponents {
                name: component.name,
                r#type: component.component_type,
                version: component.version,
                capabilities: component.capabilities,
            })
            .collect(),
        extended_metadata: snapshot.extended.into_iter().collect(),
        subscriptions: snapshot
            .subscriptions
            .iter()
            .map(subscription_message)
            .collect(),
        http_endpoints: snapshot
            .http_endpoints
            .into_iter()
            .map(|name| MetadataHttpEndpoint { name })
            .collect(),
        app_connection_properties: Some(app_message(snapshot.app)),
        runtime_version: snapshot.runtime_version,
        enabled_features: snapshot.enabled_features,
        actor_runtime: Some(ActorRuntime {
            runtime_status: status as i32,
            active_actors: active,
            host_ready: snapshot.actors.host_ready,
            placement: placement(&snapshot.actors).to_owned(),
        }),
        scheduler: None,
        workflows: None,
        mcp_servers: Vec::new(),
        workflow_access_policies: Vec::new(),
        resiliencies: snapshot
            .resiliencies
            .into_iter()
            .map(|name| MetadataResiliency { name })
            .collect(),
    }
}

fn subscription_message(subscription: &Subscription) -> PubsubSubscription {
    let kind = match subscription.source {
        Source::Declarative => PubsubSubscriptionType::Declarative,
        Source::Programmatic => PubsubSubscriptionType::Programmatic,
        Source::Streaming => PubsubSubscriptionType::Streaming,
    };
    let rules = rules(subscription).into_iter();
    PubsubSubscription {
        pubsub_name: subscription.pubsub_name.clone(),
        topic: subscription.topic.clone(),
        metadata: subscription.metadata.clone().into_iter().collect(),
        rules: Some(PubsubSubscriptionRules {
            rules: rules
                .map(|(matches, path)| PubsubSubscriptionRule {
                    r#match: matches.to_owned(),
                    path: path.to_owned(),
                })
                .collect(),
        }),
        dead_letter_topic: subscription.dead_letter_topic.clone().unwrap_or_default(),
        r#type: kind as i32,
    }
}

fn app_message(app: AppConnection) -> AppConnectionProperties {
    AppConnectionProperties {
        port: i32::from(app.port),
        protocol: app.protocol,
        channel_address: app.channel_address,
        max_concurrency: i32::try_from(app.max_concurrency).unwrap_or(i32::MAX),
        health: app.health.map(|health| AppConnectionHealthProperties {
            health_check_path: health.path.unwrap_or_default(),
            health_probe_interval: health.interval,
            health_probe_timeout: health.timeout,
            health_threshold: i32::try_from(health.threshold).unwrap_or(i32::MAX),
        }),
    }
}
