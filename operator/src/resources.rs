//! All the resources of the cluster, and what sidecars may see of them.
//!
//! Filled by the watches of `app/cluster.rs`, read by `server.rs`.

use std::sync::Arc;

use dapr_crds::subscription::v2alpha1::Subscription;
use dapr_crds::{
    Component, Configuration, HttpEndpoint, McpServer, Resiliency, WorkflowAccessPolicy,
};
use dapr_kubernetes::Change;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::assignment::Assignments;
use crate::hub::{Hub, View};
use crate::kinds::Kind;
use crate::pods::Pod;
use crate::vault::Vault;

/// The resources of every kind. Clones see the same.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Components.
    pub components: Shelf<Component>,
    /// Configurations.
    pub configurations: Shelf<Configuration>,
    /// HTTP endpoints.
    pub http_endpoints: Shelf<HttpEndpoint>,
    /// MCP servers.
    pub mcp_servers: Shelf<McpServer>,
    /// Resiliencies.
    pub resiliencies: Shelf<Resiliency>,
    /// Subscriptions, of the version that is stored.
    pub subscriptions: Shelf<Subscription>,
    /// Workflow access policies.
    pub workflow_access_policies: Shelf<WorkflowAccessPolicy>,
    assignments: Arc<Mutex<Assignments>>,
    pods_known: watch::Sender<bool>,
}

/// The resources of one kind, and whether they are all there.
#[derive(Debug)]
pub struct Shelf<K> {
    /// The resources.
    pub hub: Hub<K>,
    state: watch::Sender<State>,
}

/// What is known of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing yet.
    Waiting,
    /// Everything.
    Filled,
    /// Its CRD is missing.
    Absent,
}

impl<K> Clone for Shelf<K> {
    fn clone(&self) -> Self {
        Self {
            hub: self.hub.clone(),
            state: self.state.clone(),
        }
    }
}

impl<K: Kind> Shelf<K> {
    fn new(vault: &Vault) -> Self {
        Self {
            hub: Hub::new(vault.clone()),
            state: watch::Sender::new(State::Waiting),
        }
    }

    /// Takes a change of the watcher.
    pub fn apply(&self, change: Change<K>) {
        let is_filled = matches!(change, Change::Synced);
        self.hub.apply(change);
        if is_filled {
            self.state.send_replace(State::Filled);
        }
    }

    /// Notes that the CRD is missing, unless objects were seen already.
    pub fn absent(&self) {
        // There are none, so whatever comes is a change.
        self.hub.apply(Change::Synced);
        self.state.send_if_modified(|state| {
            let is_news = *state == State::Waiting;
            if is_news {
                *state = State::Absent;
            }
            is_news
        });
    }

    /// Waits until it is known what there is. Whether there is anything to know.
    pub async fn settled(&self) -> bool {
        let mut state = self.state.subscribe();
        // The sender lives as long as this shelf, so there is no other end.
        let settled = state.wait_for(|state| *state != State::Waiting).await;
        settled.is_ok_and(|state| *state == State::Filled)
    }
}

impl Resources {
    /// None yet.
    pub fn new(vault: &Vault) -> Self {
        Self {
            components: Shelf::new(vault),
            configurations: Shelf::new(vault),
            http_endpoints: Shelf::new(vault),
            mcp_servers: Shelf::new(vault),
            resiliencies: Shelf::new(vault),
            subscriptions: Shelf::new(vault),
            workflow_access_policies: Shelf::new(vault),
            assignments: Arc::default(),
            pods_known: watch::Sender::new(false),
        }
    }

    /// Takes a change of a pod: its app may have another Configuration now.
    pub fn pod_changed(&self, change: &Change<Pod>) {
        let (old, new) = match change {
            Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
            Change::Deleted { old } => (Some(&**old), None),
            Change::Synced => {
                self.pods_known.send_replace(true);
                return;
            }
        };
        let apps = self.assignments.lock().change(old, new);
        for app in apps {
            let assigned = |current: Option<&str>| {
                let assignments = self.assignments.lock();
                let name = assignments.of(&app.namespace, &app.id, current);
                name.map(Box::from)
            };
            let configurations = &self.configurations.hub;
            configurations.reassign(&app.namespace, &app.id, assigned);
        }
    }

    /// Waits until every pod is known, and with it what is assigned to whom.
    pub async fn pods_known(&self) {
        let mut known = self.pods_known.subscribe();
        // The sender lives as long as this value, so there is no other end.
        drop(known.wait_for(|known| *known).await);
    }

    /// Which Configuration an app is told about, given the one that it has.
    pub fn assigned(&self, namespace: &str, app_id: &str, current: Option<&str>) -> View {
        let assignments = self.assignments.lock();
        View::Assigned {
            app_id: app_id.into(),
            name: assignments.of(namespace, app_id, current).map(Box::from),
        }
    }

    /// A Secret changed.
    pub async fn secret_changed(&self, namespace: &str, name: &str) {
        tokio::join!(
            self.components.hub.secret_changed(namespace, name),
            self.configurations.hub.secret_changed(namespace, name),
            self.http_endpoints.hub.secret_changed(namespace, name),
            self.mcp_servers.hub.secret_changed(namespace, name),
        );
    }

