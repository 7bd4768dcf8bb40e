//! The resources in the folders of `--resources-path`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dapr_crds::Configuration;
use dapr_crds::manifest::{self, Document, Manifest};
use dapr_kit::flags::Environment;
use dapr_security::watch::Changes;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use super::{Feed, Loader, Resources, configuration};

/// Quiet time after a change before the folders are read: an editor writes a file in several steps.
const SETTLE: Duration = Duration::from_millis(5);
/// Pause before a folder that cannot be watched is tried again.
const UNWATCHED: Duration = Duration::from_secs(10);

/// Resources from the folders of `--resources-path`, the Configuration from the files of `--config`.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Folders, in order.
    pub folders: Vec<PathBuf>,
    /// Files of the Configuration, in order.
    pub configuration: Vec<PathBuf>,
    /// Own app id.
    pub app_id: String,
    /// Own namespace, if it counts.
    pub namespace: Option<String>,
    /// What `${VAR}` in the Configuration stands for.
    pub environment: Arc<Environment>,
    /// Time between reads that nothing asked for.
    pub backup: Duration,
    /// What the files held when they could be read.
    pub known: Known,
}

/// What each file last held: a file that cannot be read, or whose document cannot, takes nothing out of use. Clones
/// share it.
#[derive(Clone, Default)]
pub struct Known(Arc<Mutex<BTreeMap<PathBuf, Vec<Manifest>>>>);

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Manifests may hold secrets.
        f.debug_set().entries(self.0.lock().keys()).finish()
    }
}

#[async_trait]
impl Loader for Disk {
    async fn configuration(&self) -> Result<Configuration, super::Error> {
        Ok(configuration::load(&self.configuration, &self.environment)?)
    }

    async fn resources(&self) -> Result<Resources, super::Error> {
        Ok(self.read()?)
    }

    async fn follow(&self, feed: &Feed) {
        if self.folders.is_empty() {
            return std::future::pending().await;
        }
        loop {
            // Entries below the folders are named, for it is the folders of files that are watched.
            let entries: Vec<PathBuf> =
                self.folders.iter().map(|folder| folder.join("*")).collect();
            let mut changes = match Changes::of_files(entries.iter().map(PathBuf::as_path)) {
                Ok(changes) => changes,
                Err(error) => {
                    let error = dapr_kit::process::chain(&error);
                    tracing::warn!(target: "dapr.runtime", "changes of resources go unnoticed for now: {error}");
                    sleep(UNWATCHED).await;
                    self.publish(feed);
                    continue;
                }
            };
            // What changed between the first read and the watch.
            self.publish(feed);
            self.follow_changes(&mut changes, feed).await;
        }
    }
}

impl Disk {
    /// Reads after each change, and now and then without one; returns once a folder may have to be watched anew.
    async fn follow_changes(&self, changes: &mut Changes, feed: &Feed) {
        let backup = Instant::now() + self.backup;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(backup) => return,
                () = changes.changed() => {}
            }
            while timeout(SETTLE, changes.changed()).await.is_ok() {}
            self.publish(feed);
        }
    }

    fn read(&self) -> Result<Resources, Error> {
        read(
            &self.folders,
            &self.known,
            &self.app_id,
            self.namespace.as_deref(),
        )
    }

    /// Reads the folders. What cannot be used at all leaves everything as it is: a typing error must not end a
    /// sidecar that serves.
    fn publish(&self, feed: &Feed) {
        match self.read() {
            Ok(resources) => feed.publish(resources),
            Err(error) => {
                tracing::error!(target: "dapr.runtime", "failed to load resources from disk, those in use stay: {error}");
            }
        }
    }
}

/// Resources that cannot be used. Texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder cannot be read.
    #[error("failed to load components: open {path}: {reason}", path = .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A folder that is to be followed cannot be.
    #[error("failed to create watcher: failed to add target {path}: {reason}", path = .path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Two components of one name.
    #[error(
        "failed to load components: duplicate definition of Component name {second} with existing {first}"
    )]
    DuplicateComponent {
        /// Log name of the earlier one.
        first: String,
        /// Log name of the later one.
        second: String,
    },
}

