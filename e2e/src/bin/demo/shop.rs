//! The shop of `examples/orders`, with everything around it, and what is done to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e::process::built;
use dapr_e2e::standalone::{ControlPlane, Sidecar, SidecarSpec, metric};
use dapr_e2e::{Process, Spec, await_condition, ports};
use dapr_security::{AnchorsSource, Expect, KeyKind, Options, Security, TokenSource, TrustDomain};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use crate::story::Story;

/// Upstream retries an actor call for 5 s; a host that has died is found out well before.
const RECOVERY: Duration = Duration::from_secs(20);

pub(crate) struct Shop {
    folder: PathBuf,
    control_plane: ControlPlane,
    storefront: Host,
    orders: Vec<Host>,
    http: reqwest::Client,
}

/// An application with its sidecar.
struct Host {
    name: String,
    app: Process,
    app_port: u16,
    sidecar: Sidecar,
}

impl Shop {
    /// Starts everything and waits until it serves.
    pub(crate) async fn open(folder: &Path, story: &mut Story) -> Result<Self> {
        let mut control_plane = ControlPlane::start(folder, 3).await?;
        let leader = control_plane.leader(RECOVERY).await?;
        story.step(
            "sentry made its CA, placement elected a leader",
            &format!("placement-{leader} leads 3 replicas"),
        );

        let resources = resources(folder)?;
        let storefront = Host::start(
            folder,
            &resources,
            "storefront",
            "storefront",
            &control_plane,
        )
        .await?;
        let mut orders = Vec::new();
        for name in ["orders-1", "orders-2"] {
            orders.push(Host::start(folder, &resources, name, "orders", &control_plane).await?);
        }
        let mut shop = Self {
            folder: folder.to_owned(),
            control_plane,
            storefront,
            orders,
            http: reqwest::Client::new(),
        };
        shop.storefront.sidecar.await_ready().await?;
        for host in &mut shop.orders {
            host.sidecar.await_ready().await?;
        }
        story.step(
            "three apps and their sidecars are ready",
            "/v1.0/healthz = 204, three times",
        );
        Ok(shop)
    }

    /// The story.
    pub(crate) async fn tell(&mut self, story: &mut Story) -> Result<()> {
        self.identities(story).await?;
        self.order(story).await?;
        self.state(story).await?;
        self.event(story).await?;
        let host = self.actor(story).await?;
        self.host_dies(story, host).await?;
        self.leader_dies(story).await
    }

    async fn identities(&self, story: &mut Story) -> Result<()> {
        let (security, renewal) = Security::start(self.identity_request())
            .await
            .context("an identity for the demo")?;
        let renewal = tokio::spawn(renewal);
        let hosts = std::iter::once(&self.storefront).chain(&self.orders);
        for (host, app_id) in hosts.zip(["storefront", "orders", "orders"]) {
            let expect = Expect::Path {
                namespace: "default".to_owned(),
                app_id: app_id.to_owned(),
            };
            let uri = format!("https://127.0.0.1:{}", host.sidecar.internal_port).parse()?;
            security
                .connector(expect)
                .oneshot(uri)
                .await
                .with_context(|| format!("identity of {}", host.name))?;
        }
        let imposter = Expect::Path {
            namespace: "default".to_owned(),
            app_id: "orders".to_owned(),
        };
        let uri = format!(
            "https://127.0.0.1:{}",
            self.storefront.sidecar.internal_port
        )
        .parse()?;
        let refused = security.connector(imposter).oneshot(uri).await;
        ensure!(refused.is_err(), "the storefront was taken for orders");
        renewal.abort();
        let issued = metric(
            self.control_plane.sentry.metrics_port,
            "dapr_sentry_cert_sign_success_total",
        )
        .await?;
        story.step(
            "identities issued and shown",
            &format!("spiffe://public/ns/default/… ×3, {issued} certificates signed"),
        );

        ensure!(
            refuses_plaintext(self.storefront.sidecar.internal_port).await?,
            "plaintext was answered"
        );
        story.step(
            "plaintext between sidecars is refused",
            "connection closed without an HTTP/2 frame",
        );
        Ok(())
    }

    fn identity_request(&self) -> Options {
        Options {
            trust_anchors: AnchorsSource::Inline(self.control_plane.sentry.trust_anchors.clone()),
            sentry_address: self.control_plane.sentry.address.clone(),
            control_plane_trust_domain: TrustDomain::new("localhost")
                .unwrap_or_else(|_| unreachable!("a valid name")),
            control_plane_namespace: "default".to_owned(),
            namespace: "default".to_owned(),
            app_id: "demo".to_owned(),
            token: TokenSource::None,
            jwt_audiences: Vec::new(),
            key: KeyKind::default(),
            trust_domain_in_request: None,
            mtls: true,
        }
    }

