//! Configuration and resources from the operator, over mTLS with its identity checked.
//!
//! Lists are asked for with retries; changes come over one stream per kind. What is sent is decoded in `decode`, the
//! current objects are kept in `objects`, and `session` is the life of one connection.

mod decode;
mod objects;
mod session;

use std::time::Duration;

use async_trait::async_trait;
use dapr_crds::Configuration;
use dapr_proto::dapr::proto::operator::v1::operator_client::OperatorClient;
use dapr_proto::dapr::proto::operator::v1::{
    GetConfigurationRequest, ListComponentsRequest, ListHttpEndpointsRequest,
    ListMcpServersRequest, ListResiliencyRequest, ListSubscriptionsRequest,
    ListWorkflowAccessPolicyRequest,
};
use dapr_security::{Expect, Security, SpiffeId};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Feed, Loader, Resources};
use objects::{Kind, Objects};

/// A dial that takes longer has failed.
const DIAL: Duration = Duration::from_secs(30);
/// Time one attempt of a call has, and how many attempts there are.
const ATTEMPT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 101;
/// Attempts on a connection whose updates are followed: one that is not answered ends it, and another one is made.
const ATTEMPTS_WHILE_FOLLOWING: u32 = 1;
/// Wait before the second attempt; it grows by half up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Attempts between two log lines about an operator that cannot be reached.
const ATTEMPTS_PER_LINE: u32 = 10;
/// Largest answer: the resources of a namespace may be many, with certificates in them.
const MAX_ANSWER: usize = 64 << 20;

/// Wait before a connection that ended is made again; it grows by half up to the longest.
const FIRST_RECONNECT: Duration = Duration::from_millis(500);
const LONGEST_RECONNECT: Duration = Duration::from_secs(60);
/// A connection that lasted this long counts as a good one.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// What the operator does not give.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call failed for good.
    #[error("failed to load {what} from the operator at {address}: {}", told(.status))]
    Call {
        /// What was asked for.
        what: &'static str,
        /// `--control-plane-address`
        address: String,
        /// How the last attempt ended.
        status: Box<Status>,
    },
    /// The Configuration cannot be decoded.
    #[error(
        "error loading configuration: the operator sent {name:?} in a form that cannot be read"
    )]
    Configuration {
        /// Its name.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The address is none.
    #[error("--control-plane-address {0:?} is no address: it must be host:port")]
    Address(String),
}

impl Error {
    /// Whether the operator could not be asked, instead of refusing.
    fn is_transient(&self) -> bool {
        match self {
            Self::Call { status, .. } => is_transient(status),
            Self::Configuration { .. } | Self::Address(_) => false,
        }
    }
}

fn told(status: &Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}

/// The operator of a cluster.
pub struct Operator {
    settings: Settings,
    /// What was listed last. It outlives connections: a kind that cannot be listed for now stays what it was.
    known: Mutex<Objects>,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The objects hold secrets.
        self.settings.fmt(f)
    }
}

/// Where the operator is, and who asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Own security: the operator authorises by the certificate.
    pub security: Security,
    /// `host:port`
    pub address: String,
    /// The id the operator must show.
    pub expect: SpiffeId,
    /// Own app id.
    pub app_id: String,
    /// Namespace of the own certificate.
    pub namespace: String,
    /// Name of the Configuration, if one is assigned.
    pub configuration: Option<String>,
    /// Time between lists that nothing asked for.
    pub backup: Duration,
}

type Client = OperatorClient<Channel>;

