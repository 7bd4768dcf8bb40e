//! The CloudEvents envelope of a published message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Zoned;
use serde_json::value::RawValue;

use super::content_type;
use super::request::Trace;
use crate::duration::{self, Signed};
use crate::state::canonical::{write_raw, write_string};

/// Type of events that do not name one.
const DEFAULT_TYPE: &str = "com.dapr.event.sent";
/// Source of events that come as CloudEvents and do not name one.
const DEFAULT_SOURCE: &str = "Dapr";
/// Version of the specification.
const SPEC_VERSION: &str = "1.0";
/// Content type of data that comes without one.
const DEFAULT_CONTENT_TYPE: &str = "text/plain";

/// What an envelope says besides the data.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// Own app id, the source.
    pub(crate) app_id: &'a str,
    /// Component.
    pub(crate) pubsub: &'a str,
    /// Topic as the application names it.
    pub(crate) topic: &'a str,
    /// Content type of the data; empty if none was given.
    pub(crate) content_type: &'a str,
    /// Metadata of the request.
    pub(crate) metadata: &'a BTreeMap<String, String>,
    /// Trace context.
    pub(crate) trace: &'a Trace,
    /// The time of publishing.
    pub(crate) now: &'a Zoned,
    /// Whether the component expires messages by itself.
    pub(crate) expires: bool,
}

/// A member of the envelope.
enum Member<'a> {
    Text(Cow<'a, str>),
    Json(&'a RawValue),
}

type Members<'a> = BTreeMap<Cow<'a, str>, Member<'a>>;

/// The JSON text of the envelope around `data`; `id` gives an id where the request has none. Fails where the
/// data claims to be a CloudEvent and is not, with the reason.
pub(crate) fn build(
    data: &[u8],
    context: &Context<'_>,
    id: impl FnOnce() -> String,
) -> Result<Bytes, serde_json::Error> {
    let mut members = if content_type::is_cloud_event(context.content_type) {
        from_cloud_event(data, context)?
    } else {
        from_data(data, context, id)
    };
    if !context.expires
        && let Some(expiration) = expiration(context)
    {
        members.insert("expiration".into(), Member::Text(expiration.into()));
    }
    write(&members, data.len())
}

/// Completes a CloudEvent; what the caller says stays, but for topic and component. Without a type, source or version
/// is also one that has `null` there.
fn from_cloud_event<'a>(
    data: &'a [u8],
    context: &Context<'a>,
) -> Result<Members<'a>, serde_json::Error> {
    let fields: BTreeMap<Cow<'a, str>, &'a RawValue> = serde_json::from_slice(data)?;
    let mut members: Members<'a> = fields
        .into_iter()
        .map(|(key, value)| (key, Member::Json(value)))
        .collect();
    if !members.contains_key("traceid") {
        let traceparent = context.trace.traceparent.as_str();
        members.insert("traceid".into(), Member::Text(traceparent.into()));
        members.insert("traceparent".into(), Member::Text(traceparent.into()));
    }
    let tracestate = context.trace.tracestate.as_str();
    let defaults: [(&'static str, Cow<'a, str>); 5] = [
        ("time", timestamp(context.now).into()),
        ("tracestate", tracestate.into()),
        ("source", DEFAULT_SOURCE.into()),
        ("type", DEFAULT_TYPE.into()),
        ("specversion", SPEC_VERSION.into()),
    ];
    for name in ["source", "type", "specversion"] {
        let is_null =
            |member: &Member<'_>| matches!(member, Member::Json(raw) if raw.get() == "null");
        if members.get(name).is_some_and(is_null) {
            members.remove(name);
        }
    }
    for (name, value) in defaults {
        members
            .entry(name.into())
            .or_insert_with(|| Member::Text(value));
    }
    members.insert("topic".into(), Member::Text(context.topic.into()));
    members.insert("pubsubname".into(), Member::Text(context.pubsub.into()));
    Ok(members)
}

