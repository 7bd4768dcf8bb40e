//! Starts that fail, and say why; starts with next to nothing.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use dapr_e2e::standalone::{Sidecar, SidecarSpec};
use dapr_e2e::{Process, Spec, await_condition, ports, process};
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::{App, LIMIT, Stage, component, fetch, story, subscription};

/// Starts a sidecar that has to end by itself with status 1, and returns its one fatal line.
async fn fatal_line(stage: &Stage, spec: &SidecarSpec) -> Result<String> {
    let mut sidecar = Sidecar::start(stage.folder(), spec, None).await?;
    let status = sidecar.process.ended(LIMIT).await?;
    let log = sidecar.process.log();
    ensure!(
        status.code() == Some(1),
        "{status} instead of exit status 1:\n{log}"
    );
    let fatal: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("level=fatal"))
        .collect();
    let [line] = fatal[..] else {
        bail!("{} fatal lines:\n{log}", fatal.len())
    };
    ensure!(!log.contains("panicked"), "a panic:\n{log}");
    Ok(line.to_owned())
}

#[test]
fn a_taken_port_is_named() {
    story("start-port", async |stage| {
        let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let port = taken.local_addr()?.port();
        let mut http = stage.spec(&stage.id("http"), None);
        http.http_port = Some(port);
        let mut grpc = stage.spec(&stage.id("grpc"), None);
        grpc.grpc_port = Some(port);
        // A start tries again for a while, so both try at once.
        let (http, grpc) = tokio::try_join!(fatal_line(stage, &http), fatal_line(stage, &grpc))?;
        for (line, flag) in [(http, "dapr-http-port"), (grpc, "dapr-grpc-port")] {
            let is_named = line.contains(flag) && line.contains(&port.to_string());
            assert!(is_named, "{flag} {port}: {line}");
        }

        let mut spec = stage.spec(&stage.id("conflict"), None);
        let port = ports::free().await?;
        (spec.http_port, spec.app_port) = (Some(port), Some(port));
        let line = fatal_line(stage, &spec).await?;
        let conflict =
            format!("the 'dapr-http-port' argument value {port} conflicts with 'app-port'");
        assert!(line.contains(&conflict), "{line}");
        Ok(())
    });
}

#[test]
fn the_lines_scripts_wait_for_are_logged() {
    story("start-lines", async |stage| {
        let app = App::plain().await?;
        let mut spec = stage.spec(&stage.id("told"), Some(&app));
        let (http, grpc) = (ports::free().await?, ports::free().await?);
        (spec.http_port, spec.grpc_port) = (Some(http), Some(grpc));
        let mut sidecar = stage.sidecar(&spec, None).await?;
        let lines = [
            format!("API gRPC server is running on port {grpc}"),
            format!("HTTP server is running on port {http}"),
            "Internal gRPC server is running on ".to_owned(),
            format!("application discovered on port {}", app.port()),
            "dapr initialized. Status: Running. Init Elapsed ".to_owned(),
            "Application configuration loaded".to_owned(),
        ];
        await_condition("all lines are there", LIMIT, || async {
            let log = sidecar.process.log();
            for line in &lines {
                ensure!(log.contains(&format!("msg=\"{line}")), "{line}:\n{log}");
            }
            Ok(())
        })
        .await?;
        let reply = fetch(stage.http.post(sidecar.url("shutdown"))).await?;
        reply.expect(204)?;
        sidecar.process.ended(LIMIT).await?;
        let log = sidecar.process.log();
        for line in ["Shutdown requested via API", "Daprd shutdown gracefully"] {
            assert!(log.contains(line), "{line}:\n{log}");
        }
        Ok(())
    });
}

#[test]
fn a_subscription_with_a_broken_rule_is_named() {
    story("start-rule", async |stage| {
        let rules = json!([{ "match": "event.type ==", "path": "/a" }]);
        let routes = json!({ "rules": rules, "default": "/b" });
        let broken = json!({ "pubsubname": "bus", "topic": "orders", "routes": routes });
        let mut spec = stage.spec(&stage.id("broken"), None);
        spec.resources = Some(stage.resources(
            "resources",
            &[
                component("bus", "pubsub.in-memory", &[]),
                subscription("orders", broken),
            ],
        )?);
        let line = fatal_line(stage, &spec).await?;
        assert!(line.contains("event.type =="), "{line}");
        Ok(())
    });
}

#[test]
fn a_component_that_cannot_start_is_named() {
    story("start-component", async |stage| {
        let cases = [
            (
                "unknown",
                component("broken", "state.nowhere", &[]),
                "couldn't find state store state.nowhere/v1",
            ),
            (
                "category",
                component("broken", "nonsense.memory", &[]),
                "incorrect type nonsense.memory",
            ),
            (
                "settings",
                component("broken", "state.sqlite", &[("connectionString", "")]),
                "initialization error occurred for broken (state.sqlite/v1)",
            ),
        ];
        for (name, document, reason) in cases {
            let mut spec = stage.spec(&stage.id(name), None);
            spec.resources = Some(stage.resources(name, &[document])?);
            let line = fatal_line(stage, &spec).await?;
            assert!(
                line.contains("process component broken error: ") && line.contains(reason),
                "{name}: {line}"
            );
        }
        Ok(())
    });
}

