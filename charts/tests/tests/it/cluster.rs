//! A real API server and the chart. No kubelet runs: that pods start is the story of `e2e/cluster`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dapr_charts::{CHART, Helm, RELEASE, UPSTREAM_VALUES};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real::{ApiServer, owned, shared};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::rendering::rendered;
use crate::variants;

/// How long the API server may take to serve a kind that is new.
const SETTLED: Duration = Duration::from_secs(20);

/// Runs kubectl, with text on its stdin. Tells what it printed on both outputs.
async fn kubectl(server: &ApiServer, arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new(server.kubectl())
        .arg("--kubeconfig")
        .arg(server.kubeconfig())
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
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    ensure!(output.status.success(), "kubectl {arguments:?}: {text}");
    Ok(text)
}

async fn get(server: &ApiServer, arguments: &[&str]) -> Result<Value> {
    let arguments = [&["get", "--output", "json"], arguments].concat();
    Ok(serde_json::from_str(
        &kubectl(server, &arguments, "").await?,
    )?)
}

async fn restricted(server: &ApiServer, namespace: &str) -> Result<()> {
    let labels =
        ["enforce", "warn"].map(|it| format!("pod-security.kubernetes.io/{it}=restricted"));
    let arguments = ["label", "namespace", namespace, &labels[0], &labels[1]];
    kubectl(server, &arguments, "").await?;
    Ok(())
}

#[tokio::test]
async fn each_variant_is_taken_by_an_api_server() -> Result<()> {
    let story = "variants of the chart on an API server";
    let (Some(helm), Some(server)) = (Helm::find(story)?, shared(story).await?) else {
        return Ok(());
    };
    server.create_crds(&Path::new(CHART).join("crds")).await?;
    let namespace = server.create_namespace("chart").await?;
    restricted(server, &namespace).await?;
    for variant in variants::all() {
        let text = rendered(&helm, &namespace, &variant)?;
        let apply = [
            "apply",
            "--server-side",
            "--dry-run=server",
            "--filename",
            "-",
        ];
        let said = kubectl(server, &apply, &text).await;
        let said = said.with_context(|| format!("variant {}", variant.name))?;
        // The API server warns of fields it does not know, and of pods that Pod Security would refuse. The network of
        // the host is such a one, and was asked for.
        let warnings = said.lines().filter(|it| it.contains("Warning"));
        let warnings =
            warnings.filter(|it| !(variant.name == "injector" && it.contains("hostNetwork=true")));
        let warnings: Vec<&str> = warnings.collect();
        ensure!(
            warnings.is_empty(),
            "variant {}: {warnings:?}",
            variant.name
        );
    }
    Ok(())
}

/// Argo and others apply a rendering again and again.
#[tokio::test]
async fn what_the_control_plane_fills_in_stays_when_the_chart_is_applied_again() -> Result<()> {
    let story = "the chart applied again";
    let (Some(helm), Some(server)) = (Helm::find(story)?, owned(story).await?) else {
        return Ok(());
    };
    server.create_crds(&Path::new(CHART).join("crds")).await?;
    let namespace = server.create_namespace("again").await?;
    let variants = variants::all();
    let plain = variants.first().context("no variant")?;
    let text = rendered(&helm, &namespace, plain)?;
    let apply = [
        "apply",
        "--server-side",
        "--field-manager=gitops",
        "--filename",
        "-",
    ];
    kubectl(&server, &apply, &text).await?;

    let webhook = "mutatingwebhookconfiguration/dapr-sidecar-injector";
    let in_it = ["--namespace", &namespace];
    let patches = [
        (
            "configmap/dapr-trust-bundle",
            json!([{"op": "add", "path": "/data", "value": {"ca.crt": "root"}}]),
        ),
        (
            "secret/dapr-trust-bundle",
            json!([{"op": "add", "path": "/data", "value": {"ca.crt": "cm9vdA=="}}]),
        ),
        (
            webhook,
            json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": CERTIFICATE}]),
        ),
    ];
    for (object, patch) in &patches {
        let patch = patch.to_string();
        let arguments = [
            &in_it[..],
            &["patch", object, "--type=json", "--patch", &patch],
        ]
        .concat();
        kubectl(&server, &arguments, "").await?;
    }
    kubectl(&server, &apply, &text).await?;

    let bundle = get(
        &server,
        &[&in_it[..], &["configmap/dapr-trust-bundle"]].concat(),
    )
    .await?;
    ensure!(bundle["data"]["ca.crt"] == "root", "{bundle}");
    let secret = get(
        &server,
        &[&in_it[..], &["secret/dapr-trust-bundle"]].concat(),
    )
    .await?;
    ensure!(secret["data"]["ca.crt"] == "cm9vdA==", "{secret}");
    let webhook = get(&server, &[webhook]).await?;
    ensure!(
        webhook["webhooks"][0]["clientConfig"]["caBundle"] == CERTIFICATE,
        "{webhook}"
    );
    Ok(())
}

