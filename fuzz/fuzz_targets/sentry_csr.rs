//! Signing requests: nothing but the key of one reaches the certificate.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dapr_sentry::fuzzing::csr(data));
