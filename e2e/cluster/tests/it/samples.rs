//! Files that people have published, applied as they are: each does what its author meant, or somebody says what is
//! wrong with it and what to do.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use dapr_charts::identity;
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_cluster::{App, Cluster, Namespace, SOON};
use tokio::process::Command;

/// The files.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");
/// The namespaces they name.
const NAMESPACES: [&str; 2] = ["production", "development"];

/// A file, and what is expected.
struct Sample {
    file: &'static str,
    /// What kubectl says: it names fields that are not known, or are missing.
    said: &'static [&'static str],
    used: Option<Use>,
}

/// An application that uses what was applied, and what its sidecar does.
struct Use {
    namespace: &'static str,
    app_id: &'static str,
    /// Its Configuration; empty for none.
    configuration: &'static str,
    does: Does,
}

/// What a sidecar does with a file.
enum Does {
    /// It does not start, and its log says why.
    Refuse(&'static [&'static str]),
    /// A call of this application, which fails twice, is tried again until it is answered.
    TryAgain(&'static str),
}

use Does::{Refuse, TryAgain};

const fn in_production(app_id: &'static str, does: Does) -> Option<Use> {
    Some(Use {
        namespace: "production",
        app_id,
        configuration: "",
        does,
    })
}

const NO_RULE_SWITCH: &str = "unknown field \"spec.metric.rules[0].enabled\"";
const NO_OBJECT: &str = "apiVersion not set, kind not set";

const TABLE: &[Sample] = &[
    Sample {
        file: "accesscontrol-configuration.yaml",
        said: &[
            "spec.mtls.controlPlaneTrustDomain: Required value",
            "spec.mtls.sentryAddress: Required value",
        ],
        used: None,
    },
    Sample {
        file: "components-redis-otlp.yaml",
        said: &[
            "component.dapr.io/statestore created",
            "component.dapr.io/pubsub created",
            "component.dapr.io/tracing created",
        ],
        used: Some(Use {
            namespace: "default",
            app_id: "orders",
            configuration: "",
            does: Refuse(&["couldn't find message bus pubsub.redis/v1"]),
        }),
    },
    Sample {
        file: "docker-compose-sidecars.yaml",
        said: &[NO_OBJECT],
        used: None,
    },
    Sample {
        file: "enterprise-sizing.yaml",
        said: &[NO_OBJECT],
        used: None,
    },
    Sample {
        file: "environments-configuration.yaml",
        said: &[
            "\"dev-config\" is invalid",
            "spec.mtls.sentryAddress: Required value",
            NO_RULE_SWITCH,
        ],
        used: None,
    },
    Sample {
        file: "metrics-health-configuration.yaml",
        said: &["unknown field \"spec.health\"", NO_RULE_SWITCH],
        used: None,
    },
    Sample {
        file: "pubsub-rabbitmq-subscription.yaml",
        said: &[
            "component.dapr.io/production-pubsub created",
            "unknown field \"spec.metadata[0].name\"",
        ],
        used: in_production("orders", Refuse(&["rabbitmq-secret"])),
    },
    Sample {
        file: "pubsub-redis-retries.yaml",
        said: &["component.dapr.io/pubsub created"],
        used: Some(Use {
            namespace: "default",
            app_id: "orders",
            configuration: "",
            does: Refuse(&["pubsub.redis"]),
        }),
    },
    Sample {
        file: "resiliency.yaml",
        said: &["resiliency.dapr.io/app-resiliency created"],
        used: in_production("orders", TryAgain("inventory-service")),
    },
    Sample {
        file: "secretstore-azure-deployment.yaml",
        said: &[
            "component.dapr.io/production-secrets created",
            "deployment.apps/order-service created",
        ],
        used: in_production("orders", Refuse(&["azure-spn-secret"])),
    },
    Sample {
        file: "security-configuration.yaml",
        said: &["unknown field \"spec.accessControl.policies[1].operations[0].principals\""],
        used: None,
    },
    Sample {
        file: "sidecar-resources-deployment.yaml",
        said: &[
            NO_RULE_SWITCH,
            "spec.selector: Required value",
            "spec.template.spec.containers: Required value",
        ],
        used: None,
    },
    Sample {
        file: "state-redis-mongodb.yaml",
        said: &[
            "component.dapr.io/production-statestore created",
            "component.dapr.io/user-session-store created",
        ],
        used: in_production("orders", Refuse(&["-secret", "not found"])),
    },
    Sample {
        file: "tracing-configuration-exporter.yaml",
        said: &[
            "unknown field \"spec.tracing.stdout.enabled\"",
            "component.dapr.io/tracing-exporter created",
        ],
        used: in_production("orders", Refuse(&["exporters.tracing.otlp"])),
    },
];

