//! From a call to the actor, wherever it lives: lookup, claim, turn, execution, or one hop to its host.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dapr_sidecar_core::actors::{Call, ERROR_HEADER, REENTRANCY_HEADER, REMOTE_HEADER, Reply};
use dapr_sidecar_core::app::Reentrancy;
use dapr_sidecar_core::peer::{Peers, ReminderCall, Target};
use dapr_sidecar_core::resiliency::{self as policies, Class, Classify, Failed, Resiliency};
use dapr_sidecar_core::rpc::{Code, Status};
use http::HeaderValue;
use uuid::Uuid;

use crate::app_host;
use crate::claims::{Claim, Cut};
use crate::clock::Clock;
use crate::directory::{Directory, Found};
use crate::failure::{Failure, under_policy};
use crate::host::{Activation, HostedType, Hosts, Instance};
use crate::idle::IdleQueue;
use crate::metrics::Metrics;
use crate::ring::Host;
use crate::turn::{Chain, Permit, Refused};

/// The built-in policy around lookup and call.
const RETRIES: u32 = 5;
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Where an actor is to be called.
enum Place {
    Local(Arc<HostedType>, Claim),
    Remote(Host),
}

/// What is no success to policies: an answer that is marked as the actor's error goes to the caller all the same.
enum Bad {
    Reply(Reply),
    Failure(Failure),
}

impl Classify for Bad {
    fn class(&self) -> Class {
        match self {
            Self::Reply(_) => Class::Uncoded,
            Self::Failure(failure) => failure.class(),
        }
    }
}

/// How a call takes its turn.
#[derive(Debug, Clone, Copy)]
enum Entry<'a> {
    Alone,
    Chain(Chain<'a>),
    /// Runs beside the turn in progress.
    Unlocked,
}

/// Carries calls to actors.
pub(crate) struct Router {
    pub(crate) namespace: String,
    pub(crate) directory: Directory,
    pub(crate) hosts: Hosts,
    pub(crate) idle: IdleQueue,
    pub(crate) clock: Clock,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) resiliency: Arc<Resiliency>,
    pub(crate) metrics: Arc<dyn Metrics>,
}

impl Router {
    /// Calls a method under the user's policies. A target for the type replaces the built-in retries, default
    /// policies stand around them.
    pub(crate) async fn invoke(&self, call: &Call) -> Result<Reply, Failure> {
        let has_target = self.resiliency.has_actor_target(&call.actor_type);
        let attempt = || async {
            if has_target {
                self.invoke_once(call).await
            } else {
                retry(|| self.invoke_once(call)).await
            }
        };
        let policy = self.resiliency.policy(policies::Target::ActorPreLock {
            actor_type: &call.actor_type,
            actor_id: &call.actor_id,
        });
        let Some(policy) = policy else {
            return attempt().await;
        };
        let result = policy.run(|| async {
            match attempt().await {
                Ok(reply) if reply.headers.contains_key(ERROR_HEADER) => Err(Bad::Reply(reply)),
                Ok(reply) => Ok(reply),
                Err(failure) => Err(Bad::Failure(failure)),
            }
        });
        match result.await {
            Err(Failed::Operation(Bad::Reply(reply))) => Ok(reply),
            Err(Failed::Operation(Bad::Failure(failure))) => Err(failure),
            Err(Failed::Timeout) => Err(Failure::Timeout),
            Err(Failed::Rejected(rejected)) => Err(Failure::Policy(rejected.to_string())),
            Ok(reply) => Ok(reply),
        }
    }

    async fn invoke_once(&self, call: &Call) -> Result<Reply, Failure> {
        match self.place(&call.actor_type, &call.actor_id).await? {
            Place::Local(hosted, claim) => self.invoke_here(&hosted, claim, call).await,
            Place::Remote(host) => {
                let target = self.target(&host);
                let answer = self.peers.call_actor(&target, call.clone()).await;
                answer.map_err(|status| remote(target, status))
            }
        }
    }

    /// Runs a method another sidecar has routed here; the actor must be local.
    pub(crate) async fn invoke_from_peer(&self, mut call: Call) -> Result<Reply, Failure> {
        call.set(REMOTE_HEADER, HeaderValue::from_static("true"));
        retry(|| async {
            let (hosted, claim) = self.local(&call.actor_type, &call.actor_id).await?;
            self.invoke_here(&hosted, claim, &call).await
        })
        .await
    }

