//! Leadership among processes: whoever dies or stands still is followed in time, and no two ever write.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use dapr_e2e_apiserver::condition::await_condition;
use dapr_e2e_apiserver::preparation::skipped;
use dapr_e2e_apiserver::real::{self, ApiServer};
use dapr_kit::testing::{Daemon, request};
use dapr_proto::dapr::proto::operator::v1::operator_client::OperatorClient;
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::authority::Authority;
use crate::process::port;
use crate::proxy::{Proxy, Write, Writes};
use crate::support::{channel_to, component_stream, components, names, next};

const OPERATOR: &str = env!("CARGO_BIN_EXE_operator");
/// How soon somebody has to act again.
const FOLLOWED: Duration = Duration::from_secs(20);
/// Long against everything else that happens here, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
/// How often there is something to do.
const PACE: Duration = Duration::from_millis(150);
/// Where a pod finds the namespace of its account.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

/// A file system of its own, in which a process finds what a pod does; then the program in its place.
const AS_POD: &str = "mount -t tmpfs none /run && mkdir -p \"$ACCOUNT\" && printf %s \"$NAMESPACE\" >\"$ACCOUNT/namespace\" \
                      && exec \"$0\" \"$@\"";

struct Replica {
    daemon: Daemon,
    proxy: Proxy,
    _folder: TempDir,
}

struct Replicas<'a> {
    server: &'a ApiServer,
    namespace: String,
    authority: Authority,
    sentry: JoinHandle<()>,
    writes: Writes,
}

impl Drop for Replicas<'_> {
    fn drop(&mut self) {
        self.sentry.abort();
    }
}

impl<'a> Replicas<'a> {
    async fn new(server: &'a ApiServer) -> Result<Self> {
        let crds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        server.create_crds(&crds).await?;
        let namespace = server.create_namespace("dapr-system").await?;
        let authority = Authority::new();
        let (port, sentry) = authority.sentry(&namespace).await;
        let configuration = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
            "metadata": {"name": "daprsystem", "namespace": namespace},
            "spec": {"mtls": {
                "enabled": true, "controlPlaneTrustDomain": "cluster.local",
                "sentryAddress": format!("127.0.0.1:{port}"),
            }},
        });
        server.apply(&configuration).await?;
        Ok(Self {
            server,
            namespace,
            authority,
            sentry,
            writes: Writes::default(),
        })
    }

    async fn start(&self, who: &'static str) -> Result<Replica> {
        let proxy = Proxy::start(who, self.server.client().await?, self.writes.clone()).await;
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("ca.crt"), self.authority.anchors().pem().as_bytes())?;
        std::fs::write(path("token"), "a token")?;
        let kubeconfig = proxy.kubeconfig(folder.path());
        let arguments = [
            "-rm".to_owned(),
            "/bin/sh".to_owned(),
            "-c".to_owned(),
            AS_POD.to_owned(),
            OPERATOR.to_owned(),
            "--healthz-port=0".to_owned(),
            "--metrics-port=0".to_owned(),
            "--port=0".to_owned(),
            format!("--watch-namespace={}", self.namespace),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--trust-anchors-file={}", path("ca.crt")),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let token = path("token");
        let variables = [
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("ACCOUNT", ACCOUNT),
            ("NAMESPACE", self.namespace.as_str()),
            ("ENABLE_WEBHOOKS", "false"),
            ("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true"),
            ("DAPR_SENTRY_TOKEN_FILE", token.as_str()),
        ];
        Ok(Replica {
            daemon: Daemon::start("unshare", &arguments, &variables),
            proxy,
            _folder: folder,
        })
    }

    /// What a replica did as the leader: everything but to care for the lease.
    fn acts(&self, who: &str) -> Vec<Write> {
        let writes = self.writes.all().into_iter();
        let is_act =
            |write: &Write| !write.path.contains("/leases") && !write.path.ends_with("/events");
        writes
            .filter(|write| write.who == who && is_act(write))
            .collect()
    }

    /// Waits until a replica has acted as the leader a few times.
    async fn acting(&self, who: &str, limit: Duration) -> Result<Write> {
        await_condition(&format!("{who} acts"), limit, || async {
            let acts = self.acts(who);
            ensure!(acts.len() >= 3, "{acts:?}");
            acts.first().cloned().context("there is one")
        })
        .await
    }

    /// Makes one workload after the other.
    async fn work(&self) -> Result<()> {
        for number in 0.. {
            let name = format!("app-{number}");
            let deployment = json!({
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {
                    "selector": {"matchLabels": {"app": name}},
                    "template": {
                        "metadata": {
                            "labels": {"app": name},
                            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": name},
                        },
                        "spec": {"containers": [{"name": "app", "image": "app"}]},
                    },
                },
            });
            self.server.apply(&deployment).await?;
            sleep(PACE).await;
        }
        Ok(())
    }

    /// `first` made its last write before `then` made its first one.
    fn one_after_the_other(&self, first: &str, then: &str) -> Result<()> {
        let (before, after) = (self.acts(first), self.acts(then));
        let (last, next) = (
            before.last().context("none")?,
            after.first().context("none")?,
        );
        ensure!(last.at < next.at, "{last:?} {next:?}");
        Ok(())
    }
}