    async fn order(&self, story: &mut Story) -> Result<()> {
        let order = json!({ "id": "1001", "item": "tea", "quantity": 2 });
        let url = format!("http://127.0.0.1:{}/buy", self.storefront.app_port);
        let receipt: Value = self.json(self.http.post(url).json(&order)).await?;
        ensure!(receipt["order"] == "1001", "unexpected receipt {receipt}");
        ensure!(
            receipt["calledBy"] == "storefront",
            "the callee saw another caller: {receipt}"
        );
        story.step(
            "an order placed through mTLS invocation",
            &format!(
                "kept by {}, called by {}",
                text(&receipt["keptBy"]),
                text(&receipt["calledBy"])
            ),
        );
        Ok(())
    }

    async fn state(&self, story: &mut Story) -> Result<()> {
        let store = self.orders[0].sidecar.url("state/statestore");
        let response = self.http.get(format!("{store}/1001")).send().await?;
        let etag = response
            .headers()
            .get("etag")
            .context("no etag")?
            .to_str()?
            .to_owned();
        let mut order: Value = response.json().await?;
        ensure!(order["item"] == "tea", "unexpected state {order}");
        order["quantity"] = json!(3);
        let write = json!([{ "key": "1001", "value": order, "etag": etag, "options": { "concurrency": "first-write" } }]);
        let first = self.http.post(&store).json(&write).send().await?.status();
        let second = self.http.post(&store).json(&write).send().await?.status();
        ensure!(
            first == 204 && second == 409,
            "writes with one etag: {first}, {second}"
        );
        story.step(
            "state with etag: two writers, one wins",
            &format!("first {}, second {}", first.as_u16(), second.as_u16()),
        );
        Ok(())
    }

    async fn event(&self, story: &mut Story) -> Result<()> {
        let seen = await_condition("the event arrives", RECOVERY, || async {
            for host in &self.orders {
                let url = format!("http://127.0.0.1:{}/events", host.app_port);
                let events: Value = self.json(self.http.get(url)).await?;
                if events[0]["id"] == "1001" {
                    return Ok(host.name.clone());
                }
            }
            bail!("no event yet")
        });
        let host = seen.await?;
        story.step(
            "an event delivered",
            &format!("order-placed {{id: 1001}} at {host}"),
        );
        Ok(())
    }

    /// Index of the host the actor lives on.
    async fn actor(&self, story: &mut Story) -> Result<usize> {
        let first = self.parcel(&self.storefront, "1001", "move").await?;
        let second = self.parcel(&self.orders[1], "1001", "move").await?;
        ensure!(
            first["host"] == second["host"],
            "one actor on two hosts: {first} {second}"
        );
        ensure!(second["stations"] == 2, "calls were lost: {second}");
        let host = text(&second["host"]);
        story.step(
            "an actor found on one host, from two callers",
            &format!("Parcel/1001 on {host}, 2 stations"),
        );
        self.orders
            .iter()
            .position(|candidate| candidate.name == host)
            .context("an unknown host answered")
    }

    async fn host_dies(&mut self, story: &mut Story, index: usize) -> Result<()> {
        let died = self.orders[index].name.clone();
        self.orders[index].sidecar.process.kill().await?;
        self.orders[index].app.kill().await?;
        let seen = self.parcel_moves_to_another(&died, 3).await?;
        story.step(
            &format!("{died} killed, the actor answers from another"),
            &format!(
                "Parcel/1001 on {}, {} stations: state kept",
                text(&seen["host"]),
                seen["stations"]
            ),
        );
        Ok(())
    }

    async fn leader_dies(&mut self, story: &mut Story) -> Result<()> {
        let leader = self.control_plane.leader(RECOVERY).await?;
        self.control_plane.placement[leader].process.kill().await?;
        let order = json!({ "id": "1002", "item": "milk", "quantity": 1 });
        let url = format!("http://127.0.0.1:{}/buy", self.storefront.app_port);
        let during: Value = self.json(self.http.post(url).json(&order)).await?;
        ensure!(
            during["order"] == "1002",
            "the order was not placed: {during}"
        );
        let next = self.control_plane.leader(RECOVERY).await?;
        story.step(
            &format!("placement-{leader}, the leader, killed"),
            &format!("order 1002 placed meanwhile, placement-{next} leads"),
        );

        // A host that joins now proves that the new leader runs rounds.
        let gone = self
            .orders
            .iter()
            .position(|host| host.app.id().is_none())
            .context("no host has died")?;
        let name = self.orders[gone].name.clone();
        let resources = self.folder.join("resources");
        let mut host = Host::start(
            &self.folder,
            &resources,
            &name,
            "orders",
            &self.control_plane,
        )
        .await?;
        host.sidecar.await_ready().await?;
        self.orders[gone] = host;
        let mut hosts = std::collections::BTreeSet::new();
        for parcel in 0..20 {
            let seen = self
                .parcel(&self.storefront, &format!("p{parcel}"), "move")
                .await?;
            hosts.insert(text(&seen["host"]));
        }
        ensure!(hosts.len() == 2, "actors on {hosts:?} only");
        let seen = self.parcel(&self.storefront, "1001", "where").await?;
        ensure!(seen["stations"] == 3, "the actor lost its state: {seen}");
        story.step(
            &format!("{name} back, actors spread over both hosts"),
            "20 new parcels on 2 hosts, Parcel/1001 kept 3 stations",
        );
        Ok(())
    }