    async fn invoke_here(
        &self,
        hosted: &Arc<HostedType>,
        claim: Claim,
        call: &Call,
    ) -> Result<Reply, Failure> {
        let Reentrancy {
            enabled,
            max_stack_depth,
        } = hosted.settings.reentrancy;
        if !enabled {
            let run = hosted.app.invoke(call);
            return self
                .run(
                    hosted,
                    claim,
                    &call.actor_id,
                    &call.method,
                    Entry::Alone,
                    run,
                )
                .await;
        }
        let fresh;
        let (id, call) = match reentrancy_id(call) {
            Some(id) => (id.to_owned(), call),
            None => {
                let (id, value) = new_reentrancy_id();
                fresh = {
                    let mut call = call.clone();
                    call.set(REENTRANCY_HEADER, value);
                    call
                };
                (id, &fresh)
            }
        };
        let entry = Entry::Chain(Chain {
            id: &id,
            max_depth: max_stack_depth,
        });
        let run = hosted.app.invoke(call);
        self.run(hosted, claim, &call.actor_id, &call.method, entry, run)
            .await
    }

    /// Fires a reminder or timer wherever the actor lives.
    pub(crate) async fn fire(&self, call: &ReminderCall, callback: &str) -> Result<(), Failure> {
        let result = retry(|| async {
            match self.place(&call.actor_type, &call.actor_id).await? {
                Place::Local(hosted, claim) => self.fire_here(&hosted, claim, call, callback).await,
                Place::Remote(host) => {
                    let target = self.target(&host);
                    let answer = self.peers.call_actor_reminder(&target, call.clone()).await;
                    match answer {
                        Ok(()) => Ok(()),
                        // Whoever fires it tries again by its own rules.
                        Err(status) if status.code == Code::Unavailable => {
                            Err(Failure::App(app_host::Error::Status(status)))
                        }
                        Err(status) => Err(remote(target, status)),
                    }
                }
            }
        })
        .await;
        if call.is_timer {
            self.metrics.timer_fired(&call.actor_type, result.is_ok());
        } else {
            self.metrics
                .reminder_fired(&call.actor_type, result.is_ok());
        }
        result
    }

    /// Fires a reminder or timer that another sidecar has routed here; the actor must be local.
    pub(crate) async fn fire_from_peer(&self, call: &ReminderCall) -> Result<(), Failure> {
        retry(|| async {
            let (hosted, claim) = self.local(&call.actor_type, &call.actor_id).await?;
            // The callback does not travel.
            self.fire_here(&hosted, claim, call, "").await
        })
        .await
    }

    async fn fire_here(
        &self,
        hosted: &Arc<HostedType>,
        claim: Claim,
        call: &ReminderCall,
        callback: &str,
    ) -> Result<(), Failure> {
        let entry = if call.skip_lock {
            Entry::Unlocked
        } else {
            Entry::Alone
        };
        if call.is_timer {
            let run = hosted.app.timer(call, callback);
            self.run(hosted, claim, &call.actor_id, &call.name, entry, run)
                .await
        } else {
            let run = hosted.app.remind(call);
            self.run(hosted, claim, &call.actor_id, &call.name, entry, run)
                .await
        }
    }

    /// Where the actor lives now, waiting while its type is disseminated.
    pub(crate) async fn locate(&self, actor_type: &str, actor_id: &str) -> Result<Host, Failure> {
        loop {
            match self.directory.find(actor_type, actor_id) {
                Found::Host(host) => return Ok(host),
                found => self.missing(found, actor_type, actor_id).await?,
            }
        }
    }

    /// The claim is made before the look, so a round that blocks the type in between waits for it.
    async fn place(&self, actor_type: &str, actor_id: &str) -> Result<Place, Failure> {
        loop {
            let hosted = self.hosts.get(actor_type);
            let claimed = hosted.map(|hosted| {
                let claim = hosted.claims.claim();
                (hosted, claim)
            });
            match self.directory.find(actor_type, actor_id) {
                Found::Host(host) if !host.local => return Ok(Place::Remote(host)),
                Found::Host(_) => {
                    let (hosted, claim) = claimed.ok_or(Failure::NotRegistered)?;
                    if self.hosts.is_suspended() {
                        return Err(Failure::Suspended);
                    }
                    // Replaced or removed since: its claims are no longer waited for.
                    if !self.hosts.is_current(&hosted) {
                        return Err(Failure::NotRegistered);
                    }
                    return Ok(Place::Local(hosted, claim));
                }
                found => {
                    drop(claimed);
                    self.missing(found, actor_type, actor_id).await?;
                }
            }
        }
    }

    async fn local(
        &self,
        actor_type: &str,
        actor_id: &str,
    ) -> Result<(Arc<HostedType>, Claim), Failure> {
        match self.place(actor_type, actor_id).await {
            Ok(Place::Local(hosted, claim)) => Ok((hosted, claim)),
            Ok(Place::Remote(_)) => Err(Failure::Moved),
            // The other sidecar's table says otherwise: one of the two is about to change. That holds for a sidecar that
            // ends, too: the call has reached nobody, so it may be made again elsewhere.
            Err(_) => Err(Failure::Moved),
        }
    }

