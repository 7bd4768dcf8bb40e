//! A service Dapr knows nothing about: texts in, texts out.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::server::{Grpc, NamedService};
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

type Codec = ProstCodec<String, String>;
type Texts = BoxStream<'static, Result<String, Status>>;

/// `Say` echoes, `Count` counts up to a number, `Chat` echoes a stream, `Refuse` is always an error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Echo {
    seen: Arc<Mutex<Vec<MetadataMap>>>,
}

impl NamedService for Echo {
    const NAME: &'static str = "story.Echo";
}

impl Echo {
    /// Metadata of the calls so far, in order.
    pub(super) fn seen(&self) -> Vec<MetadataMap> {
        self.seen.lock().clone()
    }

    async fn answer(self, request: http::Request<Body>) -> http::Response<Body> {
        let mut grpc = Grpc::new(Codec::default());
        let metadata = MetadataMap::from_headers(request.headers().clone());
        self.seen.lock().push(metadata);
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/story.Echo/Say" => grpc.unary(service_fn(say), request).await,
            "/story.Echo/Count" => grpc.server_streaming(service_fn(count), request).await,
            "/story.Echo/Chat" => grpc.streaming(service_fn(chat), request).await,
            "/story.Echo/Refuse" => grpc.unary(service_fn(refuse), request).await,
            _ => Status::unimplemented(path).into_http(),
        }
    }
}

async fn say(request: Request<String>) -> Result<Response<String>, Status> {
    let mut response = Response::new(format!("you said {}", request.get_ref()));
    if let Some(sent) = request.metadata().get_bin("x-raw-bin") {
        response
            .metadata_mut()
            .insert_bin("x-raw-bin", sent.clone());
    }
    Ok(response)
}

async fn count(request: Request<String>) -> Result<Response<Texts>, Status> {
    let last: u32 = request
        .get_ref()
        .parse()
        .map_err(|_| Status::invalid_argument("not a number"))?;
    let numbers = (1..=last).map(|number| Ok(number.to_string()));
    let end = Err(Status::out_of_range("no more numbers"));
    Ok(Response::new(
        futures::stream::iter(numbers.chain([end])).boxed(),
    ))
}

async fn chat(request: Request<Streaming<String>>) -> Result<Response<Texts>, Status> {
    let answers = request
        .into_inner()
        .map(|text| text.map(|text| format!("you said {text}")));
    Ok(Response::new(answers.boxed()))
}

async fn refuse(_: Request<String>) -> Result<Response<String>, Status> {
    let mut status = Status::already_exists("said before");
    let reason = MetadataValue::from_static("because");
    status.metadata_mut().insert("x-reason", reason);
    Err(status)
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move { Ok(echo.answer(request).await) })
    }
}

/// Calls [`Echo`] of an application through a sidecar.
pub(crate) struct EchoClient {
    grpc: tonic::client::Grpc<Channel>,
    app_id: String,
}

impl EchoClient {
    /// Calls the application `app_id`.
    pub(crate) fn new(channel: Channel, app_id: &str) -> Self {
        Self {
            grpc: tonic::client::Grpc::new(channel),
            app_id: app_id.to_owned(),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let app_id = self.app_id.parse().expect("an app id is a header value");
        metadata.insert("dapr-app-id", app_id);
        metadata.insert("x-custom", MetadataValue::from_static("one"));
        metadata.insert_bin("x-raw-bin", MetadataValue::from_bytes(&[0, 1, 255]));
        request
    }

    async fn ready(&mut self) -> Result<(), Status> {
        let ready = self.grpc.ready().await;
        ready.map_err(|error| Status::unknown(error.to_string()))
    }

    /// A call with one answer.
    pub(crate) async fn call(
        &mut self,
        method: &'static str,
        text: &str,
    ) -> Result<Response<String>, Status> {
        self.ready().await?;
        let request = self.request(text.to_owned());
        self.grpc
            .unary(request, path(method), Codec::default())
            .await
    }

    /// Numbers up to `last`.
    pub(crate) async fn count(&mut self, last: u32) -> Result<Streaming<String>, Status> {
        self.ready().await?;
        let request = self.request(last.to_string());
        let path = path("/story.Echo/Count");
        let answer = self
            .grpc
            .server_streaming(request, path, Codec::default())
            .await;
        answer.map(Response::into_inner)
    }

    /// A conversation, marked as a stream.
    pub(crate) async fn chat(
        &mut self,
        texts: BoxStream<'static, String>,
    ) -> Result<Streaming<String>, Status> {
        self.ready().await?;
        let mut request = self.request(texts);
        let mark = MetadataValue::from_static("true");
        request.metadata_mut().insert("dapr-stream", mark);
        let path = path("/story.Echo/Chat");
        let answer = self.grpc.streaming(request, path, Codec::default()).await;
        answer.map(Response::into_inner)
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}
