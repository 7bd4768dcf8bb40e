//! Listening sockets: bound before anything is spawned, so a bad port fails the start with a text that helps.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

/// How long [`bind_with_retry`] keeps trying.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// The first and the longest pause between two of its attempts.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));
/// Connections that may wait to be accepted; the kernel lowers it to its own limit, usually the same. With the 128 of the
/// standard library, most of a thousand sidecars that start at once would be turned away and try again a second later.
const BACKLOG: u32 = 4096;

/// Where to listen, and which flag says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The flag that carries the port, with its dashes; errors tell the user to change it.
    pub flag: &'static str,
    /// An IP address or host name. Empty or an unspecified address means every interface, IPv4 and IPv6.
    pub address: String,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint on `address` whose port comes from `flag` (with its dashes).
    pub fn new(flag: &'static str, address: impl Into<String>, port: u16) -> Self {
        Self {
            flag,
            address: address.into(),
            port,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.parse::<IpAddr>() {
            Ok(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
            Err(_) => write!(f, "{}:{}", self.address, self.port),
        }
    }
}

/// The listener could not be had; names the address, the flag and what to do.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {endpoint}: free the port or give another one with {}", endpoint.flag)]
pub struct Error {
    /// Where it was tried.
    pub endpoint: Endpoint,
    /// What the system answered.
    #[source]
    pub source: io::Error,
}

/// Binds the endpoint once.
pub async fn bind(endpoint: &Endpoint) -> Result<TcpListener, Error> {
    attempt(endpoint).await.map_err(|source| Error {
        endpoint: endpoint.clone(),
        source,
    })
}

/// Binds the endpoint, trying again for up to 10 s with pauses growing from 100 to 500 ms: a predecessor in the
/// same pod or process may need a moment to let go of the port.
pub async fn bind_with_retry(endpoint: &Endpoint) -> Result<TcpListener, Error> {
    let deadline = Instant::now() + RETRY_LIMIT;
    let (mut pause, longest) = RETRY_PAUSES;
    loop {
        let error = match bind(endpoint).await {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        tracing::debug!(error = %error.source, "listening on {endpoint} failed, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(longest);
    }
}

async fn attempt(endpoint: &Endpoint) -> io::Result<TcpListener> {
    let port = endpoint.port;
    if is_every_interface(&endpoint.address) {
        // One IPv6 socket takes both families; hosts without IPv6 have only the other kind.
        return match listen((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(error) if !is_taken(&error) => listen((Ipv4Addr::UNSPECIFIED, port).into()),
            result => result,
        };
    }
    let address = endpoint
        .address
        .trim_start_matches('[')
        .trim_end_matches(']');
    let mut resolved: Vec<SocketAddr> = tokio::net::lookup_host((address, port)).await?.collect();
    // Of a name with both families the IPv4 address is taken first, as clients of `localhost` expect.
    resolved.sort_by_key(SocketAddr::is_ipv6);
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in resolved {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // The port of a predecessor whose connections are still fading away may be taken.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn is_every_interface(address: &str) -> bool {
    address.is_empty()
        || address
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified())
}

fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, RETRY_LIMIT, bind, bind_with_retry};

    #[tokio::test]
    async fn every_interface_includes_ipv4() {
        for address in ["", "0.0.0.0", "::"] {
            let listener = bind(&Endpoint::new("--port", address, 0))
                .await
                .expect("a free port");
            let port = listener.local_addr().expect("bound").port();
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .expect("IPv4 reaches it");
        }
    }

    #[tokio::test]
    async fn names_and_literals_bind_where_they_say() {
        for address in ["localhost", "127.0.0.1"] {
            let listener = bind(&Endpoint::new("--port", address, 0))
                .await
                .expect("a free port");
            assert!(
                listener.local_addr().expect("bound").ip().is_loopback(),
                "{address}"
            );
        }
    }

    #[tokio::test]
    async fn a_taken_port_names_address_flag_and_remedy() {
        let first = bind(&Endpoint::new("--port", "127.0.0.1", 0))
            .await
            .expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let error = bind(&Endpoint::new("--healthz-port", "127.0.0.1", port))
            .await
            .expect_err("taken");
        assert_eq!(
            error.to_string(),
            format!(
                "failed to listen on 127.0.0.1:{port}: free the port or give another one with --healthz-port"
            )
        );
        let error = bind(&Endpoint::new("--healthz-port", "", port))
            .await
            .expect_err("taken on one interface");
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_crowd_may_wait_to_be_accepted() {
        const CROWD: usize = 400;
        let limit = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
        if limit
            .trim()
            .parse::<usize>()
            .is_ok_and(|limit| limit < CROWD)
        {
            println!("skipped: the kernel lets only {} wait", limit.trim());
            return;
        }
        let listener = bind(&Endpoint::new("--port", "127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut waiting = Vec::new();
        for number in 0..CROWD {
            let connection = tokio::net::TcpStream::connect(address);
            let connection = tokio::time::timeout(RETRY_LIMIT, connection).await;
            waiting.push(connection.unwrap_or_else(|_| panic!("{number} wait already")));
        }
        assert!(waiting.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn a_taken_port_is_tried_for_ten_seconds() {
        let first = bind(&Endpoint::new("--port", "127.0.0.1", 0))
            .await
            .expect("a free port");
        let port = first.local_addr().expect("bound").port();
        let start = tokio::time::Instant::now();
        bind_with_retry(&Endpoint::new("--port", "127.0.0.1", port))
            .await
            .expect_err("taken throughout");
        let taken = start.elapsed().as_millis();
        assert!((9_500..=10_000).contains(&taken), "{taken} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_becomes_free_is_taken() {
        let first = bind(&Endpoint::new("--port", "127.0.0.1", 0))
            .await
            .expect("a free port");
        let endpoint = Endpoint::new(
            "--port",
            "127.0.0.1",
            first.local_addr().expect("bound").port(),
        );
        let (listener, ()) = tokio::join!(bind_with_retry(&endpoint), async {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            drop(first);
        });
        listener.expect("free after two seconds");
    }
}
