//! Where hyper runs the tasks of a connection to another sidecar. It begins a stream in one poll of the connection, lets
//! another task hand over the body, and writes that in the next: both leave in one record.

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
            flusher.drive_by_twos(task.as_mut()).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use dapr_security::gather;
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Incoming;
    use hyper::client::conn::http2 as client;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use parking_lot::Mutex;
    use tokio::io::duplex;
    use tokio_util::io::InspectWriter;

    use super::Flushing;

    const HEADERS: u8 = 1;
    const DATA: u8 = 0;

    /// Types of the frames of HTTP/2 in a write: three bytes of length, one of the type, five more, and the payload.
    fn frames(mut write: &[u8]) -> Vec<u8> {
        let mut types = Vec::new();
        while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = write {
            types.push(*kind);
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            write = rest.get(length..).unwrap_or_default();
        }
        types
    }

    #[tokio::test]
    async fn a_request_and_its_body_leave_in_one_write() {
        let (io, peer) = duplex(1 << 16);
        tokio::spawn(async move {
            let echo = service_fn(async |request: http::Request<Incoming>| {
                let body = request.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>(http::Response::new(Full::new(body)))
            });
            server::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(peer), echo)
                .await
        });
        let writes = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let seen = Arc::clone(&writes);
        let io = InspectWriter::new(io, move |bytes: &[u8]| seen.lock().push(bytes.to_vec()));
        let (gathered, flusher) = gather(io);
        let (mut sender, connection) = client::Builder::new(Flushing(flusher))
            .handshake::<_, Full<Bytes>>(TokioIo::new(gathered))
            .await
            .expect("a connection");
        tokio::spawn(connection);
        for body in ["settings go with the first", "second", "third"] {
            writes.lock().clear();
            let request = http::Request::post("http://orders/").body(Full::from(body));
            let answer = sender.send_request(request.expect("a request")).await;
            let answer = answer.expect("an answer").into_body().collect().await;
            assert_eq!(answer.expect("a body").to_bytes(), body);
            let types: Vec<Vec<u8>> = writes.lock().iter().map(|write| frames(write)).collect();
            // The first write of a connection begins with words that are no frame.
            if body != "settings go with the first" {
                assert_eq!(types.first(), Some(&vec![HEADERS, DATA]), "{types:?}");
            }
        }
    }
}
