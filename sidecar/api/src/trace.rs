//! Trace context and baggage: read, made, passed on. Spans are not exported.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use dapr_sidecar_core::pubsub::Trace;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::settings::Tracing;

/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// W3C trace state.
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Binary trace context of gRPC.
pub(crate) const GRPC_TRACE_BIN: HeaderName = HeaderName::from_static("grpc-trace-bin");
/// W3C baggage.
pub(crate) const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

const ZERO: &str = "00-00000000000000000000000000000000-0000000000000000-00";

/// gRPC leaves padding out, others may send it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A position in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl SpanContext {
    /// Parses a `traceparent`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?.get(..2)?, 2)?;
        let complete = version != 0 || parts.next().is_none();
        let valid = version <= 254 && trace_id != 0 && span_id != 0 && complete;
        valid.then_some(Self {
            trace_id,
            span_id,
            flags: u8::try_from(flags).unwrap_or_default(),
        })
    }

    /// Parses the 29 bytes of `grpc-trace-bin`; span id and flags may be missing.
    pub(crate) fn from_binary(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[0, 0])?;
        let trace_id = u128::from_be_bytes(rest.get(..16)?.try_into().ok()?);
        let rest = rest.get(16..)?;
        let (span_id, rest) = match rest {
            [1, rest @ ..] => {
                let id = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
                (id, rest.get(8..)?)
            }
            _ => (0, rest),
        };
        let flags = match rest {
            [2, flags, ..] => *flags,
            _ => 0,
        };
        (trace_id != 0).then_some(Self {
            trace_id,
            span_id,
            flags,
        })
    }

    /// The `traceparent` text.
    pub(crate) fn text(self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id, self.span_id, self.flags
        )
    }

    fn binary(self) -> [u8; 29] {
        let mut bytes = [0; 29];
        bytes[2..18].copy_from_slice(&self.trace_id.to_be_bytes());
        bytes[18] = 1;
        bytes[19..27].copy_from_slice(&self.span_id.to_be_bytes());
        bytes[27] = 2;
        bytes[28] = self.flags;
        bytes
    }

    /// A span below `parent`, or the first of a new trace.
    fn child(parent: Option<Self>, rate: f64) -> Self {
        let span_id = rand::random::<u64>().max(1);
        match parent {
            Some(parent) => Self { span_id, ..parent },
            None => Self {
                trace_id: rand::random::<u128>().max(1),
                span_id,
                flags: u8::from(rand::random::<f64>() < rate),
            },
        }
    }
}

/// What an event says of its trace: nothing where the text is no trace context, and a state only beside one.
pub(crate) fn published(traceparent: &str, tracestate: &str) -> Trace {
    match SpanContext::parse(traceparent) {
        None => Trace::default(),
        Some(span) => Trace {
            traceparent: span.text(),
            tracestate: tracestate.to_owned(),
        },
    }
}

/// A span beside the one given, in the same trace: each entry of a batch has its own.
pub(crate) fn sibling(trace: &Trace) -> Trace {
    let traceparent = match SpanContext::parse(&trace.traceparent) {
        Some(span) => SpanContext::child(Some(span), 0.0).text(),
        None => trace.traceparent.clone(),
    };
    Trace {
        traceparent,
        tracestate: trace.tracestate.clone(),
    }
}

fn hex(text: &str, digits: usize) -> Option<u128> {
    let well_formed = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    well_formed
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

/// What answers say about the trace of their request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    traceparent: Option<HeaderValue>,
    tracestate: Option<HeaderValue>,
    baggage: Option<HeaderValue>,
}

impl Answer {
    /// Adds the headers of an HTTP answer, unless the handler has set its own.
    pub(crate) fn write_http(self, headers: &mut HeaderMap) {
        let traceparent = self
            .traceparent
            .filter(|_| !headers.contains_key(TRACEPARENT));
        if let Some(value) = traceparent {
            headers.insert(TRACEPARENT, value);
            if let Some(value) = self.tracestate {
                headers.insert(TRACESTATE, value);
            }
        }
        if let Some(value) = self.baggage {
            headers.insert(BAGGAGE, value);
        }
    }

    /// Adds the metadata of a gRPC answer.
    pub(crate) fn write_grpc(&self, headers: &mut HeaderMap) {
        let span = self
            .traceparent
            .as_ref()
            .and_then(|value| SpanContext::parse(value.to_str().ok()?));
        if let Some(value) = span.and_then(binary_value) {
            headers.insert(GRPC_TRACE_BIN, value);
        }
        self.write_baggage(headers);
    }

    /// Adds the trace of a gRPC invocation to the metadata of its answer, as text where other methods have it in binary form.
    pub(crate) fn write_invocation(&self, tracing: Tracing, headers: &mut HeaderMap) {
        if let Some(value) = &self.traceparent {
            headers.insert(TRACEPARENT, value.clone());
        } else if tracing != Tracing::Off {
            headers.insert(TRACEPARENT, HeaderValue::from_static(ZERO));
        }
        self.write_baggage(headers);
    }

