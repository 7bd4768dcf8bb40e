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

    /// Which Configuration an app is told about.
    pub fn assigned(&self, namespace: &str, app_id: &str) -> View {
        let assignments = self.assignments.lock();
        View::Assigned {
            app_id: app_id.into(),
            name: assignments.of(namespace, app_id, None).map(Box::from),
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