impl Error {
    /// The error of a sidecar that follows its folders: upstream begins to before it reads them.
    pub fn of_hot_reload(self) -> Self {
        match self {
            Self::Folder { path, reason } => Self::Watch { path, reason },
            other @ (Self::Watch { .. } | Self::DuplicateComponent { .. }) => other,
        }
    }
}

/// Reads all `folders` for application `app_id`. A document that cannot be used is logged, and what is `known` of it
/// stays in use.
pub fn read(
    folders: &[PathBuf],
    known: &Known,
    app_id: &str,
    namespace: Option<&str>,
) -> Result<Resources, Error> {
    let mut before = known.0.lock();
    let mut now: BTreeMap<PathBuf, Vec<Manifest>> = BTreeMap::new();
    let mut manifests = Vec::new();
    for folder in folders {
        for file in files(folder)? {
            let held = before.get(&file).map(Vec::as_slice).unwrap_or_default();
            let Some(holds) = read_file(&file, held) else {
                continue;
            };
            manifests.extend(holds.iter().cloned());
            now.insert(file, holds);
        }
    }
    *before = now;
    drop(before);
    select(manifests, app_id, namespace)
}

/// What a file holds that held `before`; `None` when it is gone.
fn read_file(file: &Path, before: &[Manifest]) -> Option<Vec<Manifest>> {
    let name = file.display().to_string();
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(target: "dapr.runtime", %error, "a resource file cannot be read, what it held stays in use: {name}");
            return Some(before.to_vec());
        }
    };
    let documents = manifest::read(&name, &text).into_iter();
    let documents: Vec<_> = documents.map(|document| usable(&name, document)).collect();
    let is_broken = documents.contains(&None);
    let holds = documents.into_iter().flatten().collect();
    Some(if is_broken {
        with_former(holds, before)
    } else {
        holds
    })
}

/// What can be read of a file, and what it held before: a document that cannot be read may be any of those that are
/// not found any more.
fn with_former(mut fresh: Vec<Manifest>, before: &[Manifest]) -> Vec<Manifest> {
    let identity = |manifest: &Manifest| {
        (
            manifest.kind(),
            manifest.namespace().to_owned(),
            manifest.name().to_owned(),
        )
    };
    let mut merged = Vec::with_capacity(before.len());
    for former in before {
        let same = |other: &Manifest| identity(other) == identity(former);
        merged.push(match fresh.iter().position(same) {
            Some(place) => fresh.remove(place),
            None => former.clone(),
        });
    }
    merged.append(&mut fresh);
    merged
}

/// The YAML files of a folder by name; subfolders are not entered.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let fail = |error: std::io::Error| {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        Error::Folder {
            path: folder.to_owned(),
            reason,
        }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            continue;
        }
        let is_yaml = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| {
                extension.eq_ignore_ascii_case("yaml") || extension.eq_ignore_ascii_case("yml")
            });
        if is_yaml {
            files.push(path);
        } else {
            let name = path.display();
            tracing::warn!(target: "dapr.runtime", "A non-YAML Component file {name} was detected, it will not be loaded");
        }
    }
    files.sort();
    Ok(files)
}

/// Logs what is to be said about a document and hands on what it holds.
fn usable(file: &str, document: Document) -> Option<Manifest> {
    let index = document.index;
    for warning in &document.warnings {
        configuration::tell(
            warning.kind,
            format_args!("{file}, document {index}: {warning}"),
        );
    }
    match document.result {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            let kind = error.kind.unwrap_or("Component");
            let file = &error.file;
            tracing::warn!(
                target: "dapr.runtime",
                "daprd load {kind} error when parsing manifests yaml resource in {file}: {error}"
            );
            None
        }
    }
}