impl Operator {
    /// An operator that nothing was asked of yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            known: Mutex::default(),
        }
    }

    /// A client on a connection of its own, dialled with the first call.
    fn client(&self) -> Result<Client, Error> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.settings.address))
            .map_err(|_| Error::Address(self.settings.address.clone()))?
            .connect_timeout(DIAL)
            .tcp_nodelay(true);
        let connector = self
            .settings
            .security
            .connector(Expect::Id(self.settings.expect.clone()));
        let channel = endpoint.connect_with_connector_lazy(connector);
        Ok(OperatorClient::new(channel).max_decoding_message_size(MAX_ANSWER))
    }

    fn failed(&self, what: &'static str, status: Status) -> Error {
        Error::Call {
            what,
            address: self.settings.address.clone(),
            status: Box::new(status),
        }
    }

    /// Calls until there is an answer, the operator refuses, or too many attempts were made.
    async fn call<T, F>(
        &self,
        what: &'static str,
        attempts: u32,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut wait = FIRST_WAIT;
        let mut made = 0;
        loop {
            let status = match once(attempt()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            made += 1;
            if !is_transient(&status) || made >= attempts {
                return Err(self.failed(what, status));
            }
            if made % ATTEMPTS_PER_LINE == 1 {
                let address = &self.settings.address;
                tracing::warn!(target: "dapr.runtime", "the operator at {address} cannot be asked for {what}, trying again: {}", told(&status));
            }
            sleep(jittered(wait)).await;
            wait = (wait * 3 / 2).min(LONGEST_WAIT);
        }
    }

    /// Lists all kinds. What an older operator does not have is left out.
    async fn list(&self, client: &Client, attempts: u32) -> Result<(), Error> {
        for kind in Kind::ALL {
            match self.list_kind(client, kind, attempts).await {
                Ok(sent) => self.known.lock().replace(kind, &sent),
                Err(Error::Call { status, .. })
                    if status.code() == Code::Unimplemented && kind.is_optional() => {}
                // One endpoint whose secret is missing fails the list for every application of the namespace: that
                // must keep none of them from starting, and take no endpoint from those that run.
                Err(error) if kind == Kind::HttpEndpoint && !error.is_transient() => {
                    tracing::warn!(target: "dapr.runtime", "failed to load HTTP endpoints: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The Configuration, if one is assigned.
    async fn fetch(&self, client: &Client, attempts: u32) -> Result<Option<Configuration>, Error> {
        let Some(name) = &self.settings.configuration else {
            return Ok(None);
        };
        let request = GetConfigurationRequest {
            name: name.clone(),
            namespace: self.settings.namespace.clone(),
        };
        let answer = self
            .call("the Configuration", attempts, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.get_configuration(request).await }
            })
            .await?;
        let configuration = decode::configuration(&answer.into_inner().configuration);
        configuration
            .map(Some)
            .map_err(|source| Error::Configuration {
                name: name.clone(),
                source,
            })
    }

    /// What of the objects concerns this application.
    fn current(&self) -> Resources {
        self.known.lock().resources(&self.settings.app_id)
    }

    async fn list_kind(
        &self,
        client: &Client,
        kind: Kind,
        attempts: u32,
    ) -> Result<Vec<bytes::Bytes>, Error> {
        let namespace = || self.settings.namespace.clone();
        let what = kind.plural();
        match kind {
            Kind::Resiliency => {
                let request = ListResiliencyRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_resiliencies(client.clone(), request.clone())
                })
                .await
            }
            Kind::Component => {
                let request = ListComponentsRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_components(client.clone(), request.clone())
                })
                .await
            }
            Kind::HttpEndpoint => {
                let request = ListHttpEndpointsRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_endpoints(client.clone(), request.clone())
                })
                .await
            }
            Kind::Subscription => {
                let request = ListSubscriptionsRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_subscriptions(client.clone(), request.clone())
                })
                .await
            }
            Kind::McpServer => {
                let request = ListMcpServersRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_mcp_servers(client.clone(), request.clone())
                })
                .await
            }
            Kind::WorkflowAccessPolicy => {
                let request = ListWorkflowAccessPolicyRequest {
                    namespace: namespace(),
                };
                self.call(what, attempts, || {
                    list_policies(client.clone(), request.clone())
                })
                .await
            }
        }
    }
}

async fn list_resiliencies(
    mut client: Client,
    request: ListResiliencyRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_resiliency(request)
        .await?
        .into_inner()
        .resiliencies)
}

async fn list_components(
    mut client: Client,
    request: ListComponentsRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_components(request)
        .await?
        .into_inner()
        .components)
}

async fn list_endpoints(
    mut client: Client,
    request: ListHttpEndpointsRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_http_endpoints(request)
        .await?
        .into_inner()
        .http_endpoints)
}

async fn list_subscriptions(
    mut client: Client,
    request: ListSubscriptionsRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_subscriptions_v2(request)
        .await?
        .into_inner()
        .subscriptions)
}

async fn list_mcp_servers(
    mut client: Client,
    request: ListMcpServersRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_mcp_servers(request)
        .await?
        .into_inner()
        .mcp_servers)
}

async fn list_policies(
    mut client: Client,
    request: ListWorkflowAccessPolicyRequest,
) -> Result<Vec<bytes::Bytes>, Status> {
    Ok(client
        .list_workflow_access_policy(request)
        .await?
        .into_inner()
        .policies)
}

#[async_trait]
impl Loader for Operator {
    async fn configuration(&self) -> Result<Configuration, super::Error> {
        let client = self.client()?;
        if let Some(assigned) = self.fetch(&client, ATTEMPTS).await? {
            return Ok(assigned);
        }
        let defaults = decode::configuration(b"");
        Ok(defaults.map_err(|source| Error::Configuration {
            name: String::new(),
            source,
        })?)
    }

    async fn resources(&self) -> Result<Resources, super::Error> {
        let client = self.client()?;
        self.list(&client, ATTEMPTS).await?;
        Ok(self.current())
    }

    async fn follow(&self, feed: &Feed) {
        let mut wait = FIRST_RECONNECT;
        loop {
            let started = Instant::now();
            let reason = session::run(self, feed).await;
            if started.elapsed() >= GOOD_SESSION {
                wait = FIRST_RECONNECT;
            }
            let pause = jittered(wait);
            tracing::info!(target: "dapr.runtime", "the operator's updates ended, asking again in {} ms: {reason}", pause.as_millis());
            sleep(pause).await;
            wait = (wait * 3 / 2).min(LONGEST_RECONNECT);
        }
    }
}

/// One attempt within its time.
async fn once<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(ATTEMPT, call)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("context deadline exceeded")))
}

/// Whether another attempt can help.
fn is_transient(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled
    )
}

/// Half to all of a wait: all sidecars of a cluster lose their operator at the same moment.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let check = |code: Code, expected: bool| {
            assert_eq!(is_transient(&Status::new(code, "")), expected, "{code:?}");
        };
        check(Code::Unavailable, true);
        check(Code::DeadlineExceeded, true);
        check(Code::PermissionDenied, false);
        // A Configuration or a secret that is not there.
        check(Code::Unknown, false);
    }

    #[test]
    fn waits_are_spread() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(1));
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&wait));
        }
    }
}
