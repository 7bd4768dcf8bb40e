//! The codec between replicas: postcard.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Writes `E` and reads `D` as postcard.
pub(crate) struct PostcardCodec<E, D>(PhantomData<fn() -> (E, D)>);

impl<E, D> Default for PostcardCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> fmt::Debug for PostcardCodec<E, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostcardCodec")
    }
}

impl<E, D> Codec for PostcardCodec<E, D>
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

impl<E: Serialize, D> Encoder for PostcardCodec<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = postcard::to_allocvec(&item)
            .map_err(|error| Status::internal(format!("message cannot be encoded: {error}")))?;
        buffer.put(&*bytes);
        Ok(())
    }
}

impl<E, D: DeserializeOwned> Decoder for PostcardCodec<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        match postcard::from_bytes(&bytes) {
            Ok(item) => Ok(Some(item)),
            Err(error) => Err(Status::invalid_argument(format!(
                "message cannot be decoded: {error}"
            ))),
        }
    }
}
