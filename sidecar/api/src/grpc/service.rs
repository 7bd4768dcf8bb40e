//! The methods of the `Dapr` service, each in one line: what it does stands beside its building block. Methods of
//! blocks without a component answer as upstream does when none is configured.

use std::sync::Arc;

use async_trait::async_trait;
use dapr_proto::dapr::proto::common::v1::InvokeResponse;
use dapr_proto::dapr::proto::runtime::v1::dapr_server::Dapr;
use dapr_proto::dapr::proto::runtime::v1::{
    BulkPublishRequest, BulkPublishResponse, ConversationRequest, ConversationRequestAlpha2,
    ConversationResponse, ConversationResponseAlpha2, DecryptRequest, DecryptResponse,
    DeleteBulkStateRequest, DeleteJobRequest, DeleteJobResponse, DeleteJobsByPrefixRequest,
    DeleteJobsByPrefixRequestAlpha1, DeleteJobsByPrefixResponse, DeleteJobsByPrefixResponseAlpha1,
    DeleteStateRequest, EncryptRequest, EncryptResponse, ExecuteActorStateTransactionRequest,
    ExecuteStateTransactionRequest, GetActorReminderRequest, GetActorReminderResponse,
    GetActorStateRequest, GetActorStateResponse, GetBulkSecretRequest, GetBulkSecretResponse,
    GetBulkStateRequest, GetBulkStateResponse, GetConfigurationRequest, GetConfigurationResponse,
    GetJobRequest, GetJobResponse, GetMetadataRequest, GetMetadataResponse, GetSecretRequest,
    GetSecretResponse, GetStateRequest, GetStateResponse, GetWorkflowRequest, GetWorkflowResponse,
    InvokeActorRequest, InvokeActorResponse, InvokeBindingRequest, InvokeBindingResponse,
    InvokeServiceRequest, ListActorRemindersRequest, ListActorRemindersResponse, ListJobsRequest,
    ListJobsRequestAlpha1, ListJobsResponse, ListJobsResponseAlpha1, PauseWorkflowRequest,
    PublishEventRequest, PurgeWorkflowRequest, QueryStateRequest, QueryStateResponse,
    RaiseEventWorkflowRequest, RegisterActorReminderRequest, RegisterActorTimerRequest,
    ResumeWorkflowRequest, SaveStateRequest, ScheduleJobRequest, ScheduleJobResponse,
    SetMetadataRequest, ShutdownRequest, StartWorkflowRequest, StartWorkflowResponse,
    SubscribeActorEventsRequestAlpha1, SubscribeConfigurationRequest,
    SubscribeConfigurationResponse, SubscribeTopicEventsRequestAlpha1, SubtleDecryptRequest,
    SubtleDecryptResponse, SubtleEncryptRequest, SubtleEncryptResponse, SubtleGetKeyRequest,
    SubtleGetKeyResponse, SubtleSignRequest, SubtleSignResponse, SubtleUnwrapKeyRequest,
    SubtleUnwrapKeyResponse, SubtleVerifyRequest, SubtleVerifyResponse, SubtleWrapKeyRequest,
    SubtleWrapKeyResponse, TerminateWorkflowRequest, TryLockRequest, TryLockResponse,
    UnlockRequest, UnlockResponse, UnregisterActorReminderRequest,
    UnregisterActorRemindersByTypeRequest, UnregisterActorRemindersByTypeResponse,
    UnregisterActorTimerRequest, UnsubscribeConfigurationRequest, UnsubscribeConfigurationResponse,
};
use dapr_sidecar_core::actors::Phase;
use tonic::{Request, Response, Status, Streaming};

use super::{actors, invoke, publish, secrets, state, subscribe};
use crate::error::{self, ApiError, Job};
use crate::http::{absent, shutdown_kind};
use crate::metadata;
use crate::services::{ActorCalls, Core};

/// A stream of a method that never answers with one.
type Never<T> = futures::stream::Empty<Result<T, Status>>;

/// The `Dapr` service.
pub(crate) struct Service {
    core: Arc<Core>,
}