    /// Adds the caller's baggage to the metadata of a gRPC answer, beside what an application says there.
    pub(crate) fn write_baggage(&self, headers: &mut HeaderMap) {
        if let Some(value) = &self.baggage {
            headers.append(BAGGAGE, value.clone());
        }
    }

    /// The trace of this request, empty without one.
    pub(crate) fn traceparent(&self) -> &str {
        self.traceparent
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

/// Reads the trace context of an HTTP request; with tracing on, the request then names our span as parent.
/// Fails with the text for the caller when its baggage is malformed.
pub(crate) fn http(tracing: Tracing, headers: &mut HeaderMap) -> Result<Answer, String> {
    let rate = match tracing {
        Tracing::Off => return Ok(Answer::default()),
        Tracing::PassThrough => {
            let traceparent = headers.get(TRACEPARENT).cloned();
            return Ok(Answer {
                baggage: checked_baggage(headers)?,
                tracestate: headers.get(TRACESTATE).cloned(),
                traceparent: Some(traceparent.unwrap_or(HeaderValue::from_static(ZERO))),
            });
        }
        Tracing::On { rate } => rate,
    };
    let baggage = checked_baggage(headers)?;
    let parent = headers
        .get(TRACEPARENT)
        .and_then(|value| SpanContext::parse(value.to_str().ok()?));
    let span = SpanContext::child(parent, rate);
    let tracestate = headers
        .get(TRACESTATE)
        .filter(|_| parent.is_some())
        .cloned();
    let traceparent = HeaderValue::from_str(&span.text()).ok();
    if let Some(value) = &traceparent {
        headers.insert(TRACEPARENT, value.clone());
    }
    Ok(Answer {
        traceparent,
        tracestate,
        baggage,
    })
}

/// As [`http`] for gRPC, where `grpc-trace-bin` comes first.
pub(crate) fn grpc(tracing: Tracing, headers: &mut HeaderMap) -> Result<Answer, String> {
    let parent = headers
        .get(GRPC_TRACE_BIN)
        .and_then(|value| SpanContext::from_binary(&BASE64.decode(value.as_bytes()).ok()?))
        .or_else(|| SpanContext::parse(headers.get(TRACEPARENT)?.to_str().ok()?));
    let span = match tracing {
        Tracing::Off => return Ok(Answer::default()),
        Tracing::PassThrough => parent,
        Tracing::On { rate } => Some(SpanContext::child(parent, rate)),
    };
    let baggage = checked_baggage(headers)?;
    let traceparent = span.and_then(|span| HeaderValue::from_str(&span.text()).ok());
    if let (Tracing::On { .. }, Some(span), Some(value)) = (tracing, span, &traceparent) {
        headers.insert(TRACEPARENT, value.clone());
        if let Some(value) = binary_value(span) {
            headers.insert(GRPC_TRACE_BIN, value);
        }
    }
    Ok(Answer {
        traceparent,
        tracestate: headers.get(TRACESTATE).cloned(),
        baggage,
    })
}

/// The trace context an event is delivered with: its own, with tracing on that of a span below it.
pub fn delivery(tracing: Tracing, event: &HeaderMap) -> HeaderMap {
    let mut headers = event.clone();
    if let (Tracing::On { rate }, Some(parent)) = (tracing, event.get(TRACEPARENT)) {
        let parent = parent.to_str().ok().and_then(SpanContext::parse);
        if let Ok(value) = HeaderValue::from_str(&SpanContext::child(parent, rate).text()) {
            headers.insert(TRACEPARENT, value);
        }
    }
    headers
}

/// The binary form of a `traceparent` for gRPC applications, base64 as metadata is on the wire; `None` where
/// the text is no trace context.
pub fn to_binary(traceparent: &HeaderValue) -> Option<HeaderValue> {
    SpanContext::parse(traceparent.to_str().ok()?).and_then(binary_value)
}

/// The `traceparent` of a value of `grpc-trace-bin`, for HTTP applications; `None` where it is no trace context.
pub fn from_binary(value: &HeaderValue) -> Option<HeaderValue> {
    let span = SpanContext::from_binary(&BASE64.decode(value.as_bytes()).ok()?)?;
    HeaderValue::from_str(&span.text()).ok()
}

fn binary_value(span: SpanContext) -> Option<HeaderValue> {
    HeaderValue::from_str(&BASE64.encode(span.binary())).ok()
}

fn checked_baggage(headers: &HeaderMap) -> Result<Option<HeaderValue>, String> {
    if !headers.contains_key(BAGGAGE) {
        return Ok(None);
    }
    let values: Vec<&str> = headers
        .get_all(BAGGAGE)
        .iter()
        .map(|value| value.to_str().unwrap_or("\u{fffd}"))
        .collect();
    let joined = values.join(",");
    if joined.trim().is_empty() {
        // A header that says nothing is no baggage.
        return Ok(None);
    }
    check_baggage(&joined).map_err(|reason| format!("invalid baggage header: {reason}"))?;
    Ok(HeaderValue::from_str(&joined).ok())
}

/// Checks a W3C baggage text; fails with the reason.
fn check_baggage(text: &str) -> Result<(), String> {
    if text.len() > 8192 {
        return Err("baggage is larger than 8192 bytes".to_owned());
    }
    for member in text.split(',') {
        let properties = member.split_once(';').map(|(_, properties)| properties);
        let pair = member.split(';').next().unwrap_or_default();
        let key_value = pair.split_once('=').filter(|(key, value)| {
            is_token(key.trim()) && value.trim().bytes().all(is_baggage_octet)
        });
        let well_formed = properties.is_none_or(|properties| {
            properties.split(';').all(|property| {
                let (key, value) = property.split_once('=').unwrap_or((property, ""));
                is_token(key.trim()) && value.trim().bytes().all(is_baggage_octet)
            })
        });
        if key_value.is_none() || !well_formed {
            return Err(format!("invalid baggage list-member: {member:?}"));
        }
    }
    Ok(())
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_baggage_octet(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn traceparents_are_checked() {
        let check = |text: &str, valid: bool| {
            assert_eq!(SpanContext::parse(text).is_some(), valid, "{text}");
        };
        check(PARENT, true);
        check(&PARENT.replacen("00-", "cc-", 1), true);
        check(&PARENT.replacen("00-", "ff-", 1), false);
        check(&format!("{PARENT}-more"), false);
        check(&format!("{}-more", PARENT.replacen("00-", "01-", 1)), true);
        check(ZERO, false);
        check("00-xyz", false);
        assert_eq!(
            SpanContext::parse(PARENT).map(SpanContext::text).as_deref(),
            Some(PARENT)
        );
    }

    #[test]
    fn binary_and_text_agree() {
        let span = SpanContext::parse(PARENT).expect("valid");
        assert_eq!(SpanContext::from_binary(&span.binary()), Some(span));
        assert_eq!(
            SpanContext::from_binary(&span.binary()[..18]).map(|s| s.trace_id),
            Some(span.trace_id)
        );
        assert_eq!(SpanContext::from_binary(&[]), None);
        let text = HeaderValue::from_static(PARENT);
        let binary = to_binary(&text).expect("a trace");
        assert_eq!(from_binary(&binary), Some(text));
        assert_eq!(from_binary(&HeaderValue::from_static("%")), None);
    }

    #[test]
    fn the_parents_trace_goes_on() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(PARENT));
        let answer = http(Tracing::On { rate: 0.0 }, &mut headers).expect("no baggage");
        let ours = SpanContext::parse(answer.traceparent()).expect("valid");
        let parent = SpanContext::parse(PARENT).expect("valid");
        assert_eq!((ours.trace_id, ours.flags), (parent.trace_id, 1));
        assert_ne!(ours.span_id, parent.span_id);
        assert_eq!(headers[TRACEPARENT], answer.traceparent());
    }

    #[test]
    fn events_are_delivered_with_a_span_of_their_own() {
        let event = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(PARENT))]);
        assert_eq!(delivery(Tracing::PassThrough, &event), event);
        assert_eq!(delivery(Tracing::Off, &event), event);
        let on = Tracing::On { rate: 1.0 };
        let span = |headers: &HeaderMap| {
            let text = headers[TRACEPARENT].to_str().expect("text").to_owned();
            SpanContext::parse(&text).expect("a context")
        };
        let (ours, parent) = (span(&delivery(on, &event)), span(&event));
        assert_eq!((ours.trace_id, ours.flags), (parent.trace_id, 1));
        assert_ne!(ours.span_id, parent.span_id);
        // An event without a trace begins one; a raw message has none to tell.
        let zero = HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_static(ZERO))]);
        span(&delivery(on, &zero));
        assert!(delivery(on, &HeaderMap::new()).is_empty());
    }

    #[test]
    fn without_configuration_context_is_echoed() {
        let mut headers = HeaderMap::new();
        let answer = http(Tracing::PassThrough, &mut headers).expect("no baggage");
        assert_eq!(answer.traceparent(), ZERO);
        assert!(headers.is_empty());
        headers.insert(TRACEPARENT, HeaderValue::from_static(PARENT));
        let answer = http(Tracing::PassThrough, &mut headers).expect("no baggage");
        assert_eq!(answer.traceparent(), PARENT);
        assert_eq!(http(Tracing::Off, &mut headers), Ok(Answer::default()));
    }

    #[test]
    fn a_header_that_says_nothing_is_no_baggage() {
        let mut headers = HeaderMap::new();
        for (text, said) in [("", None), (" ", None), ("a=1", Some("a=1"))] {
            headers.insert(BAGGAGE, HeaderValue::from_static(text));
            let expected = said.map(HeaderValue::from_static);
            assert_eq!(checked_baggage(&headers), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn baggage_is_checked() {
        let check =
            |text: &str, valid: bool| assert_eq!(check_baggage(text).is_ok(), valid, "{text}");
        check("a=1,b=2;p=3;q", true);
        check("key = value", true);
        check("bad baggage;;", false);
        check("=1", false);
        assert_eq!(
            check_baggage("bad baggage;;").expect_err("bad"),
            "invalid baggage list-member: \"bad baggage;;\""
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = SpanContext::parse(&text);
            let _ = SpanContext::from_binary(&bytes);
            drop(check_baggage(&text));
        }
    }
}
