//! Resources: what can be read is written back as the same object, told to sidecars whole, and converted without loss.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dapr_operator::fuzzing::resources(data));
