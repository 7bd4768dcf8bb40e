//! daprd and the application beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use super::control_plane::{ControlPlane, executable};
use crate::{Process, Spec, await_condition, ports};

/// A cold start with identity, components and the first placement round stays well below.
const START: Duration = Duration::from_secs(20);

/// How to start a sidecar.
#[derive(Debug, Clone, Default)]
pub struct SidecarSpec {
    /// Name in logs; the app id unless several replicas run.
    pub name: String,
    /// App id.
    pub app_id: String,
    /// Port of the application, if there is one.
    pub app_port: Option<u16>,
    /// Folder of resources, if any.
    pub resources: Option<PathBuf>,
    /// More flags.
    pub flags: Vec<String>,
    /// More environment.
    pub environment: BTreeMap<String, String>,
    /// Joins actors.
    pub placement: bool,
    /// HTTP port, chosen beforehand when the application must know it.
    pub http_port: Option<u16>,
    /// gRPC port, chosen beforehand when the application must know it.
    pub grpc_port: Option<u16>,
}

/// A running sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// The process.
    pub process: Process,
    /// Port of the HTTP API.
    pub http_port: u16,
    /// Port of the gRPC API.
    pub grpc_port: u16,
    /// Port of the API between sidecars.
    pub internal_port: u16,
    /// Port of the metrics.
    pub metrics_port: u16,
}

impl Sidecar {
    /// Starts daprd in `folder`; with a control plane it gets an identity and speaks mTLS.
    pub async fn start(
        folder: &Path,
        spec: &SidecarSpec,
        control_plane: Option<&ControlPlane>,
    ) -> Result<Self> {
        let http_port = match spec.http_port {
            Some(port) => port,
            None => ports::free().await?,
        };
        let grpc_port = match spec.grpc_port {
            Some(port) => port,
            None => ports::free().await?,
        };
        let (internal_port, metrics_port) = (ports::free().await?, ports::free().await?);
        let mut arguments = vec![
            format!("--app-id={}", spec.app_id),
            "--dapr-listen-addresses=127.0.0.1".to_owned(),
            format!("--dapr-http-port={http_port}"),
            format!("--dapr-grpc-port={grpc_port}"),
            format!("--dapr-internal-grpc-port={internal_port}"),
            "--dapr-internal-grpc-listen-address=127.0.0.1".to_owned(),
            format!("--metrics-port={metrics_port}"),
        ];
        arguments.extend(spec.app_port.map(|port| format!("--app-port={port}")));
        arguments.extend(
            spec.resources
                .iter()
                .map(|folder| format!("--resources-path={}", folder.display())),
        );
        let mut environment = BTreeMap::from([("DAPR_HOST_IP".to_owned(), "127.0.0.1".to_owned())]);
        if let Some(control_plane) = control_plane {
            arguments.push("--enable-mtls".to_owned());
            arguments.push(format!("--sentry-address={}", control_plane.sentry.address));
            if spec.placement {
                arguments.push(format!(
                    "--placement-host-address={}",
                    control_plane.placement_addresses()
                ));
            }
            environment.insert(
                "DAPR_TRUST_ANCHORS".to_owned(),
                control_plane.sentry.trust_anchors.clone(),
            );
            environment.insert("NAMESPACE".to_owned(), "default".to_owned());
        }
        arguments.extend(spec.flags.iter().cloned());
        environment.extend(spec.environment.clone());
        let binaries = control_plane.and_then(|control_plane| control_plane.binaries.as_deref());
        let process = Process::start(&Spec {
            name: format!("daprd-{}", spec.name),
            program: executable("daprd", binaries)?,
            arguments,
            environment,
            folder: folder.to_owned(),
        })?;
        Ok(Self {
            process,
            http_port,
            grpc_port,
            internal_port,
            metrics_port,
        })
    }

    /// Waits until `/v1.0/healthz` answers 204: application, components and actors are ready.
    pub async fn await_ready(&mut self) -> Result<()> {
        self.await_route("healthz").await
    }

    /// Waits until `/v1.0/healthz/outbound` answers 204: components and APIs are ready.
    pub async fn await_outbound(&mut self) -> Result<()> {
        self.await_route("healthz/outbound").await
    }

    async fn await_route(&mut self, route: &str) -> Result<()> {
        let url = self.url(route);
        let what = format!("{} answers {route}", self.process.name());
        let ready = await_condition(&what, START, || async {
            let response = reqwest::get(&url).await?;
            if response.status() == reqwest::StatusCode::NO_CONTENT {
                return Ok(());
            }
            bail!("{}: {}", response.status(), response.text().await?)
        })
        .await;
        self.process.check_running()?;
        ready
    }

    /// URL of a path below `/v1.0/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/v1.0/{path}", self.http_port)
    }
}
