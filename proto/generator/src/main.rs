//! `make protos`: rewrites the generated Rust and `target/dapr.binpb`.

use anyhow::Result;
use dapr_proto_generator::{DESCRIPTOR_SET, generate, proto_crate};

fn main() -> Result<()> {
    let generated = generate(&proto_crate().join("proto"))?;
    let folder = proto_crate().join("src/generated");
    std::fs::remove_dir_all(&folder).or_else(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    std::fs::create_dir_all(&folder)?;
    for (name, content) in &generated {
        std::fs::write(folder.join(name), content)?;
    }
    let target = proto_crate().join("../target");
    std::fs::create_dir_all(&target)?;
    std::fs::write(target.join(DESCRIPTOR_SET), &generated[DESCRIPTOR_SET])?;
    Ok(())
}
