//! The caller's side: from a target to an answer, under the policies of the target.

use std::time::Instant;

use http::{HeaderMap, Method};

use super::replay::{Replay, is_replayable};
use super::{Error, HttpEndpoint, Invoker, Location, Origin, Request, Response, Status, method};
use crate::app;
use crate::peer::{self, Failure};
use crate::resiliency::breaker::Rejected;
use crate::resiliency::{Builtin, Class, Classify, Failed, Policy, Schedule, Target};
use crate::rpc::{self, Code};

/// Other addresses of an app that are tried without a wait when a call breaks.
const OTHER_ADDRESSES: u32 = 2;

/// How an attempt ended that may be worth another.
enum Attempt {
    Error(Error),
    /// The application answered, with an error of its own.
    Answer(Box<Response>, Origin),
}

impl Classify for Attempt {
    fn class(&self) -> Class {
        match self {
            // Callers over gRPC carry no codes: everything is retried.
            Self::Answer(_, Origin::Grpc) => Class::Uncoded,
            Self::Answer(response, Origin::Http) => Class::Code(response.status.number()),
            Self::Error(error) if error.is_final() => Class::Permanent,
            Self::Error(_) => Class::Uncoded,
        }
    }
}

impl Error {
    /// Whether the request itself is wrong, or not allowed, so that repeating it cannot help.
    fn is_final(&self) -> bool {
        match self {
            Self::EmptyAppId | Self::InvalidAppId(_) | Self::Request(_) | Self::NoApp => true,
            Self::App(_)
            | Self::Peer(_)
            | Self::Retried { .. }
            | Self::Resolve(_)
            | Self::NoResolver
            | Self::Timeout
            | Self::BreakerOpen
            | Self::TooManyRequests => self.is_denied(),
        }
    }
}

impl Invoker {
    /// Calls `target`, in any form a caller may write it.
    ///
    /// A body whose length is known (`size_hint`) and at most `max_replay` can be sent again by retries;
    /// another one is streamed once.
    pub async fn invoke(&self, target: &str, mut request: Request) -> Result<Response, Error> {
        request.method = method::normalize_owned(request.method)
            .map_err(|error| Error::Request(error.to_status()))?;
        request.verb = request.verb.map(known_verb);
        let Some(policy) = self.policy(target, &request.method) else {
            return self.attempt(target, request).await;
        };
        self.under_policy(target, request, policy).await
    }

    /// The policies of a target, looked up by the name the caller wrote, else by the app id in it. `method` has a circuit
    /// breaker of its own.
    pub fn policy(&self, target: &str, method: &str) -> Option<Policy> {
        let resiliency = &self.settings().resiliency;
        if resiliency.is_empty() {
            return None;
        }
        let endpoints = self.endpoints();
        let app_id = app_id(target);
        let (name, endpoint) = if let Some(endpoint) = endpoints.get(app_id) {
            (app_id, format!("{app_id}:{}", endpoint.base_url))
        } else if is_url(target) {
            (target, format!("{target}/{method}"))
        } else if resiliency.has_app_target(target) {
            (target, format!("{target}:{method}"))
        } else {
            (app_id, format!("{app_id}:{method}"))
        };
        resiliency.policy(Target::App {
            name,
            endpoint: &endpoint,
        })
    }

    async fn under_policy(
        &self,
        target: &str,
        request: Request,
        policy: Policy,
    ) -> Result<Response, Error> {
        let origin = request.origin;
        let outcome =
            if policy.retries() && is_replayable(&request.body, self.settings().max_replay) {
                let replay = Replay::whole(request);
                let attempt = || async {
                    let result = self.attempt(target, replay.attempt()).await;
                    judge(result, origin)
                };
                policy.run(attempt).await
            } else {
                let attempt = async { judge(self.attempt(target, request).await, origin) };
                policy.run_once(attempt).await
            };
        match outcome {
            Ok(response) => Ok(response),
            Err(Failed::Operation(Attempt::Answer(response, _))) => Ok(*response),
            Err(Failed::Operation(Attempt::Error(error))) => Err(error),
            Err(Failed::Timeout) => Err(Error::Timeout),
            Err(Failed::Rejected(Rejected::Open)) => Err(Error::BreakerOpen),
            Err(Failed::Rejected(Rejected::TooManyRequests)) => Err(Error::TooManyRequests),
        }
    }

