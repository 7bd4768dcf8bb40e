//! Leadership on a real API server, at the pace of a cluster: who dies or stands still is followed, and the server's
//! own order of writes shows that no two ever acted.

use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::real;
use dapr_e2e_apiserver::scripted::{Fault, Options, Server};
use dapr_kubernetes::lease::{self, Ended, Settings};
use dapr_kubernetes::{Place, client};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

const NAME: &str = "operator.dapr.io";
/// How soon somebody has to act again.
const FOLLOWED: Duration = Duration::from_secs(20);
/// A leader acts this often.
const PACE: Duration = Duration::from_millis(30);

type Told = Result<Ended<()>, lease::Error>;

/// A process of its own, as far as its time goes: everything it does runs on one thread, which can be held.
struct Contender {
    name: String,
    hold: mpsc::Sender<mpsc::Receiver<()>>,
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Told>,
}

impl Contender {
    fn start(kubeconfig: &Path, namespace: &str, name: &str) -> Self {
        let (hold, held) = mpsc::channel::<mpsc::Receiver<()>>();
        let stop = watch::Sender::new(false);
        let (tell, ended) = oneshot::channel();
        let place = Place::Kubeconfig(kubeconfig.to_owned());
        let settings = Settings::new(namespace, NAME, name);
        let mut stopped = stop.subscribe();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                tokio::spawn(async move {
                    loop {
                        if let Ok(until) = held.try_recv() {
                            // The thread stands still, and with it all of this process.
                            until.recv().ok();
                        }
                        sleep(Duration::from_millis(5)).await;
                    }
                });
                let client = client(&place).await.expect("a client");
                let stopped = async move {
                    drop(stopped.wait_for(|stopped| *stopped).await);
                };
                let work = {
                    let (client, settings) = (client.clone(), settings.clone());
                    move |term: lease::Term| act(term.fence(&client), settings.clone())
                };
                let told = lease::hold(client, settings, stopped, work).await;
                drop(tell.send(told));
            });
        });
        Self {
            name: name.to_owned(),
            hold,
            stop,
            ended,
        }
    }

    /// Lets it stand still until what is returned is dropped.
    fn pause(&self) -> Result<mpsc::Sender<()>> {
        let (resume, until) = mpsc::channel();
        self.hold.send(until).ok().context("its thread is gone")?;
        Ok(resume)
    }
}

/// Leaves a mark again and again.
async fn act(client: kube::Client, settings: Settings) {
    let marks = Api::<ConfigMap>::namespaced(client, &settings.namespace);
    loop {
        let mark = ConfigMap {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", settings.identity)),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        drop(marks.create(&PostParams::default(), &mark).await);
        sleep(PACE).await;
    }
}

/// Who left the marks, in the order the server stored them.
async fn marks(api: &Api<ConfigMap>) -> Result<Vec<String>> {
    let mut marks: Vec<(u64, String)> = Vec::new();
    for mark in api.list(&ListParams::default()).await? {
        let name = mark.metadata.name.unwrap_or_default();
        let version = mark.metadata.resource_version.unwrap_or_default();
        if let Some((writer, _)) = name.split_once('-')
            && writer != "kube"
        {
            marks.push((version.parse()?, writer.to_owned()));
        }
    }
    marks.sort_unstable();
    Ok(marks.into_iter().map(|(_, writer)| writer).collect())
}

/// Waits for a mark of somebody who has left none yet.
async fn await_new(api: &Api<ConfigMap>, known: &[&str]) -> Result<String> {
    await_condition("somebody else acts", FOLLOWED, || async {
        let marks = marks(api).await?;
        let new = marks.into_iter().find(|it| !known.contains(&it.as_str()));
        new.context("nobody yet")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_follow_each_other_and_never_act_together() -> Result<()> {
    let Some(server) = real::shared("kubernetes: leader election").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("lease").await?;
    let client = server.client().await?;
    let api = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    let leases = Api::<Lease>::namespaced(client.clone(), &namespace);
    let mut contenders: Vec<Contender> = ["a", "b", "c"]
        .into_iter()
        .map(|name| Contender::start(server.kubeconfig(), &namespace, name))
        .collect();

    let first = await_new(&api, &[]).await?;
    let spec = leases.get(NAME).await?.spec.context("a spec")?;
    ensure!(spec.holder_identity.as_deref() == Some(&*first), "{spec:?}");
    ensure!(spec.lease_duration_seconds == Some(15), "{spec:?}");

    // The leader stands still, and somebody else takes over.
    let position = contenders.iter().position(|it| it.name == first);
    let mut still = contenders.swap_remove(position.context("a contender")?);
    let resume = still.pause()?;
    let since = Instant::now();
    let second = await_new(&api, &[&first]).await?;
    ensure!(since.elapsed() > Duration::from_secs(5), "taken too early");
    // It goes on where it stood, and is told at once that it does not lead.
    drop(resume);
    let told = tokio::time::timeout(Duration::from_secs(5), &mut still.ended).await??;
    ensure!(told.is_err(), "{told:?}");

    // The next leader dies: nothing of it runs any more, and nothing is released.
    let position = contenders.iter().position(|it| it.name == second);
    let _dead = contenders
        .swap_remove(position.context("a contender")?)
        .pause()?;
    let third = await_new(&api, &[&first, &second]).await?;

    // The last one gives the Lease back.
    let last = contenders.pop().context("a contender")?;
    ensure!(last.name == third);
    last.stop.send_replace(true);
    let told = tokio::time::timeout(Duration::from_secs(10), last.ended).await??;
    ensure!(matches!(told, Ok(Ended::Stopped)), "{told:?}");
    let spec = leases.get(NAME).await?.spec.context("a spec")?;
    ensure!(spec.holder_identity.as_deref() == Some(""), "{spec:?}");
    ensure!(spec.lease_duration_seconds == Some(1), "{spec:?}");
    ensure!(spec.lease_transitions == Some(2), "{spec:?}");

    let mut order = marks(&api).await?;
    order.dedup();
    ensure!(order == [first.clone(), second, third], "{order:?}");

    let events = Api::<Event>::namespaced(client, &namespace);
    let told: Vec<_> = events.list(&ListParams::default()).await?.items;
    let became = format!("{first} became leader");
    ensure!(
        told.iter().any(|event| {
            event.reason.as_deref() == Some("LeaderElection")
                && event.message.as_deref() == Some(&*became)
                && event.involved_object.name.as_deref() == Some(NAME)
        }),
        "{told:?}"
    );
    Ok(())
}

/// Servers that allow no lists of Leases, or do not know them, know them by name.
#[tokio::test]
async fn without_lists_there_is_a_leader_too() -> Result<()> {
    for code in [403, 404, 405] {
        let server = Server::start(Options::complete()).await?;
        for _ in 0..1000 {
            server.fail_list(Fault::Status {
                code,
                retry_after: None,
            });
        }
        let folder = tempfile::tempdir()?;
        let place = Place::Kubeconfig(server.kubeconfig(folder.path())?);
        let settings = Settings::new("default", NAME, "a");
        let work = |_: lease::Term| async {};
        let held = lease::hold(
            client(&place).await?,
            settings,
            std::future::pending(),
            work,
        );
        let ended = tokio::time::timeout(FOLLOWED, held).await;
        let ended = ended.with_context(|| format!("nobody leads with {code}"))?;
        ensure!(matches!(ended, Ok(Ended::Finished(()))), "{ended:?}");
    }
    Ok(())
}
