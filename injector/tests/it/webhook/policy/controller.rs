//! Who wants the pods: the ReplicaSet controller of Kubernetes where its program lies beside the API server's, else
//! tasks that try again as it does.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dapr_e2e_apiserver::real::ApiServer;
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{APP, PODS, pod, template};
use crate::support::eventually;

/// The pauses of a controller's queue: the first, doubled after each failure.
const FIRST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(5);

/// A controller at work until it is dropped.
pub(super) enum Controller {
    /// The process, and where its ReplicaSet is.
    Kubernetes(Child, Box<Api<ReplicaSet>>),
    /// How many pods were refused, and the tasks that want them.
    Tasks {
        refused: Arc<AtomicUsize>,
        _tasks: JoinSet<()>,
    },
}

impl Drop for Controller {
    fn drop(&mut self) {
        if let Self::Kubernetes(process, _) = self {
            // Nothing is lost with it.
            drop(process.kill());
            drop(process.wait());
        }
    }
}

impl Controller {
    #[expect(
        clippy::print_stdout,
        reason = "whoever runs the tests is told what took part"
    )]
    pub(super) async fn start(server: &ApiServer, namespace: &str) -> Self {
        let program = server.kubectl().with_file_name("kube-controller-manager");
        let client = server.client().await.unwrap();
        if program.is_file() {
            let api = Api::<ReplicaSet>::namespaced(client, namespace);
            let process = run(&program, server.kubeconfig());
            let labels = json!({"app": APP});
            let set = json!({
                "metadata": {"name": APP},
                "spec": {"replicas": PODS, "selector": {"matchLabels": labels}, "template": template()},
            });
            let set: ReplicaSet = serde_json::from_value(set).unwrap();
            api.create(&PostParams::default(), &set).await.unwrap();
            return Self::Kubernetes(process, Box::new(api));
        }
        println!("no kube-controller-manager: tasks take its place");
        let refused = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..PODS {
            let (pods, refused) = (Api::namespaced(client.clone(), namespace), refused.clone());
            tasks.spawn(async move {
                let mut pause = FIRST;
                let mut first = 1;
                while pods.create(&PostParams::default(), &pod()).await.is_err() {
                    refused.fetch_add(std::mem::take(&mut first), Ordering::Relaxed);
                    sleep(pause).await;
                    pause = LONGEST.min(pause * 2);
                }
            });
        }
        Self::Tasks {
            refused,
            _tasks: tasks,
        }
    }

    /// Waits until it was told that there can be no pod.
    pub(super) async fn is_refused(&self) {
        eventually("the refusal", async || match self {
            Self::Kubernetes(_, api) => {
                let status = api.get(APP).await.unwrap().status.unwrap_or_default();
                let conditions = status.conditions.unwrap_or_default();
                let mut messages = conditions.iter().filter_map(|it| it.message.as_deref());
                messages.any(|message| message.contains("the sidecar injector is away"))
            }
            Self::Tasks { refused, .. } => refused.load(Ordering::Relaxed) == PODS,
        })
        .await;
    }
}

/// With the service account of the controller, as clusters have it: it is one of those the injector trusts by name. What
/// works in the folder of the API server ends with it, however the tests end.
fn run(program: &Path, kubeconfig: &Path) -> Child {
    Command::new(program)
        .arg(format!("--kubeconfig={}", kubeconfig.display()))
        .args([
            "--controllers=replicaset-controller",
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
        ])
        .current_dir(kubeconfig.parent().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