    async fn missing(&self, found: Found, actor_type: &str, actor_id: &str) -> Result<(), Failure> {
        match found {
            Found::Host(_) => Ok(()),
            Found::Blocked => {
                self.directory.unblocked(actor_type).await;
                Ok(())
            }
            Found::NoType => Err(Failure::NoAddress {
                actor_type: actor_type.to_owned(),
                actor_id: actor_id.to_owned(),
            }),
            Found::NoHosts => Err(Failure::NoHosts),
            Found::Closed => Err(Failure::Halted),
        }
    }

    /// Runs something in the actor: activation, turn, the user's timeout, and an end when it is cut off.
    async fn run<T>(
        &self,
        hosted: &Arc<HostedType>,
        claim: Claim,
        id: &str,
        what: &str,
        entry: Entry<'_>,
        run: impl Future<Output = Result<T, app_host::Error>> + Send,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            cut = claim.cut() => Err(match cut {
                Cut::Disseminating => Failure::Disseminating,
                Cut::Halted => Failure::Halted,
            }),
            result = self.run_claimed(hosted, id, what, entry, run) => result,
        }
    }

    async fn run_claimed<T>(
        &self,
        hosted: &Arc<HostedType>,
        id: &str,
        what: &str,
        entry: Entry<'_>,
        run: impl Future<Output = Result<T, app_host::Error>> + Send,
    ) -> Result<T, Failure> {
        let instance = self.activate(hosted, id).await;
        let _permit = self.enter(hosted, &instance, what, entry).await?;
        instance.touch(self.clock.millis());
        let policy = self.resiliency.policy(policies::Target::ActorPostLock {
            actor_type: &hosted.name,
            actor_id: id,
        });
        let result = match policy {
            Some(policy) => policy.run_once(run).await.map_err(under_policy),
            None => run.await.map_err(Failure::from),
        };
        instance.touch(self.clock.millis());
        result
    }

    async fn activate(&self, hosted: &Arc<HostedType>, id: &str) -> Arc<Instance> {
        match hosted.activate(id, self.clock.millis()).await {
            Activation::Active(instance) => instance,
            Activation::Fresh(instance) => {
                self.idle.watch(hosted, &instance);
                self.metrics.activated(&hosted.name);
                instance
            }
        }
    }

    async fn enter<'a>(
        &self,
        hosted: &HostedType,
        instance: &'a Instance,
        what: &str,
        entry: Entry<'_>,
    ) -> Result<Option<Permit<'a>>, Failure> {
        let chain = match entry {
            Entry::Alone => None,
            Entry::Chain(chain) => Some(chain),
            Entry::Unlocked => return Ok(None),
        };
        let _pending = Pending::new(&*self.metrics, &hosted.name);
        match instance.turns.enter(chain).await {
            Ok(permit) => Ok(Some(permit)),
            Err(Refused::Depth) => Err(Failure::StackDepth),
            Err(Refused::Closed) => Err(Failure::Closed(what.to_owned())),
        }
    }

    fn target(&self, host: &Host) -> Target {
        Target {
            app_id: (*host.app_id).to_owned(),
            namespace: self.namespace.clone(),
            address: (*host.name).to_owned(),
        }
    }
}

fn remote(target: Target, status: Status) -> Failure {
    Failure::Remote {
        address: target.address,
        status,
    }
}

/// The id of the chain, which upstream finds under its exact name only: metadata has case, headers of HTTP have none.
fn reentrancy_id(call: &Call) -> Option<&str> {
    if !call.spelling.is_canonical(REENTRANCY_HEADER) {
        return None;
    }
    call.headers
        .get(REENTRANCY_HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(|id| !id.is_empty())
}

fn new_reentrancy_id() -> (String, HeaderValue) {
    let id = Uuid::new_v4().to_string();
    let value =
        HeaderValue::from_str(&id).expect("hexadecimal digits and dashes are a valid header");
    (id, value)
}

/// A call that waits for its turn, counted as long as this lives.
struct Pending<'a> {
    metrics: &'a dyn Metrics,
    actor_type: &'a str,
}

impl<'a> Pending<'a> {
    fn new(metrics: &'a dyn Metrics, actor_type: &'a str) -> Self {
        metrics.pending(actor_type, 1);
        Self {
            metrics,
            actor_type,
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.metrics.pending(self.actor_type, -1);
    }
}

/// The built-in retries.
async fn retry<T, F, A>(attempt: A) -> Result<T, Failure>
where
    A: Fn() -> F,
    F: Future<Output = Result<T, Failure>>,
{
    let mut retries = 0;
    loop {
        match attempt().await {
            Err(failure) if failure.is_retriable() => {
                if retries == RETRIES {
                    return Err(failure.exhausted(retries));
                }
                tracing::debug!(error = %failure, "actor call failed, it is tried again");
            }
            result => return result,
        }
        retries += 1;
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
