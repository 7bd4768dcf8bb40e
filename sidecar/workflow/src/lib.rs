//! The workflow engine's room: workflows as internal actors and the work-item stream to workflow SDKs.
//!
//! Empty but for the names both sides share: the engine itself is not there yet, and the sidecar answers
//! workflow calls with a clear error meanwhile.
