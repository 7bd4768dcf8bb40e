//! Renderings are kept: the plain one whole, of the others what differs from it.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dapr_charts::{CHART, Difference, Helm, documents, identity};
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

/// A container that ends without a word of its own leaves the end of its log: `kubectl describe` says why it crashes.
#[test]
fn a_container_that_crashes_says_why() -> Result<()> {
    let Some(helm) = Helm::find("the last words of containers of the chart")? else {
        return Ok(());
    };
    for variant in variants::all() {
        let all = documents(&rendered(&helm, NAMESPACE, &variant)?)?;
        for workload in all
            .iter()
            .filter(|it| it.pointer("/spec/template").is_some())
        {
            let containers = workload.pointer("/spec/template/spec/containers");
            let containers = containers.and_then(Value::as_array).context("containers")?;
            let main = containers.last().context("no container")?;
            ensure!(
                main["terminationMessagePolicy"] == "FallbackToLogsOnError",
                "{}: {}",
                variant.name,
                identity(workload)
            );
        }
    }
    Ok(())
}

/// The values that Dapr 1.18 ships with enable the scheduler. Its objects are there, and who installs hears what they are.
#[test]
fn the_originals_values_make_what_the_original_makes() -> Result<()> {
    let Some(helm) = Helm::find("the chart with the original's values")? else {
        return Ok(());
    };
    let values = include_str!("values/upstream.yaml");
    ensure!(values.contains("  scheduler:\n    enabled: true\n"));
    let (name, values) = ("as_upstream", values.to_owned());
    let all = documents(&rendered(&helm, NAMESPACE, &Variant { name, values })?)?;
    let identities: Vec<String> = all.iter().map(identity).collect();
    for kind in ["StatefulSet", "Service"] {
        let is_it = |it: &String| it.starts_with(kind) && it.ends_with("/dapr-scheduler-server");
        ensure!(identities.iter().any(is_it), "no {kind}: {identities:?}");
    }
    let injector = all
        .iter()
        .find(|it| it["kind"] == "Deployment" && it["metadata"]["name"] == "dapr-sidecar-injector");
    let arguments = injector.and_then(|it| it.pointer("/spec/template/spec/containers/0/args"));
    let mut arguments = arguments.and_then(Value::as_array).into_iter().flatten();
    ensure!(arguments.any(|it| it == "--scheduler-enabled=true"));
    Ok(())
}

#[test]
fn no_rendering_holds_a_key_that_helm_made() -> Result<()> {
    for entry in templates(Path::new(CHART))? {
        let text = std::fs::read_to_string(&entry)?;
        let found = unstable(&text);
        ensure!(found.is_empty(), "{} calls {found:?}", entry.display());
    }
    Ok(())
}

/// The functions called in a template whose results are others each time.
fn unstable(template: &str) -> Vec<&str> {
    let actions = template.split("{{").skip(1);
    let actions = actions.filter_map(|it| it.split("}}").next());
    let actions = actions.filter(|it| !it.trim_start_matches(['-', ' ']).starts_with("/*"));
    // What is in quotes is text.
    let code = actions.flat_map(|it| it.split('"').step_by(2));
    let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let words = code.flat_map(|it| it.split(move |it| !is_part(it)));
    words
        .filter(|word| {
            ["gen", "rand"].iter().any(|it| word.starts_with(it))
                || [
                    "ago",
                    "bcrypt",
                    "derivePassword",
                    "encryptAES",
                    "htpasswd",
                    "now",
                    "shuffle",
                    "uuidv4",
                ]
                .contains(word)
        })
        .collect()
}

#[test]
fn functions_that_make_something_new_are_found() {
    let check = |template, expected: &[&str]| assert_eq!(unstable(template), expected);
    check(
        "a: {{ $c := genSignedCert $name nil nil 1 $ca }}",
        &["genSignedCert"],
    );
    check(
        "{{- genCAWithKey \"now\" 1 (genPrivateKey \"rsa\") -}}",
        &["genCAWithKey", "genPrivateKey"],
    );
    check(
        "{{ genSelfSignedCert }}{{randAlphaNum 5}}",
        &["genSelfSignedCert", "randAlphaNum"],
    );
    check("{{ now | date \"2006\" }} {{ uuidv4 }}", &["now", "uuidv4"]);
    check(
        "{{- /* now, randomly generated */}} now {{ range .Values.known }}{{ end }}",
        &[],
    );
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
