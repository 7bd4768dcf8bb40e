//! Several replicas that know of each other only what the API server tells: none has the Secret mounted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::get;
use dapr_security::{Acceptor, ServerOptions, serve};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::stage::{
    Handled, Method, Request, Stage, bundle, configure, forward, installed, is_for, pass,
};
use super::*;

/// A pod that is waited for: it has a sidecar, and a UID that its certificates are known by.
fn workload(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": name},
        },
        "spec": {"serviceAccountName": "app"},
    })
}

/// One address for both, as a Service gives it: each connection goes to the other one.
async fn alternating(replicas: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for replica in replicas.into_iter().cycle() {
            let (mut client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut server = TcpStream::connect(("127.0.0.1", replica)).await.unwrap();
                drop(copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    port
}

/// A sidecar: an identity that is renewed, and a server that shows it.
struct Sidecar {
    name: &'static str,
    security: Security,
    port: u16,
}

impl Sidecar {
    async fn start(stage: &Stage, service: u16, name: &'static str) -> Self {
        let options = stage.options(service, name, name);
        let started = timeout(SOON, Security::start(options)).await.unwrap();
        let (security, renewal) = started.unwrap();
        tokio::spawn(renewal);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().route("/", get(async || ""));
        let acceptor = Acceptor::Mutual(security.clone());
        let never = CancellationToken::new();
        tokio::spawn(serve(
            listener,
            acceptor,
            routes,
            ServerOptions::default(),
            never,
        ));
        Self {
            name,
            security,
            port,
        }
    }

    /// A new connection, on which both show their certificates. The answer tells that the server took the client's.
    async fn is_reached_by(&self, client: &Security) -> Result<(), String> {
        let expect = Expect::Path {
            namespace: "shop".to_owned(),
            app_id: self.name.to_owned(),
        };
        let uri = format!("http://127.0.0.1:{}", self.port).parse().unwrap();
        let stream = client.connector(expect).call(uri).await;
        let stream = stream.map_err(|error| error.to_string())?.into_inner();
        let broken = |error: h2::Error| error.to_string();
        let handshake = h2::client::handshake(stream).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        tokio::spawn(async move { drop(connection.await) });
        let request = http::Request::get("http://sidecar/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).map_err(broken)?;
        answer.await.map(drop).map_err(broken)
    }
}

fn phase(stage: &Stage) -> Option<String> {
    let object = stage.server.get(&bundle("ConfigMap"))?;
    let phase = object["metadata"]["annotations"]["dapr.io/root-rotation-phase"].as_str();
    phase.map(str::to_owned)
}

/// Asks for a new root.
fn ask(stage: &Stage) {
    let mut object = stage.server.get(&bundle("ConfigMap")).unwrap();
    object["metadata"]["annotations"]["dapr.io/rotate-root"] = json!("now");
    stage.server.put(object);
}

#[tokio::test]
async fn no_replica_signs_with_the_old_issuer_when_the_old_root_is_gone() {
    let server = installed().await;
    configure(
        &server,
        json!({"workloadCertTTL": "4s", "allowedClockSkew": "0s"}),
    );
    let names = ["a", "b", "new"];
    for name in names {
        server.put(workload(name));
    }
    let stage = Stage::new(server, pass).await;
    let flags = ["--replica-lag=2s"];
    let (first, second) = tokio::join!(stage.start(&flags), stage.start(&flags));
    let service = alternating([first.port, second.port]).await;
    let a = Sidecar::start(&stage, service, "a").await;
    let b = Sidecar::start(&stage, service, "b").await;
    let old = stage.roots();
    ask(&stage);
    let (mut phases, mut handshakes, mut at_end) = (Vec::new(), 0, None);
    let rotation = async {
        loop {
            // One that starts now knows what is published now, and nothing else.
            let started = Security::start(stage.options(service, "new", "new"));
            let (new, _) = started.await.unwrap();
            for (client, server) in [(&new, &a), (&new, &b), (&a.security, &b), (&b.security, &a)] {
                let reached = server.is_reached_by(client).await;
                assert_eq!(reached, Ok(()), "{} in {phases:?}", server.name);
                handshakes += 1;
            }
            let now = phase(&stage);
            if phases.last() != Some(&now) {
                phases.push(now);
            }
            if phases.len() < 2 || phase(&stage).is_some() || stage.roots().contains(old.trim_end())
            {
                continue;
            }
            // Until those that got a certificate before the end have one from after it.
            let renewals = [&a, &b].map(|it| it.security.renewals().borrow().succeeded);
            let before = *at_end.get_or_insert(renewals);
            if renewals
                .iter()
                .zip(before)
                .all(|(now, before)| *now > before)
            {
                return;
            }
        }
    };
    timeout(SOON * 2, rotation)
        .await
        .expect("the rotation ends");
    assert!(
        phases.contains(&Some("publishing".to_owned())),
        "{phases:?}"
    );
    assert!(phases.contains(&Some("switched".to_owned())), "{phases:?}");
    assert!(handshakes >= 40, "{handshakes}");
    for sentry in [first, second] {
        let log = sentry.log();
        assert!(!log.contains("level=error"), "{log}");
        assert_eq!(sentry.stop().await.code(), Some(0));
    }
}

/// Holds the next two writes of the Secret until both are there, so that neither has seen the other's.
#[derive(Clone)]
struct Race {
    target: String,
    held: Arc<AtomicUsize>,
    start: Arc<Barrier>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Race {
    fn new(target: String) -> Self {
        Self {
            target,
            held: Arc::default(),
            start: Arc::new(Barrier::new(2)),
            answers: Arc::default(),
        }
    }

    fn arm(&self) {
        self.held.store(2, Ordering::Relaxed);
    }

    fn handle(&self, request: Request) -> Handled {
        let is_held = is_for(&request, &Method::PUT, "secrets")
            && self
                .held
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                    held.checked_sub(1)
                })
                .is_ok();
        let race = self.clone();
        Box::pin(async move {
            if !is_held {
                return Err(request);
            }
            race.start.wait().await;
            let answer = forward(&race.target, request).await;
            race.answers.lock().push(answer.status().as_u16());
            Ok(answer)
        })
    }

    /// How the two writes were answered, once both were.
    async fn outcome(&self) -> Vec<u16> {
        eventually("both writes", async || self.answers.lock().len() == 2).await;
        let mut answers = std::mem::take(&mut *self.answers.lock());
        answers.sort_unstable();
        answers
    }
}

#[tokio::test]
async fn a_race_has_one_winner_and_the_loser_follows_without_an_error() {
    let server = installed().await;
    configure(
        &server,
        json!({"workloadCertTTL": "3s", "allowedClockSkew": "0s"}),
    );
    let race = Race::new(server.url());
    let handler = race.clone();
    let stage = Stage::new(server, move |request| handler.handle(request)).await;
    race.arm();
    let flags = ["--replica-lag=0s"];
    let (first, second) = tokio::join!(stage.start(&flags), stage.start(&flags));
    assert_eq!(race.outcome().await, [200, 409], "at the start");
    let roots = stage.roots();
    for sentry in [&first, &second] {
        assert!(stage.is_served(sentry, &roots).await);
    }
    race.arm();
    ask(&stage);
    assert_eq!(race.outcome().await, [200, 409], "when the rotation begins");
    eventually("the end", async || {
        phase(&stage).is_none() && !stage.roots().contains(roots.trim_end())
    })
    .await;
    let logs = [first.log(), second.log()];
    for (line, times) in [("level=error", 0), ("Rotation of the root begins", 1)] {
        let found: usize = logs.iter().map(|log| log.matches(line).count()).sum();
        assert_eq!(found, times, "{line}: {logs:?}");
    }
    for sentry in [first, second] {
        assert_eq!(sentry.stop().await.code(), Some(0));
    }
}
