//! A namespace for one story, with applications in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cluster::is_ready;
use crate::{App, Cluster, Knock, Reply, Summary};

/// Where the application of the stories takes orders for a load, and for a watch.
const LOAD: &str = "http://127.0.0.1:8000/load";
const WATCH: &str = "http://127.0.0.1:8000/watch";

/// What takes long, takes no longer.
const LONG: Duration = Duration::from_secs(300);

/// Those that a story made and has not removed.
static OPEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A namespace. It is removed by [`Namespace::remove`], or, if its story fails, before the next one is told: what
/// happened in it is kept in `target/e2e/left`.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

fn left_folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/e2e/left");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

impl<'a> Namespace<'a> {
    /// Makes the namespace, which must not be there.
    pub async fn create(cluster: &'a Cluster, name: &str) -> Result<Self> {
        cluster.kubectl(&["create", "namespace", name], "").await?;
        OPEN.lock().push(name.to_owned());
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
        OPEN.lock().retain(|it| *it != self.name);
        Ok(())
    }

    /// Removes what stories that failed have left behind, for the next one would meet it.
    #[expect(
        clippy::print_stdout,
        reason = "beside the failure, for whoever reads what the stories say"
    )]
    pub(crate) async fn remove_left(cluster: &'a Cluster) -> Result<()> {
        let left = OPEN.lock().clone();
        for name in left {
            let namespace = Self::existing(cluster, &name);
            let file = left_folder()?.join(format!("{name}.txt"));
            std::fs::write(&file, namespace.describe().await)?;
            println!(
                "{name}: left by a story that failed, see {}",
                file.display()
            );
            namespace.remove().await?;
        }
        Ok(())
    }

    /// Its objects, Events and logs, as far as they can be had.
    async fn describe(&self) -> String {
        let mut text = String::new();
        let mut say = async |arguments: &[&str]| {
            let arguments = [arguments, &["--namespace", &self.name]].concat();
            let said = self.cluster.kubectl(&arguments, "").await;
            let said = said.unwrap_or_else(|error| format!("{error:#}"));
            text.push_str(&format!("$ kubectl {}\n{said}\n", arguments.join(" ")));
            said
        };
        say(&["get", "all", "--output", "wide"]).await;
        say(&["get", "events", "--sort-by", ".lastTimestamp"]).await;
        for pod in say(&["get", "pods", "--output", "name"]).await.lines() {
            say(&["logs", pod, "--all-containers", "--prefix"]).await;
        }
        text
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
        self.run(&App::plain(app)).await
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
        self.begin(&App::new(app_id).replicas(replicas)).await
    }

    /// Deploys an application without waiting.
    pub async fn begin(&self, app: &App) -> Result<()> {
        self.apply(&app.deployment(&self.cluster.app_image())).await
    }

    /// Deploys an application, and waits until all replicas are ready.
    pub async fn run(&self, app: &App) -> Result<()> {
        self.begin(app).await?;
        self.await_ready(app.id(), app.size()).await
    }

    /// Starts a pod that nobody owns with the application of the stories.
    pub async fn pod(&self, app_id: &str) -> Result<()> {
        let mut pod = App::new(app_id).template(&self.cluster.app_image(), &["serve"]);
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(app_id);
        self.apply(&pod).await
    }

    /// Starts a Job that runs the application with these words once.
    pub async fn job(&self, app: &App, words: &[&str]) -> Result<()> {
        let mut template = app.template(&self.cluster.app_image(), words);
        template["spec"]["restartPolicy"] = json!("Never");
        self.apply(&json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": app.id()},
            "spec": {"template": template, "backoffLimit": 0},
        }))
        .await
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

    /// Waits until every pod of an application was replaced.
    pub async fn roll(&self, app: &str) -> Result<()> {
        let workload = format!("deployment/{app}");
        let restart = ["rollout", "restart", "--namespace", &self.name, &workload];
        self.cluster.kubectl(&restart, "").await?;
        let limit = "--timeout=120s";
        let status = [
            "rollout",
            "status",
            "--namespace",
            &self.name,
            &workload,
            limit,
        ];
        self.cluster.kubectl(&status, "").await?;
        Ok(())
    }

    /// One request out of an application's container.
    pub async fn ask(&self, app: &str, method: &str, url: &str, body: &str) -> Result<Reply> {
        let printed = self.run_in(app, &["ask", method, url, body]).await?;
        serde_json::from_str(&printed).with_context(|| printed.clone())
    }

    /// One request of an application to its sidecar.
    pub async fn ask_sidecar(
        &self,
        app: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Reply> {
        let url = format!("http://127.0.0.1:3500/v1.0/{path}");
        self.ask(app, method, &url, body).await
    }

    /// What an application's sidecar says of itself.
    pub async fn metadata(&self, app: &str) -> Result<Value> {
        let body = self.ask_sidecar(app, "GET", "metadata", "").await?.ok()?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The components that an application's sidecar has, as `name type`, without the secret store of every sidecar.
    pub async fn components(&self, app: &str) -> Result<Vec<String>> {
        let metadata = self.metadata(app).await?;
        let components = metadata["components"].as_array();
        let components = components.context("no components in the metadata")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let names = components
            .iter()
            .filter(|it| it["name"] != "kubernetes")
            .map(|it| format!("{} {}", text(&it["name"]), text(&it["type"])));
        Ok(names.collect())
    }

    /// Knocks at an address out of an application's container.
    pub async fn knock(&self, app: &str, address: &str) -> Result<Knock> {
        let printed = self.run_in(app, &["knock", address]).await?;
        serde_json::from_str(&printed).with_context(|| printed.clone())
    }

    /// Lets an application send so many requests per second to a URL, until [`Namespace::end_load`].
    pub async fn start_load(&self, app: &str, url: &str, rate: u32) -> Result<()> {
        let order = json!({"url": url, "rate": rate}).to_string();
        self.ask(app, "POST", LOAD, &order).await?.ok()?;
        Ok(())
    }

    /// Waits until so many requests of the load were sent. The load is left alone meanwhile: asking again and again would
    /// be a load of its own, as each question starts two processes.
    pub async fn await_sent(&self, app: &str, count: usize) -> Result<()> {
        await_condition("enough calls", LONG, async || {
            let url = format!("{LOAD}/{count}");
            let sent = self.ask(app, "GET", &url, "").await?.ok()?;
            let sent: usize = sent.parse().context(sent)?;
            ensure!(sent >= count, "{sent} of {count}");
            Ok(())
        })
        .await
    }

    /// Ends the load.
    pub async fn end_load(&self, app: &str) -> Result<Summary> {
        let summary = self.ask(app, "DELETE", LOAD, "").await?.ok()?;
        serde_json::from_str(&summary).with_context(|| summary.clone())
    }

    /// Lets an application look for the moment when its sidecar has a component of a type, or none with an empty one.
    pub async fn start_watch(&self, app: &str, name: &str, kind: &str) -> Result<()> {
        let wanted = json!({"name": name, "kind": kind}).to_string();
        self.ask(app, "POST", WATCH, &wanted).await?.ok()?;
        Ok(())
    }

    /// That moment, in microseconds since 1970.
    pub async fn seen(&self, app: &str) -> Result<u64> {
        let seen = self.ask(app, "GET", WATCH, "").await?.ok()?;
        seen.parse().context(seen)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
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
