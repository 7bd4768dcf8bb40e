//! The cluster, and the control plane in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dapr_charts::{CHART, Helm, RELEASE};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::preparation::skipped;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::{App, Namespace};

/// What has to happen in a cluster, happens within this.
pub const SOON: Duration = Duration::from_secs(120);

/// How long an install may take before helm gives up.
const INSTALL: &str = "300s";

/// The namespace of the control plane.
const SYSTEM: &str = "dapr-system";

/// The release of an install that does nothing, and its chart.
const IDLE: &str = "idle";

/// Where images are from, unless the environment says otherwise: the defaults of the chart.
const REGISTRY: &str = "localhost/dapr";
const TAG: &str = "edge";

/// One story at a time: they share the control plane.
static TURN: Mutex<()> = Mutex::const_new(());

/// When each story began, in order.
static STORIES: parking_lot::Mutex<Vec<(Timestamp, String)>> = parking_lot::Mutex::new(Vec::new());

/// A cluster, for one story.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    helm: Helm,
    registry: String,
    tag: String,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// The cluster that `run` made, when it is this story's turn. `None` says that there is none, which was reported
    /// as a skip of `story`.
    pub async fn take(story: &str) -> Result<Option<Self>> {
        let Some(kubeconfig) = variable("E2E_KUBECONFIG") else {
            skipped(story, "no cluster: e2e/cluster/run makes one")?;
            return Ok(None);
        };
        let helm = Helm::find(story)?.context("a cluster without helm")?;
        let kubeconfig = PathBuf::from(kubeconfig);
        let turn = TURN.lock().await;
        STORIES.lock().push((Timestamp::now(), story.to_owned()));
        let cluster = Self {
            helm: helm.on(&kubeconfig),
            kubeconfig,
            registry: variable("E2E_REGISTRY").unwrap_or_else(|| REGISTRY.to_owned()),
            tag: variable("E2E_TAG").unwrap_or_else(|| TAG.to_owned()),
            _turn: turn,
        };
        Namespace::remove_left(&cluster).await?;
        Ok(Some(cluster))
    }

    /// The stories that were told so far, and when each began.
    pub fn stories() -> Vec<(Timestamp, String)> {
        STORIES.lock().clone()
    }

    /// The namespace of the control plane.
    pub const fn system(&self) -> &'static str {
        SYSTEM
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether the images are called as the chart calls them without values.
    pub fn has_default_images(&self) -> bool {
        self.registry == REGISTRY && self.tag == TAG
    }

    /// The image of the application of the stories.
    pub fn app_image(&self) -> String {
        format!("{}/e2e-app:{}", self.registry, self.tag)
    }

    /// Installs the chart, or makes what is installed as `set` says, waits as `helm --wait` does, and tells how long it
    /// took.
    pub fn install(&self, set: &[&str]) -> Result<Duration> {
        self.install_from(CHART, set)
    }

    /// As [`Cluster::install`], another chart.
    pub fn install_from(&self, chart: &str, set: &[&str]) -> Result<Duration> {
        self.upgrade(chart, &[&["--wait"], &*flags(set)].concat())
    }

    /// As [`Cluster::install`], with a values file below what `set` says.
    pub fn install_with(&self, values: &str, set: &[&str]) -> Result<Duration> {
        let more = [&["--wait", "--values", values], &*flags(set)].concat();
        self.upgrade(CHART, &more)
    }

    /// As [`Cluster::install`], without waiting.
    pub fn begin_install(&self, set: &[&str]) -> Result<()> {
        self.upgrade(CHART, &flags(set)).map(drop)
    }

    /// How long `helm install --wait` takes for Deployments of an application that waits for nothing, which are uninstalled
    /// again: what helm and the cluster need of an install's time.
    pub fn install_idle(&self, namespace: &str, names: &[&str]) -> Result<Duration> {
        let chart = tempfile::tempdir()?;
        let templates = chart.path().join("templates");
        std::fs::create_dir(&templates)?;
        let about = json!({"apiVersion": "v2", "name": IDLE, "version": "0.0.0"});
        std::fs::write(chart.path().join("Chart.yaml"), about.to_string())?;
        let image = self.app_image();
        for name in names {
            let deployment = App::plain(name).deployment(&image).to_string();
            std::fs::write(templates.join(format!("{name}.yaml")), deployment)?;
        }
        let chart = chart.path().to_str().context("a folder that is no text")?;
        let place = ["--namespace", namespace, "--wait", "--timeout", INSTALL];
        let began = Instant::now();
        self.run_helm(["install", IDLE, chart].into_iter().chain(place))?;
        let took = began.elapsed();
        self.run_helm(["uninstall", IDLE].into_iter().chain(place))?;
        Ok(took)
    }

    fn upgrade(&self, chart: &str, more: &[&str]) -> Result<Duration> {
        let images = [
            format!("global.registry={}", self.registry),
            format!("global.tag={}", self.tag),
        ];
        let fixed = [
            "upgrade",
            "--install",
            RELEASE,
            chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--timeout",
            INSTALL,
        ];
        let images = images.iter().flat_map(|it| ["--set", it]);
        let began = Instant::now();
        self.run_helm(fixed.into_iter().chain(images).chain(more.iter().copied()))?;
        Ok(began.elapsed())
    }

    /// Uninstalls the chart and waits until its objects and pods are gone. Custom resource definitions stay.
    pub async fn uninstall(&self) -> Result<()> {
        self.run_helm([
            "uninstall",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--wait",
            "--ignore-not-found",
            "--timeout",
            INSTALL,
        ])?;
        // Helm does not wait for them, and a StatefulSet cannot have its pod back while there is an old one of that name.
        let pods = ["pods", "--namespace", SYSTEM];
        self.eventually("the pods have gone", &pods, |pods| {
            let left = pods["items"].as_array().context("no list of pods")?;
            ensure!(left.is_empty(), "{} are left", left.len());
            Ok(())
        })
        .await
    }

    fn run_helm<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        match self.helm.run(arguments)? {
            Ok(_) => Ok(()),
            Err(failed) => anyhow::bail!("helm: {}", failed.message),
        }
    }

    /// Runs kubectl, with text on its stdin, and tells what it prints.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("running kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no stdin")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {}: {error}",
            arguments.join(" ")
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `kubectl get` finds.
    pub async fn get(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [&["get", "--output", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&arguments, "").await?)?)
    }

    /// Waits until what `kubectl get` finds is as wanted; `look` says what it makes of it, or what is missing.
    pub async fn eventually<T>(
        &self,
        what: &str,
        arguments: &[&str],
        look: impl Fn(&Value) -> Result<T>,
    ) -> Result<T> {
        await_condition(what, SOON, || async { look(&self.get(arguments).await?) }).await
    }

    /// Pods of the control plane: how many are ready, by their label `app`.
    pub async fn ready(&self, app: &str) -> Result<usize> {
        let selector = format!("app={app}");
        let pods = self
            .get(&["pods", "--namespace", SYSTEM, "--selector", &selector])
            .await?;
        let pods = pods["items"].as_array().context("no list of pods")?.clone();
        Ok(pods.iter().filter(|pod| is_ready(pod)).count())
    }

    /// Scales a Deployment of the control plane, and waits until it is as large.
    pub async fn scale(&self, deployment: &str, replicas: usize) -> Result<()> {
        let replicas_flag = format!("--replicas={replicas}");
        let arguments = [
            "scale",
            "--namespace",
            SYSTEM,
            "deployment",
            deployment,
            &replicas_flag,
        ];
        self.kubectl(&arguments, "").await?;
        let selector = format!("app={deployment}");
        let pods = ["pods", "--namespace", SYSTEM, "--selector", &selector];
        let what = format!("{deployment} has {replicas} replicas");
        self.eventually(&what, &pods, |pods| {
            let pods = pods["items"].as_array().context("no list of pods")?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ensure!(
                ready == replicas && pods.len() == replicas,
                "{ready} of {}",
                pods.len()
            );
            Ok(())
        })
        .await
    }

    /// The log of a workload's pods, for the message of a failure.
    pub async fn logs(&self, namespace: &str, workload: &str, container: &str) -> String {
        let arguments = [
            "logs",
            "--namespace",
            namespace,
            workload,
            "--container",
            container,
            "--tail=40",
        ];
        match self.kubectl(&arguments, "").await {
            Ok(log) => log,
            Err(error) => format!("{error:#}"),
        }
    }
}

/// Values, as helm takes them.
fn flags<'a>(set: &[&'a str]) -> Vec<&'a str> {
    set.iter().flat_map(|it| ["--set", it]).collect()
}

/// Whether all stories are told in this run, not some that were asked for.
pub fn told_all() -> bool {
    variable("E2E_ALL").is_some()
}

/// Whether a pod has the condition `Ready`.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where stories hear of their cluster"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|it| !it.is_empty())
}