/// What of `manifests` concerns the application: name, namespace and scopes decide.
fn select(
    manifests: Vec<Manifest>,
    app_id: &str,
    namespace: Option<&str>,
) -> Result<Resources, Error> {
    let mut resources = Resources::default();
    let mut names: BTreeMap<(&'static str, String), String> = BTreeMap::new();
    let mut broken_endpoints = false;
    for manifest in manifests {
        let Some(kind) = manifest.kind() else {
            continue;
        };
        let name = manifest.name().to_owned();
        if name.is_empty() {
            continue;
        }
        if let Err(reason) = manifest::check_name(kind, &name) {
            tracing::warn!(target: "dapr.runtime", "{reason}");
            continue;
        }
        let elsewhere = namespace
            .is_some_and(|own| !manifest.namespace().is_empty() && manifest.namespace() != own);
        if elsewhere {
            continue;
        }
        let log_name = match &manifest {
            Manifest::Component(component) => component.log_name(),
            _ => name.clone(),
        };
        // The later one is a duplicate even when it is meant for other applications.
        let existing = names.get(&(kind, name.clone())).cloned();
        match (&manifest, existing) {
            (Manifest::Component(_), Some(first)) => {
                return Err(Error::DuplicateComponent {
                    first,
                    second: log_name,
                });
            }
            (Manifest::HttpEndpoint(_), Some(first)) => {
                tracing::warn!(
                    target: "dapr.runtime",
                    "failed to load HTTP endpoints: duplicate definition of HTTPEndpoint name {log_name} with existing {first}"
                );
                broken_endpoints = true;
                continue;
            }
            _ => {}
        }
        if resources.add(manifest, app_id) {
            names.insert((kind, name), log_name);
        }
    }
    if broken_endpoints {
        resources.http_endpoints.clear();
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unwrap_in_result, reason = "a test may fail here")]
    fn load(
        files: &[(&str, &str)],
        app_id: &str,
        namespace: Option<&str>,
    ) -> Result<Resources, Error> {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("written");
        }
        read(
            &[folder.path().to_owned()],
            &Known::default(),
            app_id,
            namespace,
        )
    }

    fn component(name: &str, more: &str) -> String {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: state.in-memory, version: v1, metadata: []}}\n{more}"
        )
    }

    fn names(resources: &Resources) -> Vec<String> {
        resources
            .components
            .iter()
            .map(|c| c.metadata.name.clone().unwrap_or_default())
            .collect()
    }

    #[test]
    fn files_and_documents_come_in_order_and_bad_ones_are_passed_over() {
        let both = format!(
            "{}\n---\n{}\n---\n: broken\n",
            component("b", ""),
            component("c", "")
        );
        let files = [
            ("2.yaml", both.as_str()),
            ("1.YML", &component("a", "")),
            ("x.json", "{}"),
            ("3.yaml", "kind: Pod"),
        ];
        assert_eq!(
            names(&load(&files, "shop", None).expect("loads")),
            ["a", "b", "c"]
        );
    }

    #[test]
    fn scopes_and_namespaces_select() {
        let scoped = component("scoped", "scopes: [other]\n");
        let elsewhere = component("x", "").replace("{name: x}", "{name: x, namespace: prod}");
        let files = [("1.yaml", scoped.as_str()), ("2.yaml", &elsewhere)];
        assert_eq!(names(&load(&files, "shop", None).expect("loads")), ["x"]);
        assert_eq!(
            names(&load(&files, "other", Some("dev")).expect("loads")),
            ["scoped"]
        );
        assert_eq!(
            names(&load(&files, "shop", Some("prod")).expect("loads")),
            ["x"]
        );
        let policies = "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nscopes: [other]\nspec: {}\n";
        let found = |app_id| {
            let resources = load(&[("r.yaml", policies)], app_id, None).expect("loads");
            resources.resiliencies.len()
        };
        assert_eq!((found("shop"), found("other")), (0, 1));
    }

    #[test]
    fn two_components_of_one_name_are_refused() {
        let other = component("a", "scopes: [other]\n");
        let error = load(
            &[("1.yaml", &component("a", "")), ("2.yaml", &other)],
            "shop",
            None,
        )
        .expect_err("duplicate");
        assert_eq!(
            error.to_string(),
            "failed to load components: duplicate definition of Component name a (state.in-memory/v1) with existing a (state.in-memory/v1)"
        );
        // An earlier one that is meant for others does not count.
        assert!(
            load(
                &[("1.yaml", &other), ("2.yaml", &component("a", ""))],
                "shop",
                None
            )
            .is_ok()
        );
    }

    #[test]
    fn a_missing_folder_is_named() {
        let nowhere = [PathBuf::from("/nowhere")];
        let error = read(&nowhere, &Known::default(), "shop", None).expect_err("missing");
        assert_eq!(
            error.to_string(),
            "failed to load components: open /nowhere: no such file or directory"
        );
        assert_eq!(
            error.of_hot_reload().to_string(),
            "failed to create watcher: failed to add target /nowhere: no such file or directory"
        );
    }

    #[test]
    fn a_file_that_breaks_keeps_what_it_held() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = [folder.path().to_owned()];
        let known = Known::default();
        let file = folder.path().join("1.yaml");
        let check = |text: &str, expected: &[&str]| {
            std::fs::write(&file, text).expect("written");
            let resources = read(&folders, &known, "shop", None).expect("reads");
            assert_eq!(names(&resources), expected, "{text}");
            resources
        };
        let (a, b, c) = (
            component("a", ""),
            component("b", ""),
            component("c", "").replace("v1,", "v2,"),
        );
        std::fs::write(folder.path().join("2.yaml"), component("z", "")).expect("written");
        // A document that never could be read holds up nobody.
        check(&format!("{a}---\n: broken\n---\n{b}"), &["a", "b", "z"]);
        check("spec: [", &["a", "b", "z"]);
        // What can be read is used meanwhile.
        let changed = b.replace("v1,", "v2,");
        let broken = format!("{changed}---\nspec: [\n---\n{c}");
        let resources = check(&broken, &["a", "b", "c", "z"]);
        assert_eq!(resources.components[1].spec.version, "v2");
        check(&c, &["c", "z"]);
        // It is the file that counts, and this one is gone.
        check("spec: [", &["c", "z"]);
        std::fs::remove_file(&file).expect("removed");
        let resources = read(&folders, &known, "shop", None).expect("reads");
        assert_eq!(names(&resources), ["z"]);
        check("spec: [", &["z"]);
        std::fs::write(&file, b"\xff").expect("written");
        let resources = read(&folders, &known, "shop", None).expect("no text is no end");
        assert_eq!(names(&resources), ["z"]);
    }

    #[test]
    fn of_subscriptions_with_one_name_the_last_wins() {
        let subscription = |topic: &str, scopes: &str| {
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {{name: s}}\n\
                 spec: {{pubsubname: p, topic: {topic}, route: /x}}\nscopes: {scopes}\n"
            )
        };
        let other = subscription("t", "[]").replace("name: s", "name: other");
        let files = [
            ("1.yaml", subscription("first", "[]")),
            ("2.yaml", other),
            ("3.yaml", subscription("last", "[]")),
            ("4.yaml", subscription("elsewhere", "[another]")),
        ];
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (*name, &text[..]))
            .collect();
        let resources = load(&files, "shop", None).expect("loads");
        let topics: Vec<_> = resources.subscriptions.iter().map(|it| &it.topic).collect();
        assert_eq!(topics, ["last", "t"]);
    }

    #[test]
    fn both_subscription_versions_are_read() {
        let text = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s}\nspec: {pubsubname: p, topic: t, route: /x}\n\
                    ---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: s2}\n\
                    spec: {pubsubname: p, topic: u, routes: {rules: [{match: 'true', path: /a}], default: /d}}\n\
                    ---\napiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s3}\n\
                    spec: {pubsubname: p, topic: nowhere, route: ''}\n";
        let resources = load(&[("s.yaml", text)], "shop", None).expect("loads");
        let paths: Vec<Vec<&str>> = resources
            .subscriptions
            .iter()
            .map(|s| s.rules.iter().map(|rule| rule.path.as_str()).collect())
            .collect();
        assert_eq!(paths, [vec!["/x"], vec!["/a", "/d"], vec![]]);
    }
}
