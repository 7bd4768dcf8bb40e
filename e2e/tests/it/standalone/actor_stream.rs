//! Actors of an application without a port: it opens a stream and is called over it.

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, Sidecar};
use dapr_proto::dapr::proto::runtime::v1 as proto;
use proto::subscribe_actor_events_request_alpha1::RequestType as Answer;
use proto::subscribe_actor_events_response_alpha1::ResponseType as Call;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{App, LIMIT, Stage, component, dapr, fetch, refused, story};

type Message = proto::SubscribeActorEventsRequestAlpha1;

/// Both directions of an open stream.
struct Actors {
    answers: mpsc::Sender<Message>,
    calls: Streaming<proto::SubscribeActorEventsResponseAlpha1>,
}

impl Actors {
    /// Registers `Counter`.
    async fn open(sidecar: &Sidecar) -> Result<Self> {
        let (answers, outgoing) = mpsc::channel(16);
        let initial = proto::SubscribeActorEventsRequestInitialAlpha1 {
            entities: vec!["Counter".to_owned()],
            ..Default::default()
        };
        answers
            .send(message(Answer::InitialRequest(initial)))
            .await?;
        let calls = dapr(sidecar)
            .await?
            .subscribe_actor_events_alpha1(ReceiverStream::new(outgoing))
            .await?
            .into_inner();
        let mut actors = Self { answers, calls };
        let greeting = actors.call().await?;
        ensure!(
            matches!(greeting, Call::InitialResponse(_)),
            "not a greeting: {greeting:?}"
        );
        Ok(actors)
    }

    async fn call(&mut self) -> Result<Call> {
        let next = tokio::time::timeout(LIMIT, self.calls.message())
            .await
            .context("no call")??;
        next.and_then(|next| next.response_type)
            .context("the stream has ended")
    }

    async fn answer(&self, answer: Answer) -> Result<()> {
        Ok(self.answers.send(message(answer)).await?)
    }
}

fn message(answer: Answer) -> Message {
    Message {
        request_type: Some(answer),
    }
}

async fn host(stage: &Stage, app: Option<&App>) -> Result<(Sidecar, ControlPlane)> {
    let control_plane = stage.control_plane(1).await?;
    let store = component("store", "state.in-memory", &[("actorStateStore", "true")]);
    let mut spec = stage.spec(&stage.id("host"), app);
    spec.placement = true;
    spec.resources = Some(stage.resources("resources", &[store])?);
    let sidecar = stage.sidecar(&spec, Some(&control_plane)).await?;
    Ok((sidecar, control_plane))
}

