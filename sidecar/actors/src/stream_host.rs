//! Actors of an application that opened `SubscribeActorEventsAlpha1`: calls go out with an id, answers come
//! back in any order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dapr_proto::dapr::proto::runtime::v1 as proto;
use dapr_sidecar_core::actors::{Call, ERROR_HEADER, Reply};
use dapr_sidecar_core::app::{Config, EntityConfig, Reentrancy};
use dapr_sidecar_core::peer::ReminderCall;
use dapr_sidecar_core::rpc::Code;
use futures::{Stream, StreamExt as _};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use proto::subscribe_actor_events_request_alpha1::RequestType as Answer;
use proto::subscribe_actor_events_response_alpha1::ResponseType as Request;
use tokio::sync::{mpsc, oneshot};

use crate::app_host::{AppHost, Error, NO_TRACE, TRACEPARENT};
use crate::runtime::Runtime;

/// Calls on their way to one stream: beyond this an application that does not read slows its callers.
const OUTGOING: usize = 64;

/// The other half of a stream: what the server sends.
pub type Outgoing =
    mpsc::Receiver<Result<proto::SubscribeActorEventsResponseAlpha1, tonic::Status>>;

type Sender = mpsc::Sender<Result<proto::SubscribeActorEventsResponseAlpha1, tonic::Status>>;

/// The streams of the application; calls go to the newest.
#[derive(Debug)]
pub struct StreamHost {
    streams: Mutex<Vec<Arc<Connection>>>,
    caller_app_id: String,
    caller_namespace: String,
}

/// One open stream.
#[derive(Debug)]
struct Connection {
    outgoing: Sender,
    last: AtomicU64,
    /// Who waits for which answer; `None` once the stream is over.
    pending: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

impl StreamHost {
    /// No stream yet. The ids are this sidecar's own, which applications see as the caller.
    pub fn new(app_id: impl Into<String>, namespace: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::default(),
            caller_app_id: app_id.into(),
            caller_namespace: namespace.into(),
        })
    }

    /// Registers the types of a new stream. The first future must be driven until it ends, which it does
    /// with the stream; the receiver is what the server sends.
    pub fn serve<S>(
        self: &Arc<Self>,
        runtime: Arc<Runtime>,
        incoming: S,
    ) -> (impl Future<Output = ()> + Send + use<S>, Outgoing)
    where
        S: Stream<Item = Result<proto::SubscribeActorEventsRequestAlpha1, tonic::Status>>
            + Send
            + 'static,
    {
        let (outgoing, receiver) = mpsc::channel(OUTGOING);
        let host = Arc::clone(self);
        let serve = async move {
            if let Err(status) = host.run(&runtime, incoming, &outgoing).await {
                // The application may have gone already.
                drop(outgoing.send(Err(status)).await);
            }
        };
        (serve, receiver)
    }

    async fn run(
        self: &Arc<Self>,
        runtime: &Runtime,
        incoming: impl Stream<Item = Result<proto::SubscribeActorEventsRequestAlpha1, tonic::Status>>,
        outgoing: &Sender,
    ) -> Result<(), tonic::Status> {
        let mut incoming = std::pin::pin!(incoming);
        let first = match incoming.next().await {
            Some(first) => first?.request_type,
            None => return Ok(()),
        };
        let Some(Answer::InitialRequest(initial)) = first else {
            return Err(tonic::Status::invalid_argument(
                "first message must be SubscribeActorEventsRequestInitialAlpha1",
            ));
        };
        let config = config(initial);
        runtime
            .register_host(&config, Arc::clone(self) as Arc<dyn AppHost>)
            .await;
        let initial = Request::InitialResponse(proto::SubscribeActorEventsResponseInitialAlpha1 {});
        let greeted = outgoing.send(Ok(response(initial))).await;
        let connection = Arc::new(Connection {
            outgoing: outgoing.clone(),
            last: AtomicU64::new(0),
            pending: Mutex::new(Some(HashMap::new())),
        });
        let result = match greeted {
            Ok(()) => self.relay(&connection, incoming).await,
            Err(_) => Ok(()),
        };
        if !config.entities.is_empty() {
            runtime.unregister_types(&config.entities).await;
        }
        // Who still waits learns of it after the types are gone.
        connection.pending.lock().take();
        result
    }

    /// Hands answers to those who wait for them until the stream ends.
    async fn relay(
        &self,
        connection: &Arc<Connection>,
        mut incoming: std::pin::Pin<
            &mut impl Stream<Item = Result<proto::SubscribeActorEventsRequestAlpha1, tonic::Status>>,
        >,
    ) -> Result<(), tonic::Status> {
        self.streams.lock().push(Arc::clone(connection));
        let _open = Open {
            host: self,
            connection,
        };
        loop {
            tokio::select! {
                message = incoming.next() => match message {
                    Some(message) => connection.answered(message?.request_type),
                    None => return Ok(()),
                },
                () = connection.outgoing.closed() => return Ok(()),
            }
        }
    }

    async fn call(&self, request: impl FnOnce(String) -> Request) -> Result<Answer, Error> {
        let newest = self.streams.lock().last().map(Arc::clone);
        newest.ok_or(Error::NotConnected)?.call(request).await
    }
}

