//! Where hyper runs the tasks of a connection to another sidecar: each sends at the end of a poll what it wrote in it.

use dapr_security::Flusher;
use hyper::rt::Executor;
use tokio::io::AsyncWrite;

/// Spawns on tokio. The tasks end with their connection.
pub(super) struct Flushing<T>(pub(super) Flusher<T>);

impl<T> Clone for Flushing<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, F> Executor<F> for Flushing<T>
where
    T: AsyncWrite + Unpin + Send + 'static,
    F: Future + Send + 'static,
{
    fn execute(&self, task: F) {
        let flusher = self.0.clone();
        // There are two of these tasks per request, and each has three kilobytes: in place they would be copied six
        // times until the task has ended.
        let mut task = Box::pin(task);
        tokio::spawn(async move {
            flusher.drive(task.as_mut()).await;
        });
    }
}
