//! Actors of an application behind a registration stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_proto::dapr::proto::runtime::v1 as proto;
use dapr_sidecar_actors::stream_host::{Outgoing, StreamHost};
use dapr_sidecar_core::actors::Actors as _;
use http::{HeaderName, HeaderValue};
use proto::subscribe_actor_events_request_alpha1::RequestType as Answer;
use proto::subscribe_actor_events_response_alpha1::ResponseType as Request;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

use crate::fixture::{HERE, Stream, World, call};

type Incoming = mpsc::Sender<Result<proto::SubscribeActorEventsRequestAlpha1, tonic::Status>>;

struct Client {
    send: Incoming,
    receive: Outgoing,
    serve: JoinHandle<()>,
}

impl Client {
    async fn open(world: &World, host: &Arc<StreamHost>, first: Answer) -> Self {
        let (send, receiver) = mpsc::channel(8);
        let incoming = ReceiverStream::new(receiver);
        let (serve, receive) = host.serve(Arc::clone(&world.runtime), incoming);
        let client = Self {
            send,
            receive,
            serve: tokio::spawn(serve),
        };
        client.answer(first).await;
        client
    }

    async fn answer(&self, answer: Answer) {
        let message = proto::SubscribeActorEventsRequestAlpha1 {
            request_type: Some(answer),
        };
        self.send.send(Ok(message)).await.expect("open");
    }

    async fn request(&mut self) -> Request {
        let message = self.receive.recv().await.expect("open").expect("no error");
        message.response_type.expect("a request")
    }

    async fn invocation(&mut self) -> proto::SubscribeActorEventsResponseInvokeRequestAlpha1 {
        match self.request().await {
            Request::InvokeRequest(request) => request,
            other => panic!("{other:?}"),
        }
    }
}

fn initial(types: &[&str]) -> Answer {
    Answer::InitialRequest(proto::SubscribeActorEventsRequestInitialAlpha1 {
        entities: types.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    })
}

fn answer(id: &str, data: &'static str) -> Answer {
    Answer::InvokeResponse(proto::SubscribeActorEventsRequestInvokeResponseAlpha1 {
        id: id.to_owned(),
        data: data.into(),
        ..Default::default()
    })
}

async fn hosting() -> (World, Arc<StreamHost>, Client, Stream) {
    let mut world = World::new().await;
    let host = StreamHost::new("app", "ns");
    let mut client = Client::open(&world, &host, initial(&["a"])).await;
    assert!(matches!(
        client.request().await,
        Request::InitialResponse(_)
    ));
    let mut stream = world.placement.accept().await;
    assert_eq!(stream.host().await.entities, ["a"]);
    stream.round(1, &[("a", &[HERE])]).await;
    (world, host, client, stream)
}

#[tokio::test(start_paused = true)]
async fn answers_may_come_in_any_order() {
    let (world, _host, mut client, _stream) = hosting().await;
    let first = world.start("a", "1", "m");
    let one = client.invocation().await;
    let second = world.start("a", "2", "m");
    let two = client.invocation().await;
    assert_eq!((one.id.as_str(), two.id.as_str()), ("1", "2"));
    assert_eq!(one.metadata["Dapr-Api-Call"], "true");
    assert_eq!(one.metadata["dapr-caller-app-id"], "app");
    client.answer(answer("77", "nobody asked")).await;
    client.answer(answer(&two.id, "second")).await;
    client.answer(answer(&one.id, "first")).await;
    assert_eq!(first.await.expect("task").expect("answered").body, "first");
    let reply = second.await.expect("task").expect("answered");
    assert_eq!(reply.body, "second");
    assert_eq!(reply.headers["content-type"], "application/json");
}

#[tokio::test(start_paused = true)]
async fn metadata_keeps_the_spelling_of_its_caller() {
    let (world, _host, mut client, _stream) = hosting().await;
    let mut call = call("a", "1", "m");
    for key in ["foo-bar", "Baz_X", "Own-Name", "Dapr-Caller-App-Id"] {
        let name = HeaderName::try_from(key).expect("a name");
        call.headers.insert(name, HeaderValue::from_static("1"));
        call.spelling.keep(key);
    }
    let runtime = Arc::clone(&world.runtime);
    let running = tokio::spawn(async move { runtime.invoke(call).await });
    let request = client.invocation().await;
    let metadata: BTreeMap<_, _> = request
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let expected = BTreeMap::from([
        ("foo-bar", "1"),
        ("Baz_X", "1"),
        ("Own-Name", "1"),
        ("Dapr-Api-Call", "true"),
        (
            "Traceparent",
            "00-00000000000000000000000000000000-0000000000000000-00",
        ),
        ("dapr-caller-app-id", "app"),
        ("dapr-caller-namespace", "ns"),
    ]);
    assert_eq!(metadata, expected);
    client.answer(answer(&request.id, "x")).await;
    assert!(running.await.expect("task").is_ok());
}

#[tokio::test(start_paused = true)]
async fn failed_requests() {
    let (world, _host, mut client, _stream) = hosting().await;
    for (code, expected) in [
        (5, "error invoke actor method: actor method not found: m"),
        (
            13,
            "error invoke actor method: error from actor service: boom",
        ),
    ] {
        let call = world.start("a", "1", "m");
        let id = client.invocation().await.id;
        let failed = proto::SubscribeActorEventsRequestFailedAlpha1 {
            id,
            code,
            message: "boom".to_owned(),
        };
        client.answer(Answer::RequestFailed(failed)).await;
        let error = call.await.expect("task").expect_err("failed");
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_message_names_the_types() {
    let world = World::new().await;
    let host = StreamHost::new("app", "ns");
    let mut client = Client::open(&world, &host, answer("1", "x")).await;
    let status = client
        .receive
        .recv()
        .await
        .expect("an end")
        .expect_err("refused");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "first message must be SubscribeActorEventsRequestInitialAlpha1"
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_withdraws_its_types() {
    let (world, host, mut client, mut stream) = hosting().await;
    let call = world.start("a", "1", "m");
    client.invocation().await;
    drop(client.send);
    let error = call.await.expect("task").expect_err("cut off");
    assert_eq!(
        error.to_string(),
        "error invoke actor method: context canceled"
    );
    client.serve.await.expect("ends");
    assert!(stream.host().await.entities.is_empty());
    assert!(world.runtime.status().active.is_empty());

    let waiting = world.start("a", "1", "m");
    let mut client = Client::open(&world, &host, initial(&["a"])).await;
    assert!(matches!(
        client.request().await,
        Request::InitialResponse(_)
    ));
    assert_eq!(stream.host().await.entities, ["a"]);
    stream.round(2, &[("a", &[HERE])]).await;
    let id = client.invocation().await.id;
    client.answer(answer(&id, "back")).await;
    assert_eq!(waiting.await.expect("task").expect("answered").body, "back");
}

#[tokio::test(start_paused = true)]
async fn the_newest_stream_gets_the_calls() {
    let (world, host, _old, _stream) = hosting().await;
    let mut new = Client::open(&world, &host, initial(&["a"])).await;
    assert!(matches!(new.request().await, Request::InitialResponse(_)));
    let call = world.start("a", "1", "m");
    let id = new.invocation().await.id;
    assert_eq!(id, "1", "ids count per stream");
    new.answer(answer(&id, "new")).await;
    assert_eq!(call.await.expect("task").expect("answered").body, "new");
}