/// A stream that takes calls, until dropped.
struct Open<'a> {
    host: &'a StreamHost,
    connection: &'a Arc<Connection>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut streams = self.host.streams.lock();
        streams.retain(|stream| !Arc::ptr_eq(stream, self.connection));
    }
}

/// A call that waits for its answer; given up when dropped.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(pending) = &mut *self.connection.pending.lock() {
            pending.remove(&self.id);
        }
    }
}

impl Connection {
    async fn call(&self, request: impl FnOnce(String) -> Request) -> Result<Answer, Error> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        match &mut *self.pending.lock() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(Error::Disconnected),
        };
        let _waiting = Waiting {
            connection: self,
            id,
        };
        let message = response(request(id.to_string()));
        let sent = self.outgoing.send(Ok(message)).await;
        sent.map_err(|_| Error::Disconnected)?;
        receiver.await.map_err(|_| Error::Disconnected)
    }

    fn answered(&self, answer: Option<Answer>) {
        let Some((answer, id)) = answer.and_then(|answer| {
            let id = id(&answer)?.to_owned();
            Some((answer, id))
        }) else {
            tracing::warn!("actor stream: message without an answer");
            return;
        };
        let waiting = id
            .parse()
            .ok()
            .and_then(|id: u64| self.pending.lock().as_mut()?.remove(&id));
        match waiting {
            // Who has given up meanwhile needs no answer.
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::warn!(id, "actor stream: answer to an unknown request"),
        }
    }
}

#[async_trait]
impl AppHost for StreamHost {
    async fn invoke(&self, call: &Call) -> Result<Reply, Error> {
        let mut metadata = metadata(call);
        metadata.insert("dapr-caller-app-id".to_owned(), self.caller_app_id.clone());
        metadata.insert(
            "dapr-caller-namespace".to_owned(),
            self.caller_namespace.clone(),
        );
        let answer = self
            .call(|id| {
                Request::InvokeRequest(proto::SubscribeActorEventsResponseInvokeRequestAlpha1 {
                    id,
                    actor_type: call.actor_type.clone(),
                    actor_id: call.actor_id.clone(),
                    method: call.method.clone(),
                    data: call.body.clone(),
                    metadata,
                })
            })
            .await?;
        match answer {
            Answer::InvokeResponse(response) => Ok(reply(response)),
            Answer::RequestFailed(failed)
                if i32::try_from(failed.code) == Ok(Code::NotFound as i32) =>
            {
                Err(Error::NotFound(call.method.clone()))
            }
            other => Err(refused(other)),
        }
    }

    async fn remind(&self, reminder: &ReminderCall) -> Result<(), Error> {
        let answer = self
            .call(|id| {
                Request::ReminderRequest(proto::SubscribeActorEventsResponseReminderRequestAlpha1 {
                    id,
                    actor_type: reminder.actor_type.clone(),
                    actor_id: reminder.actor_id.clone(),
                    name: reminder.name.clone(),
                    due_time: reminder.due_time.clone(),
                    period: reminder.period.clone(),
                    data: any(reminder),
                })
            })
            .await?;
        match answer {
            // A cancelled reminder counts as fired.
            Answer::ReminderResponse(_) => Ok(()),
            other => Err(refused(other)),
        }
    }

    async fn timer(&self, timer: &ReminderCall, callback: &str) -> Result<(), Error> {
        let answer = self
            .call(|id| {
                Request::TimerRequest(proto::SubscribeActorEventsResponseTimerRequestAlpha1 {
                    id,
                    actor_type: timer.actor_type.clone(),
                    actor_id: timer.actor_id.clone(),
                    name: timer.name.clone(),
                    due_time: timer.due_time.clone(),
                    period: timer.period.clone(),
                    callback: callback.to_owned(),
                    data: any(timer),
                })
            })
            .await?;
        match answer {
            Answer::TimerResponse(_) => Ok(()),
            other => Err(refused(other)),
        }
    }

    async fn deactivate(&self, actor_type: &str, actor_id: &str) -> Result<(), Error> {
        let answer = self
            .call(|id| {
                Request::DeactivateRequest(
                    proto::SubscribeActorEventsResponseDeactivateRequestAlpha1 {
                        id,
                        actor_type: actor_type.to_owned(),
                        actor_id: actor_id.to_owned(),
                    },
                )
            })
            .await?;
        match answer {
            Answer::DeactivateResponse(_) => Ok(()),
            other => Err(refused(other)),
        }
    }
}

fn response(response: Request) -> proto::SubscribeActorEventsResponseAlpha1 {
    proto::SubscribeActorEventsResponseAlpha1 {
        response_type: Some(response),
    }
}

