//! Building blocks without a component: the checks upstream makes first, then its "not configured".

use dapr_sidecar_core::actors::{self, Phase};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::path::decode;
use super::{Call, Handled};
use crate::error::{self, ApiError, Job, Surface};
use crate::services::Core;

/// Reads the body of a route that takes protobuf JSON: it may be empty, unknown fields do not matter.
async fn proto_json<T>(call: &mut Call<'_>) -> Result<T, ApiError>
where
    T: Default + serde::de::DeserializeOwned,
{
    let body = call.read().await.map_err(error::body_read)?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(error::malformed)
}

#[derive(Deserialize)]
struct Binding<'a> {
    #[serde(default)]
    operation: Option<String>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

pub(super) async fn binding(mut call: Call<'_>, name: &str) -> Handled {
    let name = decode(name)?;
    let body = call.read_or_malformed().await?;
    let request: Binding<'_> = serde_json::from_slice(&body).map_err(error::malformed)?;
    // No component takes the data yet; that it is JSON has been checked by reading it.
    let _ = request.data;
    Err(missing_binding(&name, request.operation.as_deref().unwrap_or_default()).into())
}

/// The operation is checked before the name.
pub(crate) fn missing_binding(name: &str, operation: &str) -> ApiError {
    if operation.is_empty() {
        return error::output_binding(name, "operation field is missing from request");
    }
    error::output_binding(name, format!("couldn't find output binding {name}"))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lock {
    #[serde(
        rename = "expiryInSeconds",
        alias = "expiry_in_seconds",
        deserialize_with = "integer"
    )]
    expiry_in_seconds: i32,
}

/// An integer as protobuf JSON has it: a number, or the text of one.
fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Integer {
        Number(i32),
        Text(String),
    }
    match Option::deserialize(deserializer)? {
        Some(Integer::Number(number)) => Ok(number),
        Some(Integer::Text(text)) => text.parse().map_err(D::Error::custom),
        None => Ok(0),
    }
}

pub(super) async fn try_lock(mut call: Call<'_>, store: &str) -> Handled {
    let store = decode(store)?;
    let lock: Lock = proto_json(&mut call).await?;
    if lock.expiry_in_seconds <= 0 {
        return Err(error::lock_expiry(&store).into());
    }
    Err(error::lock_not_configured().into())
}

pub(super) async fn unlock(mut call: Call<'_>) -> Handled {
    let _: serde_json::Map<String, serde_json::Value> = proto_json(&mut call).await?;
    Err(error::lock_not_configured().into())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct JobBody {
    name: Option<String>,
    schedule: Option<String>,
    #[serde(rename = "dueTime", alias = "due_time")]
    due_time: Option<String>,
}

pub(super) async fn schedule_job(mut call: Call<'_>, name: &str) -> Handled {
    let name = decode(name)?;
    let body: JobBody = proto_json(&mut call).await?;
    let core = call.core;
    let refused = |error| error::job(error, &core.app_id, &core.namespace);
    if body.name.is_some_and(|name| !name.is_empty()) {
        return Err(refused(Job::NameInBody).into());
    }
    if name.is_empty() {
        return Err(refused(Job::NameEmpty).into());
    }
    if body.schedule.is_none() && body.due_time.is_none() {
        return Err(refused(Job::ScheduleEmpty).into());
    }
    Err(no_scheduler(core, Job::Schedule).into())
}

/// The answer of the jobs API while no scheduler is configured.
pub(crate) fn no_scheduler(core: &Core, job: fn(&'static str) -> Job<'static>) -> ApiError {
    error::job(job(error::NO_SCHEDULER), &core.app_id, &core.namespace)
}

/// Workflows need placement; with it, they are what this build does not have.
pub(crate) fn workflow(core: &Core) -> ApiError {
    match core.actors.status().phase {
        Phase::Disabled => error::actor(actors::Error::NoPlacement, Surface::Grpc),
        Phase::Initializing | Phase::Running => error::unimplemented(),
    }
}

pub(super) async fn converse(mut call: Call<'_>, name: &str) -> Handled {
    let name = decode(name)?;
    let _: serde_json::Map<String, serde_json::Value> = proto_json(&mut call).await?;
    Err(error::conversation_not_found(&name).into())
}
