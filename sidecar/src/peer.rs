//! Calls to other sidecars: pooled connections, and the calls made on them.

mod calls;
mod executor;
mod pool;
pub(crate) mod proxy;

pub use calls::PeerClient;
pub use pool::{Connection, Pool};
pub use proxy::ProxyClient;