#[test]
fn two_components_of_one_name_are_refused() {
    story("start-duplicate", async |stage| {
        let mut spec = stage.spec(&stage.id("twice"), None);
        let (first, second) = (
            component("store", "state.in-memory", &[]),
            component("store", "state.sqlite", &[]),
        );
        spec.resources = Some(stage.resources("resources", &[first, second])?);
        let line = fatal_line(stage, &spec).await?;
        let reason = "failed to load components: duplicate definition of Component name store (state.sqlite/v1) with existing store (state.in-memory/v1)";
        assert!(line.contains(reason), "{line}");
        Ok(())
    });
}

#[test]
fn a_missing_folder_and_missing_settings_are_named() {
    story("start-missing", async |stage| {
        let mut spec = stage.spec(&stage.id("folder"), None);
        let missing = stage.folder().join("not-there");
        spec.resources = Some(missing.clone());
        let line = fatal_line(stage, &spec).await?;
        assert!(line.contains(&missing.display().to_string()), "{line}");

        let mut spec = stage.spec("", None);
        spec.name = "nameless".to_owned();
        let line = fatal_line(stage, &spec).await?;
        assert!(line.contains("parameter app-id cannot be empty"), "{line}");

        let mut spec = stage.spec(&stage.id("anchorless"), None);
        spec.flags.push("--enable-mtls".to_owned());
        let line = fatal_line(stage, &spec).await?;
        assert!(line.contains("trust anchors are required"), "{line}");
        Ok(())
    });
}

#[test]
fn an_unknown_flag_is_refused() {
    story("start-flag", async |stage| {
        let mut spec = stage.spec(&stage.id("flagged"), None);
        spec.flags.push("--no-such-flag".to_owned());
        let mut sidecar = Sidecar::start(stage.folder(), &spec, None).await?;
        let status = sidecar.process.ended(LIMIT).await?;
        assert_eq!(status.code(), Some(2));
        let log = sidecar.process.log();
        assert!(log.contains("unknown flag: --no-such-flag"), "{log}");
        Ok(())
    });
}

#[test]
fn a_broken_document_does_not_hurt_its_neighbours() {
    story("start-yaml", async |stage| {
        let good = component("store", "state.in-memory", &[]);
        let broken = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: [";
        let mut spec = stage.spec(&stage.id("patient"), None);
        spec.resources = Some(stage.resources("resources", &[format!("{broken}\n---\n{good}\n")])?);
        let sidecar = stage.sidecar(&spec, None).await?;
        fetch(stage.http.get(sidecar.url("state/store/a")))
            .await?
            .expect(204)?;
        let log = sidecar.process.log();
        let warning = "daprd load Component error when parsing manifests yaml resource in";
        assert!(
            log.lines()
                .any(|line| line.contains("level=warn") && line.contains(warning)),
            "{log}"
        );
        Ok(())
    });
}

#[test]
fn without_sentry_it_waits_for_an_identity() {
    story("start-sentry", async |stage| {
        let control_plane = stage.control_plane(0).await?;
        let nobody = ports::free().await?;
        let mut spec = stage.spec(&stage.id("waiting"), None);
        spec.flags = vec![
            "--enable-mtls".to_owned(),
            format!("--sentry-address=127.0.0.1:{nobody}"),
        ];
        let anchors = control_plane.sentry.trust_anchors.clone();
        spec.environment
            .insert("DAPR_TRUST_ANCHORS".to_owned(), anchors);
        let mut sidecar = Sidecar::start(stage.folder(), &spec, None).await?;
        await_condition("it asks for its identity", LIMIT, || async {
            ensure!(
                sidecar.process.log().contains("Fetching initial identity"),
                "not yet"
            );
            Ok(())
        })
        .await?;
        let connected = TcpStream::connect(("127.0.0.1", sidecar.http_port)).await;
        assert!(connected.is_err(), "the API is open without an identity");
        sidecar.process.check_running()?;
        let status = sidecar.process.terminate(LIMIT).await?;
        assert_eq!(status.code(), Some(1));
        Ok(())
    });
}

#[test]
fn an_empty_environment_is_enough() {
    story("start-bare", async |stage| {
        let (http, grpc, metrics) = (
            ports::free().await?,
            ports::free().await?,
            ports::free().await?,
        );
        let mut sidecar = Process::start(&Spec {
            name: "bare".to_owned(),
            program: process::built("daprd")?,
            // One dash is as good as two.
            arguments: vec![
                format!("-app-id={}", stage.id("bare")),
                format!("-dapr-http-port={http}"),
                format!("-dapr-grpc-port={grpc}"),
                format!("-metrics-port={metrics}"),
            ],
            environment: BTreeMap::new(),
            folder: stage.folder().to_owned(),
        })?;
        let url = format!("http://127.0.0.1:{http}/v1.0/healthz");
        let ready = await_condition("it is ready", LIMIT, || async {
            fetch(stage.http.get(&url)).await?.expect(204)
        });
        let ready = ready.await;
        sidecar.check_running()?;
        ready?;
        let status = sidecar.terminate(LIMIT).await?;
        assert!(status.success(), "{status}");
        Ok(())
    });
}
