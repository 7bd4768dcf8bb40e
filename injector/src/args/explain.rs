//! `injector explain`: says what would become of a pod, without a cluster.
#![expect(
    clippy::print_stdout,
    reason = "the explanation is what the person at the terminal asked for"
)]

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use dapr_kit::flags::Environment;
use dapr_kit::shutdown::Shutdown;
use serde_json::Value;

use crate::app::domain;
use crate::config::{Config, NativeSidecar};
use crate::explain::explain;
use crate::patch::{Pod, Request};
use crate::settings::{Mode, Settings, Surroundings, Token};

/// The image that stands for the sidecar's where `SIDECAR_IMAGE` is not set.
const IMAGE: &str = "daprd";
/// The namespace of the control plane where `NAMESPACE` is not set.
const NAMESPACE: &str = "dapr-system";
/// What stands for the trust bundle, which only a running injector has.
const ANCHORS: &str = "<trust anchors>";

/// The flags of `injector explain`.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "injector explain",
    about = "Says what the injector would do with a pod, by the variables it would be started with"
)]
pub struct ExplainArgs {
    /// File with the pod, or with a workload that has a template of it; - is the standard input.
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Namespace of the pod; that of the file when not given.
    #[arg(long)]
    namespace: Option<String>,
    /// Tell sidecars the address of the scheduler.
    #[arg(long, default_value_t = true)]
    scheduler_enabled: bool,
    /// Whether sidecars talk mTLS to each other.
    #[arg(long, default_value_t = true)]
    mtls: bool,
}

impl ExplainArgs {
    /// Reads the file and prints the explanation.
    ///
    /// # Errors
    /// The file cannot be read, or holds no pod.
    pub async fn run(self, environment: Environment, _shutdown: Shutdown) -> anyhow::Result<()> {
        let text = read(&self.file)?;
        print!("{}", self.text(&text, &environment).await?);
        Ok(())
    }

    async fn text(self, file: &str, environment: &Environment) -> anyhow::Result<String> {
        let Self {
            file: _,
            namespace,
            scheduler_enabled,
            mtls,
        } = self;
        let config = Config::or(environment, IMAGE, NAMESPACE)?;
        let domain = match config.cluster_domain.as_deref() {
            Some(said) => domain(Some(said)).await,
            // The resolver of this machine is not that of the cluster.
            None => "cluster.local".to_owned(),
        };
        let surroundings = Surroundings {
            cluster_domain: domain,
            scheduler_enabled,
            token: Token::Projected,
            mode: Mode::of(config.native_sidecar != NativeSidecar::No),
        };
        let settings = Settings::new(&config, &surroundings);
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        let object: Value = serde_saphyr::from_str_with_options(file, options)
            .context("the file is no YAML document")?;
        let own = object
            .pointer("/metadata/namespace")
            .and_then(Value::as_str);
        let namespace = namespace.as_deref().or(own).unwrap_or("default");
        let pod = pod(&object)?;
        let request = Request {
            namespace,
            trust_anchors: ANCHORS,
            mtls,
            components: Some(&[]),
        };
        Ok(explain(&pod, &settings, &request))
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.context("failed to read the standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))
}

/// The pod, or the template of a workload. Pods of a workload get their names from it, and have none at admission.
fn pod(object: &Value) -> anyhow::Result<Pod> {
    let templates = ["/spec/template", "/spec/jobTemplate/spec/template"];
    let template = templates.iter().find_map(|path| object.pointer(path));
    let kind = object
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    ensure!(
        kind == "Pod" || template.is_some(),
        "the file holds a {kind:?}, which is neither a Pod nor has a template of one"
    );
    let pod = serde_json::from_value(template.unwrap_or(object).clone());
    pod.context("the pod cannot be read")
}

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    async fn text(file: &str) -> Result<String, String> {
        let words = ["injector explain", "-f", "unused"];
        let args: ExplainArgs = try_parse_from(Dashes::OneOrTwo, words).expect("flags");
        let explained = args.text(file, &Environment::default()).await;
        explained.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn pods_and_templates_are_explained() {
        let annotations = "annotations: {dapr.io/enabled: \"true\", dapr.io/app-id: shop}";
        let pod =
            format!("kind: Pod\nmetadata: {{name: a, {annotations}}}\nspec: {{containers: []}}");
        let deployment =
            format!("kind: Deployment\nspec:\n  template:\n    metadata: {{{annotations}}}\n");
        for file in [pod, deployment] {
            let text = text(&file).await.expect("explained");
            assert!(text.contains("  --app-id shop\n"), "{text}");
        }
    }

    #[tokio::test]
    async fn what_is_no_pod_is_named() {
        let check = async |file: &str, expected: &str| {
            let error = text(file).await.expect_err(expected);
            assert!(error.contains(expected), "{error}");
        };
        check("kind: Secret", "holds a \"Secret\"").await;
        check("a: [", "is no YAML document").await;
        check("kind: Pod\nspec: 7", "the pod cannot be read").await;
    }
}