impl Service {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn job(&self, error: Job<'_>) -> ApiError {
        error::job(error, &self.core.app_id, &self.core.namespace)
    }

    fn schedule(
        &self,
        request: ScheduleJobRequest,
    ) -> Result<Response<ScheduleJobResponse>, Status> {
        let Some(job) = request.job else {
            return refuse(self.job(Job::Empty));
        };
        if job.name.is_empty() {
            return refuse(self.job(Job::NameEmpty));
        }
        if job.schedule.is_none() && job.due_time.is_none() {
            return refuse(self.job(Job::ScheduleEmpty));
        }
        refuse(absent::no_scheduler(&self.core, Job::Schedule))
    }

    fn no_reminder_lists(&self) -> Status {
        if self.core.actors.status().phase == Phase::Disabled {
            return actors::refused(dapr_sidecar_core::actors::Error::NoPlacement);
        }
        Status::unimplemented(
            "calls about several reminders are not available in this version: name each reminder with GetActorReminder or UnregisterActorReminder",
        )
    }
}

fn answer<T>(result: Result<T, Status>) -> Result<Response<T>, Status> {
    result.map(Response::new)
}

fn refuse<T>(error: ApiError) -> Result<T, Status> {
    Err(error.into())
}

/// Unsubscribing never fails; it says that there was nothing.
fn not_subscribed(id: &str) -> UnsubscribeConfigurationResponse {
    UnsubscribeConfigurationResponse {
        ok: false,
        message: format!(
            "failed to unsubscribe to configuration request {id}: subscription does not exist"
        ),
    }
}

#[async_trait]
impl Dapr for Service {
    type SubscribeTopicEventsAlpha1Stream = subscribe::Subscribed;
    type SubscribeActorEventsAlpha1Stream = ActorCalls;
    type SubscribeConfigurationAlpha1Stream = Never<SubscribeConfigurationResponse>;
    type SubscribeConfigurationStream = Never<SubscribeConfigurationResponse>;
    type EncryptAlpha1Stream = Never<EncryptResponse>;
    type DecryptAlpha1Stream = Never<DecryptResponse>;

