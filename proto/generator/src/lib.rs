//! Makes the Rust of `dapr-proto` and its descriptor set out of the `.proto` files, without `protoc`.
//!
//! Run by `make protos`; never part of a product binary and never a build script, so that building the
//! product needs neither this crate nor a protobuf compiler.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use prost::Message;

/// Name of the descriptor set among the generated files.
pub const DESCRIPTOR_SET: &str = "dapr.binpb";

/// The folder of the `dapr-proto` crate.
pub fn proto_crate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Compiles every `.proto` below `root` and returns the generated files by name.
pub fn generate(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = Vec::new();
    proto_files(root, &mut files)?;
    files.sort();

    let mut compiler =
        protox::Compiler::new([root]).context("opening the folder of .proto files")?;
    compiler.include_imports(true);
    // Comments would only make the committed descriptor set larger; reflection clients do not need them.
    compiler.include_source_info(false);
    compiler
        .open_files(&files)
        .context("compiling the .proto files")?;
    let set = compiler.file_descriptor_set();

    let out = tempfile::tempdir()?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .include_file("mod.rs")
        .emit_rerun_if_changed(false)
        // Payloads travel through the sidecar: as `Bytes` they are shared instead of copied.
        .bytes(".")
        // Tables are compared and hashed by tests and logs, so their order must be stable.
        .btree_map(".dapr.proto.placement.v1")
        .compile_fds(set.clone())
        .context("generating Rust")?;

    let mut generated = BTreeMap::from([(DESCRIPTOR_SET.to_owned(), set.encode_to_vec())]);
    for entry in std::fs::read_dir(out.path())? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .context("a generated file without a name")?;
        // `google.protobuf` comes from prost-types; the file prost leaves behind is empty.
        let content = std::fs::read(&path)?;
        if !content.is_empty() {
            generated.insert(name.to_owned(), content);
        }
    }
    Ok(generated)
}

fn proto_files(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?
    {
        let path = entry?.path();
        if path.is_dir() {
            proto_files(&path, into)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            into.push(path);
        }
    }
    Ok(())
}
