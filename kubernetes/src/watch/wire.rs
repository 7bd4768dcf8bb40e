//! What the API server writes: lists and events, read piece by piece so that one bad object harms no other.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::store::Key;

/// Which version of which object something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) key: Key,
    pub(super) version: Option<Box<str>>,
    pub(super) uid: Option<Box<str>>,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// `None` when the server gives none that says anything.
    pub(super) version: Option<String>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
    pub(super) items: Vec<&'a RawValue>,
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// An object as it is now.
    Applied(&'a RawValue),
    /// An object as it was before it was deleted.
    Deleted(&'a RawValue),
    /// Everything up to this version was told.
    Bookmark(Option<String>),
    /// The server will not go on.
    Error(Status),
    /// A type of event this code does not know.
    Unknown,
}

/// The server's own words on a failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) reason: Cow<'static, str>,
    pub(super) message: String,
    pub(super) details: Option<Details>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Details {
    pub(super) retry_after_seconds: u64,
    pub(super) causes: Option<Vec<Cause>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Cause {
    pub(super) reason: String,
    pub(super) message: String,
}

/// Why something is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the answer is not a list: {0}")]
    NotAList(serde_json::Error),
    #[error("the answer has neither items nor the kind of a list")]
    NoList,
    #[error("the watch sent something that is not an event: {0}")]
    NotAnEvent(serde_json::Error),
    #[error("an object without metadata: {0}")]
    NoMetadata(serde_json::Error),
    #[error("an object without a name")]
    NoName,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(borrow, default)]
    kind: Cow<'a, str>,
    #[serde(default)]
    metadata: Option<RawListMeta>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawListMeta {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct RawObject<'a> {
    #[serde(borrow)]
    metadata: RawMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
}

impl<'a> Page<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Error> {
        let list: RawList<'a> = serde_json::from_slice(body).map_err(Error::NotAList)?;
        // Go writes an empty list as `null`; but a stray `{}` must not delete every object.
        if list.items.is_none() && !list.kind.ends_with("List") {
            return Err(Error::NoList);
        }
        let metadata = list.metadata.unwrap_or_default();
        Ok(Self {
            version: told(metadata.resource_version),
            next: metadata.r#continue.filter(|token| !token.is_empty()),
            items: list.items.unwrap_or_default(),
        })
    }
}

impl<'a> Event<'a> {
    pub(super) fn read(frame: &'a [u8]) -> Result<Self, Error> {
        let event: RawEvent<'a> = serde_json::from_slice(frame).map_err(Error::NotAnEvent)?;
        Ok(match &*event.r#type {
            "ADDED" | "MODIFIED" => Self::Applied(event.object),
            "DELETED" => Self::Deleted(event.object),
            "BOOKMARK" => {
                let object: Option<RawObject<'_>> = serde_json::from_str(event.object.get()).ok();
                let version = object.and_then(|object| object.metadata.resource_version);
                Self::Bookmark(told(version.map(Cow::into_owned)))
            }
            "ERROR" => Self::Error(Status::read(event.object.get().as_bytes())),
            _ => Self::Unknown,
        })
    }
}

/// Zero is what servers write that have no versions: to a real one it would mean "any state, also an old one".
fn told(version: Option<String>) -> Option<String> {
    version.filter(|version| !version.is_empty() && version != "0")
}

impl Identity {
    /// Who an object is; `namespace` is where the list was asked for, as minimal servers leave it out.
    pub(super) fn read(object: &RawValue, namespace: Option<&str>) -> Result<Self, Error> {
        let object: RawObject<'_> =
            serde_json::from_str(object.get()).map_err(Error::NoMetadata)?;
        let metadata = object.metadata;
        let name = metadata
            .name
            .filter(|name| !name.is_empty())
            .ok_or(Error::NoName)?;
        let own = metadata
            .namespace
            .as_deref()
            .filter(|namespace| !namespace.is_empty());
        let set = |text: Option<Cow<'_, str>>| {
            text.filter(|text| !text.is_empty())
                .map(|text| (*text).into())
        };
        Ok(Self {
            key: Key {
                namespace: own.or(namespace).unwrap_or_default().into(),
                name: (*name).into(),
            },
            version: set(metadata.resource_version),
            uid: set(metadata.uid),
        })
    }

    /// The object itself, in its namespace and without its managed fields.
    pub(super) fn object<K>(&self, object: &RawValue) -> Result<K, serde_json::Error>
    where
        K: kube::Resource + DeserializeOwned,
    {
        let mut object: K = serde_json::from_str(object.get())?;
        let metadata = object.meta_mut();
        metadata.managed_fields = None;
        if metadata.namespace.is_none() && !self.key.namespace.is_empty() {
            metadata.namespace = Some(self.key.namespace.to_string());
        }
        Ok(object)
    }
}

/// Why something cannot be read, without what the error quotes of it: that may be a password. Nor does it say where,
/// which is another place whenever the server adds a field before it.
pub(super) fn unquoted(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let is_quote = |character| matches!(character, '"' | '`');
    // All between the first quote and the last one: a value may hold quotes of its own.
    match (text.find(is_quote), text.rfind(is_quote)) {
        (Some(first), Some(last)) if first < last => {
            let (before, after) = (text.get(..first), text.get(last + 1..));
            format!(
                "{}…{}",
                before.unwrap_or_default(),
                after.unwrap_or_default()
            )
        }
        _ => text.to_owned(),
    }
}

impl Status {
    /// Servers and proxies answer failures as they like: what is no status is its own message.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| Self {
            message: String::from_utf8_lossy(body)
                .chars()
                .take(MESSAGE_LIMIT)
                .collect(),
            ..Self::default()
        })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        let seconds = self.details.as_ref()?.retry_after_seconds;
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

