//! The committed Rust is what the committed `.proto` files give.

use dapr_proto_generator::{generate, proto_crate};

#[test]
fn committed_code_is_regenerated_without_a_difference() {
    let generated = generate(&proto_crate().join("proto")).expect("the .proto files compile");
    let folder = proto_crate().join("src/generated");
    let mut committed: Vec<String> = std::fs::read_dir(&folder)
        .expect("generated code is committed")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("UTF-8 names")
        })
        .collect();
    committed.sort();
    assert_eq!(
        committed,
        generated.keys().cloned().collect::<Vec<_>>(),
        "run `make protos`"
    );
    for (name, content) in generated {
        let committed = std::fs::read(folder.join(&name)).expect("readable");
        assert!(
            committed == content,
            "{name} differs from its .proto files: run `make protos`"
        );
    }
}
