//! A Dapr without Kubernetes: processes on loopback, in a temporary folder.

mod control_plane;
mod sidecar;

pub use control_plane::{ControlPlane, Placement, Sentry, metric};
pub use sidecar::{Sidecar, SidecarSpec};
