//! Documents that stand in two places of the repository.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dapr_charts::{CHART, Helm, documents};

use crate::rendering::NAMESPACE;

fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?
    {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, std::fs::read_to_string(entry.path())?);
    }
    Ok(files)
}

#[test]
fn the_crds_are_the_generated_ones() -> Result<()> {
    let chart = Path::new(CHART);
    let generated = files(&chart.join("../../crds/yaml"))?;
    ensure!(generated.len() == 7);
    let ours = files(&chart.join("crds"))?;
    for (name, text) in &generated {
        ensure!(
            ours.get(name) == Some(text),
            "{name}: `make crds` copies it"
        );
    }
    ensure!(ours.len() == generated.len());
    Ok(())
}

#[test]
fn the_policy_is_the_one_that_the_injector_is_tested_with() -> Result<()> {
    let Some(helm) = Helm::find("the policy of the chart")? else {
        return Ok(());
    };
    let path = Path::new(CHART).join("../../injector/policy/sidecar-required.yaml");
    let tested = documents(&std::fs::read_to_string(path)?)?;
    let set = ["--set", "dapr_sidecar_injector.sidecarRequired=true"];
    let mut rendered = helm.render(NAMESPACE, &set)?;
    rendered.retain(|it| it["metadata"]["name"] == "dapr-sidecar-required");
    for document in &mut rendered {
        let metadata = document["metadata"].as_object_mut().context("metadata")?;
        metadata.remove("labels");
    }
    ensure!(rendered == tested, "{rendered:#?}");
    Ok(())
}