    /// Calls the target once, but for the built-in retries between sidecars.
    async fn attempt(&self, target: &str, request: Request) -> Result<Response, Error> {
        match self.locate(target).await? {
            Location::Local => {
                let app = self.app().ok_or(Error::NoApp)?;
                self.call_app(&**app, request).await
            }
            Location::Remote(peer) => self.call_remote(target, peer, request).await,
            Location::External { base_url, endpoint } => {
                self.call_external(&base_url, endpoint.as_deref(), request)
                    .await
            }
        }
    }

    async fn call_external(
        &self,
        base_url: &str,
        endpoint: Option<&HttpEndpoint>,
        mut request: Request,
    ) -> Result<Response, Error> {
        if let Some(endpoint) = endpoint {
            override_headers(&mut request.headers, &endpoint.headers);
        }
        let external = &self.settings().external;
        let answer = external.call(base_url, endpoint, request).await;
        answer.map_err(Error::App)
    }

    async fn call_remote(
        &self,
        target: &str,
        peer: peer::Target,
        mut request: Request,
    ) -> Result<Response, Error> {
        self.forwarder().mark(&mut request.headers, &peer.app_id);
        let streaming = !is_replayable(&request.body, self.settings().max_replay);
        let resiliency = &self.settings().resiliency;
        let is_configured =
            resiliency.has_app_target(target) || resiliency.has_app_target(&peer.app_id);
        if streaming || is_configured {
            return self.call_once(peer, request).await;
        }
        self.with_builtin_retries(peer, request).await
    }

    /// Calls the app at one address, and at others only if there certainly nothing was done with the request.
    async fn call_once(&self, mut peer: peer::Target, request: Request) -> Result<Response, Error> {
        let replay = Replay::beginning(request);
        let mut others = OTHER_ADDRESSES;
        loop {
            let answer = self.call_peer(&peer, replay.attempt()).await;
            let is_other_wanted = is_untouched(&answer) && replay.is_complete();
            if others == 0 || !is_other_wanted || !self.unreachable(&peer) {
                return told(answer);
            }
            let other = self.resolve(&peer.app_id, &peer.namespace).await?;
            if other.address == peer.address {
                return told(answer);
            }
            peer = other;
            others -= 1;
        }
    }

    async fn with_builtin_retries(
        &self,
        mut peer: peer::Target,
        request: Request,
    ) -> Result<Response, Error> {
        let replay = Replay::whole(request);
        let started = Instant::now();
        let mut schedule: Option<Schedule> = None;
        let mut others = OTHER_ADDRESSES;
        loop {
            let answer = self.call_peer(&peer, replay.attempt()).await;
            let is_lost = matches!(&answer, Err(failure) if is_unreachable(&failure.status));
            let is_untouched = is_untouched(&answer);
            if !is_lost && !is_untouched {
                return told(answer);
            }
            if is_untouched && let Some(other) = self.elsewhere(&peer, &mut others).await? {
                peer = other;
                continue;
            }
            let status = match answer {
                Err(failure) if is_lost => failure.status,
                // The sidecar is there: waiting is for policies.
                answer => return told(answer),
            };
            let schedule = schedule.get_or_insert_with(|| {
                let retry = self.settings().resiliency.builtin(Builtin::ServiceRetries);
                Schedule::new(retry.schedule)
            });
            let Some(wait) = schedule.next(started.elapsed(), rand::random()) else {
                return Err(Error::Retried {
                    app_id: peer.app_id,
                    retries: schedule.retries(),
                    status,
                });
            };
            // Another address saves the wait, but not the retry: the request may have been carried out.
            if !is_untouched && let Some(other) = self.elsewhere(&peer, &mut others).await? {
                peer = other;
                continue;
            }
            tokio::time::sleep(wait).await;
            // The app may have moved.
            peer = self.resolve(&peer.app_id, &peer.namespace).await?;
        }
    }

