//! The sockets of a sidecar: all bound before anything is served.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dapr_kit::bind::{Endpoint, bind, bind_with_retry};
use tokio::net::{TcpListener, UnixListener};

use crate::host;
use crate::settings::{Listen, Settings};

/// The API between sidecars, reserved before components start: they may want to know its port.
pub(super) async fn internal(settings: &Settings, hostname: &str) -> anyhow::Result<TcpListener> {
    let listen = &settings.listen;
    if let Some(port) = listen.internal_port {
        let endpoint = Endpoint::new(
            "--dapr-internal-grpc-port",
            listen.internal_address.as_str(),
            port,
        );
        return Ok(bind_with_retry(&endpoint).await?);
    }
    let folder = std::env::current_dir()
        .map(|folder| folder.display().to_string())
        .unwrap_or_default();
    let stable = host::stable_port(&settings.app_id, &folder, host::uid(), hostname);
    let endpoint = |port| {
        Endpoint::new(
            "--dapr-internal-grpc-port",
            listen.internal_address.as_str(),
            port,
        )
    };
    match bind(&endpoint(stable)).await {
        Ok(listener) => Ok(listener),
        // Another replica on this machine has it.
        Err(_) => Ok(bind(&endpoint(0)).await?),
    }
}

/// The sockets of both public APIs and the public server.
#[derive(Debug)]
pub(super) struct Public {
    pub(super) http: Vec<Socket>,
    pub(super) grpc: Vec<Socket>,
    pub(super) public: Option<TcpListener>,
    /// Socket files to remove at the end.
    pub(super) files: Vec<PathBuf>,
}

/// A port or a unix socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Public {
    pub(super) async fn bind(listen: &Listen, app_id: &str) -> anyhow::Result<Self> {
        let public = match &listen.public {
            Some((address, port)) => Some(
                bind_with_retry(&Endpoint::new(
                    "--dapr-public-port",
                    address.as_str(),
                    *port,
                ))
                .await?,
            ),
            None => None,
        };
        if let Some(folder) = &listen.socket_folder {
            let (http, grpc) = (
                socket_file(folder, app_id, "http"),
                socket_file(folder, app_id, "grpc"),
            );
            return Ok(Self {
                grpc: vec![unix(&grpc)?],
                http: vec![unix(&http)?],
                public,
                files: vec![http, grpc],
            });
        }
        Ok(Self {
            grpc: tcp(listen, "--dapr-grpc-port", listen.grpc_port).await?,
            http: tcp(listen, "--dapr-http-port", listen.http_port).await?,
            public,
            files: Vec::new(),
        })
    }
}

/// Listens on all addresses that can be had; none is an error.
async fn tcp(listen: &Listen, flag: &'static str, port: u16) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut failed = None;
    for address in &listen.addresses {
        match bind_with_retry(&Endpoint::new(flag, address.as_str(), port)).await {
            Ok(listener) => sockets.push(Socket::Tcp(listener)),
            Err(error) => {
                tracing::error!(target: "dapr.runtime", %error, "an address cannot be listened on");
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if sockets.is_empty() => Err(error).context("could not listen on any endpoint"),
        None if sockets.is_empty() => {
            bail!("could not listen on any endpoint: --dapr-listen-addresses is empty")
        }
        _ => Ok(sockets),
    }
}

fn socket_file(folder: &Path, app_id: &str, api: &str) -> PathBuf {
    folder.join(format!("dapr-{app_id}-{api}.socket"))
}

fn unix(file: &Path) -> anyhow::Result<Socket> {
    // A file that a killed predecessor left behind would refuse the bind.
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("removing the old socket {}", file.display()));
        }
        _ => {}
    }
    let listener = UnixListener::bind(file).with_context(|| {
        format!(
            "listening on {}: does the folder of --unix-domain-socket exist?",
            file.display()
        )
    })?;
    Ok(Socket::Unix(listener))
}
