//! Events for applications that speak gRPC, with a server of their own or over a stream they open.

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::Sidecar;
use dapr_proto::dapr::proto::runtime::v1 as proto;
use proto::dapr_client::DaprClient;
use proto::subscribe_topic_events_request_alpha1::SubscribeTopicEventsRequestType as Answer;
use proto::subscribe_topic_events_response_alpha1::SubscribeTopicEventsResponseType as Event;
use proto::topic_event_response::TopicEventResponseStatus as Outcome;
use proto::{PublishEventRequest, TopicEventRequest, TopicSubscription};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::support::{Deed, GrpcApp, LIMIT, Stage, component, dapr, refused, resiliency, story};

fn resources(stage: &Stage) -> Result<std::path::PathBuf> {
    let retry = json!({ "policy": "constant", "duration": "20ms", "maxRetries": 4 });
    stage.resources(
        "resources",
        &[
            component("bus", "pubsub.in-memory", &[]),
            resiliency(
                "retries",
                json!({
                    "policies": { "retries": { "again": retry } },
                    "targets": { "components": { "bus": { "inbound": { "retry": "again" } } } },
                }),
            ),
        ],
    )
}

fn publication(topic: &str, data: &Value) -> PublishEventRequest {
    PublishEventRequest {
        pubsub_name: "bus".to_owned(),
        topic: topic.to_owned(),
        data: data.to_string().into(),
        data_content_type: "application/json".to_owned(),
        ..Default::default()
    }
}

fn subscription(topic: &str) -> TopicSubscription {
    TopicSubscription {
        pubsub_name: "bus".to_owned(),
        topic: topic.to_owned(),
        dead_letter_topic: match topic {
            "dropping" | "unknown" | "failing" => "dead".to_owned(),
            _ => String::new(),
        },
        metadata: match topic {
            "raw" => [("rawPayload".to_owned(), "true".to_owned())].into(),
            _ => std::collections::HashMap::new(),
        },
        ..Default::default()
    }
}

/// The application of [`a_grpc_application_receives_events`].
fn answer(event: &TopicEventRequest, before: usize) -> Result<Outcome, Status> {
    match event.topic.as_str() {
        "moody" if before < 2 => Ok(Outcome::Retry),
        "dropping" => Ok(Outcome::Drop),
        "unknown" => Err(Status::unimplemented("what is this")),
        "failing" => Err(Status::internal("not today")),
        _ => Ok(Outcome::Success),
    }
}