#[test]
fn an_application_hosts_actors_over_a_stream() {
    story("actor-stream", async |stage| {
        let (mut sidecar, control_plane) = host(stage, None).await?;
        let mut actors = Actors::open(&sidecar).await?;
        let mut spec = stage.spec(&stage.id("caller"), None);
        spec.placement = true;
        let caller = stage.sidecar(&spec, Some(&control_plane)).await?;

        let call = stage
            .http
            .post(caller.url("actors/Counter/1/method/add"))
            .header("x-custom", "one")
            .body("now");
        let call = tokio::spawn(fetch(call));
        let Call::InvokeRequest(request) = actors.call().await? else {
            bail!("not an invocation");
        };
        assert_eq!(
            (request.actor_type.as_str(), request.actor_id.as_str()),
            ("Counter", "1")
        );
        assert_eq!(
            (request.method.as_str(), &request.data[..]),
            ("add", &b"now"[..])
        );
        assert_eq!(
            request.metadata.get("X-Custom").map(String::as_str),
            Some("one"),
            "{:?}",
            request.metadata
        );
        let response = proto::SubscribeActorEventsRequestInvokeResponseAlpha1 {
            id: request.id,
            data: "done".into(),
            metadata: [("content-type".to_owned(), "text/plain".to_owned())].into(),
            error: false,
        };
        actors.answer(Answer::InvokeResponse(response)).await?;
        let reply = call.await??.expect(200)?;
        assert_eq!(
            (reply.body.as_str(), reply.header("content-type")),
            ("done", "text/plain")
        );

        let state = json!([{ "operation": "upsert", "request": { "key": "n", "value": 1 } }]);
        let state = stage
            .http
            .post(sidecar.url("actors/Counter/1/state"))
            .json(&state);
        fetch(state).await?.expect(204)?;

        let timer = json!({ "dueTime": "10ms", "callback": "tick" });
        let timer = stage
            .http
            .post(sidecar.url("actors/Counter/1/timers/clock"))
            .json(&timer);
        fetch(timer).await?.expect(204)?;
        let Call::TimerRequest(fire) = actors.call().await? else {
            bail!("not a timer");
        };
        assert_eq!(
            (fire.name.as_str(), fire.callback.as_str()),
            ("clock", "tick")
        );
        let response = proto::SubscribeActorEventsRequestReminderResponseAlpha1 {
            id: fire.id,
            ..Default::default()
        };
        actors.answer(Answer::TimerResponse(response)).await?;

        sidecar.process.signal("TERM").await?;
        let Call::DeactivateRequest(deactivate) = actors.call().await? else {
            bail!("not a deactivation");
        };
        assert_eq!(
            (deactivate.actor_type.as_str(), deactivate.actor_id.as_str()),
            ("Counter", "1")
        );
        let response =
            proto::SubscribeActorEventsRequestDeactivateResponseAlpha1 { id: deactivate.id };
        actors.answer(Answer::DeactivateResponse(response)).await?;
        let status = sidecar.process.ended(LIMIT).await?;
        ensure!(status.success(), "the sidecar ended with {status}");
        assert!(actors.calls.message().await?.is_none(), "one call too many");
        Ok(())
    });
}

#[test]
fn an_application_that_leaves_takes_its_actors_along() {
    story("actor-stream-end", async |stage| {
        let (sidecar, _control_plane) = host(stage, None).await?;
        let actors = Actors::open(&sidecar).await?;
        drop(actors);
        await_condition("the type is withdrawn", LIMIT, || async {
            let metadata = fetch(stage.http.get(sidecar.url("metadata"))).await?;
            let metadata = metadata.expect(200)?.json()?;
            let active = &metadata["actorRuntime"]["activeActors"];
            ensure!(!active.to_string().contains("Counter"), "{active}");
            Ok(())
        })
        .await?;
        let mut actors = Actors::open(&sidecar).await?;
        let call = stage.http.post(sidecar.url("actors/Counter/1/method/fail"));
        let call = tokio::spawn(fetch(call));
        let Call::InvokeRequest(request) = actors.call().await? else {
            bail!("not an invocation");
        };
        let failed = proto::SubscribeActorEventsRequestFailedAlpha1 {
            id: request.id,
            code: 13,
            message: "boom".to_owned(),
        };
        actors.answer(Answer::RequestFailed(failed)).await?;
        let message = call.await??.refusal(500, "ERR_ACTOR_INVOKE_METHOD")?;
        assert_eq!(
            message,
            "error invoke actor method: error from actor service: boom"
        );
        Ok(())
    });
}

#[test]
fn an_http_application_hosts_no_actors_over_a_stream() {
    story("actor-stream-http", async |stage| {
        let app = App::plain().await?;
        let (sidecar, _control_plane) = host(stage, Some(&app)).await?;
        let first = message(Answer::InitialRequest(Default::default()));
        let opened = dapr(&sidecar)
            .await?
            .subscribe_actor_events_alpha1(tokio_stream::iter([first]))
            .await;
        let status = refused(opened, Code::FailedPrecondition)?;
        assert_eq!(
            status.message(),
            "actor callback streaming requires a gRPC app channel"
        );

        let without = stage
            .sidecar(&stage.spec(&stage.id("nothing"), None), None)
            .await?;
        let first = message(Answer::InitialRequest(Default::default()));
        let opened = dapr(&without)
            .await?
            .subscribe_actor_events_alpha1(tokio_stream::iter([first]))
            .await;
        refused(opened, Code::Unavailable)?;
        Ok(())
    });
}
