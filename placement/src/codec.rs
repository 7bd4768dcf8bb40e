//! Codecs for tonic: orders that are encoded already, and JSON between replicas.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use dapr_proto::dapr::proto::placement::v1::{Host, PlacementOrder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

/// Reads `Host`, writes the bytes of orders as they are.
#[derive(Debug, Default)]
pub(crate) struct OrderCodec;

impl Codec for OrderCodec {
    type Encode = Bytes;
    type Decode = Host;
    type Encoder = Encoded;
    type Decoder = <ProstCodec<PlacementOrder, Host> as Codec>::Decoder;

    fn encoder(&mut self) -> Encoded {
        Encoded
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<PlacementOrder, Host>::default().decoder()
    }
}

/// Messages that are encoded already.
#[derive(Debug)]
pub(crate) struct Encoded;

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

/// Writes `E` and reads `D` as JSON.
pub(crate) struct JsonCodec<E, D>(PhantomData<fn() -> (E, D)>);

impl<E, D> Default for JsonCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> fmt::Debug for JsonCodec<E, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JsonCodec")
    }
}

impl<E, D> Codec for JsonCodec<E, D>
where
    E: Serialize + Send + 'static,
    D: DeserializeOwned + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Serialize, D> Encoder for JsonCodec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(buffer.writer(), &item)
            .map_err(|error| Status::internal(format!("message cannot be encoded: {error}")))
    }
}

impl<E, D: DeserializeOwned> Decoder for JsonCodec<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        match serde_json::from_slice(&bytes) {
            Ok(item) => Ok(Some(item)),
            Err(error) => Err(Status::invalid_argument(format!(
                "message cannot be decoded: {error}"
            ))),
        }
    }
}
