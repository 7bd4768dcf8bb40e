//! Whether the injector is reached through its Service, as the API server reaches it.
//!
//! An injector that is ready is not reached yet: the nodes hear of it up to a second later, and until then the API server
//! lets pods pass without their sidecar. So the operator of a new installation is ready when its injector is reached, and
//! whoever waited for both can go on. A start waits only so long: without an injector everything else goes on.

use std::time::Duration;

use dapr_kit::health::Target;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a start waits.
const LIMIT: Duration = Duration::from_secs(15);
/// Between two looks, and how long one takes.
const PAUSE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(500);

/// Waits until there is somebody at the injector's Service, which then counts for good.
pub(super) async fn await_reached(service: &(String, u16), target: Target) {
    let (host, port) = service;
    let reached = async {
        while !is_there(TcpStream::connect((host.as_str(), *port))).await {
            sleep(PAUSE).await;
        }
    };
    if timeout(LIMIT, reached).await.is_err() {
        tracing::warn!(
            service = format!("{host}:{port}"),
            "the injector is not reached: pods that start now have no sidecar"
        );
    }
    target.ready();
}

async fn is_there<T>(connection: impl Future<Output = std::io::Result<T>>) -> bool {
    matches!(timeout(LOOK, connection).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use dapr_kit::health::Health;
    use tokio::net::TcpListener;

    use super::*;

    async fn free() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address")
    }

    #[tokio::test]
    async fn ready_when_somebody_is_there() {
        let health = Health::new();
        let target = health.target("injector");
        let address = free().await;
        let service = (address.ip().to_string(), address.port());
        let mut waiting = std::pin::pin!(await_reached(&service, target));
        timeout(3 * PAUSE, waiting.as_mut())
            .await
            .expect_err("nobody is there");
        assert_eq!(health.unready(), ["injector"]);
        let listener = TcpListener::bind(address).await.expect("the port");
        timeout(LIMIT, waiting).await.expect("in time");
        assert!(health.is_ready());
        drop(listener);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_only_so_long() {
        let health = Health::new();
        let target = health.target("injector");
        let began = tokio::time::Instant::now();
        let address = free().await;
        await_reached(&(address.ip().to_string(), address.port()), target).await;
        assert!(health.is_ready());
        assert!(began.elapsed() >= LIMIT);
        let never = std::future::pending::<std::io::Result<()>>();
        assert!(!is_there(never).await);
    }
}
