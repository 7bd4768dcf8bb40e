//! The sockets of a sidecar: all bound before anything is served.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use dapr_kit::bind::{Endpoint, bind, bind_with_retry};
use futures::future::join_all;
use tokio::net::{TcpListener, UnixListener};

use crate::host;
use crate::settings::{Listen, Settings};

/// The port of the API between sidecars, reserved before components start: they may want to know it.
#[derive(Debug)]
pub(super) struct Internal {
    /// Known also while somebody else still has it.
    pub(super) port: u16,
    endpoint: Endpoint,
    reserved: Option<TcpListener>,
}

impl Internal {
    pub(super) async fn reserve(settings: &Settings, hostname: &str) -> anyhow::Result<Self> {
        let listen = &settings.listen;
        let endpoint = |port| {
            Endpoint::new(
                "--dapr-internal-grpc-port",
                listen.internal_address.as_str(),
                port,
            )
        };
        if let Some(port) = listen.internal_port {
            let endpoint = endpoint(port);
            let reserved = bind(&endpoint).await;
            if let Err(error) = &reserved {
                let error = dapr_kit::process::chain(error);
                tracing::warn!(target: "dapr.runtime", "failed to reserve the port of the internal API, it is tried again: {error}");
            }
            return Ok(Self {
                port,
                endpoint,
                reserved: reserved.ok(),
            });
        }
        let folder = std::env::current_dir()
            .map(|folder| folder.display().to_string())
            .unwrap_or_default();
        let stable = host::stable_port(&settings.app_id, &folder, host::uid(), hostname);
        let listener = match bind(&endpoint(stable)).await {
            Ok(listener) => listener,
            // Another replica on this machine has it.
            Err(_) => bind(&endpoint(0)).await?,
        };
        let port = listener
            .local_addr()
            .context("the port of the internal API")?
            .port();
        Ok(Self {
            port,
            endpoint: endpoint(port),
            reserved: Some(listener),
        })
    }

    pub(super) async fn listen(self) -> anyhow::Result<TcpListener> {
        Ok(match self.reserved {
            Some(listener) => listener,
            None => bind_with_retry(&self.endpoint).await?,
        })
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

/// Listens on all addresses that can be had; none is an error. They are tried side by side, so that one that cannot be
/// had keeps nobody waiting.
async fn tcp(listen: &Listen, flag: &'static str, port: u16) -> anyhow::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    let mut failed = None;
    let endpoints: Vec<_> = listen
        .addresses
        .iter()
        .map(|address| Endpoint::new(flag, address.as_str(), port))
        .collect();
    for bound in join_all(endpoints.iter().map(bind_with_retry)).await {
        match bound {
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

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, Environment, try_parse_from};

    use super::*;
    use crate::args::Args;

    fn settings(flags: &str) -> Settings {
        let flags = ["daprd", "--app-id", "a"]
            .into_iter()
            .chain(flags.split_whitespace());
        let args: Args = try_parse_from(Dashes::OneOrTwo, flags).expect("flags parse");
        Settings::check(&args, &Environment::default()).expect("valid")
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_are_tried_side_by_side() {
        let first = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = first.local_addr().expect("bound").port();
        let _second = TcpListener::bind(("127.0.0.2", port))
            .await
            .expect("the same port");
        let listen = settings("--dapr-listen-addresses 127.0.0.1,127.0.0.2,127.0.0.3").listen;
        let started = tokio::time::Instant::now();
        let sockets = tcp(&listen, "--dapr-http-port", port)
            .await
            .expect("one of them");
        assert_eq!(sockets.len(), 1);
        // As long as one of them is tried.
        assert!(started.elapsed().as_secs() <= 10, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_internal_port_that_cannot_be_reserved_is_had_later() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = taken.local_addr().expect("bound").port();
        let settings = settings(&format!(
            "--dapr-internal-grpc-listen-address 127.0.0.1 --dapr-internal-grpc-port {port}"
        ));
        let internal = Internal::reserve(&settings, "host")
            .await
            .expect("a warning");
        assert_eq!(internal.port, port);
        drop(taken);
        let listener = internal.listen().await.expect("free by now");
        assert_eq!(listener.local_addr().expect("bound").port(), port);
    }
}
