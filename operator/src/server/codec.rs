//! The events of all streams in one form: seven messages of the same two fields.
//!
//! Written by hand for memory: tonic's own codec takes a buffer of 8 kB per stream, and a cluster has seven streams per
//! sidecar, nearly all of them silent.

use std::marker::PhantomData;

use dapr_proto::dapr::proto::operator::v1::ComponentUpdateEvent;
use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::hub::Event;

/// The buffer of a stream before its first event; it grows to the largest.
const BUFFER: usize = 0;
/// From how many bytes on events are sent before there is a pause: tonic's own.
const SEND: usize = 32 * 1024;

/// Reads one request `R`, writes events.
#[derive(Debug)]
pub(super) struct Events<R>(PhantomData<R>);

impl<R> Default for Events<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<R: Message + Default + 'static> Codec for Events<R> {
    type Encode = Event;
    type Decode = R;
    type Encoder = Writer;
    type Decoder = Self;

    fn encoder(&mut self) -> Writer {
        Writer
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

/// Writes events.
#[derive(Debug)]
pub(super) struct Writer;

impl Encoder for Writer {
    type Item = Event;
    type Error = Status;

    fn encode(&mut self, event: Event, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // Any of the seven would do.
        let message = ComponentUpdateEvent {
            component: event.object,
            r#type: event.r#type.wire(),
        };
        let written = message.encode(buffer);
        written.map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER, SEND)
    }
}

impl<R: Message + Default + 'static> Decoder for Events<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let read = R::decode(buffer).map(Some);
        read.map_err(|error| Status::internal(error.to_string()))
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
        let written = ComponentUpdateEvent {
            component: "object".into(),
            r#type: 2,
        }
        .encode_to_vec();
        macro_rules! check {
            ($($message:ident.$field:ident)*) => {$(
                let read = $message::decode(&*written).expect("readable");
                assert_eq!((&*read.$field, read.r#type), (&b"object"[..], 2));
            )*};
        }
        check!(
            ConfigurationUpdateEvent.configuration
            HttpEndpointUpdateEvent.http_endpoints
            McpServerUpdateEvent.mcp_server
            ResiliencyUpdateEvent.resiliency
            SubscriptionUpdateEvent.subscription
            WorkflowAccessPolicyUpdateEvent.policy
        );
    }
}
