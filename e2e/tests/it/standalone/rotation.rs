//! The root of trust is replaced, twice, while applications call each other: nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::process::built;
use dapr_e2e::standalone::{ControlPlane, Sentry, Sidecar, metric};
use dapr_e2e_apiserver::preparation::skipped;
use dapr_security::{AnchorsSource, Security};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::mtls::{handshake, options};
use crate::support::{App, Stage, story};

/// Calls between the sidecars in a second, and new connections beside them.
const CALLS: u32 = 200;
const HANDSHAKES: u32 = 20;
/// Most calls under way at once: what is made up for does not come all at once.
const OPEN: usize = 32;
const PHASE: &str = "dapr_sentry_root_rotation_phase";
/// How much of the calls must have been made, on a machine that makes as many without a rotation.
const ENOUGH: f64 = 0.8;
/// One rotation: each of its two waits ends with a renewal, every four seconds, and never after the eight seconds a
/// certificate is valid.
const ROTATION: Duration = Duration::from_secs(60);

#[test]
fn two_rotations_under_load_fail_no_call_and_no_handshake() {
    story("rotation", async |stage| {
        let spec = "{mtls: {workloadCertTTL: 8s, allowedClockSkew: 0s}}";
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
        let possible = load.rate().await?;
        for round in 0..2 {
            let before = roots(&plane)?;
            // Sidecars that come meanwhile: the others have no connection to them yet, nor they to the others.
            tokio::select! {
                rotated = rotate(stage) => rotated?,
                failed = newcomers(stage, &plane, &ring, round) => failed?,
            }
            let now = roots(&plane)?;
            ensure!(now != before, "the root is still the old one");
            ring.is_renewed(stage, &plane, now).await?;
            newcomer(stage, &plane, &ring, &format!("after-{round}")).await?;
        }
        let phase = metric(plane.sentry.metrics_port, PHASE).await?;
        ensure!(phase == 0.0, "the rotation is in phase {phase}");
        let done = load.stop().await?;

        let rate = f64::from(u32::try_from(done.calls)?) / done.elapsed.as_secs_f64();
        let wanted = ENOUGH * f64::from(CALLS);
        if possible < wanted {
            // Without a rotation it made no more: no fault of the rotation, and no proof of what it bears either.
            let reason =
                format!("this machine makes {possible:.0} only, {rate:.0} during rotations");
            skipped(&format!("rotation under {CALLS} calls a second"), &reason)?;
        } else {
            ensure!(rate >= wanted, "only {rate:.0} calls a second were made");
        }
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

/// Starts a sidecar in each phase, and never ends.
async fn newcomers(stage: &Stage, plane: &ControlPlane, ring: &Ring, round: u32) -> Result<()> {
    for phase in [1.0, 2.0] {
        await_condition("the phase", ROTATION, async || {
            let now = metric(plane.sentry.metrics_port, PHASE).await?;
            ensure!(now >= phase, "phase {now}");
            Ok(())
        })
        .await?;
        newcomer(stage, plane, ring, &format!("during-{round}-{phase}")).await?;
    }
    std::future::pending().await
}

/// A sidecar that calls all of the ring and is called by all of them, each on a new connection.
async fn newcomer(stage: &Stage, plane: &ControlPlane, ring: &Ring, name: &str) -> Result<()> {
    let (id, app) = (stage.id(name), App::plain().await?);
    let spec = stage.spec(&id, Some(&app));
    let sidecar = stage.sidecar(&spec, Some(plane)).await?;
    for (other, theirs) in &ring.sidecars {
        for url in [
            sidecar.url(&format!("invoke/{other}/method/hello")),
            theirs.url(&format!("invoke/{id}/method/hello")),
        ] {
            let answer = stage.http.get(&url).send().await.context("a call")?;
            let status = answer.status();
            ensure!(status.is_success(), "{name}: {url} was answered {status}");
        }
    }
    Ok(())
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

    /// Whether each of them has a certificate that leads to these roots only, and takes one that does.
    async fn is_renewed(&self, stage: &Stage, plane: &ControlPlane, roots: String) -> Result<()> {
        let options = options(
            &plane.sentry,
            AnchorsSource::Inline(roots),
            &stage.id("new"),
        )?;
        let (security, _) = Security::start(options).await?;
        for (id, sidecar) in &self.sidecars {
            handshake(&security, sidecar.internal_port, id)
                .await
                .with_context(|| format!("{id} has not renewed"))?;
        }
        Ok(())
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
    since: Instant,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    handshakes: Arc<AtomicUsize>,
    tasks: JoinSet<Result<()>>,
}

/// What a load has done; nothing of it failed.
struct Done {
    elapsed: Duration,
    calls: usize,
    handshakes: usize,
}

impl Load {
    fn start<'a>(stage: &Stage, ring: &Ring, dialers: impl Iterator<Item = &'a Security>) -> Self {
        let mut load = Self {
            since: Instant::now(),
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
                while open.len() >= OPEN {
                    let Some(done) = open.join_next().await else {
                        break;
                    };
                    done??;
                }
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

    /// Calls in a second, from the first of them on, before anything else happens.
    async fn rate(&self) -> Result<f64> {
        const SAMPLE: u32 = 2 * CALLS;
        await_condition("calls before the rotation", ROTATION, async || {
            let calls = self.calls.load(Ordering::Relaxed);
            ensure!(calls >= usize::try_from(SAMPLE)?, "{calls} calls");
            Ok(())
        })
        .await?;
        Ok(f64::from(SAMPLE) / self.since.elapsed().as_secs_f64())
    }

    /// Ends the load and tells what it did; fails with the first thing that went wrong.
    async fn stop(mut self) -> Result<Done> {
        self.stop.store(true, Ordering::Relaxed);
        let elapsed = self.since.elapsed();
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        Ok(Done {
            elapsed,
            calls: self.calls.load(Ordering::Relaxed),
            handshakes: self.handshakes.load(Ordering::Relaxed),
        })
    }
}

fn every(rate: u32) -> tokio::time::Interval {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    // What a busy machine could not begin in time is made up for.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}
