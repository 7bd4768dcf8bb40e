//! `pick` and `run` on machines of every kind: programs that only write down how they were called stand in for kind, docker,
//! kubectl, helm and cargo. No cluster is needed.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// What the scripts themselves are made of.
const TOOLS: [&str; 14] = [
    "bash", "cat", "dirname", "grep", "install", "mkdir", "mktemp", "paste", "rm", "sed", "sleep",
    "tee", "touch", "uname",
];

/// A machine with a checkout, on which nothing is installed.
struct Machine {
    folder: TempDir,
}

/// How a script ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let machine = Self { folder };
        std::fs::create_dir_all(machine.path("bin"))?;
        std::fs::create_dir_all(machine.path("root/e2e/cluster"))?;
        for tool in TOOLS {
            let places = ["/usr/bin", "/bin"].map(|it| Path::new(it).join(tool));
            let place = places.iter().find(|it| it.exists());
            symlink(place.context(tool)?, machine.path("bin").join(tool))?;
        }
        for script in ["pick", "run"] {
            let to = machine.path("root/e2e/cluster").join(script);
            std::fs::copy(Path::new(HERE).join(script), to)?;
        }
        // Root is needed there.
        machine.script("root/e2e/cluster/local", "echo 'no root' >&2; exit 75")?;
        machine.script("root/e2e/cluster/helm", "echo \"$BIN\"")?;
        machine.script(
            "root/e2e/apiserver/build",
            "echo 'there is no go' >&2; exit 75",
        )?;
        machine.script("root/images/build", "")?;
        machine.script("root/images/archive", "")?;
        Ok(machine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, body: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        let bash = self.path("bin/bash");
        std::fs::write(&path, format!("#!{}\n{body}\n", bash.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A program that writes down how it was called.
    fn program(&self, name: &str, body: &str) -> Result<()> {
        let body = format!("echo \"{name} $*\" >> \"$CALLS\"\n{body}");
        self.script(&format!("bin/{name}"), &body)
    }

    fn with_docker_and_kind(self) -> Result<Self> {
        self.program("docker", "")?;
        self.program("kind", "")?;
        Ok(self)
    }

    /// Whose cluster has these objects.
    fn with_kubectl(self, has: &str) -> Result<Self> {
        let body = format!(
            "case \"$*\" in *customresourcedefinitions*) echo '{has}' ;; *'config view'*) echo \"kubeconfig of ${{KUBECONFIG:-home}}\" ;; esac"
        );
        self.program("kubectl", &body)?;
        Ok(self)
    }

    fn run(&self, script: &str, variables: &[(&str, &str)]) -> Result<Ended> {
        std::fs::create_dir_all(self.path("somewhere"))?;
        let output = Command::new(self.path("root/e2e/cluster").join(script))
            .current_dir(self.path("somewhere"))
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("BIN", self.path("bin"))
            .env("CALLS", self.path("calls"))
            .envs(variables.iter().copied())
            .output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(Ended {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// How the programs were called, a line each.
    fn calls(&self) -> String {
        std::fs::read_to_string(self.path("calls")).unwrap_or_default()
    }
}

fn picks(machine: &Machine, variables: &[(&str, &str)], expected: &str) -> Result<()> {
    let ended = machine.run("pick", variables)?;
    ensure!(
        ended.code == Some(0) && ended.stdout == expected,
        "{ended:?}"
    );
    Ok(())
}

fn refuses(machine: &Machine, variables: &[(&str, &str)], expected: &[&str]) -> Result<()> {
    let ended = machine.run("pick", variables)?;
    ensure!(
        ended.code == Some(1) && ended.stdout.is_empty(),
        "{ended:?}"
    );
    for words in expected {
        ensure!(ended.stderr.contains(words), "{words}: {ended:?}");
    }
    Ok(())
}

#[test]
fn the_first_cluster_that_is_possible_is_picked() -> Result<()> {
    let bare = Machine::new()?;
    picks(&bare, &[], "")?;
    let skipped = std::fs::read_to_string(bare.path("root/target/e2e/skipped.txt"))?;
    ensure!(
        skipped == "skipped: stories of a cluster: kind: there is no kind; local: no root\n",
        "{skipped}"
    );
    // kind needs no root.
    let usual = Machine::new()?.with_docker_and_kind()?.with_kubectl("")?;
    picks(&usual, &[], "kind")?;
    usual.script("root/e2e/cluster/local", "")?;
    picks(&usual, &[], "kind")?;
    picks(&usual, &[("E2E_CLUSTER", "local")], "local")?;
    usual.program("docker", "exit 1")?;
    picks(&usual, &[], "local")?;
    refuses(
        &usual,
        &[("E2E_CLUSTER", "kind")],
        &["E2E_CLUSTER=kind: there is no Docker engine"],
    )?;
    refuses(
        &usual,
        &[("E2E_CLUSTER", "minikube")],
        &["is kind, local or existing"],
    )
}

#[test]
fn the_stories_need_kubectl() -> Result<()> {
    let machine = Machine::new()?.with_docker_and_kind()?;
    for kind in ["kind", "existing"] {
        let expected = [
            "there is no kubectl, and none can be built",
            "there is no go",
        ];
        refuses(&machine, &[("E2E_CLUSTER", kind)], &expected)?;
    }
    // That of the API server for tests does as well.
    machine.script("root/e2e/apiserver/build", "echo \"$BIN\"")?;
    picks(&machine, &[], "kind")
}

#[test]
fn what_is_in_somebodys_cluster_is_not_put_at_risk() -> Result<()> {
    let existing = [("E2E_CLUSTER", "existing")];
    let crowded = Machine::new()?.with_kubectl(
        "customresourcedefinition.apiextensions.k8s.io/components.dapr.io\ncustomresourcedefinition.apiextensions.k8s.io/others.example",
    )?;
    refuses(
        &crowded,
        &existing,
        &["components.dapr.io.", "E2E_OVERWRITE=1"],
    )?;
    let ended = crowded.run("pick", &existing)?;
    ensure!(!ended.stderr.contains("others.example"), "{ended:?}");
    picks(&crowded, &[existing[0], ("E2E_OVERWRITE", "1")], "existing")?;

    let empty = Machine::new()?.with_kubectl("")?;
    picks(&empty, &existing, "existing")?;
    let calls = empty.calls();
    for question in [
        "owner=helm,name=dapr",
        "namespaces dapr-system production development",
        "--namespace default orders",
    ] {
        ensure!(calls.contains(question), "{calls}");
    }
    for answer in ["secrets", "namespaces", "deployments"] {
        let body = format!("case \"$*\" in *'get {answer}'*) echo it/is-there ;; esac");
        empty.program("kubectl", &body)?;
        refuses(&empty, &existing, &["it/is-there"])?;
        // Who is not allowed to look does not know.
        let body = format!("case \"$*\" in *'get {answer}'*) exit 1 ;; esac");
        empty.program("kubectl", &body)?;
        refuses(&empty, &existing, &["cannot be asked"])?;
    }
    empty.program("kubectl", "case \"$*\" in *definitions*) exit 1 ;; esac")?;
    refuses(&empty, &existing, &["cannot be asked"])?;
    empty.program("kubectl", "case \"$*\" in *'config view'*) exit 1 ;; esac")?;
    refuses(&empty, &existing, &["no kubeconfig has a current context"])
}

/// The stand-in for cargo tells what the tests would find.
const CARGO: &str = "[[ $* = *--no-run* ]] || echo \"in $PWD: $E2E_KUBECONFIG: $(cat \"$E2E_KUBECONFIG\")\" >> \"$CALLS\"";

#[test]
fn tests_get_a_kubeconfig_that_they_find() -> Result<()> {
    let machine = Machine::new()?.with_docker_and_kind()?.with_kubectl("")?;
    machine.program("cargo", CARGO)?;
    machine.program("helm", "")?;
    // kind writes it where it is told to.
    let kind = "[[ $* = 'create cluster'* ]] || exit 0; while [ \"$1\" != --kubeconfig ]; do shift; done; echo of kind > \"$2\"";
    machine.program("kind", kind)?;
    let root = machine.path("root").canonicalize()?;
    let target = root.join("target").display().to_string();
    let binary = "root/target/x86_64-unknown-linux-gnu/release/e2e-app";
    machine.script(binary, "")?;
    machine.script(&binary.replace("x86_64", "aarch64"), "")?;
    for (variables, expected) in [
        (
            &[
                ("E2E_CLUSTER", "existing"),
                ("KUBECONFIG", "mine.conf:other.conf"),
            ][..],
            format!("{target}/e2e/existing.conf: kubeconfig of mine.conf:other.conf\n"),
        ),
        (
            &[("E2E_CLUSTER", "existing")],
            format!("{target}/e2e/existing.conf: kubeconfig of home\n"),
        ),
        (
            &[("E2E_CLUSTER", "kind")],
            format!("{target}/e2e/kind.conf: of kind\n"),
        ),
    ] {
        std::fs::write(machine.path("calls"), "")?;
        let ended = machine.run("run", variables)?;
        let expected = format!("in {}: {expected}", root.display());
        let calls = machine.calls();
        ensure!(
            ended.code == Some(0) && calls.contains(&expected),
            "{expected}: {calls}{ended:?}"
        );
    }
    // Its credentials do not stay.
    ensure!(!root.join("target/e2e/existing.conf").exists());
    Ok(())
}

#[test]
fn a_run_removes_what_it_made_and_nothing_else() -> Result<()> {
    let machine = Machine::new()?.with_docker_and_kind()?.with_kubectl("")?;
    machine.program("cargo", "")?;
    machine.program("helm", "")?;
    for architecture in ["x86_64", "aarch64"] {
        let binary = format!("root/target/{architecture}-unknown-linux-gnu/release/e2e-app");
        machine.script(&binary, "")?;
    }
    let run = |variables: &[(&str, &str)], code: i32| -> Result<String> {
        std::fs::write(machine.path("calls"), "")?;
        let ended = machine.run("run", variables)?;
        ensure!(ended.code == Some(code), "{variables:?}: {ended:?}");
        Ok(machine.calls())
    };
    let check = |calls: &str, words: &str, is_there: bool| {
        ensure!(calls.contains(words) == is_there, "{words}: {calls}");
        Ok(())
    };
    let existing = ("E2E_CLUSTER", "existing");
    let calls = run(&[existing], 0)?;
    check(&calls, "helm uninstall dapr", true)?;
    check(&calls, "charts/dapr/crds", true)?;
    for variable in ["KEEP", "E2E_OVERWRITE"] {
        let calls = run(&[existing, (variable, "1")], 0)?;
        check(&calls, "helm uninstall", false)?;
        check(&calls, "delete", false)?;
    }

    let kind = ("E2E_CLUSTER", "kind");
    check(
        &run(&[kind], 0)?,
        "kind delete cluster --name dapr-e2e",
        true,
    )?;
    check(&run(&[kind, ("KEEP", "1")], 0)?, "kind delete", false)?;
    let flags = ("E2E_KIND_FLAGS", "--image node:own --config own.yaml");
    check(
        &run(&[kind, flags], 0)?,
        "--wait 120s --image node:own --config own.yaml",
        true,
    )?;
    // Another run's.
    machine.program("kind", "[ \"$*\" != 'get clusters' ] || echo dapr-e2e")?;
    check(&run(&[kind], 1)?, "kind delete", false)?;
    // One that does not come up.
    machine.program("kind", "[[ $* != 'create cluster'* ]]")?;
    check(&run(&[kind], 1)?, "kind delete cluster", true)?;

    let local = ("E2E_CLUSTER", "local");
    let there = "echo \"local $*\" >> \"$CALLS\"; [ \"$1\" != free ]";
    machine.script("root/e2e/cluster/local", there)?;
    check(&run(&[local], 1)?, "local down", false)?;
    let fails = "echo \"local $*\" >> \"$CALLS\"; [ \"$1\" != load ]";
    machine.script("root/e2e/cluster/local", fails)?;
    check(&run(&[local], 1)?, "local down", true)
}

#[test]
fn a_cluster_that_does_not_come_up_leaves_another_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("mine-cluster");
    std::fs::create_dir(&data)?;
    let ended = Command::new(Path::new(HERE).join("local"))
        .arg("free")
        .env("TMPDIR", folder.path())
        .env("E2E_CLUSTER_NAME", "mine")
        .output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(
        ended.status.code() == Some(1) && said.contains("is there already"),
        "{said}"
    );
    ensure!(data.exists(), "it was removed");
    Ok(())
}
