//! Identity: SPIFFE ids, trust bundles, certificates from Sentry and their renewal, TLS settings that
//! authorise a peer by id.
//!
//! It holds no policy: who may call what is decided by the caller with the id found here.
#![warn(missing_docs)]

pub mod acceptor;
pub mod anchors;
pub mod certificate;
pub mod connector;
pub mod grpc;
pub mod id;
pub mod identity;
pub mod options;
pub mod request;
pub mod security;
pub mod server;
pub mod svid;
pub mod token;
pub mod watch;

mod dial;
mod material;
mod published;
mod renewal;
mod sentry;
mod stream;
mod verifier;

pub use acceptor::Acceptor;
pub use anchors::{AnchorsSource, TrustAnchors};
pub use connector::{Connector, Expect};
pub use id::{SpiffeId, TrustDomain};
pub use identity::Identity;
pub use options::{KeyKind, Options, TokenSource};
pub use published::SENTRY_ANNOTATION;
pub use security::{Error, Publisher, Renewals, Security};
pub use server::{Peer, ServerOptions, serve};
pub use stream::gathered::{Flusher, Gathered, gather};
pub use svid::Svid;

/// App id of the certificate authority; every client authorises exactly this one in the control plane's namespace.
pub const SENTRY_APP_ID: &str = "dapr-sentry";
