//! The resolver on scripted names, the secret store on a real API server.

mod name_resolution;
mod secret_store;