fn id(answer: &Answer) -> Option<&str> {
    match answer {
        Answer::InitialRequest(_) => None,
        Answer::InvokeResponse(response) => Some(&response.id),
        Answer::ReminderResponse(response) | Answer::TimerResponse(response) => Some(&response.id),
        Answer::DeactivateResponse(response) => Some(&response.id),
        Answer::RequestFailed(failed) => Some(&failed.id),
    }
}

fn refused(answer: Answer) -> Error {
    match answer {
        Answer::RequestFailed(failed) => Error::Service(failed.message),
        Answer::InitialRequest(_)
        | Answer::InvokeResponse(_)
        | Answer::ReminderResponse(_)
        | Answer::TimerResponse(_)
        | Answer::DeactivateResponse(_) => {
            Error::Service("the answer is of another kind than the request".to_owned())
        }
    }
}

/// The first value of each header, under the name as its caller or else Go spells it.
fn metadata(call: &Call) -> HashMap<String, String> {
    let mut metadata: HashMap<_, _> = call
        .headers
        .keys()
        .filter(|name| !name.as_str().starts_with("dapr-caller-"))
        .filter_map(|name| {
            let value = call.headers.get(name)?;
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            Some((call.spelling.of(name.as_str()), text))
        })
        .collect();
    if !call.headers.contains_key(TRACEPARENT) {
        metadata.insert("Traceparent".to_owned(), NO_TRACE.to_owned());
    }
    metadata
}

fn reply(response: proto::SubscribeActorEventsRequestInvokeResponseAlpha1) -> Reply {
    let mut headers = HeaderMap::new();
    for (name, value) in &response.metadata {
        let name = HeaderName::from_bytes(name.as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
    if !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if response.error {
        headers.insert(ERROR_HEADER, HeaderValue::from_static("true"));
    }
    Reply {
        status: StatusCode::OK,
        headers,
        body: response.data,
    }
}

fn any(call: &ReminderCall) -> Option<prost_types::Any> {
    call.data
        .as_ref()
        .map(|(type_url, value)| prost_types::Any {
            type_url: type_url.clone(),
            value: value.to_vec(),
        })
}

fn config(initial: proto::SubscribeActorEventsRequestInitialAlpha1) -> Config {
    Config {
        entities: initial.entities,
        actor_idle_timeout: initial.actor_idle_timeout.and_then(positive),
        drain_ongoing_call_timeout: initial.drain_ongoing_call_timeout.and_then(positive),
        drain_rebalanced_actors: initial.drain_rebalanced_actors,
        reentrancy: initial.reentrancy.map(reentrancy).unwrap_or_default(),
        entities_config: initial
            .entities_config
            .into_iter()
            .map(|own| EntityConfig {
                entities: own.entities,
                actor_idle_timeout: own.actor_idle_timeout.and_then(positive),
                drain_ongoing_call_timeout: own.drain_ongoing_call_timeout.and_then(positive),
                reentrancy: own.reentrancy.map(reentrancy),
            })
            .collect(),
    }
}

/// A negative duration counts as absent.
fn positive(duration: prost_types::Duration) -> Option<Duration> {
    Duration::try_from(duration).ok()
}

fn reentrancy(config: proto::ActorReentrancyConfig) -> Reentrancy {
    let default = Reentrancy::default();
    Reentrancy {
        enabled: config.enabled,
        max_stack_depth: config
            .max_stack_depth
            .and_then(|depth| u32::try_from(depth).ok())
            .unwrap_or(default.max_stack_depth),
    }
}

#[cfg(test)]
mod tests {
    use dapr_sidecar_core::actors::Spelling;

    use super::*;

    #[test]
    fn metadata_has_canonical_names_and_no_false_callers() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("dapr-reentrancy-id", "1"),
            ("content-type", "text/plain"),
            ("dapr-caller-app-id", "liar"),
            ("traceparent", "given"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("content-type", HeaderValue::from_static("second"));
        let metadata = metadata(&Call {
            actor_type: "t".to_owned(),
            actor_id: "1".to_owned(),
            method: "m".to_owned(),
            query: String::new(),
            headers,
            spelling: Spelling::default(),
            body: bytes::Bytes::new(),
        });
        assert_eq!(metadata.len(), 3);
        assert_eq!(metadata["Traceparent"], "given");
        assert_eq!(metadata["Dapr-Reentrancy-Id"], "1");
        assert_eq!(metadata["Content-Type"], "text/plain");
    }

    #[test]
    fn an_error_of_the_actor_is_marked() {
        let reply = reply(proto::SubscribeActorEventsRequestInvokeResponseAlpha1 {
            id: "1".to_owned(),
            data: "no".into(),
            metadata: HashMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
            error: true,
        });
        assert_eq!(reply.headers[CONTENT_TYPE], "text/plain");
        assert_eq!(reply.headers[ERROR_HEADER], "true");
        assert_eq!(reply.status, StatusCode::OK);
    }
}