#[tokio::test]
async fn each_sample_does_what_it_says_or_is_answered() -> Result<()> {
    let Some(cluster) = Cluster::take("samples").await? else {
        return Ok(());
    };
    let mut files: Vec<String> = std::fs::read_dir(SAMPLES)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.sort();
    let mut expected: Vec<&str> = TABLE.iter().map(|it| it.file).collect();
    expected.sort_unstable();
    ensure!(files == expected, "files without an expectation: {files:?}");
    cluster.install(&[])?;
    for sample in TABLE {
        let done = tried(&cluster, sample).await;
        done.with_context(|| sample.file)?;
    }
    Ok(())
}

async fn tried(cluster: &Cluster, sample: &Sample) -> Result<()> {
    let before = resources(cluster).await?;
    let mut namespaces = Vec::new();
    for name in NAMESPACES {
        namespaces.push(Namespace::create(cluster, name).await?);
    }
    let said = kubectl(cluster, "apply", sample.file).await?;
    for words in sample.said {
        ensure!(
            said.contains(words),
            "kubectl does not say {words:?}: {said}"
        );
    }
    if let Some(used) = &sample.used {
        let namespace = Namespace::existing(cluster, used.namespace);
        tried_by(cluster, &namespace, used).await?;
        namespace
            .delete(&format!("deployment/{}", used.app_id))
            .await?;
    }
    // What has no namespace is in that of the kubeconfig, beside what others may have there.
    let said = kubectl(cluster, "delete", sample.file).await?;
    for namespace in namespaces {
        namespace.remove().await?;
    }
    let after = resources(cluster).await?;
    ensure!(before == after, "{before:?} became {after:?}: {said}");
    Ok(())
}

/// The resources of Dapr in namespace `default`.
async fn resources(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds =
        "components.dapr.io,subscriptions.dapr.io,configurations.dapr.io,resiliencies.dapr.io";
    let list = cluster.get(&[kinds, "--namespace", "default"]).await?;
    let items = list["items"].as_array().context("no list")?;
    Ok(items.iter().map(identity).collect())
}

/// What kubectl says to a file, whether it is content or not.
async fn kubectl(cluster: &Cluster, verb: &str, file: &str) -> Result<String> {
    let output = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args([verb, "--filename"])
        .arg(Path::new(SAMPLES).join(file))
        .stdin(Stdio::null())
        .output()
        .await
        .context("running kubectl")?;
    let said = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&said).into_owned())
}

async fn tried_by(cluster: &Cluster, namespace: &Namespace<'_>, used: &Use) -> Result<()> {
    let mut app = App::new(used.app_id);
    if !used.configuration.is_empty() {
        app = app.annotated("config", used.configuration);
    }
    let words = match &used.does {
        TryAgain(target) => {
            namespace.run(&app).await?;
            return tries_again(namespace, used.app_id, target).await;
        }
        Refuse(words) => {
            namespace.begin(&app).await?;
            words
        }
    };
    let workload = format!("deployment/{}", used.app_id);
    await_condition("the sidecar says so", SOON, async || {
        let log = cluster.logs(namespace.name(), &workload, "daprd").await;
        for each in *words {
            ensure!(log.contains(each), "not {each:?}: {log}");
        }
        Ok(())
    })
    .await
}

/// One call is enough: without a policy the first failure is the answer, as `resources` tells.
async fn tries_again(namespace: &Namespace<'_>, app: &str, target: &str) -> Result<()> {
    namespace.deploy(target, 1).await?;
    let call = async |method: &str| {
        let path = format!("invoke/{target}/method/{method}");
        namespace.ask_sidecar(app, "GET", &path, "").await?.ok()
    };
    await_condition("the target is reached", SOON, || call("who")).await?;
    call("unsteady/sample").await?;
    Ok(())
}
