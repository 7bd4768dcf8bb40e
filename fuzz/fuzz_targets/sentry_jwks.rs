//! Key sets and tokens of the `jwks` validator: no token of an unknown key, no identity but the token's.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dapr_sentry::fuzzing::jwks(data));
