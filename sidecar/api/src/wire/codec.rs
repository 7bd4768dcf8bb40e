//! The messages of streaming calls, without the map of texts that metadata is in generated code: here it is written from
//! headers and read into headers, once per call, so that a header costs no copies of its name and value. On the wire
//! they are the same messages.

use std::borrow::Cow;
use std::marker::PhantomData;

use bytes::{BufMut, Bytes};
use dapr_proto::dapr::proto::common::v1::{InvokeRequest, InvokeResponse, StreamPayload};
use dapr_proto::dapr::proto::internals::v1::{
    ApiVersion, ListStringValue, Status as InternalStatus,
};
use dapr_sidecar_core::invoke::Origin;
use dapr_sidecar_core::invoke::headers::canonical_chars;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use tonic::codec::{self, DecodeBuf, EncodeBuf};

use super::headers::{GRPC_CONTENT_TYPE, is_mark, spelled, text};

/// What this side of a call sends and what it reads.
#[derive(Debug)]
pub struct Codec<H, I>(PhantomData<fn(H) -> I>);

/// The codec of who calls.
pub type CallerCodec = Codec<RequestHead, IncomingResponse>;
/// The codec of who is called.
pub type CalleeCodec = Codec<ResponseHead, IncomingRequest>;

impl<H, I> Default for Codec<H, I> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<H: Head, I: Incoming> codec::Codec for Codec<H, I> {
    type Encode = Outgoing<H>;
    type Decode = I;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<H: Head, I> codec::Encoder for Codec<H, I> {
    type Item = Outgoing<H>;
    type Error = tonic::Status;

    fn encode(&mut self, item: Outgoing<H>, buf: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        item.encode(buf, EncodeBuf::reserve);
        Ok(())
    }
}

impl<H, I: Incoming> codec::Decoder for Codec<H, I> {
    type Item = I;
    type Error = tonic::Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<I>, tonic::Status> {
        let message = I::decode(buf).and_then(|message| {
            message.metadata().try_for_each(Entry::check)?;
            Ok(message)
        });
        let message = message.map_err(|error| tonic::Status::internal(error.to_string()))?;
        Ok(Some(message))
    }
}

/// A message of a stream: `InternalInvokeRequestStream` or `InternalInvokeResponseStream`.
#[derive(Debug, PartialEq)]
pub struct Outgoing<H> {
    /// Where it is the first.
    pub(super) head: Option<H>,
    pub(super) payload: Option<StreamPayload>,
}

/// The first message of a stream but for its payload: `InternalInvokeRequest` or `InternalInvokeResponse`.
pub trait Head: Send + Sync + 'static {
    /// Its length as it is encoded.
    fn encoded_len(&self) -> usize;
    /// Encodes it.
    fn encode(&self, buf: &mut impl BufMut);
}

impl<H: Head> Outgoing<H> {
    /// Encodes it into what can make room for it at once.
    pub(super) fn encode<B: BufMut>(&self, buf: &mut B, reserve: impl FnOnce(&mut B, usize)) {
        let head = self.head.as_ref().map(|head| (head, head.encoded_len()));
        let head_len = head.map_or(0, |(_, length)| field_len(length));
        let payload_len = self
            .payload
            .as_ref()
            .map_or(0, |payload| field_len(payload.encoded_len()));
        reserve(buf, head_len + payload_len);
        if let Some((head, length)) = head {
            begin_field(1, length, buf);
            head.encode(buf);
        }
        if let Some(payload) = &self.payload {
            prost::encoding::message::encode(2, payload, buf);
        }
    }
}

/// The head of a request.
#[derive(Debug, PartialEq)]
pub struct RequestHead {
    pub(super) headers: HeaderMap,
    pub(super) origin: Origin,
    pub(super) message: InvokeRequest,
}

impl RequestHead {
    fn metadata(&self) -> Metadata<'_> {
        Metadata {
            headers: &self.headers,
            origin: self.origin,
            is_request: true,
        }
    }
}

impl Head for RequestHead {
    fn encoded_len(&self) -> usize {
        prost::encoding::int32::encoded_len(1, &(ApiVersion::V1 as i32))
            + self.metadata().encoded_len()
            + field_len(self.message.encoded_len())
    }

    fn encode(&self, buf: &mut impl BufMut) {
        prost::encoding::int32::encode(1, &(ApiVersion::V1 as i32), buf);
        self.metadata().encode(2, buf);
        prost::encoding::message::encode(3, &self.message, buf);
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq)]
pub struct ResponseHead {
    pub(super) status: InternalStatus,
    pub(super) headers: HeaderMap,
    pub(super) trailers: HeaderMap,
    pub(super) origin: Origin,
    pub(super) message: InvokeResponse,
}

