//! Where a sidecar listens: unix sockets, a public port, and the same ports after a restart within.

use anyhow::{Context as _, bail, ensure};
use dapr_e2e::standalone::Sidecar;
use dapr_e2e::{await_condition, ports};
use dapr_proto::dapr::proto::runtime::v1::GetMetadataRequest;
use dapr_proto::dapr::proto::runtime::v1::dapr_client::DaprClient;
use serde_json::json;
use tonic::transport::Endpoint;

use crate::support::{App, LIMIT, configuration, fetch, story};

#[test]
fn unix_sockets_take_the_place_of_ports() {
    story("sockets-unix", async |stage| {
        let app = App::plain().await?;
        let id = stage.id("local");
        let mut spec = stage.spec(&id, Some(&app));
        let folder = stage.folder().display().to_string();
        spec.flags = vec![format!("--unix-domain-socket={folder}")];
        let mut sidecar = Sidecar::start(stage.folder(), &spec, None).await?;
        let file = |api: &str| stage.folder().join(format!("dapr-{id}-{api}.socket"));
        let http = reqwest::Client::builder()
            .unix_socket(file("http"))
            .timeout(LIMIT)
            .build()?;
        let ready = await_condition("the sidecar is ready", LIMIT, || async {
            let url = "http://localhost/v1.0/healthz";
            fetch(http.get(url)).await?.expect(204).map(drop)
        })
        .await;
        sidecar.process.check_running()?;
        ready?;

        let url = format!("http://localhost/v1.0/invoke/{id}/method/work");
        fetch(http.post(url)).await?.expect(200)?;
        assert_eq!(app.seen("/work").len(), 1);
        let channel = Endpoint::from_shared(format!("unix:{}", file("grpc").display()))?
            .connect()
            .await
            .context("connecting to the unix socket")?;
        let metadata = DaprClient::new(channel)
            .get_metadata(GetMetadataRequest {})
            .await?;
        assert_eq!(metadata.into_inner().id, id);
        for port in [sidecar.http_port, sidecar.grpc_port] {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            assert!(connected.is_err(), "port {port} is open beside the sockets");
        }

        let status = sidecar.process.terminate(LIMIT).await?;
        ensure!(status.success(), "the sidecar ended with {status}");
        for api in ["http", "grpc"] {
            assert!(!file(api).exists(), "the {api} socket was left behind");
        }
        Ok(())
    });
}

#[test]
fn the_public_port_shows_health_and_metadata_only() {
    story("sockets-public", async |stage| {
        let id = stage.id("shown");
        let port = ports::free().await?;
        let mut spec = stage.spec(&id, None);
        spec.flags = vec![
            format!("--dapr-public-port={port}"),
            "--dapr-public-listen-address=127.0.0.1".to_owned(),
        ];
        spec.environment
            .insert("DAPR_API_TOKEN".to_owned(), "secret".to_owned());
        let _sidecar = stage.sidecar(&spec, None).await?;
        let url = |path: &str| format!("http://127.0.0.1:{port}/v1.0/{path}");
        for health in ["healthz", "healthz/outbound"] {
            fetch(stage.http.get(url(health))).await?.expect(204)?;
        }
        let metadata = fetch(stage.http.get(url("metadata"))).await?.expect(200)?;
        assert_eq!(metadata.json()?["id"], id.as_str());
        let other = fetch(stage.http.get(url(&format!("invoke/{id}/method/work")))).await?;
        let other = other.expect(404)?;
        assert_eq!(other.body.trim_end(), "404 page not found");
        Ok(())
    });
}

#[test]
fn a_hangup_restarts_the_sidecar_within() {
    story("sockets-hangup", async |stage| {
        let app = App::plain().await?;
        let id = stage.id("restarted");
        let mut spec = stage.spec(&id, Some(&app));
        let feature = |name: &str| {
            let features = json!({ "features": [{ "name": name, "enabled": true }] });
            configuration("config", features)
        };
        let file = stage.file("config.yaml", &feature("Before"))?;
        spec.flags = vec![format!("--config={}", file.display())];
        let mut sidecar = stage.sidecar(&spec, None).await?;
        let process = sidecar.process.id();
        app.await_seen("/dapr/config", 1).await?;
        let shows = async |name: &str| {
            let metadata = fetch(stage.http.get(sidecar.url("metadata"))).await?;
            let features = &metadata.expect(200)?.json()?["enabledFeatures"];
            if !features.to_string().contains(name) {
                bail!("{features}");
            }
            Ok(())
        };
        shows("Before").await?;

        stage.file("config.yaml", &feature("After"))?;
        sidecar.process.signal("HUP").await?;
        await_condition("the new configuration is in effect", LIMIT, || {
            shows("After")
        })
        .await?;
        sidecar.await_ready().await?;
        assert_eq!(sidecar.process.id(), process, "another process");
        app.await_seen("/dapr/config", 2).await?;
        let url = sidecar.url(&format!("invoke/{id}/method/work"));
        fetch(stage.http.post(url)).await?.expect(200)?;
        let status = sidecar.process.terminate(LIMIT).await?;
        ensure!(status.success(), "the sidecar ended with {status}");
        Ok(())
    });
}
