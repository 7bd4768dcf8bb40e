//! The runtime as the APIs call it: names are checked, registration is awaited, texts are upstream's.

use std::sync::atomic::Ordering;

use async_trait::async_trait;
use dapr_sidecar_core::actors::{
    API_CALL_HEADER, Actors, Call, Error, Phase, RESERVED_PREFIX, Reminder, Reply, RuntimeStatus,
    StateItem, StateOperation, Timer,
};
use dapr_sidecar_core::peer::ReminderCall;
use dapr_sidecar_core::rpc::{Code, Status};
use http::HeaderValue;

use crate::failure::Failure;
use crate::names::{self, What};
use crate::reminders;
use crate::runtime::Runtime;
use crate::shared::Shared;
use crate::state::{self, Scope};

impl Shared {
    fn scope<'a>(&'a self, actor_type: &'a str, actor_id: &'a str) -> Scope<'a> {
        Scope {
            app_id: &self.settings.app_id,
            actor_type,
            actor_id,
            allow_ttl: self.settings.state_ttl,
        }
    }

    /// What reminders ask for: open to applications, of a hosted type.
    async fn reminder(&self, actor_type: &str) -> Result<(), Error> {
        self.own(actor_type).await?;
        if self.hosts().get(actor_type).is_none() || self.hosts().is_suspended() {
            return Err(Error::ReminderNonHosted);
        }
        Ok(())
    }

    /// Waits for registration and refuses types of the workflow engine.
    async fn own(&self, actor_type: &str) -> Result<(), Error> {
        if self.is_disabled() {
            return Err(Error::NoPlacement);
        }
        if actor_type.starts_with(RESERVED_PREFIX) {
            return Err(Error::Reserved(actor_type.to_owned()));
        }
        self.ready().await
    }
}

fn named(actor_type: &str, actor_id: &str, name: &str) -> Result<(), Error> {
    names::check(What::ActorType, actor_type)?;
    names::check(What::ActorId, actor_id)?;
    names::check(What::Name, name)
}

#[async_trait]
impl Actors for Runtime {
    async fn invoke(&self, mut call: Call) -> Result<Reply, Error> {
        if self.shared.is_disabled() {
            return Err(Error::NoPlacement);
        }
        names::check(What::ActorType, &call.actor_type)?;
        names::check(What::ActorId, &call.actor_id)?;
        call.method = names::method(call.method)?;
        self.shared.ready().await?;
        let is_api_call = HeaderValue::from_static("true");
        call.set(API_CALL_HEADER, is_api_call);
        Ok(self.shared.router.invoke(&call).await?)
    }

    async fn invoke_from_peer(&self, call: Call) -> Result<Reply, Status> {
        self.shared.ready().await.map_err(unavailable)?;
        let result = self.shared.router.invoke_from_peer(call).await;
        result.map_err(Failure::into_status)
    }

    async fn remind_from_peer(&self, call: ReminderCall) -> Result<(), Status> {
        self.shared.ready().await.map_err(unavailable)?;
        let result = self.shared.router.fire_from_peer(&call).await;
        result.map_err(Failure::into_status)
    }

    async fn get_state(
        &self,
        actor_type: &str,
        actor_id: &str,
        key: &str,
    ) -> Result<Option<StateItem>, Error> {
        self.shared.own(actor_type).await?;
        let state = self.shared.store.load_full().ok_or(Error::NoStateStore)?;
        state::get(&*state.store, self.shared.scope(actor_type, actor_id), key)
            .await
            .map_err(|error| Error::StateGet(error.to_string()))
    }

    async fn transact(
        &self,
        actor_type: &str,
        actor_id: &str,
        operations: Vec<StateOperation>,
    ) -> Result<(), Error> {
        self.shared.own(actor_type).await?;
        let is_active = self
            .shared
            .hosts()
            .get(actor_type)
            .is_some_and(|hosted| hosted.find(actor_id).is_some());
        if !is_active {
            return Err(Error::InstanceMissing);
        }
        let state = self
            .shared
            .store
            .load_full()
            .ok_or(Error::InstanceMissing)?;
        state::transact(
            &*state.store,
            self.shared.scope(actor_type, actor_id),
            operations,
        )
        .await
        .map_err(|error| Error::StateTransaction(error.to_string()))
    }

    async fn create_timer(&self, timer: Timer) -> Result<(), Error> {
        self.shared.own(&timer.actor_type).await?;
        named(&timer.actor_type, &timer.actor_id, &timer.name)?;
        let hosts = self.shared.hosts();
        if hosts.get(&timer.actor_type).is_none() || hosts.is_suspended() {
            return Err(Error::TimerCreate(format!(
                "can't create timer for actor {}||{}: actor type not registered",
                timer.actor_type, timer.actor_id
            )));
        }
        let now = self.shared.router.clock.now();
        self.shared
            .timers
            .create(timer, now, &*self.shared.settings.metrics)
            .map_err(|error| Error::TimerCreate(error.to_string()))
    }

    async fn delete_timer(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
    ) -> Result<(), Error> {
        self.shared.own(actor_type).await?;
        let metrics = &*self.shared.settings.metrics;
        self.shared
            .timers
            .delete(actor_type, actor_id, name, metrics);
        Ok(())
    }

    async fn create_reminder(&self, reminder: Reminder) -> Result<(), Error> {
        let Reminder {
            actor_type,
            actor_id,
            name,
            ..
        } = &reminder;
        self.shared.own(actor_type).await?;
        named(actor_type, actor_id, name)?;
        self.shared.reminder(actor_type).await?;
        let name = name.clone();
        let result = self.shared.settings.reminders.create(reminder).await;
        result.map_err(|error| match error {
            reminders::Error::AlreadyExists => Error::ReminderAlreadyExists(name),
            reminders::Error::NotFound | reminders::Error::Failed(_) => {
                Error::ReminderCreate(error.to_string())
            }
        })
    }

    async fn get_reminder(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
    ) -> Result<Reminder, Error> {
        self.shared.reminder(actor_type).await?;
        let result = self
            .shared
            .settings
            .reminders
            .get(actor_type, actor_id, name)
            .await;
        result.map_err(|error| match error {
            reminders::Error::NotFound => Error::ReminderNotFound(name.to_owned()),
            reminders::Error::AlreadyExists | reminders::Error::Failed(_) => {
                Error::ReminderGet(error.to_string())
            }
        })
    }

    async fn delete_reminder(
        &self,
        actor_type: &str,
        actor_id: &str,
        name: &str,
    ) -> Result<(), Error> {
        self.shared.reminder(actor_type).await?;
        let result = self
            .shared
            .settings
            .reminders
            .delete(actor_type, actor_id, name)
            .await;
        match result {
            Ok(()) | Err(reminders::Error::NotFound) => Ok(()),
            Err(error) => Err(Error::ReminderDelete(error.to_string())),
        }
    }

    fn status(&self) -> RuntimeStatus {
        let shared = &self.shared;
        let view = shared.directory().view();
        let phase = if shared.is_disabled() {
            Phase::Disabled
        } else if shared.has_registered.load(Ordering::Acquire) {
            Phase::Running
        } else {
            Phase::Initializing
        };
        let active = shared.hosts().all();
        RuntimeStatus {
            phase,
            active: active
                .order
                .iter()
                .map(|hosted| ((*hosted.name).to_owned(), hosted.active()))
                .collect(),
            host_ready: view.ready && !shared.hosts().is_suspended(),
            placement_connected: view.connected,
        }
    }
}

fn unavailable(error: Error) -> Status {
    Status::new(Code::Unavailable, error.to_string())
}