impl ResponseHead {
    fn metadata<'a>(&self, headers: &'a HeaderMap) -> Metadata<'a> {
        Metadata {
            headers,
            origin: self.origin,
            is_request: false,
        }
    }
}

impl Head for ResponseHead {
    fn encoded_len(&self) -> usize {
        field_len(self.status.encoded_len())
            + self.metadata(&self.headers).encoded_len()
            + self.metadata(&self.trailers).encoded_len()
            + field_len(self.message.encoded_len())
    }

    fn encode(&self, buf: &mut impl BufMut) {
        prost::encoding::message::encode(1, &self.status, buf);
        self.metadata(&self.headers).encode(2, buf);
        self.metadata(&self.trailers).encode(3, buf);
        prost::encoding::message::encode(4, &self.message, buf);
    }
}

/// Headers as entries of a map of texts.
#[derive(Clone, Copy)]
struct Metadata<'a> {
    headers: &'a HeaderMap,
    origin: Origin,
    /// Of a request: the marks of this sidecar have their own spelling, and a gRPC caller is known by its content type.
    is_request: bool,
}

impl<'a> Metadata<'a> {
    fn says_grpc(self) -> bool {
        self.is_request && self.origin == Origin::Grpc
    }

    fn names(self) -> impl Iterator<Item = &'a HeaderName> {
        let replaced = self.says_grpc();
        let names = self.headers.keys();
        names.filter(move |name| !(replaced && **name == CONTENT_TYPE))
    }

    fn values(self, name: &'a HeaderName) -> impl Iterator<Item = Cow<'a, str>> {
        let values = self.headers.get_all(name).iter();
        values.map(move |value| text(name, value, self.origin))
    }

    fn key(self, name: &'a HeaderName) -> Key<'a> {
        match self.origin {
            Origin::Http if self.is_request && is_mark(name) => Key::AsIs(name.as_str()),
            Origin::Http => Key::Canonical(name.as_str()),
            Origin::Grpc => Key::AsIs(spelled(name)),
        }
    }

    fn encoded_len(self) -> usize {
        let entries = self.names().map(|name| {
            let list = self.values(name).map(|value| field_len(value.len())).sum();
            field_len(field_len(self.key(name).len()) + field_len(list))
        });
        let grpc = if self.says_grpc() {
            field_len(
                field_len(CONTENT_TYPE.as_str().len())
                    + field_len(field_len(GRPC_CONTENT_TYPE.len())),
            )
        } else {
            0
        };
        entries.sum::<usize>() + grpc
    }

    fn encode(self, tag: u32, buf: &mut impl BufMut) {
        for name in self.names() {
            encode_entry(tag, self.key(name), || self.values(name), buf);
        }
        if self.says_grpc() {
            let key = Key::AsIs(CONTENT_TYPE.as_str());
            encode_entry(
                tag,
                key,
                || std::iter::once(Cow::Borrowed(GRPC_CONTENT_TYPE)),
                buf,
            );
        }
    }
}

fn encode_entry<'a, V>(tag: u32, key: Key<'_>, values: impl Fn() -> V, buf: &mut impl BufMut)
where
    V: Iterator<Item = Cow<'a, str>>,
{
    let list = values().map(|value| field_len(value.len())).sum();
    begin_field(tag, field_len(key.len()) + field_len(list), buf);
    begin_field(1, key.len(), buf);
    key.put(buf);
    begin_field(2, list, buf);
    for value in values() {
        begin_field(1, value.len(), buf);
        buf.put_slice(value.as_bytes());
    }
}

/// The key of an entry.
#[derive(Clone, Copy)]
enum Key<'a> {
    AsIs(&'a str),
    /// To be written as Go spells names of headers; it is as long as the name.
    Canonical(&'a str),
}

impl Key<'_> {
    const fn len(self) -> usize {
        match self {
            Self::AsIs(name) | Self::Canonical(name) => name.len(),
        }
    }

    fn put(self, buf: &mut impl BufMut) {
        match self {
            Self::AsIs(name) => buf.put_slice(name.as_bytes()),
            Self::Canonical(name) => {
                let mut bytes = [0; 4];
                for character in canonical_chars(name) {
                    buf.put_slice(character.encode_utf8(&mut bytes).as_bytes());
                }
            }
        }
    }
}

/// A field of bytes with its key; all numbers here are below 16.
fn field_len(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn begin_field(tag: u32, length: usize, buf: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, buf);
    encode_varint(length as u64, buf);
}

