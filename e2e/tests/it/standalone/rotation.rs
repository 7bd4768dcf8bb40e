//! The root of trust is replaced, twice, while applications call each other: nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::process::built;
use dapr_e2e::standalone::{ControlPlane, Sentry, Sidecar, metric};
use dapr_security::{AnchorsSource, Security};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::mtls::{handshake, options};
use crate::support::{App, Stage, story};

/// Calls between the sidecars in a second, and new connections beside them.
const CALLS: u32 = 200;
const HANDSHAKES: u32 = 20;
/// One rotation: each of its two waits ends with a renewal, every two seconds, and never after the four seconds a
/// certificate is valid.
const ROTATION: Duration = Duration::from_secs(40);

#[test]
fn two_rotations_under_load_fail_no_call_and_no_handshake() {
    story("rotation", async |stage| {
        let spec = "{mtls: {workloadCertTTL: 4s, allowedClockSkew: 0s}}";
        let sentry = Sentry::start_with(stage.folder(), None, spec).await?;
        let plane = ControlPlane::around(sentry, stage.folder(), 0, None).await?;
        let ring = Ring::start(stage, &plane).await?;
        let first = plane.sentry.trust_anchors.clone();

        // Two that open new connections all the time: one learns new roots, as ours do; one knows the first root and
        // nothing else, as the original's sidecars do.
        let learner = AnchorsSource::Inline(first.clone());
        let fixed = AnchorsSource::File(stage.file("first-root.pem", &first)?);
        let mut dialers = Vec::new();
        for (name, anchors) in [("learner", learner), ("fixed", fixed)] {
            let options = options(&plane.sentry, anchors, &stage.id(name))?;
            let (security, renewal) = Security::start(options).await?;
            dialers.push((security, tokio::spawn(renewal)));
        }

        let load = Load::start(stage, &ring, dialers.iter().map(|(security, _)| security));
        for _ in 0..2 {
            let before = roots(&plane)?;
            rotate(stage).await?;
            ensure!(roots(&plane)? != before, "the root is still the old one");
        }
        let phase = metric(plane.sentry.metrics_port, "dapr_sentry_root_rotation_phase").await?;
        ensure!(phase == 0.0, "the rotation is in phase {phase}");
        let done = load.stop().await?;

        ensure!(done.calls >= 500, "only {} calls were made", done.calls);
        ensure!(
            done.handshakes >= 100,
            "only {} handshakes",
            done.handshakes
        );
        for (security, renewal) in dialers {
            let renewals = *security.renewals().borrow();
            ensure!(renewals.succeeded >= 4, "{renewals:?}");
            ensure!(
                (renewals.failed, renewals.unreachable) == (0, 0),
                "{renewals:?}"
            );
            renewal.abort();
        }
        Ok(())
    });
}

fn roots(plane: &ControlPlane) -> Result<String> {
    std::fs::read_to_string(&plane.sentry.trust_anchors_file).context("reading ca.crt")
}

/// Asks for a new root and waits until the old one is gone.
async fn rotate(stage: &Stage) -> Result<()> {
    let credentials = stage.folder().join("credentials");
    let output = Command::new(built("sentry")?)
        .args(["rotate", "--wait"])
        .arg(format!("--issuer-credentials={}", credentials.display()))
        .kill_on_drop(true)
        .output();
    let output = timeout(ROTATION, output)
        .await
        .context("the rotation takes too long")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && told.contains("the rotation is complete"),
        "sentry rotate: {told}"
    );
    Ok(())
}

/// Three applications; each calls the next.
struct Ring {
    sidecars: Vec<(String, Sidecar)>,
    _apps: Vec<App>,
}

impl Ring {
    async fn start(stage: &Stage, plane: &ControlPlane) -> Result<Self> {
        let (mut sidecars, mut apps) = (Vec::new(), Vec::new());
        for name in ["a", "b", "c"] {
            let (id, app) = (stage.id(name), App::plain().await?);
            let spec = stage.spec(&id, Some(&app));
            sidecars.push((id, stage.sidecar(&spec, Some(plane)).await?));
            apps.push(app);
        }
        Ok(Self {
            sidecars,
            _apps: apps,
        })
    }

    /// Where to call whom.
    fn urls(&self) -> Vec<String> {
        let callees = self.sidecars.iter().cycle().skip(1);
        self.sidecars
            .iter()
            .zip(callees)
            .map(|((_, caller), (callee, _))| caller.url(&format!("invoke/{callee}/method/hello")))
            .collect()
    }
}

/// Calls and handshakes that go on until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    tasks: JoinSet<Result<()>>,
}

/// What a load has done; nothing of it failed.
struct Done {
    calls: usize,
    handshakes: usize,
}

impl Load {
    fn start<'a>(stage: &Stage, ring: &Ring, dialers: impl Iterator<Item = &'a Security>) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            calls: Arc::default(),
            handshakes: Arc::default(),
            tasks: JoinSet::new(),
        };
        let (stop, calls) = (Arc::clone(&load.stop), Arc::clone(&load.calls));
        let (http, urls) = (stage.http.clone(), ring.urls());
        load.tasks.spawn(async move {
            let mut open = JoinSet::new();
            let mut ticks = every(CALLS);
            for url in urls.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                ticks.tick().await;
                let request = http.get(url).send();
                let calls = Arc::clone(&calls);
                open.spawn(async move {
                    let response = request.await.context("a call")?;
                    let status = response.status();
                    let text = response.text().await?;
                    ensure!(status.is_success(), "a call was answered {status}: {text}");
                    calls.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                });
                while let Some(done) = open.try_join_next() {
                    done??;
                }
            }
            while let Some(done) = open.join_next().await {
                done??;
            }
            Ok(())
        });
        let servers: Vec<_> = ring
            .sidecars
            .iter()
            .map(|(id, sidecar)| (id.clone(), sidecar.internal_port))
            .collect();
        for security in dialers {
            let security = security.clone();
            let (stop, made) = (Arc::clone(&load.stop), Arc::clone(&load.handshakes));
            let servers = servers.clone();
            load.tasks.spawn(async move {
                let mut ticks = every(HANDSHAKES);
                for (id, port) in servers.iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    ticks.tick().await;
                    handshake(&security, *port, id)
                        .await
                        .with_context(|| format!("a handshake of {security:?}"))?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        load
    }

    /// Ends the load and tells what it did; fails with the first thing that went wrong.
    async fn stop(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        Ok(Done {
            calls: self.calls.load(Ordering::Relaxed),
            handshakes: self.handshakes.load(Ordering::Relaxed),
        })
    }
}

fn every(rate: u32) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // A machine that was busy for a moment does not make up for it all at once.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
