//! A program beside its sidecar, and an application it can call.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::standalone::Sidecar;
use dapr_e2e::{Process, Spec, ports};
use serde_json::json;

use super::preparation::{Prepared, prepare, skipped, source};
use crate::support::{Answer, App, Request, Stage, component, fetch, story};

/// A program checks all its steps well within this.
const PROGRAM: Duration = Duration::from_secs(60);

/// The steps every language shows.
const STEPS: [&str; 13] = [
    "invoked",
    "invoke",
    "state-save",
    "state-get",
    "state-etag",
    "state-transaction",
    "state-delete",
    "publish",
    "receive",
    "actor-invoke",
    "actor-state",
    "actor-timer",
    "done",
];

/// Runs the program of a language and expects its steps, and those only this language has.
pub(super) fn tell(language: &str, executable: &str, script: Option<&str>, more: &[&str]) {
    let folder = match prepare(language).expect("the preparation") {
        Prepared::Ready(folder) => folder,
        Prepared::Unavailable(reason) => {
            return skipped(language, &reason).expect("a note that it was skipped");
        }
    };
    story(&format!("sdk-{language}"), async |stage| {
        let log = run(stage, language, &folder, executable, script).await?;
        for step in STEPS.iter().chain(more) {
            let line = format!("ok {step}");
            ensure!(
                log.lines().any(|found| found == line),
                "{language} did not show {step}:\n{log}"
            );
        }
        Ok(())
    });
}

async fn run(
    stage: &Stage,
    language: &str,
    folder: &Path,
    executable: &str,
    script: Option<&str>,
) -> Result<String> {
    let control_plane = stage.control_plane(1).await?;
    let (callee_id, id) = (stage.id("callee"), stage.id(language));
    let callee_app = App::start(echo).await?;
    let callee = stage
        .sidecar(
            &stage.spec(&callee_id, Some(&callee_app)),
            Some(&control_plane),
        )
        .await?;

    let (app_port, http_port, grpc_port) = (
        ports::free().await?,
        ports::free().await?,
        ports::free().await?,
    );
    let environment = BTreeMap::from([
        ("APP_PORT".to_owned(), app_port.to_string()),
        ("DAPR_HTTP_PORT".to_owned(), http_port.to_string()),
        ("DAPR_GRPC_PORT".to_owned(), grpc_port.to_string()),
        ("CALLEE".to_owned(), callee_id),
        // Where node looks for packages, as the program lies outside the folder they are installed in.
        (
            "NODE_PATH".to_owned(),
            folder.join("node_modules").display().to_string(),
        ),
        ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
    ]);
    let script = script.map(|name| source(language).join(name).display().to_string());
    let mut program = Process::start(&Spec {
        name: language.to_owned(),
        program: folder.join(executable),
        arguments: script.into_iter().collect(),
        environment,
        folder: stage.folder().to_owned(),
    })?;

    let mut spec = stage.spec(&id, None);
    spec.app_port = Some(app_port);
    spec.http_port = Some(http_port);
    spec.grpc_port = Some(grpc_port);
    spec.placement = true;
    let store = component("store", "state.in-memory", &[("actorStateStore", "true")]);
    spec.resources = Some(stage.resources(
        "resources",
        &[store, component("bus", "pubsub.in-memory", &[])],
    )?);
    let mut sidecar = Sidecar::start(stage.folder(), &spec, Some(&control_plane)).await?;
    let ready = sidecar.await_ready().await;
    program.check_running()?;
    ready?;
    greet(stage, &callee, &id).await?;
    let status = program
        .ended(PROGRAM)
        .await
        .with_context(|| program.log())?;
    ensure!(
        status.success(),
        "{language} ended with {status}:\n{}",
        program.log()
    );
    Ok(program.log())
}

/// Calls the program from the other application, which is also how it learns that its sidecar is ready.
async fn greet(stage: &Stage, callee: &Sidecar, id: &str) -> Result<()> {
    let url = callee.url(&format!("invoke/{id}/method/greet"));
    let request = stage
        .http
        .post(url)
        .header("content-type", "text/plain")
        .body("world");
    let reply = fetch(request).await?.expect(200)?;
    let greeting = json!({ "greeting": "hello world" });
    ensure!(
        reply.json()? == greeting,
        "another greeting: {}",
        reply.body
    );
    Ok(())
}

fn echo(request: &Request) -> Answer {
    match (request.path.as_str(), request.json()) {
        ("/echo", Ok(body)) => Answer::json(&json!({ "echo": body })),
        _ => Answer::status(404),
    }
}
