//! Rotation of the root without an outage. Pure: what is known goes in, the next step comes out.
//!
//! The new root is published beside the old one. Once every workload was seen with a certificate that came with the
//! new bundle, or could only hold one that has run out, the new issuer signs. Once every workload was seen with a
//! certificate of the new issuer, the old root leaves the bundle. Each step is one write of the stored state, so a
//! crash at any point is followed by the same step again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::ca::{self, Authority};

pub(crate) mod ledger;

/// How far a rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Phase {
    /// Both roots are in the bundle, the old issuer signs.
    Publishing,
    /// Both roots are in the bundle, the new issuer signs.
    Switched,
    /// The old root is out of the bundle, which may not be published everywhere yet.
    Retired,
}

impl Phase {
    /// As it is published for everybody.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publishing => "publishing",
            Self::Switched => "switched",
            Self::Retired => "retired",
        }
    }

    /// The value of the metric; 0 is no rotation.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Publishing => 1,
            Self::Switched => 2,
            Self::Retired => 3,
        }
    }
}

/// What is stored while a rotation goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    /// Seconds since the epoch at which the phase began.
    pub(crate) since: u64,
    /// Seconds since the epoch at which the last certificate from before the phase has run out.
    pub(crate) until: u64,
    /// Seconds since the epoch from which on no replica does what it did before the phase: only what is issued then
    /// says who has followed. A record of an older version does not tell, so that only [`Self::until`] counts.
    #[serde(default = "never")]
    pub(crate) settled: u64,
    /// SHA-256 of the root certificates that leave the bundle in the end.
    pub(crate) retiring: Vec<String>,
    /// SHA-256 of the issuer certificate that is to sign.
    pub(crate) successor: String,
    /// The request this rotation answers; empty if nobody asked for it.
    #[serde(default)]
    pub(crate) request: String,
    /// SHA-256 of what was published before, so that a foreign change can be told from an unfinished one.
    pub(crate) before: String,
}

impl Record {
    /// Whether what is published is explained by this rotation: the old bundle, or the new one.
    pub(crate) fn expects(&self, published: &[u8], wanted: &Option<Vec<u8>>) -> bool {
        digest(published) == self.before || wanted.as_deref() == Some(published)
    }
}

impl Record {
    /// Whether the authority in force is the one this rotation is about. A user who brings another one meanwhile ends
    /// it.
    pub(crate) fn is_about(&self, authority: &Authority) -> bool {
        let signs = authority.issuer_fingerprint() == self.successor;
        match self.phase {
            Phase::Publishing => !signs && authority.signing_roots() == self.retiring,
            Phase::Switched | Phase::Retired => signs,
        }
    }
}

fn never() -> u64 {
    u64::MAX
}

/// The SHA-256 of a bundle in hexadecimal.
pub(crate) fn digest(bundle: &[u8]) -> String {
    ca::fingerprint(bundle)
}

/// What decides about the next step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) record: Option<&'a Record>,
    /// Somebody asks for a new root.
    pub(crate) request: Option<&'a str>,
    /// When the issuer or its root runs out.
    pub(crate) not_after: SystemTime,
    /// Whether Sentry made the authority itself.
    pub(crate) is_own: bool,
    /// How long before its end a root is rotated unasked; zero means never.
    pub(crate) rotate_before: Duration,
    /// Whether the record is about the authority in force.
    pub(crate) is_about: bool,
    /// Whether every workload is known to have what the current phase hands out.
    pub(crate) acknowledged: bool,
    pub(crate) now: SystemTime,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing, and nothing changes by itself before this long has passed.
    Wait(Duration),
    /// Take away the request that this rotation answers.
    Acknowledge,
    /// Make the new root and publish it.
    Begin,
    /// Sign with the new issuer.
    Switch,
    /// Take the old root out of the bundle.
    Retire,
    /// Forget the rotation: everything is done and published.
    Finish,
    /// Forget the rotation: its authority is no longer there.
    Abandon,
    /// A request that cannot be followed: the authority belongs to the user.
    Refuse,
}

/// Longest time until the state is looked at again.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// How often it is looked at while a rotation goes on: acknowledgements come one by one.
const LOOK_WHILE_ROTATING: Duration = Duration::from_millis(500);

/// Decides what comes next.
pub(crate) fn next(view: &View<'_>) -> Step {
    let Some(record) = view.record else {
        return begin(view);
    };
    // Not part of the step that began it: a crash between the two must not lead to a second rotation.
    if view.request == Some(record.request.as_str()) {
        return Step::Acknowledge;
    }
    if !view.is_about {
        return Step::Abandon;
    }
    if record.phase == Phase::Retired {
        return Step::Finish;
    }
    let now = seconds(view.now);
    let is_acknowledged = view.acknowledged && now >= record.settled;
    if !is_acknowledged && now < record.until {
        return Step::Wait(LOOK_WHILE_ROTATING);
    }
    match record.phase {
        Phase::Publishing => Step::Switch,
        Phase::Switched => Step::Retire,
        Phase::Retired => Step::Finish,
    }
}

fn begin(view: &View<'_>) -> Step {
    if view.request.is_some() {
        return if view.is_own {
            Step::Begin
        } else {
            Step::Refuse
        };
    }
    if view.rotate_before.is_zero() || !view.is_own {
        return Step::Wait(LOOK);
    }
    let left = view
        .not_after
        .duration_since(view.now)
        .unwrap_or_default()
        .saturating_sub(view.rotate_before);
    if left.is_zero() {
        Step::Begin
    } else {
        Step::Wait(left.min(LOOK))
    }
}

/// Whole seconds since the epoch.
pub(crate) fn seconds(moment: SystemTime) -> u64 {
    moment
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