#[tokio::test]
async fn pods_that_ask_for_no_sidecar_need_no_injector() -> Result<()> {
    let story = "pods without an injector";
    let (Some(helm), Some(server)) = (Helm::find(story)?, owned(story).await?) else {
        return Ok(());
    };
    let namespace = server.create_namespace("nobody").await?;
    server.service_account(&namespace, "app").await?;
    let variants = variants::all();
    let text = rendered(&helm, &namespace, variants.first().context("no variant")?)?;
    let webhook = text
        .split("\n---\n")
        .find(|it| it.contains("kind: MutatingWebhookConfiguration"))
        .context("no webhook")?;
    // What nobody can be asked about is refused, and there is nobody to ask.
    let webhook = webhook.replace("failurePolicy: Ignore", "failurePolicy: Fail");
    kubectl(&server, &["apply", "--filename", "-"], &webhook).await?;
    let create = async |name: &str, annotations: Value| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
            "spec": {"serviceAccountName": "app", "containers": [{"name": "app", "image": "app"}]},
        });
        kubectl(&server, &["create", "--filename", "-"], &pod.to_string()).await
    };
    // The API server hears of a new webhook a moment later.
    await_condition("who asks is refused", SETTLED, async || {
        let pod = format!("wants-{}", std::process::id());
        match create(&pod, json!({"dapr.io/enabled": "true"})).await {
            Ok(_) => {
                kubectl(
                    &server,
                    &["delete", "pod", &pod, "--namespace", &namespace, "--now"],
                    "",
                )
                .await?;
                bail!("it was let in")
            }
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains("sidecar-injector.dapr.io"), "{said}");
                Ok(())
            }
        }
    })
    .await?;
    create("plain", json!(null)).await?;
    create("other", json!({"example.com/enabled": "true"})).await?;
    Ok(())
}

/// A certificate, as an API server wants one in `caBundle`.
const CERTIFICATE: &str = include_str!("values/certificate.base64");

