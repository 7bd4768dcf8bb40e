//! What is deployed: the application of the stories, under an app id.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The application of the stories, with a sidecar.
#[derive(Clone, Debug)]
pub struct App {
    id: String,
    replicas: usize,
    annotations: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    /// Where the one beside it passes on what it gets.
    relay: Option<String>,
}

/// The port of a relay.
pub const RELAY: u16 = 9001;

impl App {
    /// One replica.
    pub fn new(id: &str) -> Self {
        let dapr = [
            ("dapr.io/enabled", "true"),
            ("dapr.io/app-id", id),
            ("dapr.io/app-port", "8000"),
        ];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            id: id.to_owned(),
            replicas: 1,
            annotations: dapr.map(owned).into(),
            environment: BTreeMap::new(),
            relay: None,
        }
    }

    /// As one that has not heard of Dapr.
    pub fn plain(id: &str) -> Self {
        Self {
            annotations: BTreeMap::new(),
            ..Self::new(id)
        }
    }

    /// With a native sidecar that has not heard of Dapr either: it is probed as ours is, and passes on to `target`
    /// (`host:port`) the bytes it gets at [`RELAY`].
    pub fn relayed(id: &str, target: &str) -> Self {
        Self {
            relay: Some(target.to_owned()),
            ..Self::plain(id)
        }
    }

    /// So many.
    pub fn replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// With an annotation; the prefix is `dapr.io/`.
    pub fn annotated(mut self, name: &str, value: &str) -> Self {
        self.annotations
            .insert(format!("dapr.io/{name}"), value.to_owned());
        self
    }

    /// Hosts actors of a type.
    pub fn with_actors(self, kind: &str) -> Self {
        self.with("ACTORS", kind)
    }

    /// Serves on for some seconds after SIGTERM, while others still come to it.
    pub fn lingering(self, seconds: u32) -> Self {
        self.with("LINGER", &seconds.to_string())
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Its app id, which is its label `app` and the name of its Deployment as well.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) const fn size(&self) -> usize {
        self.replicas
    }

    /// Its Deployment.
    pub fn deployment(&self, image: &str) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.id},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": {"app": self.id}},
                "template": self.template(image, &["serve"]),
            },
        })
    }

    /// A template of pods that run the application with these words.
    pub(crate) fn template(&self, image: &str, words: &[&str]) -> Value {
        let pod = json!({"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
        let others = self
            .environment
            .iter()
            .map(|(name, value)| json!({"name": name, "value": value}));
        let environment: Vec<Value> = std::iter::once(pod).chain(others).collect();
        let relays = self.relay.iter().map(|target| {
            json!({
                "name": "relay",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["relay", RELAY.to_string(), target],
                "restartPolicy": "Always",
                "readinessProbe": {
                    "tcpSocket": {"port": RELAY},
                    "initialDelaySeconds": 1,
                    "periodSeconds": 1,
                },
            })
        });
        let relays: Vec<Value> = relays.collect();
        json!({
            "metadata": {"labels": {"app": self.id}, "annotations": self.annotations},
            "spec": {
                "initContainers": relays,
                "containers": [{
                    "name": "app",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "args": words,
                    "env": environment,
                }],
            },
        })
    }
}
