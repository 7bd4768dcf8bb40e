//! The methods of the `Dapr` service, and the groups the allow and deny lists know them by.

/// What every method of the service starts with.
pub(crate) const SERVICE: &str = "/dapr.proto.runtime.v1.Dapr/";

/// Full method and group, sorted by method.
pub(crate) const METHODS: [(&str, &str); 72] = [
    ("/dapr.proto.runtime.v1.Dapr/BulkPublishEvent", "publish.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/BulkPublishEventAlpha1",
        "publish.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ConverseAlpha1",
        "conversation.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ConverseAlpha2",
        "conversation.v1alpha2",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/DecryptAlpha1",
        "crypto.v1alpha1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/DeleteBulkState", "state.v1"),
    ("/dapr.proto.runtime.v1.Dapr/DeleteJob", "jobs.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/DeleteJobAlpha1",
        "jobs.v1alpha1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/DeleteJobsByPrefix", "jobs.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/DeleteJobsByPrefixAlpha1",
        "jobs.v1alpha1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/DeleteState", "state.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/EncryptAlpha1",
        "crypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ExecuteActorStateTransaction",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ExecuteStateTransaction",
        "state.v1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/GetActorReminder", "actors.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetActorState", "actors.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetBulkSecret", "secrets.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetBulkState", "state.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/GetConfiguration",
        "configuration.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/GetConfigurationAlpha1",
        "configuration.v1alpha1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/GetJob", "jobs.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetJobAlpha1", "jobs.v1alpha1"),
    ("/dapr.proto.runtime.v1.Dapr/GetMetadata", "metadata.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetSecret", "secrets.v1"),
    ("/dapr.proto.runtime.v1.Dapr/GetState", "state.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/GetWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/GetWorkflowBeta1",
        "workflows.v1beta1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/InvokeActor", "actors.v1"),
    ("/dapr.proto.runtime.v1.Dapr/InvokeBinding", "bindings.v1"),
    ("/dapr.proto.runtime.v1.Dapr/InvokeService", "invoke.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/ListActorReminders",
        "actors.v1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/ListJobs", "jobs.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/ListJobsAlpha1",
        "jobs.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/PauseWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/PauseWorkflowBeta1",
        "workflows.v1beta1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/PublishEvent", "publish.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/PurgeWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/PurgeWorkflowBeta1",
        "workflows.v1beta1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/QueryStateAlpha1",
        "state.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/RaiseEventWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/RaiseEventWorkflowBeta1",
        "workflows.v1beta1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/RegisterActorReminder",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/RegisterActorTimer",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ResumeWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/ResumeWorkflowBeta1",
        "workflows.v1beta1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/SaveState", "state.v1"),
    ("/dapr.proto.runtime.v1.Dapr/ScheduleJob", "jobs.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/ScheduleJobAlpha1",
        "jobs.v1alpha1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/SetMetadata", "metadata.v1"),
    ("/dapr.proto.runtime.v1.Dapr/Shutdown", "shutdown.v1"),
    (
        "/dapr.proto.runtime.v1.Dapr/StartWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/StartWorkflowBeta1",
        "workflows.v1beta1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubscribeActorEventsAlpha1",
        "actors.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration",
        "configuration.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubscribeConfigurationAlpha1",
        "configuration.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1",
        "subscribe.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleDecryptAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleEncryptAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleGetKeyAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleSignAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleUnwrapKeyAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleVerifyAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/SubtleWrapKeyAlpha1",
        "subtlecrypto.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/TerminateWorkflowAlpha1",
        "workflows.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/TerminateWorkflowBeta1",
        "workflows.v1beta1",
    ),
    ("/dapr.proto.runtime.v1.Dapr/TryLockAlpha1", "lock.v1alpha1"),
    (
        "/dapr.proto.runtime.v1.Dapr/UnlockAlpha1",
        "unlock.v1alpha1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/UnregisterActorReminder",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/UnregisterActorRemindersByType",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/UnregisterActorTimer",
        "actors.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/UnsubscribeConfiguration",
        "configuration.v1",
    ),
    (
        "/dapr.proto.runtime.v1.Dapr/UnsubscribeConfigurationAlpha1",
        "configuration.v1alpha1",
    ),
];

/// Where a method stands in [`METHODS`]; `None` when it is none of ours.
pub(crate) fn index(method: &str) -> Option<usize> {
    METHODS
        .binary_search_by(|(known, _)| (*known).cmp(method))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(METHODS.is_sorted());
        assert!(
            METHODS
                .iter()
                .all(|(method, _)| method.starts_with(SERVICE))
        );
        for (position, (method, _)) in METHODS.iter().enumerate() {
            assert_eq!(index(method), Some(position));
        }
        assert_eq!(index("/dapr.proto.runtime.v1.Dapr/Unknown"), None);
    }
}