/// How many characters of an unreadable answer reach the log.
const MESSAGE_LIMIT: usize = 200;

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn raw(value: &serde_json::Value) -> Box<RawValue> {
        serde_json::value::to_raw_value(value).expect("JSON")
    }

    #[test]
    fn why_something_cannot_be_read_quotes_nothing_of_it() {
        let check = |text: &str, expected: &str| {
            let error = serde_json::from_str::<ConfigMap>(text).expect_err("no object");
            assert_eq!(unquoted(&error), expected, "{error}");
        };
        let hidden = r#"{"kind": "ConfigMap", "apiVersion": "v1", "immutable": "hid\"den` 'x"}"#;
        check(hidden, "invalid type: string …, expected a boolean");
        let hidden = r#"{"kind": "ConfigMap", "apiVersion": "v1", "immutable": 4711}"#;
        check(hidden, "invalid type: integer …, expected a boolean");
        check("{", "EOF while parsing an object");
    }

    #[test]
    fn lists_may_lack_nearly_everything() {
        let check = |text: &str, version: Option<&str>, next: Option<&str>, items: usize| {
            let page = Page::read(text.as_bytes()).expect("a list");
            assert_eq!(page.version.as_deref(), version, "{text}");
            assert_eq!(page.next.as_deref(), next, "{text}");
            assert_eq!(page.items.len(), items, "{text}");
        };
        check(r#"{"items":[{},1]}"#, None, None, 2);
        check(
            r#"{"kind":"PodList","items":null,"metadata":null}"#,
            None,
            None,
            0,
        );
        check(
            r#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":""}}"#,
            Some("7"),
            None,
            0,
        );
        check(
            r#"{"items":[],"metadata":{"resourceVersion":"0","continue":"x"}}"#,
            None,
            Some("x"),
            0,
        );
        check(
            r#"{"items":[],"metadata":{"resourceVersion":"","remainingItemCount":3}}"#,
            None,
            None,
            0,
        );
    }

    #[test]
    fn what_is_no_list_deletes_nothing() {
        for text in [
            "{}",
            "[]",
            r#"{"kind":"Status","code":500}"#,
            "",
            r#"{"items":{}}"#,
        ] {
            assert!(Page::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn events_are_told_apart() {
        let read = |text: &'static str| Event::read(text.as_bytes()).expect("an event");
        assert!(matches!(
            read(r#"{"object":{},"type":"ADDED"}"#),
            Event::Applied(_)
        ));
        assert!(matches!(
            read(r#"{"type":"MODIFIED","object":{}}"#),
            Event::Applied(_)
        ));
        assert!(matches!(
            read(r#"{"type":"DELETED","object":{}}"#),
            Event::Deleted(_)
        ));
        assert!(matches!(
            read(r#"{"type":"NEWS","object":{}}"#),
            Event::Unknown
        ));
        assert!(matches!(
            read(r#"{"type":"BOOKMARK","object":{}}"#),
            Event::Bookmark(None)
        ));
        let Event::Bookmark(version) =
            read(r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#)
        else {
            panic!("a bookmark");
        };
        assert_eq!(version.as_deref(), Some("9"));
        let Event::Error(status) =
            read(r#"{"type":"ERROR","object":{"code":410,"reason":"Expired"}}"#)
        else {
            panic!("an error");
        };
        assert_eq!((status.code, &*status.reason), (410, "Expired"));
        for text in [
            "{}",
            r#"{"type":"ADDED"}"#,
            r#"{"kind":"PodList","items":[]}"#,
        ] {
            assert!(Event::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn an_object_belongs_to_the_namespace_asked_for() {
        let bare = raw(&json!({"metadata": {"name": "a"}}));
        let identity = Identity::read(&bare, Some("shop")).expect("an identity");
        assert_eq!(
            (&*identity.key.namespace, &*identity.key.name),
            ("shop", "a")
        );
        let object: ConfigMap = identity.object(&bare).expect("an object");
        assert_eq!(object.metadata.namespace.as_deref(), Some("shop"));
        let own = raw(
            &json!({"metadata": {"name": "a", "namespace": "b", "uid": "u", "resourceVersion": "4"}}),
        );
        let identity = Identity::read(&own, None).expect("an identity");
        assert_eq!(&*identity.key.namespace, "b");
        assert_eq!(
            (identity.uid.as_deref(), identity.version.as_deref()),
            (Some("u"), Some("4"))
        );
        for nameless in [
            json!({}),
            json!({"metadata": {}}),
            json!({"metadata": {"name": ""}}),
            json!(1),
        ] {
            assert!(Identity::read(&raw(&nameless), None).is_err(), "{nameless}");
        }
    }

    #[test]
    fn managed_fields_are_dropped() {
        let object =
            raw(&json!({"metadata": {"name": "a", "managedFields": [{"manager": "kubectl"}]}}));
        let identity = Identity::read(&object, None).expect("an identity");
        let object: ConfigMap = identity.object(&object).expect("an object");
        assert_eq!(object.metadata.managed_fields, None);
    }

    #[test]
    fn a_failure_speaks_for_itself() {
        let status = Status::read(br#"{"kind":"Status","code":429,"message":"slow down","details":{"retryAfterSeconds":3}}"#);
        assert_eq!(status.retry_after(), Some(Duration::from_secs(3)));
        let page = Status::read(b"<html>bad gateway</html>");
        assert_eq!(page.message, "<html>bad gateway</html>");
    }
}
