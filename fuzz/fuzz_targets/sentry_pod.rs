//! Tokens and pods of the `kubernetes` validator: no identity but the pod's.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dapr_sentry::fuzzing::pod(data));
