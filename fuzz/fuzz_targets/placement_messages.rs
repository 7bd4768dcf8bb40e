//! Messages of sidecars in any order: one version is one table, agreed on before it is sent, and versions never go back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dapr_placement::fuzzing::messages(data));
