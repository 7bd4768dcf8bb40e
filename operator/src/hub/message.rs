//! A change as it goes over the wire: seven messages of the same two fields, encoded once for all who are told. Pure.

use bytes::{BufMut as _, Bytes, BytesMut};
use dapr_proto::dapr::proto::operator::v1::ComponentUpdateEvent;
use prost::Message as _;

use crate::events::Type;

/// What stands before each message of gRPC: a byte that says that it is not compressed, and its size.
const PREFIX: usize = 5;

/// A change as it is told to one sidecar. Those who are told the same share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The object as JSON, without kind and version.
    pub object: Bytes,
    /// What happened to it.
    pub r#type: Type,
    /// Both as gRPC sends them.
    pub message: Bytes,
}

impl Event {
    pub(super) fn new(object: Bytes, r#type: Type) -> Self {
        let object_size = object.len();
        // Any of the seven would do.
        let event = ComponentUpdateEvent {
            component: object,
            r#type: r#type.wire(),
        };
        let size = event.encoded_len();
        let mut message = BytesMut::with_capacity(PREFIX + size);
        message.put_u8(0);
        // No object has four gigabytes: what the API server says is not read that far.
        message.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
        event.encode_raw(&mut message);
        let message = message.freeze();
        // The object is between its own head and the type, which has a byte for its name and one for its number.
        let end = message.len() - 2;
        Self {
            object: message.slice(end - object_size..end),
            r#type,
            message,
        }
    }
}

#[cfg(test)]
mod tests {
    use dapr_proto::dapr::proto::operator::v1::{
        ConfigurationUpdateEvent, HttpEndpointUpdateEvent, McpServerUpdateEvent,
        ResiliencyUpdateEvent, SubscriptionUpdateEvent, WorkflowAccessPolicyUpdateEvent,
    };

    use super::*;

    #[test]
    fn all_events_are_alike() {
        let event = Event::new("object".into(), Type::Updated);
        let (prefix, message) = event.message.split_at(PREFIX);
        assert_eq!(prefix, [0, 0, 0, 0, message.len() as u8]);
        macro_rules! check {
            ($($message:ident.$field:ident)*) => {$(
                let read = $message::decode(message).expect("readable");
                assert_eq!((&*read.$field, read.r#type), (&b"object"[..], 2));
            )*};
        }
        check!(
            ComponentUpdateEvent.component
            ConfigurationUpdateEvent.configuration
            HttpEndpointUpdateEvent.http_endpoints
            McpServerUpdateEvent.mcp_server
            ResiliencyUpdateEvent.resiliency
            SubscriptionUpdateEvent.subscription
            WorkflowAccessPolicyUpdateEvent.policy
        );
    }

    #[test]
    fn the_object_is_a_part_of_the_message() {
        for size in [0, 1, 127, 128, 70_000] {
            let object = Bytes::from(vec![b'x'; size]);
            for r#type in [Type::Created, Type::Updated, Type::Deleted] {
                let event = Event::new(object.clone(), r#type);
                assert_eq!(event.object, object, "{size} {type:?}");
                let read = ComponentUpdateEvent::decode(&event.message[PREFIX..]);
                assert_eq!(read.expect("readable").r#type, r#type.wire());
            }
        }
    }
}
