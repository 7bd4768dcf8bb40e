//! Two sidecars, Sentry and Placement do what applications ask of them, slowly: what `images/layout/record` watches to see
//! which functions run.
//!
//! `walk <folder of programs> <rounds> <command>`: runs the command with the process id of each program when all have
//! started, then again when other applications were called as often as there are rounds, and a third time when everything
//! else was asked as often.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::routing::{any, delete, get, post, put};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec};
use dapr_proto::dapr::proto::common::v1::http_extension::Verb;
use dapr_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest};
use dapr_proto::dapr::proto::runtime::v1::InvokeServiceRequest;
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use tokio::process::Command;
use tonic::transport::Channel;

/// Programs that are watched are slower than others by a factor of fifty.
const LIMIT: Duration = Duration::from_secs(60);

const BODY: &str = r#"{"step":1}"#;

const RESOURCES: &str = "\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: store}
spec:
  type: state.in-memory
  version: v1
  metadata: [{name: actorStateStore, value: 'true'}]
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
";

#[tokio::main]
async fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider is installed twice")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [programs, rounds, command] = arguments.as_slice() else {
        bail!("walk <folder of programs> <rounds> <command>");
    };
    let rounds = rounds.parse().context("the number of rounds")?;
    walk(PathBuf::from(programs), rounds, Path::new(command)).await
}

async fn walk(programs: PathBuf, rounds: u32, command: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let resources = folder.path().join("resources");
    std::fs::create_dir(&resources)?;
    std::fs::write(resources.join("all.yaml"), RESOURCES)?;
    let mut plane = ControlPlane::start_from(folder.path(), 1, Some(programs)).await?;
    let app = App::start().await?;
    let start = async |app_id: &str, app_port| {
        let spec = SidecarSpec {
            name: app_id.to_owned(),
            app_id: app_id.to_owned(),
            app_port,
            resources: Some(resources.clone()),
            placement: true,
            ..Default::default()
        };
        Sidecar::start(folder.path(), &spec, Some(&plane)).await
    };
    let mut callee = start("callee", Some(app.port)).await?;
    let mut caller = start("caller", None).await?;
    callee.await_ready().await?;
    caller.await_outbound().await?;

    let visit = Visit {
        http: reqwest::Client::builder().timeout(LIMIT).build()?,
        grpc: DaprClient::connect(format!("http://127.0.0.1:{}", caller.grpc_port)).await?,
        caller: &caller,
        callee: &callee,
        app: &app,
    };
    // The first finds its peers and makes its connections.
    visit.calls().await?;
    visit.others().await?;
    let mut watched = vec![callee.process.id(), caller.process.id()];
    watched.push(plane.sentry.process.id());
    watched.extend(plane.placement.iter().map(|replica| replica.process.id()));
    let tell = async || -> Result<()> {
        for id in &watched {
            let id = id.context("a program has ended")?;
            let done = Command::new(command).arg(id.to_string()).status().await?;
            ensure!(done.success(), "{} {id}: {done}", command.display());
        }
        Ok(())
    };
    tell().await?;
    for _ in 0..rounds {
        visit.calls().await?;
    }
    tell().await?;
    for _ in 0..rounds {
        visit.others().await?;
    }
    tell().await?;
    for process in [&mut caller.process, &mut callee.process] {
        process.terminate(LIMIT).await?;
    }
    for replica in &mut plane.placement {
        replica.process.terminate(LIMIT).await?;
    }
    plane.sentry.process.terminate(LIMIT).await?;
    Ok(())
}

/// An application that answers what it was sent, takes events and hosts actors.
#[derive(Debug)]
struct App {
    port: u16,
    events: Arc<AtomicU32>,
}

impl App {
    async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let events = Arc::new(AtomicU32::new(0));
        let taken = Arc::clone(&events);
        let event = async move || {
            taken.fetch_add(1, Ordering::Relaxed);
            r#"{"status":"SUCCESS"}"#
        };
        let routes = Router::new()
            .route("/echo", any(async |body: Bytes| body))
            .route("/healthz", get(async || ""))
            .route("/dapr/config", get(async || r#"{"entities":["Walker"]}"#))
            .route(
                "/dapr/subscribe",
                get(async || r#"[{"pubsubname":"bus","topic":"steps","route":"/events"}]"#),
            )
            .route("/events", post(event))
            .route(
                "/actors/Walker/{id}/method/{name}",
                put(async |body: Bytes| body),
            )
            .route("/actors/Walker/{id}", delete(async || ""));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self { port, events })
    }
}

/// Who asks whom.
struct Visit<'a> {
    http: reqwest::Client,
    grpc: DaprClient<Channel>,
    caller: &'a Sidecar,
    callee: &'a Sidecar,
    app: &'a App,
}

impl Visit<'_> {
    async fn calls(&self) -> Result<()> {
        let url = self.caller.url("invoke/callee/method/echo?of=way");
        let answer = self.ask(self.http.post(url).body(BODY)).await?;
        ensure!(answer == BODY, "the application answered {answer:?}");
        let url = self.caller.url("invoke/callee/method/echo");
        self.ask(self.http.get(url)).await?;
        Ok(())
    }

    async fn others(&self) -> Result<()> {
        self.grpc().await?;

        let url = self.caller.url("state/store");
        let item = r#"[{"key":"step","value":{"at":1}}]"#;
        self.ask(self.http.post(url).body(item)).await?;
        let url = self.caller.url("state/store/step");
        let kept = self.ask(self.http.get(&url)).await?;
        ensure!(kept == r#"{"at":1}"#, "the store has {kept:?}");
        self.ask(self.http.delete(url)).await?;

        let before = self.app.events.load(Ordering::Relaxed);
        let url = self.callee.url("publish/bus/steps");
        let event = self
            .http
            .post(url)
            .header("content-type", "application/json");
        self.ask(event.body(BODY)).await?;
        await_condition("the event arrives", LIMIT, || async {
            ensure!(self.app.events.load(Ordering::Relaxed) > before, "not yet");
            Ok(())
        })
        .await?;

        let url = self.caller.url("actors/Walker/1/method/echo");
        let answer = self.ask(self.http.put(url).body(BODY)).await?;
        ensure!(answer == BODY, "the actor answered {answer:?}");

        for sidecar in [self.caller, self.callee] {
            self.ask(self.http.get(sidecar.url("healthz"))).await?;
            let url = format!("http://127.0.0.1:{}/metrics", sidecar.metrics_port);
            self.ask(self.http.get(url)).await?;
        }
        Ok(())
    }

    async fn grpc(&self) -> Result<()> {
        let request = InvokeServiceRequest {
            id: "callee".to_owned(),
            message: Some(InvokeRequest {
                method: "echo".to_owned(),
                data: Some(prost_types::Any {
                    type_url: String::new(),
                    value: b"step".to_vec(),
                }),
                content_type: "text/plain".to_owned(),
                http_extension: Some(HttpExtension {
                    verb: Verb::Post.into(),
                    querystring: String::new(),
                }),
            }),
        };
        let answer = self
            .grpc
            .clone()
            .invoke_service(request)
            .await?
            .into_inner();
        let answer = answer.data.context("an answer without data")?;
        ensure!(
            answer.value == b"step",
            "the application answered {answer:?}"
        );
        Ok(())
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<String> {
        let answer = request.send().await?;
        let (url, status) = (answer.url().clone(), answer.status());
        let text = answer.text().await?;
        ensure!(status.is_success(), "{url}: {status}: {text}");
        Ok(text)
    }
}