/// Puts data into a new envelope.
fn from_data<'a>(
    data: &'a [u8],
    context: &Context<'a>,
    id: impl FnOnce() -> String,
) -> Members<'a> {
    let overridden = |name: &str| property(context.metadata, name);
    // Some may be made empty: no trace, and nobody's source.
    let given =
        |name: &str| overridden(name).or_else(|| is_there(context.metadata, name).then_some(""));
    let trace = overridden("cloudevent.traceparent")
        .or_else(|| given("cloudevent.traceid"))
        .unwrap_or(&context.trace.traceparent);
    let tracestate = given("cloudevent.tracestate").unwrap_or(&context.trace.tracestate);
    let source = match given("cloudevent.source") {
        Some("") => DEFAULT_SOURCE,
        Some(given) => given,
        None => context.app_id,
    };
    let content_type = match context.content_type {
        "" => DEFAULT_CONTENT_TYPE,
        given => given,
    };
    let id: Cow<'a, str> = match overridden("cloudevent.id") {
        Some(id) => id.into(),
        None => id().into(),
    };
    let mut members: Members<'a> = BTreeMap::new();
    let texts: [(&'static str, Cow<'a, str>); 11] = [
        ("id", id),
        ("specversion", SPEC_VERSION.into()),
        ("datacontenttype", content_type.into()),
        ("source", source.into()),
        (
            "type",
            overridden("cloudevent.type").unwrap_or(DEFAULT_TYPE).into(),
        ),
        ("topic", context.topic.into()),
        ("pubsubname", context.pubsub.into()),
        ("traceid", trace.into()),
        ("traceparent", trace.into()),
        ("tracestate", tracestate.into()),
        ("time", timestamp(context.now).into()),
    ];
    for (name, text) in texts {
        members.insert(name.into(), Member::Text(text));
    }
    if let Some(subject) = overridden("cloudevent.subject") {
        members.insert("subject".into(), Member::Text(subject.into()));
    }
    let (name, value) = payload(data, content_type);
    members.insert(name.into(), value);
    members
}

/// The data under its name.
fn payload<'a>(data: &'a [u8], content_type: &str) -> (&'static str, Member<'a>) {
    if content_type::is_binary(content_type, data) {
        return ("data_base64", Member::Text(STANDARD.encode(data).into()));
    }
    if content_type::is_json(content_type)
        && let Ok(json) = serde_json::from_slice::<&RawValue>(data)
    {
        return ("data", Member::Json(json));
    }
    ("data", Member::Text(String::from_utf8_lossy(data)))
}

fn write(members: &Members<'_>, data: usize) -> Result<Bytes, serde_json::Error> {
    const ATTRIBUTES: usize = 400;
    let mut out = Vec::with_capacity(data + ATTRIBUTES);
    for (name, value) in members {
        out.push(if out.is_empty() { b'{' } else { b',' });
        write_string(name, &mut out);
        out.push(b':');
        match value {
            Member::Text(text) => write_string(text, &mut out),
            Member::Json(raw) => write_raw(raw, &mut out)?,
        }
    }
    out.push(b'}');
    Ok(out.into())
}

/// A metadata value under a name in any letter case; an empty value counts as absent.
pub(crate) fn property<'a>(metadata: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    metadata
        .iter()
        .find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty())
        .map(|(_, value)| value.as_str())
}

/// Whether metadata has a name, in any letter case and with any value.
fn is_there(metadata: &BTreeMap<String, String>, name: &str) -> bool {
    metadata.keys().any(|key| key.eq_ignore_ascii_case(name))
}

/// When a message with a time to live expires, as RFC 3339 in UTC.
fn expiration(context: &Context<'_>) -> Option<String> {
    let text =
        property(context.metadata, "ttl").or_else(|| property(context.metadata, "ttlInSeconds"))?;
    let Signed {
        negative,
        magnitude: ttl,
    } = time_to_live(text)?;
    let now = context.now.timestamp();
    let at = if negative {
        now.checked_sub(ttl)
    } else {
        now.checked_add(ttl)
    };
    let at = at.ok()?;
    Some(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// A Go duration, or a positive number of seconds; `None` is ignored. `0` is a duration, and no time is left of it, as
/// of one below zero.
fn time_to_live(text: &str) -> Option<Signed> {
    if let Ok(parsed) = duration::parse(text) {
        return Some(parsed);
    }
    let seconds = u64::try_from(text.parse::<i64>().ok()?).ok()?;
    (seconds > 0).then_some(Signed {
        negative: false,
        magnitude: Duration::from_secs(seconds),
    })
}

/// RFC 3339 in the zone of `now`, whole seconds.
fn timestamp(now: &Zoned) -> String {
    let zone = if now.offset().is_zero() { "Z" } else { "%:z" };
    now.strftime(&format!("%Y-%m-%dT%H:%M:%S{zone}"))
        .to_string()
}

#[cfg(test)]
mod tests;