    async fn invoke_service(
        &self,
        request: Request<InvokeServiceRequest>,
    ) -> Result<Response<InvokeResponse>, Status> {
        invoke::invoke(&self.core, request).await
    }

    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        answer(state::get(&self.core, request.into_inner()).await)
    }

    async fn get_bulk_state(
        &self,
        request: Request<GetBulkStateRequest>,
    ) -> Result<Response<GetBulkStateResponse>, Status> {
        answer(state::get_bulk(&self.core, request.into_inner()).await)
    }

    async fn save_state(&self, request: Request<SaveStateRequest>) -> Result<Response<()>, Status> {
        answer(state::save(&self.core, request.into_inner()).await)
    }

    async fn query_state_alpha1(
        &self,
        request: Request<QueryStateRequest>,
    ) -> Result<Response<QueryStateResponse>, Status> {
        answer(state::query(&self.core, request.into_inner()).await)
    }

    async fn delete_state(
        &self,
        request: Request<DeleteStateRequest>,
    ) -> Result<Response<()>, Status> {
        answer(state::delete(&self.core, request.into_inner()).await)
    }

    async fn delete_bulk_state(
        &self,
        request: Request<DeleteBulkStateRequest>,
    ) -> Result<Response<()>, Status> {
        answer(state::delete_bulk(&self.core, request.into_inner()).await)
    }

    async fn execute_state_transaction(
        &self,
        request: Request<ExecuteStateTransactionRequest>,
    ) -> Result<Response<()>, Status> {
        answer(state::transact(&self.core, request.into_inner()).await)
    }

    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<()>, Status> {
        answer(publish::publish(&self.core, request).await)
    }

    async fn bulk_publish_event_alpha1(
        &self,
        request: Request<BulkPublishRequest>,
    ) -> Result<Response<BulkPublishResponse>, Status> {
        answer(publish::bulk(&self.core, request).await)
    }

    async fn bulk_publish_event(
        &self,
        request: Request<BulkPublishRequest>,
    ) -> Result<Response<BulkPublishResponse>, Status> {
        answer(publish::bulk(&self.core, request).await)
    }

    async fn subscribe_topic_events_alpha1(
        &self,
        request: Request<Streaming<SubscribeTopicEventsRequestAlpha1>>,
    ) -> Result<Response<Self::SubscribeTopicEventsAlpha1Stream>, Status> {
        answer(subscribe::subscribe(&self.core, request.into_inner()).await)
    }

    async fn invoke_binding(
        &self,
        request: Request<InvokeBindingRequest>,
    ) -> Result<Response<InvokeBindingResponse>, Status> {
        let request = request.into_inner();
        Err(absent::missing_binding(&request.name, &request.operation).into())
    }

    async fn get_secret(
        &self,
        request: Request<GetSecretRequest>,
    ) -> Result<Response<GetSecretResponse>, Status> {
        answer(secrets::get(&self.core, request.into_inner()).await)
    }

    async fn get_bulk_secret(
        &self,
        request: Request<GetBulkSecretRequest>,
    ) -> Result<Response<GetBulkSecretResponse>, Status> {
        answer(secrets::get_bulk(&self.core, request.into_inner()).await)
    }

    async fn register_actor_timer(
        &self,
        request: Request<RegisterActorTimerRequest>,
    ) -> Result<Response<()>, Status> {
        answer(actors::create_timer(&self.core, request.into_inner()).await)
    }

    async fn unregister_actor_timer(
        &self,
        request: Request<UnregisterActorTimerRequest>,
    ) -> Result<Response<()>, Status> {
        answer(actors::delete_timer(&self.core, request.into_inner()).await)
    }

    async fn register_actor_reminder(
        &self,
        request: Request<RegisterActorReminderRequest>,
    ) -> Result<Response<()>, Status> {
        answer(actors::create_reminder(&self.core, request.into_inner()).await)
    }

    async fn unregister_actor_reminder(
        &self,
        request: Request<UnregisterActorReminderRequest>,
    ) -> Result<Response<()>, Status> {
        answer(actors::delete_reminder(&self.core, request.into_inner()).await)
    }

    async fn unregister_actor_reminders_by_type(
        &self,
        request: Request<UnregisterActorRemindersByTypeRequest>,
    ) -> Result<Response<UnregisterActorRemindersByTypeResponse>, Status> {
        actors::open(&self.core, &request.into_inner().actor_type)?;
        Err(self.no_reminder_lists())
    }

    async fn list_actor_reminders(
        &self,
        request: Request<ListActorRemindersRequest>,
    ) -> Result<Response<ListActorRemindersResponse>, Status> {
        actors::open(&self.core, &request.into_inner().actor_type)?;
        Err(self.no_reminder_lists())
    }

    async fn get_actor_state(
        &self,
        request: Request<GetActorStateRequest>,
    ) -> Result<Response<GetActorStateResponse>, Status> {
        answer(actors::get_state(&self.core, request.into_inner()).await)
    }

    async fn get_actor_reminder(
        &self,
        request: Request<GetActorReminderRequest>,
    ) -> Result<Response<GetActorReminderResponse>, Status> {
        answer(actors::get_reminder(&self.core, request.into_inner()).await)
    }

    async fn execute_actor_state_transaction(
        &self,
        request: Request<ExecuteActorStateTransactionRequest>,
    ) -> Result<Response<()>, Status> {
        answer(actors::transact(&self.core, request.into_inner()).await)
    }

    async fn invoke_actor(
        &self,
        request: Request<InvokeActorRequest>,
    ) -> Result<Response<InvokeActorResponse>, Status> {
        answer(actors::invoke(&self.core, request).await)
    }

    async fn subscribe_actor_events_alpha1(
        &self,
        request: Request<Streaming<SubscribeActorEventsRequestAlpha1>>,
    ) -> Result<Response<Self::SubscribeActorEventsAlpha1Stream>, Status> {
        answer(actors::host(&self.core, request.into_inner()))
    }

    async fn get_configuration_alpha1(
        &self,
        _: Request<GetConfigurationRequest>,
    ) -> Result<Response<GetConfigurationResponse>, Status> {
        refuse(error::configuration_not_configured())
    }

    async fn get_configuration(
        &self,
        _: Request<GetConfigurationRequest>,
    ) -> Result<Response<GetConfigurationResponse>, Status> {
        refuse(error::configuration_not_configured())
    }

    async fn subscribe_configuration_alpha1(
        &self,
        _: Request<SubscribeConfigurationRequest>,
    ) -> Result<Response<Self::SubscribeConfigurationAlpha1Stream>, Status> {
        refuse(error::configuration_not_configured())
    }

    async fn subscribe_configuration(
        &self,
        _: Request<SubscribeConfigurationRequest>,
    ) -> Result<Response<Self::SubscribeConfigurationStream>, Status> {
        refuse(error::configuration_not_configured())
    }

    async fn unsubscribe_configuration_alpha1(
        &self,
        request: Request<UnsubscribeConfigurationRequest>,
    ) -> Result<Response<UnsubscribeConfigurationResponse>, Status> {
        Ok(Response::new(not_subscribed(&request.into_inner().id)))
    }

    async fn unsubscribe_configuration(
        &self,
        request: Request<UnsubscribeConfigurationRequest>,
    ) -> Result<Response<UnsubscribeConfigurationResponse>, Status> {
        Ok(Response::new(not_subscribed(&request.into_inner().id)))
    }

    async fn try_lock_alpha1(
        &self,
        request: Request<TryLockRequest>,
    ) -> Result<Response<TryLockResponse>, Status> {
        let request = request.into_inner();
        if request.expiry_in_seconds <= 0 {
            return refuse(error::lock_expiry(&request.store_name));
        }
        refuse(error::lock_not_configured())
    }

    async fn unlock_alpha1(
        &self,
        _: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        refuse(error::lock_not_configured())
    }

    async fn encrypt_alpha1(
        &self,
        _: Request<Streaming<EncryptRequest>>,
    ) -> Result<Response<Self::EncryptAlpha1Stream>, Status> {
        refuse(error::crypto_not_configured())
    }

    async fn decrypt_alpha1(
        &self,
        _: Request<Streaming<DecryptRequest>>,
    ) -> Result<Response<Self::DecryptAlpha1Stream>, Status> {
        refuse(error::crypto_not_configured())
    }

    async fn get_metadata(
        &self,
        _: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        Ok(Response::new(metadata::to_message(
            self.core.metadata.snapshot(),
        )))
    }

    async fn set_metadata(
        &self,
        request: Request<SetMetadataRequest>,
    ) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        if !request.key.is_empty() {
            self.core.metadata.set(request.key, request.value);
        }
        Ok(Response::new(()))
    }

    async fn subtle_get_key_alpha1(
        &self,
        _: Request<SubtleGetKeyRequest>,
    ) -> Result<Response<SubtleGetKeyResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_encrypt_alpha1(
        &self,
        _: Request<SubtleEncryptRequest>,
    ) -> Result<Response<SubtleEncryptResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_decrypt_alpha1(
        &self,
        _: Request<SubtleDecryptRequest>,
    ) -> Result<Response<SubtleDecryptResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_wrap_key_alpha1(
        &self,
        _: Request<SubtleWrapKeyRequest>,
    ) -> Result<Response<SubtleWrapKeyResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_unwrap_key_alpha1(
        &self,
        _: Request<SubtleUnwrapKeyRequest>,
    ) -> Result<Response<SubtleUnwrapKeyResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_sign_alpha1(
        &self,
        _: Request<SubtleSignRequest>,
    ) -> Result<Response<SubtleSignResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn subtle_verify_alpha1(
        &self,
        _: Request<SubtleVerifyRequest>,
    ) -> Result<Response<SubtleVerifyResponse>, Status> {
        refuse(error::unimplemented())
    }

    async fn start_workflow_alpha1(
        &self,
        _: Request<StartWorkflowRequest>,
    ) -> Result<Response<StartWorkflowResponse>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn get_workflow_alpha1(
        &self,
        _: Request<GetWorkflowRequest>,
    ) -> Result<Response<GetWorkflowResponse>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn purge_workflow_alpha1(
        &self,
        _: Request<PurgeWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn terminate_workflow_alpha1(
        &self,
        _: Request<TerminateWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn pause_workflow_alpha1(
        &self,
        _: Request<PauseWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn resume_workflow_alpha1(
        &self,
        _: Request<ResumeWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn raise_event_workflow_alpha1(
        &self,
        _: Request<RaiseEventWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn start_workflow_beta1(
        &self,
        _: Request<StartWorkflowRequest>,
    ) -> Result<Response<StartWorkflowResponse>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn get_workflow_beta1(
        &self,
        _: Request<GetWorkflowRequest>,
    ) -> Result<Response<GetWorkflowResponse>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn purge_workflow_beta1(
        &self,
        _: Request<PurgeWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn terminate_workflow_beta1(
        &self,
        _: Request<TerminateWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn pause_workflow_beta1(
        &self,
        _: Request<PauseWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn resume_workflow_beta1(
        &self,
        _: Request<ResumeWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn raise_event_workflow_beta1(
        &self,
        _: Request<RaiseEventWorkflowRequest>,
    ) -> Result<Response<()>, Status> {
        refuse(absent::workflow(&self.core))
    }

    async fn shutdown(&self, request: Request<ShutdownRequest>) -> Result<Response<()>, Status> {
        let headers = request.metadata().clone().into_headers();
        self.core.shutdown.shutdown(shutdown_kind(&headers));
        Ok(Response::new(()))
    }

    async fn schedule_job_alpha1(
        &self,
        request: Request<ScheduleJobRequest>,
    ) -> Result<Response<ScheduleJobResponse>, Status> {
        self.schedule(request.into_inner())
    }

    async fn schedule_job(
        &self,
        request: Request<ScheduleJobRequest>,
    ) -> Result<Response<ScheduleJobResponse>, Status> {
        self.schedule(request.into_inner())
    }

    async fn get_job_alpha1(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        if request.into_inner().name.is_empty() {
            return refuse(self.job(Job::NameEmpty));
        }
        refuse(absent::no_scheduler(&self.core, Job::Get))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        if request.into_inner().name.is_empty() {
            return refuse(self.job(Job::NameEmpty));
        }
        refuse(absent::no_scheduler(&self.core, Job::Get))
    }

    async fn delete_job_alpha1(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        if request.into_inner().name.is_empty() {
            return refuse(self.job(Job::NameEmpty));
        }
        refuse(absent::no_scheduler(&self.core, Job::Delete))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        if request.into_inner().name.is_empty() {
            return refuse(self.job(Job::NameEmpty));
        }
        refuse(absent::no_scheduler(&self.core, Job::Delete))
    }

    async fn delete_jobs_by_prefix_alpha1(
        &self,
        _: Request<DeleteJobsByPrefixRequestAlpha1>,
    ) -> Result<Response<DeleteJobsByPrefixResponseAlpha1>, Status> {
        refuse(absent::no_scheduler(&self.core, Job::Delete))
    }

    async fn delete_jobs_by_prefix(
        &self,
        _: Request<DeleteJobsByPrefixRequest>,
    ) -> Result<Response<DeleteJobsByPrefixResponse>, Status> {
        refuse(absent::no_scheduler(&self.core, Job::Delete))
    }

    async fn list_jobs_alpha1(
        &self,
        _: Request<ListJobsRequestAlpha1>,
    ) -> Result<Response<ListJobsResponseAlpha1>, Status> {
        refuse(absent::no_scheduler(&self.core, Job::List))
    }

    async fn list_jobs(
        &self,
        _: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        refuse(absent::no_scheduler(&self.core, Job::List))
    }

    async fn converse_alpha1(
        &self,
        request: Request<ConversationRequest>,
    ) -> Result<Response<ConversationResponse>, Status> {
        refuse(error::conversation_not_found(&request.into_inner().name))
    }

    async fn converse_alpha2(
        &self,
        request: Request<ConversationRequestAlpha2>,
    ) -> Result<Response<ConversationResponseAlpha2>, Status> {
        refuse(error::conversation_not_found(&request.into_inner().name))
    }
}