/// A message of a stream that was read. Texts of its metadata are slices of what was read.
pub trait Incoming: Message + Default + Send + Sync + 'static {
    /// Every entry of metadata.
    fn metadata(&self) -> impl Iterator<Item = &Entry>;
}

/// `InternalInvokeRequestStream`.
#[derive(Clone, PartialEq, Message)]
pub struct IncomingRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) request: Option<LeadingRequest>,
    #[prost(message, optional, tag = "2")]
    pub(super) payload: Option<StreamPayload>,
}

/// `InternalInvokeRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeadingRequest {
    #[prost(message, repeated, tag = "2")]
    pub(super) metadata: Vec<Entry>,
    #[prost(message, optional, tag = "3")]
    pub(super) message: Option<InvokeRequest>,
}

/// `InternalInvokeResponseStream`.
#[derive(Clone, PartialEq, Message)]
pub struct IncomingResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) response: Option<LeadingResponse>,
    #[prost(message, optional, tag = "2")]
    pub(super) payload: Option<StreamPayload>,
}

/// `InternalInvokeResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeadingResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<InternalStatus>,
    #[prost(message, repeated, tag = "2")]
    pub(super) headers: Vec<Entry>,
    #[prost(message, repeated, tag = "3")]
    pub(super) trailers: Vec<Entry>,
    #[prost(message, optional, tag = "4")]
    pub(super) message: Option<InvokeResponse>,
}

/// An entry of a map from text to `ListStringValue`.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<Values>,
}

/// `ListStringValue`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Values {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) values: Vec<Bytes>,
}

impl Incoming for IncomingRequest {
    fn metadata(&self) -> impl Iterator<Item = &Entry> {
        self.request.iter().flat_map(|request| &request.metadata)
    }
}

impl Incoming for IncomingResponse {
    fn metadata(&self) -> impl Iterator<Item = &Entry> {
        let responses = self.response.iter();
        responses.flat_map(|response| response.headers.iter().chain(&response.trailers))
    }
}

impl Entry {
    /// An entry with these values.
    pub(super) fn new(key: String, values: ListStringValue) -> Self {
        let values = values.values.into_iter().map(Bytes::from).collect();
        Self {
            key: key.into(),
            value: Some(Values { values }),
        }
    }

    /// Texts have to be UTF-8, or the message is none.
    fn check(&self) -> Result<(), prost::DecodeError> {
        let values = self.value.iter().flat_map(|list| &list.values);
        for text in std::iter::once(&self.key).chain(values) {
            if std::str::from_utf8(text).is_err() {
                // The error of a message that has a text in this place.
                let mut broken = Vec::with_capacity(field_len(text.len()));
                begin_field(1, text.len(), &mut broken);
                broken.extend_from_slice(text);
                ListStringValue::decode(&*broken)?;
            }
        }
        Ok(())
    }
}

/// Of entries with one key the last is meant.
pub(super) fn keep_last(entries: &mut Vec<Entry>) {
    /// Above it, comparing each with each would cost more than a table.
    const FEW: usize = 48;
    if entries.len() <= FEW {
        let mut at = 0;
        while let Some((entry, later)) = entries.get(at..).and_then(<[Entry]>::split_first) {
            if later.iter().any(|other| other.key == entry.key) {
                entries.remove(at);
            } else {
                at += 1;
            }
        }
        return;
    }
    let mut seen = std::collections::HashSet::with_capacity(entries.len());
    entries.reverse();
    entries.retain(|entry| seen.insert(entry.key.clone()));
    entries.reverse();
}

#[cfg(test)]
mod tests {
    use dapr_proto::dapr::proto::internals::v1::{
        InternalInvokeRequestStream, InternalInvokeResponse, InternalInvokeResponseStream,
    };
    use http::header::HeaderValue;
    use proptest::prelude::*;

    use super::super::headers::{marked_metadata, to_metadata};
    use super::super::request::request_head;
    use super::*;

    fn encoded<H: Head>(message: &Outgoing<H>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut expected = 0;
        message.encode(&mut bytes, |_, length| expected = length);
        assert_eq!(bytes.len(), expected, "what was reserved");
        bytes
    }

    fn origins() -> impl Strategy<Value = Origin> {
        prop_oneof![Just(Origin::Http), Just(Origin::Grpc)]
    }