#[test]
fn a_grpc_application_receives_events() {
    story("grpc-events", async |stage| {
        let topics = [
            "good", "moody", "dropping", "unknown", "failing", "raw", "dead",
        ];
        let app = GrpcApp::start(Deed {
            subscriptions: Some(topics.map(subscription).to_vec()),
            event: answer,
            ..Deed::default()
        })
        .await?;
        let id = stage.id("subscriber");
        let mut spec = stage.spec(&id, None);
        spec.app_port = Some(app.port());
        spec.flags = vec!["--app-protocol=grpc".to_owned()];
        spec.resources = Some(resources(stage)?);
        let sidecar = stage.sidecar(&spec, None).await?;
        let mut client = dapr(&sidecar).await?;
        await_condition("the subscription stands", LIMIT, || {
            let mut client = client.clone();
            let app = &app;
            async move {
                let event = publication("dead", &json!("probe"));
                client.publish_event(event).await?;
                ensure!(!app.events("dead").is_empty(), "nothing came");
                Ok(())
            }
        })
        .await?;

        for topic in ["good", "moody", "dropping", "unknown", "failing"] {
            let event = publication(topic, &json!({ "id": topic }));
            client.publish_event(event).await?;
        }
        let (_, event) = app.await_events("good", 1).await?.remove(0);
        assert_eq!(event.source, id);
        assert_eq!(event.r#type, "com.dapr.event.sent");
        assert_eq!(event.spec_version, "1.0");
        assert_eq!(event.data_content_type, "application/json");
        assert_eq!(
            serde_json::from_slice::<Value>(&event.data)?,
            json!({ "id": "good" })
        );
        assert_eq!(
            (event.pubsub_name.as_str(), event.path.as_str()),
            ("bus", "")
        );
        assert!(!event.id.is_empty());
        let extensions = event.extensions.unwrap_or_default().fields;
        assert!(extensions.contains_key("traceparent"), "{extensions:?}");

        app.await_events("moody", 3).await?;
        await_condition("two dead letters", LIMIT, || async {
            let dead = app.events("dead");
            for topic in ["dropping", "failing"] {
                let expected = json!({ "id": topic }).to_string();
                let came = dead.iter().any(|(_, event)| event.data == expected);
                ensure!(came, "{topic} was not laid aside");
            }
            Ok(())
        })
        .await?;
        assert_eq!(app.events("moody").len(), 3, "two RETRY and one SUCCESS");
        assert_eq!(app.events("dropping").len(), 1, "DROP is final");
        assert_eq!(app.events("failing").len(), 5, "one attempt, four retries");
        assert_eq!(app.events("unknown").len(), 1, "UNIMPLEMENTED is final");
        let unknown = json!({ "id": "unknown" }).to_string();
        assert!(
            app.events("dead")
                .iter()
                .all(|(_, event)| event.data != unknown),
            "what nobody implements is no dead letter"
        );

        raw_event(&app, &mut client).await
    });
}

/// A message without envelope keeps its trace.
async fn raw_event(app: &GrpcApp, client: &mut DaprClient<Channel>) -> Result<()> {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut event = publication("raw", &json!("as it is"));
    let raw = ("rawPayload".to_owned(), "true".to_owned());
    event.metadata.extend([raw]);
    let mut request = tonic::Request::new(event);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", trace.parse()?);
    metadata.insert("tracestate", "vendor=1".parse()?);
    client.publish_event(request).await?;
    let (_, event) = app.await_events("raw", 1).await?.remove(0);
    assert_eq!(event.data_content_type, "application/octet-stream");
    assert_eq!(event.data, "\"as it is\"");
    let extensions = event.extensions.unwrap_or_default().fields;
    let text = |name: &str| format!("{:?}", extensions.get(name));
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    assert!(text("traceid").contains(trace_id), "{extensions:?}");
    assert!(text("tracestate").contains("vendor=1"), "{extensions:?}");
    Ok(())
}

/// Both directions of a streaming subscription.
struct Subscriber {
    answers: mpsc::Sender<proto::SubscribeTopicEventsRequestAlpha1>,
    events: Streaming<proto::SubscribeTopicEventsResponseAlpha1>,
}

impl Subscriber {
    async fn open(
        sidecar: &Sidecar,
        topic: &str,
        dead_letter: Option<&str>,
    ) -> Result<Self, Status> {
        let (answers, outgoing) = mpsc::channel(16);
        let initial = proto::SubscribeTopicEventsRequestInitialAlpha1 {
            pubsub_name: "bus".to_owned(),
            topic: topic.to_owned(),
            dead_letter_topic: dead_letter.map(str::to_owned),
            ..Default::default()
        };
        let unavailable = |error: &dyn std::fmt::Display| Status::unavailable(error.to_string());
        answers
            .send(message(Answer::InitialRequest(initial)))
            .await
            .map_err(|error| unavailable(&error))?;
        let mut client = dapr(sidecar).await.map_err(|error| unavailable(&error))?;
        let mut events = client
            .subscribe_topic_events_alpha1(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let greeting = events.message().await?.unwrap_or_default();
        let kind = greeting.subscribe_topic_events_response_type;
        if !matches!(kind, Some(Event::InitialResponse(_))) {
            return Err(Status::data_loss(format!("not a greeting: {kind:?}")));
        }
        Ok(Self { answers, events })
    }

    async fn event(&mut self) -> Result<TopicEventRequest> {
        let next = tokio::time::timeout(LIMIT, self.events.message())
            .await
            .context("no event")??;
        match next.and_then(|next| next.subscribe_topic_events_response_type) {
            Some(Event::EventMessage(event)) => Ok(event),
            other => anyhow::bail!("not an event: {other:?}"),
        }
    }

    async fn answer(&self, event: &TopicEventRequest, outcome: Outcome) -> Result<()> {
        let processed = proto::SubscribeTopicEventsRequestProcessedAlpha1 {
            id: event.id.clone(),
            status: Some(proto::TopicEventResponse {
                status: outcome.into(),
            }),
        };
        Ok(self
            .answers
            .send(message(Answer::EventProcessed(processed)))
            .await?)
    }
}

fn message(answer: Answer) -> proto::SubscribeTopicEventsRequestAlpha1 {
    proto::SubscribeTopicEventsRequestAlpha1 {
        subscribe_topic_events_request_type: Some(answer),
    }
}

#[test]
fn an_application_without_port_subscribes_over_a_stream() {
    story("grpc-events-stream", async |stage| {
        let mut spec = stage.spec(&stage.id("subscriber"), None);
        spec.resources = Some(resources(stage)?);
        let mut sidecar = stage.sidecar(&spec, None).await?;
        let mut orders = Subscriber::open(&sidecar, "orders", Some("dead")).await?;
        let mut dead = Subscriber::open(&sidecar, "dead", None).await?;
        let mut client = dapr(&sidecar).await?;

        client
            .publish_event(publication("orders", &json!(1)))
            .await?;
        let first = orders.event().await?;
        assert_eq!((first.topic.as_str(), first.path.as_str()), ("orders", "/"));
        assert_eq!(first.data, "1");
        orders.answer(&first, Outcome::Retry).await?;
        let again = orders.event().await?;
        assert_eq!(again.id, first.id);
        orders.answer(&again, Outcome::Success).await?;

        client
            .publish_event(publication("orders", &json!(2)))
            .await?;
        let second = orders.event().await?;
        assert_eq!(second.data, "2");
        orders.answer(&second, Outcome::Drop).await?;
        let laid_aside = dead.event().await?;
        assert_eq!(
            (laid_aside.id.as_str(), laid_aside.topic.as_str()),
            (second.id.as_str(), "dead")
        );
        dead.answer(&laid_aside, Outcome::Success).await?;

        let mistaken = Subscriber::open(&sidecar, "", None).await;
        let status = refused(mistaken, Code::Unknown)?;
        assert_eq!(status.message(), "topic is required");

        let status = sidecar.process.terminate(LIMIT).await?;
        ensure!(status.success(), "the sidecar ended with {status}");
        assert!(
            orders.events.message().await?.is_none(),
            "one event too many"
        );
        Ok(())
    });
}