    async fn parcel(&self, via: &Host, id: &str, method: &str) -> Result<Value> {
        self.json(
            self.http.post(
                via.sidecar
                    .url(&format!("actors/Parcel/{id}/method/{method}")),
            ),
        )
        .await
    }

    async fn parcel_moves_to_another(&self, died: &str, stations: u64) -> Result<Value> {
        await_condition("the actor answers from another host", RECOVERY, || async {
            let seen = self.parcel(&self.storefront, "1001", "move").await?;
            ensure!(seen["host"] != died, "{died} still answers");
            ensure!(seen["stations"] == stations, "state was lost: {seen}");
            Ok(seen)
        })
        .await
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value> {
        let response = request.send().await?;
        let status = response.status();
        let body = response.text().await?;
        ensure!(status.is_success(), "{status}: {body}");
        serde_json::from_str(&body).with_context(|| format!("not JSON: {body}"))
    }

    pub(crate) fn requests_to_try(&self) -> String {
        let order = r#"'{"id":"1003","item":"bread","quantity":1}'"#;
        let json = "-H 'content-type: application/json'";
        let sidecar = |path: &str| self.storefront.sidecar.url(path);
        [
            format!(
                "curl {json} -d {order} localhost:{}/buy",
                self.storefront.app_port
            ),
            format!(
                "curl {json} -d {order} {}",
                sidecar("invoke/orders/method/place")
            ),
            format!(
                "curl {}",
                self.orders[0].sidecar.url("state/statestore/1001")
            ),
            format!("curl -X POST {}", sidecar("actors/Parcel/1001/method/move")),
            format!("curl {}", self.orders[0].sidecar.url("metadata")),
        ]
        .map(|line| format!("  {line}\n"))
        .concat()
    }

    /// Ends everything gracefully; what does not end in time is killed by the drop.
    pub(crate) async fn close(mut self) {
        let limit = Duration::from_secs(10);
        let hosts = self
            .orders
            .iter_mut()
            .chain(std::iter::once(&mut self.storefront));
        for host in hosts.filter(|host| host.app.id().is_some()) {
            drop(host.sidecar.process.terminate(limit).await);
            drop(host.app.kill().await);
        }
        for replica in self
            .control_plane
            .placement
            .iter_mut()
            .filter(|replica| replica.process.id().is_some())
        {
            drop(replica.process.terminate(limit).await);
        }
        drop(self.control_plane.sentry.process.terminate(limit).await);
    }
}

impl Host {
    async fn start(
        folder: &Path,
        resources: &Path,
        name: &str,
        app_id: &str,
        plane: &ControlPlane,
    ) -> Result<Self> {
        let (app_port, http_port) = (ports::free().await?, ports::free().await?);
        let program = if app_id == "orders" {
            "orders"
        } else {
            "storefront"
        };
        let app = Process::start(&Spec {
            name: name.to_owned(),
            program: built(program)?,
            arguments: Vec::new(),
            environment: BTreeMap::from([
                ("INSTANCE".to_owned(), name.to_owned()),
                ("PORT".to_owned(), app_port.to_string()),
                ("DAPR_HTTP_PORT".to_owned(), http_port.to_string()),
            ]),
            folder: folder.to_owned(),
        })?;
        let spec = SidecarSpec {
            name: name.to_owned(),
            app_id: app_id.to_owned(),
            app_port: Some(app_port),
            resources: Some(resources.to_owned()),
            placement: true,
            http_port: Some(http_port),
            ..Default::default()
        };
        let sidecar = Sidecar::start(folder, &spec, Some(plane)).await?;
        Ok(Self {
            name: name.to_owned(),
            app,
            app_port,
            sidecar,
        })
    }
}

/// The resources of the example, as files of this demo: it needs nothing from the source tree once built.
fn resources(folder: &Path) -> Result<PathBuf> {
    let resources = folder.join("resources");
    std::fs::create_dir(&resources)?;
    let files = [
        (
            "statestore.yaml",
            include_str!("../../../../examples/orders/resources/statestore.yaml"),
        ),
        (
            "pubsub.yaml",
            include_str!("../../../../examples/orders/resources/pubsub.yaml"),
        ),
        (
            "subscription.yaml",
            include_str!("../../../../examples/orders/resources/subscription.yaml"),
        ),
    ];
    for (name, content) in files {
        std::fs::write(resources.join(name), content)?;
    }
    Ok(resources)
}

/// Whether a server that asks for certificates closes a plaintext HTTP/2 connection without answering a frame.
async fn refuses_plaintext(port: u16) -> Result<bool> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    let mut answer = Vec::new();
    // A reset is as good an answer as an end; what counts is that no frame came.
    drop(
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .context("still open")?,
    );
    const TLS_ALERT: u8 = 0x15;
    Ok(answer.first().is_none_or(|byte| *byte == TLS_ALERT))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
