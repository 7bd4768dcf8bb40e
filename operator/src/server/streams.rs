//! The methods that answer with changes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, stream};
use http::HeaderMap;
use hyper::body::{Body, Frame};
use tonic::Status;

use super::Caller;
use crate::hub::{Event, Refused, Subscription, View};
use crate::kinds::Kind;
use crate::resources::{Resources, Shelf};

/// Changes for one sidecar, as the body of an answer.
///
/// Written by hand for memory and time: tonic encodes every event once more for each stream, into a buffer that the
/// stream then keeps, and a cluster has seven streams per sidecar, nearly all of them silent.
pub(super) struct Told {
    events: Pin<Box<dyn Stream<Item = Result<Event, Status>> + Send>>,
    has_ended: bool,
}

impl Body for Told {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let status = match ready!(self.events.as_mut().poll_next(context)) {
            Some(Ok(event)) => return Poll::Ready(Some(Ok(Frame::data(event.message)))),
            Some(Err(status)) => status,
            None => Status::ok(""),
        };
        self.has_ended = true;
        let mut trailers = HeaderMap::new();
        let written = status.add_header(&mut trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))))
    }
}

/// What stands before a refusal of the method for Configurations.
const REFUSED: &str =
    "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = ";

/// Changes of the objects that admit the caller's app.
pub(super) fn scoped<K: Kind>(
    shelf: &Shelf<K>,
    caller: Caller,
    namespace: &str,
) -> Result<Told, Status> {
    let app_id = caller.admitted(namespace)?;
    let view = |_: Option<&str>| View::App(app_id.into());
    let opened = shelf.hub.subscribe(namespace, view, caller.connection);
    Ok(told(opened.map_err(refused)?))
}

/// Changes of the Configuration that the caller's app is assigned.
pub(super) async fn assigned(
    resources: Resources,
    caller: Caller,
    namespace: String,
) -> Result<Told, Status> {
    let admitted = caller.admitted(&namespace);
    let app_id = admitted
        .map_err(|status| Status::permission_denied(format!("{REFUSED}{}", status.message())))?;
    resources.pods_known().await;
    let view = |current: Option<&str>| resources.assigned(&namespace, app_id, current);
    let hub = &resources.configurations.hub;
    let opened = hub.subscribe(&namespace, view, caller.connection);
    Ok(told(opened.map_err(refused)?))
}

/// Whatever the code, a sidecar opens its stream again and lists.
fn refused(refused: Refused) -> Status {
    match refused {
        Refused::Closed => Status::unavailable(refused.to_string()),
        Refused::Forgotten => Status::aborted(refused.to_string()),
    }
}

/// The stream ends well at the end of the process, and with an error when an object cannot be told.
fn told<K: Kind>(subscription: Subscription<K>) -> Told {
    let next = |open: Option<Subscription<K>>| async move {
        let mut subscription = open?;
        match subscription.next().await? {
            Ok(event) => Some((Ok(event), Some(subscription))),
            Err(failed) => {
                let kind = <K as dapr_crds::meta::Object>::KIND;
                tracing::warn!(kind, error = %failed, "a stream is ended, for its sidecar to list anew");
                Some((Err(Status::unknown(failed.to_string())), None))
            }
        }
    };
    Told {
        events: Box::pin(stream::unfold(Some(subscription), next)),
        has_ended: false,
    }
}

#[cfg(test)]
mod tests {
    use dapr_crds::Component;

    use super::*;
    use crate::hub::Hub;
    use crate::vault::{NoSecrets, Vault};

    #[test]
    fn a_silent_stream_is_small() {
        let hub = Hub::<Component>::new(Vault::new(NoSecrets));
        let view = |_: Option<&str>| View::App("shop".into());
        let told = told(hub.subscribe("default", view, None).expect("open"));
        let size = std::mem::size_of_val(&*told.events);
        // Seven of them per sidecar.
        assert!(size <= 640, "{size} bytes");
    }
}