/// How many seconds a Lease lasts that nobody renews.
const LEASE: i64 = 15;

/// Whether a process can have a file system of its own here.
fn may_unshare() -> bool {
    let tried = Command::new("unshare").args(["-rm", "true"]).output();
    tried.is_ok_and(|tried| tried.status.success())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_leader_is_followed_and_no_two_act() -> Result<()> {
    const STORY: &str = "operator: leadership of processes";
    if !may_unshare() {
        return skipped(STORY, "no mount namespace can be had");
    }
    let Some(server) = real::shared(STORY).await? else {
        return Ok(());
    };
    let replicas = Replicas::new(server).await?;
    let story = async {
        let mut first = replicas.start("first").await?;
        first.daemon.line("became leader");
        replicas.acting("first", SOON).await?;
        let mut second = replicas.start("second").await?;
        second.daemon.line("waiting for leadership");

        // It dies without a word.
        first.daemon.signal("KILL");
        let killed = Instant::now();
        let act = replicas.acting("second", FOLLOWED).await?;
        println!("the dead leader was followed after {:?}", act.at - killed);
        ensure!(act.at - killed <= FOLLOWED);
        replicas.one_after_the_other("first", "second")?;

        // It stands still, beyond its term, and goes on as if nothing had happened.
        let mut third = replicas.start("third").await?;
        third.daemon.line("waiting for leadership");
        second.daemon.signal("STOP");
        let stopped = Instant::now();
        let act = replicas.acting("third", FOLLOWED).await?;
        println!(
            "the silent leader was followed after {:?}",
            act.at - stopped
        );
        ensure!(act.at - stopped <= FOLLOWED);
        second.daemon.signal("CONT");
        let ended = tokio::task::spawn_blocking(move || second.daemon.ended()).await?;
        ensure!(ended.code == Some(1), "{ended:?}");
        ensure!(
            ended.line("level=fatal").contains("leader election lost"),
            "{ended:?}"
        );
        replicas.one_after_the_other("second", "third")?;

        // It gives the lease back, and the next one need not wait for its end.
        let mut fourth = replicas.start("fourth").await?;
        fourth.daemon.line("waiting for leadership");
        third.daemon.signal("TERM");
        let told = Instant::now();
        let act = replicas.acting("fourth", FOLLOWED).await?;
        ensure!(
            act.at - told < Duration::from_secs(10),
            "{:?}",
            act.at - told
        );
        let ended = tokio::task::spawn_blocking(move || third.daemon.ended()).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        replicas.one_after_the_other("third", "fourth")?;
        fourth.daemon.signal("TERM");
        anyhow::Ok(fourth)
    };
    let told = timeout(6 * SOON, async {
        tokio::select! {
            told = story => told,
            ended = replicas.work() => match ended {
                Ok(()) => bail!("there is no more work"),
                Err(error) => Err(error),
            },
        }
    });
    drop(told.await.context("in time")??);

    // What one has made, no other has tried to make again.
    let mut created = replicas.writes.all();
    created.retain(|write| write.path.ends_with("/services"));
    let api = Api::<Service>::namespaced(server.client().await?, &replicas.namespace);
    let services = api.list(&ListParams::default()).await?.items.len();
    let made = created
        .iter()
        .filter(|write| write.status == Some(StatusCode::CREATED))
        .count();
    let refused = |write: &&Write| write.status == Some(StatusCode::CONFLICT);
    ensure!(made > 10 && made <= services, "{made} of {services}");
    ensure!(created.iter().find(refused).is_none(), "{created:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_outlives_an_outage_that_is_longer_than_its_lease() -> Result<()> {
    const STORY: &str = "operator: an outage of the API server";
    if !may_unshare() {
        return skipped(STORY, "no mount namespace can be had");
    }
    let Some(server) = real::shared(STORY).await? else {
        return Ok(());
    };
    let replicas = Replicas::new(server).await?;
    let namespace = replicas.namespace.clone();
    let component = |name: &str| {
        json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"type": "state.redis", "version": "v1", "metadata": []},
        })
    };
    server.apply(&component("before")).await?;
    let leases = Api::<Lease>::namespaced(server.client().await?, &namespace);
    let story = async {
        let mut only = replicas.start("only").await?;
        let healthz = only.daemon.address("healthz");
        let port = port(&only.daemon.line("operator API is listening"));
        only.daemon.line("became leader");
        replicas.acting("only", SOON).await?;
        let operator = format!("spiffe://cluster.local/ns/{namespace}/dapr-operator");
        let id = format!("spiffe://public/ns/{namespace}/shop");
        let channel = channel_to(&operator, &replicas.authority, port, &id).await;
        let mut shop = OperatorClient::new(channel);
        await_condition("a list", SOON, || {
            let mut shop = shop.clone();
            let namespace = &namespace;
            async move {
                let list = components(&mut shop, namespace).await.ok();
                let list = list.context("no list yet")?;
                ensure!(names(&list) == ["before"], "{list:?}");
                Ok(())
            }
        })
        .await?;
        let mut stream = component_stream(&mut shop, &namespace).await;

        only.proxy.cut();
        only.daemon.line("leading no more");
        let acts = replicas.acts("only").len();
        server.apply(&component("later")).await?;
        await_condition("the lease runs out", SOON, || async {
            let spec = leases.get("operator.dapr.io").await?.spec;
            let renewed = spec.and_then(|spec| spec.renew_time).context("a time")?;
            let age = Timestamp::now().duration_since(renewed.0);
            ensure!(age.as_secs() > LEASE, "{age:?}");
            Ok(())
        })
        .await?;
        let list = components(&mut shop, &namespace).await;
        let list = list.ok().context("it does not serve what it knows")?;
        ensure!(names(&list) == ["before"], "{list:?}");
        ensure!(request(healthz, "GET", "/healthz").0 == 200);
        let (_, page) = request(healthz, "GET", "/operator/state");
        ensure!(
            page.contains(r#"{"kind":"Component","state":"stale""#),
            "{page}"
        );
        ensure!(replicas.acts("only").len() == acts, "it acts as leader");

        only.proxy.mend();
        let (r#type, object) = next(&mut stream).await;
        ensure!(
            (r#type, &object["metadata"]["name"]) == (1, &json!("later")),
            "{object}"
        );
        await_condition("it leads again", SOON, || async {
            let now = replicas.acts("only").len();
            ensure!(now >= acts + 3, "{now} after {acts}");
            Ok(())
        })
        .await?;
        only.daemon.signal("TERM");
        drop((stream, shop));
        let ended = tokio::task::spawn_blocking(move || only.daemon.ended()).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        Ok(())
    };
    let told = timeout(4 * SOON, async {
        tokio::select! {
            told = story => told,
            ended = replicas.work() => match ended {
                Ok(()) => bail!("there is no more work"),
                Err(error) => Err(error),
            },
        }
    });
    told.await.context("in time")?
}