    /// Ends every stream, and lets none begin.
    pub fn close(&self) {
        self.components.hub.close();
        self.configurations.hub.close();
        self.http_endpoints.hub.close();
        self.mcp_servers.hub.close();
        self.resiliencies.hub.close();
        self.subscriptions.hub.close();
        self.workflow_access_policies.hub.close();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::hub;
    use crate::vault::NoSecrets;

    /// A name and what is in it.
    type Known = (String, String);

    fn known(object: &[u8]) -> Known {
        let object: Value = serde_json::from_slice(object).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let rate = &object["spec"]["tracing"]["samplingRate"];
        (text(&object["metadata"]["name"]), text(rate))
    }

    /// Configurations and pods of `default`, fed as watchers feed them.
    struct Place {
        resources: Resources,
        pods: Vec<(String, Arc<Pod>)>,
    }

    impl Place {
        fn new() -> Self {
            let resources = Resources::new(&Vault::new(NoSecrets));
            resources.configurations.apply(Change::Synced);
            resources.pod_changed(&Change::Synced);
            let mut place = Self {
                resources,
                pods: Vec::new(),
            };
            place.put("one", "1");
            place.put("two", "1");
            place.pod("shop-1", "one", 1);
            place
        }

        fn put(&self, name: &str, rate: &str) {
            let new = json!({
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"tracing": {"samplingRate": rate}},
            });
            let new = serde_json::from_value(new).expect("a configuration");
            let new = Arc::new(new);
            self.resources
                .configurations
                .apply(Change::Applied { old: None, new });
        }

        fn pod(&mut self, name: &str, config: &str, second: u32) {
            let new = json!({"metadata": {
                "name": name, "namespace": "default",
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "shop", "dapr.io/config": config},
            }});
            let new: Arc<Pod> = Arc::new(serde_json::from_value(new).expect("a pod"));
            let at = self.pods.iter().position(|(known, _)| known == name);
            let old = at.map(|at| self.pods.swap_remove(at).1);
            self.pods.push((name.to_owned(), Arc::clone(&new)));
            self.resources.pod_changed(&Change::Applied { old, new });
        }

        async fn get(&self, name: &str, connection: Option<SocketAddr>) -> Known {
            let hub = &self.resources.configurations.hub;
            let got = hub.get("default", name, connection).await;
            known(&got.expect("no secrets").expect("it is there"))
        }

        fn open(&self, connection: Option<SocketAddr>) -> hub::Subscription<Configuration> {
            let view = |current: Option<&str>| self.resources.assigned("default", "shop", current);
            let hub = &self.resources.configurations.hub;
            hub.subscribe("default", view, connection).expect("open")
        }
    }

    /// What a sidecar has that had `known`, once it is told everything.
    async fn told(mut known: Known, stream: &mut hub::Subscription<Configuration>) -> Known {
        while let Ok(Some(event)) =
            tokio::time::timeout(Duration::from_millis(1), stream.next()).await
        {
            known = self::known(&event.expect("a change").object);
        }
        known
    }

    type Step = Box<dyn Fn(&mut Place)>;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_lost_between_a_configuration_and_its_stream() {
        let steps: [Step; 7] = [
            Box::new(|place| place.put("one", "2")),
            Box::new(|place| place.put("two", "2")),
            Box::new(|place| place.pod("shop-1", "two", 1)),
            Box::new(|place| place.put("two", "3")),
            Box::new(|place| place.put("one", "3")),
            Box::new(|place| place.pod("shop-1", "one", 1)),
            Box::new(|place| place.put("one", "4")),
        ];
        let expected = [
            "one 2", "one 2", "two 2", "two 3", "two 3", "one 3", "one 4",
        ];
        let connection = Some(SocketAddr::from(([127, 0, 0, 1], 1)));
        for (last, expected) in expected.into_iter().enumerate() {
            let steps = &steps[..=last];
            for got in 0..=steps.len() {
                for opened in got..=steps.len() {
                    let mut place = Place::new();
                    steps[..got].iter().for_each(|step| step(&mut place));
                    // The flag of a sidecar does not change while it runs.
                    let known = place.get("one", connection).await;
                    steps[got..opened].iter().for_each(|step| step(&mut place));
                    let mut stream = place.open(connection);
                    steps[opened..].iter().for_each(|step| step(&mut place));
                    let (name, rate) = told(known, &mut stream).await;
                    let context = format!("{last}: got after {got}, opened after {opened}");
                    assert_eq!(format!("{name} {rate}"), expected, "{context}");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_pods_are_replaced_a_stream_shows_what_its_sidecar_has() {
        let mut place = Place::new();
        place.pod("shop-2", "two", 2);
        for (port, name) in [(1, "one"), (2, "two")] {
            let connection = Some(SocketAddr::from(([127, 0, 0, 1], port)));
            let known = place.get(name, connection).await;
            let mut stream = place.open(connection);
            place.put("one", &format!("one of {name}"));
            place.put("two", &format!("two of {name}"));
            let told = told(known, &mut stream).await;
            assert_eq!(told, (name.to_owned(), format!("{name} of {name}")));
        }
    }
}
