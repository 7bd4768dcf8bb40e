//! The images that the chart names: `images/` makes them, here from files that only look like programs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::preparation::skipped;
use serde_json::{Value, json};
use tempfile::TempDir;

const IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images");
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const PROGRAMS: [&str; 6] = [
    "daprd",
    "sentry",
    "placement",
    "operator",
    "injector",
    "scheduler",
];

fn script(name: &str) -> Command {
    Command::new(Path::new(IMAGES).join(name))
}

fn done(command: &mut Command) -> Result<Output> {
    let output = command.output().context("running a script of images")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(output)
}

/// Two layers, as they are on the disk of whoever builds.
fn layers() -> Result<(TempDir, [PathBuf; 2])> {
    let folder = tempfile::tempdir()?;
    let layers = ["base", "program"].map(|it| folder.path().join(it));
    let [base, program] = &layers;
    std::fs::create_dir_all(base.join("etc"))?;
    std::fs::write(base.join("etc/passwd"), "dapr:x:65532:65532::/:/none\n")?;
    std::fs::create_dir_all(program)?;
    std::fs::write(program.join("daprd"), "a program")?;
    Ok((folder, layers))
}

fn archive(out: &Path, start: &str, layers: &[PathBuf]) -> Result<()> {
    let mut command = script("archive");
    command
        .arg(out)
        .args(["registry.example/daprd:1", "amd64", start]);
    done(command.args(layers)).map(drop)
}

#[test]
fn the_same_files_make_the_same_image() -> Result<()> {
    let (one, layers) = layers()?;
    let (other, same_layers) = self::layers()?;
    let images = [&one, &other].map(|it| it.path().join("image.tar"));
    archive(&images[0], "Cmd=/daprd", &layers)?;
    // When something was written is not part of it.
    done(
        Command::new("touch")
            .arg("--date=2001-01-01")
            .arg(same_layers[1].join("daprd")),
    )?;
    archive(&images[1], "Cmd=/daprd", &same_layers)?;
    let [first, second] = images.map(std::fs::read);
    ensure!(first? == second?, "other bytes");
    Ok(())
}

/// The manifest and the configuration of an image, and the digests of its layers as they are.
fn unpacked(image: &Path) -> Result<(Value, Value, Vec<String>)> {
    let folder = tempfile::tempdir()?;
    let mut tar = Command::new("tar");
    done(
        tar.arg("--extract")
            .arg("--file")
            .arg(image)
            .arg("--directory")
            .arg(folder.path()),
    )?;
    let read = |name: &str| -> Result<Value> {
        let text = std::fs::read(folder.path().join(name)).context(name.to_owned())?;
        Ok(serde_json::from_slice(&text)?)
    };
    let manifest = read("manifest.json")?[0].take();
    let configuration = read(manifest["Config"].as_str().context("no Config")?)?;
    let mut digests = Vec::new();
    for layer in manifest["Layers"].as_array().context("no Layers")? {
        let path = folder.path().join(layer.as_str().context("no name")?);
        let sum = done(Command::new("sha256sum").arg(path))?;
        let sum = String::from_utf8(sum.stdout)?;
        let sum = sum.split(' ').next().context("no sum")?;
        digests.push(format!("sha256:{sum}"));
    }
    Ok((manifest, configuration, digests))
}

#[test]
fn an_image_starts_its_program_as_a_user_who_is_not_root() -> Result<()> {
    let (folder, layers) = layers()?;
    let image = folder.path().join("image.tar");
    let check = |start: &str, entrypoint: Value, command: Value| -> Result<()> {
        archive(&image, start, &layers)?;
        let (manifest, configuration, digests) = unpacked(&image)?;
        ensure!(manifest["RepoTags"] == json!(["registry.example/daprd:1"]));
        ensure!(configuration["architecture"] == "amd64" && configuration["os"] == "linux");
        ensure!(configuration["rootfs"]["diff_ids"] == json!(digests));
        let config = &configuration["config"];
        // A number: Kubernetes cannot tell whether a name is root.
        ensure!(config["User"] == "65532:65532", "{config}");
        ensure!(config["Entrypoint"] == entrypoint, "{start}: {config}");
        ensure!(config["Cmd"] == command, "{start}: {config}");
        Ok(())
    };
    // Pods of the injector begin with the program's name: an entrypoint would take it for an argument.
    check("Cmd=/daprd", Value::Null, json!(["/daprd"]))?;
    check("Entrypoint=/e2e-app", json!(["/e2e-app"]), Value::Null)?;
    check("", Value::Null, Value::Null)
}

