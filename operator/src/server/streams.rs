//! The methods that answer with changes.

use std::pin::Pin;

use futures::stream;
use tonic::Status;

use super::Caller;
use crate::hub::{Event, Subscription, View};
use crate::kinds::Kind;
use crate::resources::{Resources, Shelf};

/// Changes for one sidecar.
pub(super) type Stream = Pin<Box<dyn futures::Stream<Item = Result<Event, Status>> + Send>>;

/// What stands before a refusal of the method for Configurations.
const REFUSED: &str =
    "failed to authorize configuration update request: rpc error: code = PermissionDenied desc = ";

/// Changes of the objects that admit the caller's app.
pub(super) fn scoped<K: Kind>(
    shelf: &Shelf<K>,
    caller: Caller,
    namespace: &str,
) -> Result<Stream, Status> {
    let app_id = caller.admitted(namespace)?;
    let view = || View::App(app_id.into());
    let opened = shelf.hub.subscribe(namespace, view, caller.connection);
    Ok(told(opened.map_err(|closed| {
        Status::unavailable(closed.to_string())
    })?))
}

/// Changes of the Configuration that the caller's app is assigned.
pub(super) async fn assigned(
    resources: Resources,
    caller: Caller,
    namespace: String,
) -> Result<Stream, Status> {
    let admitted = caller.admitted(&namespace);
    let app_id = admitted
        .map_err(|status| Status::permission_denied(format!("{REFUSED}{}", status.message())))?;
    resources.pods_known().await;
    let view = || resources.assigned(&namespace, app_id);
    let hub = &resources.configurations.hub;
    let opened = hub.subscribe(&namespace, view, caller.connection);
    Ok(told(opened.map_err(|closed| {
        Status::unavailable(closed.to_string())
    })?))
}

/// The stream ends well at the end of the process, and with an error when an object cannot be told.
fn told<K: Kind>(subscription: Subscription<K>) -> Stream {
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
    Box::pin(stream::unfold(Some(subscription), next))
}