    fn any_headers() -> impl Strategy<Value = HeaderMap> {
        let names = prop_oneof![
            Just("content-type".to_owned()),
            Just("dapr-caller-app-id".to_owned()),
            Just("dapr-authority".to_owned()),
            "[a-z0-9-]{1,8}(-bin)?",
        ];
        let values = proptest::collection::vec(prop_oneof![32u8..127, 128u8..], 0..200);
        proptest::collection::vec((names, values), 0..8).prop_map(|pairs| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name = HeaderName::try_from(name).expect("a name");
                headers.append(name, HeaderValue::from_bytes(&value).expect("a value"));
            }
            headers
        })
    }

    fn any_payload() -> impl Strategy<Value = Option<StreamPayload>> {
        let payload = proptest::collection::vec(any::<u8>(), 0..300);
        proptest::option::of(payload.prop_map(|data| StreamPayload {
            data: data.into(),
            seq: 3,
        }))
    }

    proptest! {
        #[test]
        fn a_request_is_the_message_of_the_protocol(
            headers in any_headers(), origin in origins(), method in ".{0,9}", payload in any_payload(),
        ) {
            let message = InvokeRequest { method, ..InvokeRequest::default() };
            let mut metadata = marked_metadata(&headers, origin);
            if origin == Origin::Grpc {
                let values = vec!["application/grpc".to_owned()];
                metadata.insert("content-type".to_owned(), ListStringValue { values });
            }
            let sent = Outgoing {
                head: Some(RequestHead { headers, origin, message: message.clone() }),
                payload: payload.clone(),
            };
            let read = InternalInvokeRequestStream::decode(&*encoded(&sent)).expect("a message");
            let request = read.request.expect("the head");
            prop_assert_eq!(request.ver, ApiVersion::V1 as i32);
            prop_assert_eq!(request.metadata, metadata);
            prop_assert_eq!(request.message, Some(message));
            prop_assert_eq!(read.payload, payload);
        }

        #[test]
        fn an_answer_is_the_message_of_the_protocol(
            headers in any_headers(), trailers in any_headers(), origin in origins(), code in 0..600,
        ) {
            let response = InternalInvokeResponse {
                status: Some(InternalStatus { code, ..InternalStatus::default() }),
                headers: to_metadata(&headers, origin),
                trailers: to_metadata(&trailers, origin),
                message: Some(InvokeResponse { content_type: "x".to_owned(), ..InvokeResponse::default() }),
            };
            let head = ResponseHead {
                status: response.status.clone().expect("a status"),
                headers,
                trailers,
                origin,
                message: response.message.clone().expect("a message"),
            };
            let bytes = encoded(&Outgoing { head: Some(head), payload: None });
            let read = InternalInvokeResponseStream::decode(&*bytes).expect("a message");
            prop_assert_eq!(read.response, Some(response));
        }

        #[test]
        fn of_entries_with_one_key_the_last_is_kept(keys in proptest::collection::vec("[a-h]{1,2}", 0..120)) {
            let entry = |(at, key): (usize, &String)| {
                Entry::new(key.clone(), ListStringValue { values: vec![at.to_string()] })
            };
            let mut entries: Vec<_> = keys.iter().enumerate().map(entry).collect();
            let expected: Vec<_> = entries
                .iter()
                .enumerate()
                .filter(|(at, entry)| entries.iter().skip(at + 1).all(|later| later.key != entry.key))
                .map(|(_, entry)| entry.clone())
                .collect();
            keep_last(&mut entries);
            prop_assert_eq!(entries, expected);
        }
    }

    #[test]
    fn texts_are_utf8_in_the_words_of_the_generated_code() {
        let entry = |key: &'static [u8], value: &'static [u8]| Entry {
            key: Bytes::from_static(key),
            value: Some(Values {
                values: vec![Bytes::from_static(value)],
            }),
        };
        assert!(entry(b"k", "\u{e4}".as_bytes()).check().is_ok());
        for broken in [entry(b"\xff", b"v"), entry(b"k", b"\xc3")] {
            let error = broken.check().expect_err("no text").to_string();
            assert!(error.contains("invalid string value"), "{error}");
        }
    }

    #[test]
    fn a_head_keeps_what_the_request_says() {
        let request = dapr_sidecar_core::invoke::Request {
            verb: Some(http::Method::PUT),
            method: "m".to_owned(),
            query: "q".to_owned(),
            headers: HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("a/b"))]),
            type_url: "t".to_owned(),
            origin: Origin::Http,
            body: dapr_sidecar_core::body::empty(),
        };
        let (head, _) = request_head(request);
        assert_eq!(head.message.content_type, "a/b");
        assert_eq!(head.message.data.expect("its type").type_url, "t");
    }
}