#[tokio::test]
async fn install_upgrade_and_uninstall_leave_what_the_original_leaves() -> Result<()> {
    let story = "install and uninstall on an API server";
    let (Some(helm), Some(server)) = (Helm::find(story)?, owned(story).await?) else {
        return Ok(());
    };
    let helm = helm.on(server.kubeconfig());
    let run = |arguments: &[&str]| -> Result<String> {
        let done = helm.run(arguments.iter().copied())?;
        done.map_err(|it| anyhow::anyhow!("helm {arguments:?}: {}", it.message))
    };
    let before = everything(&server).await?;
    cannot_be_installed(&helm)?;
    run(&[
        "install",
        RELEASE,
        CHART,
        "--namespace",
        "dapr-system",
        "--create-namespace",
    ])?;
    // No kubelet would run the Job that comes before an upgrade.
    let high = ["--no-hooks", "--set", "global.ha.enabled=true"];
    run(&[
        &["upgrade", RELEASE, CHART, "--namespace", "dapr-system"],
        &high[..],
    ]
    .concat())?;
    let installed = everything(&server).await?;
    ensure!(installed.len() > before.len() + 30, "{installed:#?}");

    // With the original's values, one reads what does not run.
    let said = run(&[
        "upgrade",
        RELEASE,
        CHART,
        "--namespace",
        "dapr-system",
        "--dry-run=server",
        "--values",
        UPSTREAM_VALUES,
    ])?;
    let note = "The scheduler keeps no jobs yet: its pods do not become ready";
    ensure!(said.contains(note), "{said}");

    // A second one would take the cluster's webhook and roles away from the first.
    let second = [
        "install",
        "other",
        CHART,
        "--namespace",
        "other",
        "--create-namespace",
    ];
    match helm.run(second)? {
        Ok(_) => bail!("a second install is taken"),
        Err(failed) => ensure!(
            failed.message.contains("meta.helm.sh/release-name")
                && failed.message.contains("\"dapr\""),
            "{}",
            failed.message
        ),
    }

    run(&["uninstall", RELEASE, "--namespace", "dapr-system"])?;
    let expected = [
        "components.dapr.io",
        "configurations.dapr.io",
        "httpendpoints.dapr.io",
        "mcpservers.dapr.io",
        "resiliencies.dapr.io",
        "subscriptions.dapr.io",
        "workflowaccesspolicies.dapr.io",
    ];
    let expected: Vec<String> = expected
        .iter()
        .map(|it| format!("CustomResourceDefinition {it}"))
        .collect();
    await_condition("the chart's objects are gone", SETTLED, || async {
        let mut left = everything(&server).await?;
        left.retain(|it| !before.contains(it));
        // Namespaces that `--create-namespace` made, and what is made in each by others.
        left.retain(|it| !it.starts_with("Namespace ") && !it.contains("kube-root-ca.crt"));
        ensure!(left == expected, "{left:#?}");
        Ok(())
    })
    .await
}

/// Nobody is left with half an install, and without a reason.
fn cannot_be_installed(helm: &Helm) -> Result<()> {
    let check = |helm: &Helm, more: &[&str], expected: &[&str]| -> Result<()> {
        let install = ["install", RELEASE, CHART, "--namespace", "default"];
        match helm.run(install.iter().chain(more).copied())? {
            Ok(_) => bail!("{more:?}: installed"),
            Err(failed) => {
                for words in expected {
                    ensure!(
                        failed.message.contains(words),
                        "{more:?}: {}",
                        failed.message
                    );
                }
            }
        }
        Ok(())
    };
    check(
        helm,
        &["--kube-as-user", "somebody"],
        &["forbidden", "\"somebody\""],
    )?;
    // Nothing listens there.
    check(
        helm,
        &["--kube-apiserver", "https://127.0.0.1:1"],
        &["cluster unreachable", "127.0.0.1:1"],
    )
}

/// Every object of the kinds that the chart has, as `Kind namespace/name`.
async fn everything(server: &ApiServer) -> Result<Vec<String>> {
    let mut kinds = vec![
        "namespaces",
        "secrets",
        "configmaps",
        "services",
        "serviceaccounts",
        "deployments",
        "statefulsets",
        "clusterroles",
        "clusterrolebindings",
        "roles",
        "rolebindings",
        "customresourcedefinitions",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "poddisruptionbudgets",
        "leases",
        "resourcequotas",
        "persistentvolumeclaims",
    ];
    let definitions = get(server, &["customresourcedefinitions"]).await?;
    if definitions["items"]
        .as_array()
        .is_some_and(|it| !it.is_empty())
    {
        kinds.push("configurations.dapr.io");
    }
    let list = get(server, &["--all-namespaces", &kinds.join(",")]).await?;
    let items = list["items"].as_array().context("no list")?;
    let mut all: Vec<String> = items.iter().map(dapr_charts::identity).collect();
    // The API server keeps leases and their like by itself.
    all.retain(|it| !it.starts_with("Lease kube-system/"));
    all.sort();
    Ok(all)
}
