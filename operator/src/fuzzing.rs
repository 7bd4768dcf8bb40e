//! What the fuzz target calls, and the tests with its seeds: a resource of any kind and a conversion review, with the
//! properties that no input may break. Compiled for them only.

use async_trait::async_trait;
use dapr_crds::subscription::{convert, review, v1alpha1, v2alpha1};
use dapr_crds::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
};
use dapr_kubernetes::Change;
use dapr_proto::dapr::proto::operator::v1::ComponentUpdateEvent;
use futures::FutureExt as _;
use prost::Message as _;
use serde_json::{Value, json};

use crate::hub::{Hub, View};
use crate::kinds::Kind;
use crate::secrets::{self, Data, Error};
use crate::vault::{Source, Vault};

/// What stands before the message in a frame of gRPC.
const PREFIX: usize = 5;

/// What can be read is written back as the same object, told to sidecars whole, and converted without loss.
pub fn resources(data: &[u8]) {
    kind::<Component>(data);
    kind::<Configuration>(data);
    kind::<HttpEndpoint>(data);
    kind::<McpServer>(data);
    kind::<Resiliency>(data);
    kind::<v2alpha1::Subscription>(data);
    kind::<WorkflowAccessPolicy>(data);
    if let Ok(object) = serde_json::from_slice::<Value>(data) {
        converted(&object);
        reviewed(&object);
    }
}

/// Every Secret, with one key.
struct Secrets;

#[async_trait]
impl Source for Secrets {
    async fn fetch(&self, _namespace: &str, _name: &str) -> Result<Data, Error> {
        Ok(Data::from_iter([("key".to_owned(), b"hidden".to_vec())]))
    }
}

fn kind<K: Kind>(data: &[u8]) {
    let Ok(object) = serde_json::from_slice::<K>(data) else {
        return;
    };
    let text = serde_json::to_vec(&object).expect("it can be written");
    let back: K = serde_json::from_slice(&text).expect("it can be read again");
    assert_eq!(back, object, "{}", String::from_utf8_lossy(&text));
    assert!(back.is_same(&object));
    told(object);
}

/// An app that may see the object is told the same by list and stream.
fn told<K: Kind>(object: K) {
    let scopes = dapr_crds::meta::Object::scopes(&object);
    let app_id = scopes.first().cloned().unwrap_or_default();
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    let is_plain = secrets::names(&object).is_empty();
    let hub = Hub::<K>::new(Vault::new(Secrets));
    // From here on what comes is a change.
    hub.apply(Change::Synced);
    let view = |_: Option<&str>| View::App(app_id.as_str().into());
    let mut stream = hub.subscribe(&namespace, view, None).expect("it is open");
    hub.apply(Change::Applied {
        old: None,
        new: object.clone().into(),
    });
    // None waits for what is not there yet: a stream that is silent here would be silent for ever.
    let listed = hub.list(&namespace, &app_id, None).now_or_never();
    let event = stream.next().now_or_never();
    let one = hub.get(&namespace, &name, None).now_or_never();
    let listed = listed.expect("it is listed");
    let event = event.expect("it is told").expect("it is open");
    let one = one.expect("it is given");
    let (Ok(listed), Ok(event), Ok(one)) = (&listed, &event, &one) else {
        // A key that the Secret lacks: nobody is told anything.
        assert!(!is_plain && listed.is_err() && event.is_err() && one.is_err());
        return;
    };
    assert_eq!((listed.len(), listed.first()), (1, one.as_ref()));
    let message = ComponentUpdateEvent::decode(&event.message[PREFIX..]).expect("a message");
    assert_eq!((&message.component, message.r#type), (&event.object, 1));
    let mut whole: Value = serde_json::from_slice(&listed[0]).expect("JSON");
    let streamed: Value = serde_json::from_slice(&event.object).expect("JSON");
    let fields = whole.as_object_mut().expect("an object");
    assert!(fields.remove("kind").is_some() && fields.remove("apiVersion").is_some());
    assert_eq!(whole, streamed);
    let read: K = serde_json::from_slice(&listed[0]).expect("it can be read");
    if is_plain {
        assert_eq!(read, object);
    }
}

/// There and back again, and nothing is missing.
fn converted(object: &Value) {
    for (own, other) in [
        ("dapr.io/v1alpha1", "dapr.io/v2alpha1"),
        ("dapr.io/v2alpha1", "dapr.io/v1alpha1"),
    ] {
        let mut object = object.clone();
        let Some(fields) = object.as_object_mut() else {
            return;
        };
        fields.insert("apiVersion".to_owned(), json!(own));
        fields.insert("kind".to_owned(), json!("Subscription"));
        let Ok(there) = convert(&object, other) else {
            continue;
        };
        let back = convert(&there, own).expect("what was converted can be converted");
        if own == "dapr.io/v1alpha1" {
            let read = |it: &Value| serde_json::from_value::<v1alpha1::Subscription>(it.clone());
            let (before, after) = (read(&object).expect("read"), read(&back).expect("read"));
            assert_eq!((before.spec, before.scopes), (after.spec, after.scopes));
        } else {
            let read = |it: &Value| serde_json::from_value::<v2alpha1::Subscription>(it.clone());
            let (before, after) = (read(&object).expect("read"), read(&back).expect("read"));
            assert_eq!((before.spec, before.scopes), (after.spec, after.scopes));
        }
    }
}

/// Whatever is asked has an answer, to the same question.
fn reviewed(asked: &Value) {
    let Some(answer) = review(asked) else {
        assert!(!asked["request"].is_object());
        return;
    };
    let uid = asked["request"].get("uid");
    assert_eq!(Some(&answer["response"]["uid"]), uid.or(Some(&json!(""))));
    let converted = answer["response"]["convertedObjects"].as_array();
    let status = answer["response"]["result"]["status"].as_str();
    let asked = asked["request"]["objects"].as_array().map_or(0, Vec::len);
    match status {
        Some("Success") => assert_eq!(converted.map_or(0, Vec::len), asked),
        other => assert_eq!((other, converted), (Some("Failure"), None)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_seeds_break_nothing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/operator_resources");
        let seeds = std::fs::read_dir(folder).expect("there are seeds");
        let mut count = 0;
        for seed in seeds {
            let path = seed.expect("a seed").path();
            resources(&std::fs::read(path).expect("readable"));
            count += 1;
        }
        assert!(count >= 9, "one for each kind and the review: {count}");
    }

    #[test]
    fn what_lacks_a_key_is_told_to_nobody() {
        resources(
            br#"{"metadata": {"name": "c"}, "spec": {"tracing": {"otel": {"headers": [
                {"name": "a", "secretKeyRef": {"name": "s", "key": "absent"}}
            ]}}}}"#,
        );
    }
}