/// What a package is linked from by cargo's own account, `name version`: what it cannot do without, and what there is with
/// every feature that anything in the workspace wants.
fn linked(package: &str) -> Result<[BTreeSet<String>; 2]> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(IMAGES).args([
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        "--filter-platform",
        TRIPLE,
    ]);
    let metadata: Value = serde_json::from_slice(&done(&mut cargo)?.stdout)?;
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let items = list.as_array().into_iter().flatten();
        items.map(|it| (text(&it["id"]), it.clone())).collect()
    };
    let (packages, nodes) = (
        by_id(&metadata["packages"]),
        by_id(&metadata["resolve"]["nodes"]),
    );
    let root = packages.iter().find(|(_, it)| it["name"] == *package);
    let root = root.context("no such package")?.0;
    let reached = |is_wanted: &dyn Fn(&Value, &Value) -> bool| -> Result<BTreeSet<String>> {
        let (mut open, mut ids) = (vec![root.clone()], BTreeSet::new());
        while let Some(id) = open.pop() {
            let package = packages.get(&id).context("no such package")?;
            let node = nodes.get(&id).context("no such node")?;
            for dependency in list(&node["deps"]) {
                let to = text(&dependency["pkg"]);
                let is_normal = list(&dependency["dep_kinds"]).any(|it| it["kind"].is_null());
                if is_normal && is_wanted(package, packages.get(&to).context("no such package")?) {
                    open.extend((!ids.contains(&to)).then_some(to));
                }
            }
            ids.insert(id);
        }
        let named = ids.iter().filter_map(|it| packages.get(it));
        Ok(named
            .map(|it| format!("{} {}", text(&it["name"]), text(&it["version"])))
            .collect())
    };
    let needed = reached(&|from, to| {
        let mut wishes = list(&from["dependencies"]).filter(|it| it["name"] == to["name"]);
        // Some crates tie versions together with a wish for no platform.
        wishes.any(|it| {
            it["kind"].is_null() && it["optional"] == false && it["target"] != "cfg(any())"
        })
    })?;
    Ok([needed, reached(&|_, _| true)?])
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The crates that an SPDX document names: `name version`.
fn named(document: &str) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    for package in document.split("\nPackageName: ").skip(1) {
        let mut lines = package.lines();
        let name = lines.next().context("no name")?;
        let version = lines.find_map(|it| it.strip_prefix("PackageVersion: "));
        let license = lines.find_map(|it| it.strip_prefix("PackageLicenseDeclared: "));
        ensure!(
            license.is_some_and(|it| it != "NOASSERTION" && !it.contains('*')),
            "{name}: {license:?}"
        );
        let crate_ = format!("{name} {}", version.context("no version")?);
        ensure!(named.insert(crate_), "{name} is named twice");
    }
    Ok(named)
}

#[test]
fn the_document_of_an_image_names_every_crate() -> Result<()> {
    for package in ["dapr-sidecar", "dapr-scheduler"] {
        let output = done(script("contents").args(["an-image", TRIPLE, package]))?;
        let document = String::from_utf8(output.stdout)?;
        ensure!(
            document.starts_with("SPDXVersion: SPDX-2.3\n"),
            "{document:.60}"
        );
        let (named, [needed, possible]) = (named(&document)?, linked(package)?);
        ensure!(needed.len() > 20, "{package}: {needed:?}");
        let missing: Vec<&String> = needed.difference(&named).collect();
        ensure!(missing.is_empty(), "{package}: {missing:?}");
        let more: Vec<&String> = named.difference(&possible).collect();
        ensure!(more.is_empty(), "{package}: {more:?}");
    }
    Ok(())
}

/// Images of small programs and one that is as large as `size`. Tells what the script said.
fn built(profile: &str, program: &str, size: u64) -> Result<Result<String, String>> {
    let folder = tempfile::tempdir()?;
    let programs = folder.path().join("programs");
    std::fs::create_dir(&programs)?;
    for each in PROGRAMS {
        let file = std::fs::File::create(programs.join(each))?;
        file.set_len(if each == program { size } else { 1000 })?;
    }
    let output = script("build")
        .env("IMAGES_BIN", &programs)
        .env("IMAGES_PROFILE", profile)
        .env("IMAGES_ENGINE", "none")
        .env("CARGO_TARGET_DIR", folder.path().join("target"))
        .env_remove("IMAGES_ARCH")
        .output()
        .context("running images/build")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    })
}

#[test]
fn an_image_that_has_grown_beyond_its_limit_is_refused() -> Result<()> {
    let needed = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/usr/share/zoneinfo/Europe/Paris",
    ];
    if let Some(missing) = needed.iter().find(|it| !Path::new(it).exists()) {
        return skipped("limits of images", &format!("there is no {missing}"));
    }
    let refused = |program: &str, size: u64, expected: &str| -> Result<()> {
        match built("dist", program, size)? {
            Ok(said) => bail!("{program} of {size} bytes: {said}"),
            Err(said) => ensure!(said.contains(expected), "{said}"),
        }
        Ok(())
    };
    refused("daprd", 40_000_000, "daprd is larger than 40 MB")?;
    refused("operator", 15_000_000, "operator is larger than 15 MB")?;
    // What is built for tests may be larger, and daprd may have more than others.
    for (profile, program, size) in [
        ("release", "operator", 20_000_000),
        ("dist", "daprd", 30_000_000),
    ] {
        if let Err(said) = built(profile, program, size)? {
            bail!("{profile}: {program} of {size} bytes: {said}");
        }
    }
    Ok(())
}
