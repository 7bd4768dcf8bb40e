//! Kubernetes Events: what a controller tells people about an object.
//!
//! Each is written once; nothing is counted up or repeated here, and what an Event says is the caller's business.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

/// Characters of a message that are kept: the API server takes 1,024 bytes.
const MESSAGE_LIMIT: usize = 1024;
/// Bytes of the object's name in the Event's: with a point and sixteen digits it has to be a name of at most 253.
const NAME_LIMIT: usize = 236;

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For information.
    Normal,
    /// Something is wrong.
    Warning,
}

/// What is to be told about an object.
#[derive(Clone, Debug)]
pub struct Note<'a> {
    /// The object; it needs a namespace and a name.
    pub regarding: ObjectReference,
    /// Whether somebody should look.
    pub kind: Kind,
    /// One word for programs.
    pub reason: &'a str,
    /// A sentence for people.
    pub message: String,
    /// Who tells it.
    pub component: &'a str,
    /// What makes it the same as an Event that was written before: then it is not written again, by no process, for as
    /// long as the API server keeps the first one. `None` makes each its own.
    pub once: Option<u64>,
}

/// Writes the Event, into the namespace of its object. One that was there already is no error.
///
/// # Errors
/// The API server refused it or was not reached.
pub async fn write(client: &Client, note: Note<'_>) -> Result<(), kube::Error> {
    let is_unique = note.once.is_none();
    let event = document(note, Timestamp::now());
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events = Api::<Event>::namespaced(client.clone(), &namespace);
    match events.create(&PostParams::default(), &event).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 && !is_unique => Ok(()),
        Err(error) => Err(error),
    }
}

fn document(note: Note<'_>, now: Timestamp) -> Event {
    let Note {
        regarding,
        kind,
        reason,
        mut message,
        component,
        once,
    } = note;
    let suffix = match once {
        Some(once) => format!("{once:016x}"),
        // As other controllers name theirs: unique, and in the order of time.
        None => format!("{:016x}", now.as_nanosecond()),
    };
    let namespace = regarding.namespace.clone();
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    let mut name = regarding.name.clone().unwrap_or_default();
    name.truncate(name.floor_char_boundary(NAME_LIMIT));
    message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{suffix}")),
            namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: regarding,
        type_: Some(
            match kind {
                Kind::Normal => "Normal",
                Kind::Warning => "Warning",
            }
            .to_owned(),
        ),
        reason: Some(reason.to_owned()),
        message: Some(message),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            ..EventSource::default()
        }),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_fits_whatever_it_is_about() {
        let note = Note {
            regarding: ObjectReference {
                name: Some("ü".repeat(200)),
                ..ObjectReference::default()
            },
            kind: Kind::Warning,
            reason: "Reason",
            message: "ä".repeat(2000),
            component: "dapr-operator",
            once: None,
        };
        let event = document(note, Timestamp::from_second(1_700_000_000).expect("a time"));
        assert!(
            event
                .metadata
                .name
                .as_ref()
                .is_some_and(|name| name.len() <= 253)
        );
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert!(
            event
                .message
                .as_ref()
                .is_some_and(|text| text.len() <= MESSAGE_LIMIT)
        );
        assert_eq!(event.type_.as_deref(), Some("Warning"));
    }
}
