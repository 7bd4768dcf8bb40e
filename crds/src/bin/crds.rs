//! Writes the CRD documents to `crds/yaml`, or to the folder given.

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/yaml")),
        PathBuf::from,
    );
    std::fs::create_dir_all(&folder)?;
    for document in dapr_crds::documents::all() {
        std::fs::write(folder.join(&document.file_name), document.to_yaml()?)?;
    }
    Ok(())
}