    /// Another address of the app than the one that failed, while `others` may be tried.
    async fn elsewhere(
        &self,
        peer: &peer::Target,
        others: &mut u32,
    ) -> Result<Option<peer::Target>, Error> {
        if *others == 0 || !self.unreachable(peer) {
            return Ok(None);
        }
        *others -= 1;
        let other = self.resolve(&peer.app_id, &peer.namespace).await?;
        Ok((other.address != peer.address).then_some(other))
    }

    /// One call of another sidecar, measured.
    async fn call_peer(
        &self,
        peer: &peer::Target,
        request: Request,
    ) -> Result<Response, peer::Failure> {
        let metrics = &self.settings().metrics;
        let started = Instant::now();
        // Only a forwarded call that says it is a stream counts as one, whatever the body is like.
        metrics.request_sent(&peer.app_id, false);
        let result = self.settings().peers.call_local(peer, request).await;
        // A call that failed on its way has no answer to count.
        if let Ok(response) = &result {
            let status = response.status.number();
            metrics.response_received(&peer.app_id, status, false, started.elapsed());
        }
        let is_lost = |failure: &peer::Failure| is_unreachable(&failure.status);
        if result.as_ref().is_err_and(is_lost) {
            self.unreachable(peer);
        }
        result
    }
}

/// What an attempt means to retries and breakers: an application's own error is a failure, but for a gRPC
/// application called over HTTP.
fn judge(result: Result<Response, Error>, origin: Origin) -> Result<Response, Attempt> {
    let response = result.map_err(Attempt::Error)?;
    let is_success = match (&response.status, origin) {
        (Status::Http(status), Origin::Http) => (200..=399).contains(&status.as_u16()),
        // Such a caller gets everything else as an error.
        (Status::Http(status), Origin::Grpc) => status.is_success(),
        (Status::Grpc(_), Origin::Http) => true,
        (Status::Grpc(status), Origin::Grpc) => status.code == Code::Ok,
    };
    if is_success {
        Ok(response)
    } else {
        Err(Attempt::Answer(Box::new(response), origin))
    }
}

/// Whether certainly nothing was done with the request.
fn is_untouched(answer: &Result<Response, peer::Failure>) -> bool {
    match answer {
        Ok(response) => response.is_untouched,
        Err(failure) => failure.is_untouched,
    }
}

fn told(answer: Result<Response, peer::Failure>) -> Result<Response, Error> {
    answer.map_err(|failure| match failure {
        // Upstream's text for it is that of any error of the network.
        Failure {
            is_own: true,
            status,
            ..
        } => Error::App(app::Error::Transport(status.message)),
        Failure { status, .. } => Error::Peer(status),
    })
}

fn is_unreachable(status: &rpc::Status) -> bool {
    matches!(status.code, Code::Unavailable | Code::Unauthenticated)
}

/// Verbs the protocol between sidecars does not know become POST. Letter case does not matter: `fetch` sends `patch` as
/// it is written.
fn known_verb(verb: Method) -> Method {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    let known = known
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(verb.as_str()));
    known.unwrap_or(Method::POST)
}

fn is_url(target: &str) -> bool {
    target.starts_with("http://") || target.starts_with("https://")
}

/// The app id of `app` and `app.ns`; URLs as they are.
fn app_id(target: &str) -> &str {
    if is_url(target) {
        return target;
    }
    target.split('.').next().unwrap_or(target)
}

fn override_headers(headers: &mut HeaderMap, by: &HeaderMap) {
    for name in by.keys() {
        headers.remove(name);
        for value in by.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_known_in_any_letters() {
        let check = |verb: &str, expected: Method| {
            let verb = Method::from_bytes(verb.as_bytes()).expect("a verb");
            assert_eq!(known_verb(verb), expected);
        };
        check("PATCH", Method::PATCH);
        check("patch", Method::PATCH);
        check("Delete", Method::DELETE);
        check("PROPFIND", Method::POST);
        check("NONE", Method::POST);
    }
}
