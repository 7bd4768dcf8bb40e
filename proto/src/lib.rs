//! The wire: every message and service Dapr 1.18 speaks, generated from the `.proto` files beside this crate.
//!
//! Only generated code and its descriptor set live here; conversions stand beside the servers that need
//! them, and the generator (`make protos`) is a crate of its own.

include!("generated/mod.rs");

/// The encoded `FileDescriptorSet` of all files, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/dapr.binpb");
