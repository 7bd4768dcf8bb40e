//! A namespace for one story, with applications in it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::Cluster;
use crate::cluster::is_ready;

/// A namespace. It is removed by [`Namespace::remove`]; a story that fails leaves it behind, to be looked at.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes the namespace, which must not be there.
    pub async fn create(cluster: &'a Cluster, name: &str) -> Result<Self> {
        cluster.kubectl(&["create", "namespace", name], "").await?;
        Ok(Self {
            cluster,
            name: name.to_owned(),
        })
    }

    /// One that is there. It is not to be removed.
    pub fn existing(cluster: &'a Cluster, name: &str) -> Self {
        Self {
            cluster,
            name: name.to_owned(),
        }
    }

    /// Removes it, and everything in it.
    pub async fn remove(self) -> Result<()> {
        let arguments = [
            "delete",
            "namespace",
            &self.name,
            "--wait=true",
            "--timeout=60s",
        ];
        self.cluster.kubectl(&arguments, "").await?;
        Ok(())
    }

    /// Applies an object in it.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        let arguments = ["apply", "--namespace", &self.name, "--filename", "-"];
        self.cluster
            .kubectl(&arguments, &object.to_string())
            .await?;
        Ok(())
    }

    /// Deploys the application of the stories as one that has not heard of Dapr.
    pub async fn plain(&self, app: &str) -> Result<()> {
        let mut deployment = self.deployment(app, 1);
        deployment["spec"]["template"]["metadata"]["annotations"] = json!({});
        self.apply(&deployment).await?;
        self.await_ready(app, 1).await
    }

    /// Deletes an object, `kind/name`.
    pub async fn delete(&self, object: &str) -> Result<()> {
        let arguments = ["delete", "--namespace", &self.name, object, "--timeout=60s"];
        self.cluster.kubectl(&arguments, "").await?;
        Ok(())
    }

    /// Deploys the application of the stories under an app id, with a sidecar, and waits until all replicas are ready.
    pub async fn deploy(&self, app_id: &str, replicas: usize) -> Result<()> {
        self.start(app_id, replicas).await?;
        self.await_ready(app_id, replicas).await
    }

    /// As [`Namespace::deploy`], without waiting.
    pub async fn start(&self, app_id: &str, replicas: usize) -> Result<()> {
        self.apply(&self.deployment(app_id, replicas)).await
    }

    fn deployment(&self, app_id: &str, replicas: usize) -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": app_id},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": app_id}},
                "template": {
                    "metadata": {
                        "labels": {"app": app_id},
                        "annotations": {
                            "dapr.io/enabled": "true",
                            "dapr.io/app-id": app_id,
                            "dapr.io/app-port": "8000",
                        },
                    },
                    "spec": {
                        "containers": [{
                            "name": "app",
                            "image": self.cluster.app_image(),
                            "imagePullPolicy": "IfNotPresent",
                            "args": ["serve"],
                            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                        }],
                    },
                },
            },
        })
    }

    /// Waits until so many pods of an application are ready, their sidecars included.
    pub async fn await_ready(&self, app: &str, replicas: usize) -> Result<()> {
        let selector = format!("app={app}");
        let arguments = ["pods", "--namespace", &self.name, "--selector", &selector];
        let waited = self
            .cluster
            .eventually(&format!("{app} is ready"), &arguments, |pods| {
                let pods = pods["items"].as_array().context("no list of pods")?;
                let ready = pods.iter().filter(|pod| is_ready(pod)).count();
                ensure!(
                    ready == replicas && pods.len() == replicas,
                    "{ready} of {replicas}: {}",
                    states(pods)
                );
                Ok(())
            })
            .await;
        match waited {
            Ok(()) => Ok(()),
            Err(error) => {
                let log = self
                    .cluster
                    .logs(&self.name, &format!("deployment/{app}"), "daprd")
                    .await;
                Err(error.context(format!("the log of its sidecar: {log}")))
            }
        }
    }

    /// Pods of an application.
    pub async fn pods(&self, app: &str) -> Result<Vec<Value>> {
        let selector = format!("app={app}");
        let pods = self
            .cluster
            .get(&["pods", "--namespace", &self.name, "--selector", &selector])
            .await?;
        Ok(pods["items"].as_array().context("no list of pods")?.clone())
    }

    /// Runs the application of the stories in the container of one that is deployed, and tells what it prints.
    pub async fn run_in(&self, app: &str, arguments: &[&str]) -> Result<String> {
        let workload = format!("deployment/{app}");
        let fixed = [
            "exec",
            "--namespace",
            &self.name,
            &workload,
            "--container",
            "app",
            "--",
            "/e2e-app",
        ];
        self.cluster
            .kubectl(&[&fixed[..], arguments].concat(), "")
            .await
    }
}

/// What containers of pods wait for.
fn states(pods: &[Value]) -> String {
    let statuses = pods.iter().flat_map(|pod| {
        let all = ["/status/initContainerStatuses", "/status/containerStatuses"];
        all.into_iter()
            .filter_map(|it| pod.pointer(it)?.as_array())
            .flatten()
    });
    let states = statuses.map(|it| format!("{}: {}", it["name"], it["state"]));
    states.collect::<Vec<_>>().join(", ")
}
