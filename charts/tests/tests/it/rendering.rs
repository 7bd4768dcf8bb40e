//! Renderings are kept: the plain one whole, of the others what differs from it.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dapr_charts::{CHART, Difference, Helm, documents};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::variants::{self, Variant};

/// The namespace of the documentation.
pub(crate) const NAMESPACE: &str = "dapr-system";

/// The values of a variant as a file.
pub(crate) fn file(variant: &Variant) -> Result<NamedTempFile> {
    let mut file = NamedTempFile::with_suffix(".yaml")?;
    file.write_all(variant.values.as_bytes())?;
    Ok(file)
}

pub(crate) fn rendered(helm: &Helm, namespace: &str, variant: &Variant) -> Result<String> {
    let file = file(variant)?;
    let path = file.path().to_str().context("a path that is no text")?;
    let rendered = helm.template(namespace, &["--values", path])?;
    rendered.map_err(|it| anyhow::anyhow!("variant {}: {}", variant.name, it.message))
}

#[test]
fn each_variant_is_as_its_snapshot() -> Result<()> {
    let Some(helm) = Helm::find("snapshots of the chart")? else {
        return Ok(());
    };
    let mut plain = None;
    for variant in variants::all() {
        let now = documents(&rendered(&helm, NAMESPACE, &variant)?)?;
        let Some(plain) = &plain else {
            insta::assert_yaml_snapshot!(variant.name, now);
            plain = Some(now);
            continue;
        };
        let Difference { changed, gone } = Difference::between(plain, &now);
        insta::assert_yaml_snapshot!(variant.name, json!({"gone": gone, "changed": changed}));
    }
    Ok(())
}

#[test]
fn a_rendering_is_the_same_each_time() -> Result<()> {
    let Some(helm) = Helm::find("stable renderings of the chart")? else {
        return Ok(());
    };
    for variant in variants::all() {
        let (first, second) = (
            rendered(&helm, NAMESPACE, &variant)?,
            rendered(&helm, NAMESPACE, &variant)?,
        );
        ensure!(first == second, "{}", variant.name);
        ensure!(
            !first.lines().any(|line| line.ends_with(' ')),
            "{}: a line ends in blanks",
            variant.name
        );
    }
    Ok(())
}

#[test]
fn helm_lint_has_nothing_to_say() -> Result<()> {
    let Some(helm) = Helm::find("helm lint")? else {
        return Ok(());
    };
    for variant in variants::all() {
        let file = file(&variant)?;
        let path = file.path().to_str().context("a path that is no text")?;
        let fixed = ["lint", "--strict", "--kube-version", "1.33.13", "--values"];
        let linted = helm.run(fixed.into_iter().chain([path, CHART]))?;
        linted.map_err(|it| anyhow::anyhow!("variant {}: {}", variant.name, it.message))?;
    }
    Ok(())
}

/// What holds for each pod of the control plane, whatever the values are.
#[test]
fn pods_are_what_pod_security_wants() -> Result<()> {
    let Some(helm) = Helm::find("pods of the chart")? else {
        return Ok(());
    };
    for variant in variants::all() {
        let all = documents(&rendered(&helm, NAMESPACE, &variant)?)?;
        let pods = all.iter().filter_map(|it| it.pointer("/spec/template"));
        let mut seen = 0;
        for pod in pods {
            seen += 1;
            let at = |pointer: &str| pod.pointer(pointer).unwrap_or(&Value::Null);
            let seccomp = at("/spec/securityContext/seccompProfile/type");
            ensure!(seccomp == "RuntimeDefault", "{}", variant.name);
            let containers = at("/spec/containers").as_array().context("containers")?;
            let main = containers.last().context("no container")?;
            let security = &main["securityContext"];
            ensure!(
                security["readOnlyRootFilesystem"] == true,
                "{}",
                variant.name
            );
            ensure!(
                security["allowPrivilegeEscalation"] == false,
                "{}",
                variant.name
            );
            ensure!(
                security["capabilities"]["drop"] == json!(["ALL"]),
                "{}",
                variant.name
            );
            let mounts = main["volumeMounts"].as_array().into_iter().flatten();
            let volumes = at("/spec/volumes").as_array().into_iter().flatten();
            let volumes: Vec<&Value> = volumes.collect();
            for mount in mounts {
                let claims = all
                    .iter()
                    .filter_map(|it| it.pointer("/spec/volumeClaimTemplates"));
                let claims = claims.filter_map(Value::as_array).flatten();
                let claimed = claims.map(|it| &it["metadata"]["name"]);
                let mut names = volumes.iter().map(|it| &it["name"]).chain(claimed);
                ensure!(
                    names.any(|it| *it == mount["name"]),
                    "{}: {mount}",
                    variant.name
                );
            }
        }
        ensure!(seen >= 3, "{}: {seen} workloads", variant.name);
    }
    Ok(())
}

#[test]
fn no_rendering_holds_a_key_that_helm_made() -> Result<()> {
    for entry in templates(Path::new(CHART))? {
        let text = std::fs::read_to_string(&entry)?;
        for function in [
            "genCA",
            "genSigned",
            "genPrivateKey",
            "genSelfSigned",
            "randAlpha",
            "uuidv4",
            "now",
        ] {
            ensure!(
                !text.contains(&format!("{function} ")),
                "{} calls {function}",
                entry.display()
            );
        }
    }
    Ok(())
}

fn templates(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(templates(&path)?);
        } else if path.components().any(|it| it.as_os_str() == "templates") {
            found.push(path);
        }
    }
    Ok(found)
}
