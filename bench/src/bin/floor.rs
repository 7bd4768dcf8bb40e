//! What HTTP libraries need for what daprd, the operator and Sentry do, used as their documentation shows: the same hops,
//! streams and connections over TLS, and nothing else. What `bench floor` measures, so that figures can be read beside it.
//!
//! - `floor caller <port> <peer's port> <folder>`: HTTP/1.1 in, HTTP/2 over mutual TLS out.
//! - `floor callee <port> <application's port> <folder>`: the other way round.
//! - `floor streams <port> <port of orders> <folder>`: HTTP/2 over mutual TLS; whoever connects to the port of orders makes it
//!   send one message on every stream.
//! - `floor rounds <port of orders> <port> <folder>`: plain sockets without any library; whoever connects to the port of orders
//!   and writes the size of a table makes it send three orders to everybody as Placement does, each when all have answered
//!   the one before. It does nothing else, so that this is a lower bound.
//! - `floor answers <port> 0 <folder>`: HTTP/2 over TLS without a certificate of the client; each request gets one message.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use dapr_bench::floor::{ANSWER, BARE_ORDER, MESSAGE, identity::Identity};
use futures::StreamExt as _;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1 as http1_client, http2 as http2_client};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::WatchStream;

// As the programs it stands beside.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As daprd's, which are large enough that no body of the load waits for a window.
const WINDOW: u32 = 1 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a crypto provider is installed twice")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, port, other, folder] = arguments.as_slice() else {
        bail!("floor caller|callee|streams|rounds|answers <port> <other port> <folder>");
    };
    let (port, other): (u16, u16) = (port.parse()?, other.parse()?);
    let identity = Identity::read(Path::new(folder))?;
    match role.as_str() {
        "caller" => caller(port, other, &identity).await,
        "callee" => callee(port, other, &identity).await,
        "streams" => streams(port, other, &identity).await,
        "rounds" => rounds(other, port),
        "answers" => answers(port, &identity).await,
        other => bail!("there is no {other}"),
    }
}

async fn caller(port: u16, peer: u16, identity: &Identity) -> Result<()> {
    let listener = listen(port)?;
    let stream = connect(peer).await?;
    let stream = TlsConnector::from(identity.client()?)
        .connect(Identity::name()?, stream)
        .await?;
    let (sender, connection) = http2_client::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(connection);
    let target = Uri::from_static("http://callee/echo");
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (sender, target) = (sender.clone(), target.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let mut sender = sender.clone();
            let (mut head, body) = request.into_parts();
            head.uri = target.clone();
            head.version = http::Version::HTTP_2;
            head.headers.remove(header::HOST);
            async move { sender.send_request(Request::from_parts(head, body)).await }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Connections to an application that wait for a request.
type Idle = Arc<Mutex<VecDeque<http1_client::SendRequest<Incoming>>>>;

async fn callee(port: u16, app: u16, identity: &Identity) -> Result<()> {
    let listener = listen(port)?;
    let acceptor = TlsAcceptor::from(identity.server()?);
    let idle = Idle::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, idle) = (acceptor.clone(), Arc::clone(&idle));
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(move |request| forward(app, Arc::clone(&idle), request));
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(WINDOW)
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            anyhow::Ok(())
        });
    }
}

async fn forward(app: u16, idle: Idle, request: Request<Incoming>) -> Result<Response<Incoming>> {
    let ready = {
        let mut idle = idle.lock();
        let at = idle.iter().position(http1_client::SendRequest::is_ready);
        at.and_then(|at| idle.remove(at))
    };
    let mut sender = match ready {
        Some(sender) => sender,
        None => {
            let stream = TokioIo::new(connect(app).await?);
            let (sender, connection) = http1_client::handshake(stream).await?;
            tokio::spawn(connection);
            sender
        }
    };
    let (mut head, body) = request.into_parts();
    head.uri = Uri::from_static("/echo");
    head.version = http::Version::HTTP_11;
    head.headers
        .insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let response = sender.send_request(Request::from_parts(head, body)).await?;
    idle.lock().push_back(sender);
    Ok(response)
}

async fn streams(port: u16, orders: u16, identity: &Identity) -> Result<()> {
    let (listener, orders) = (listen(port)?, listen(orders)?);
    let acceptor = TlsAcceptor::from(identity.server()?);
    let (order, told) = watch::channel(());
    tokio::spawn(async move {
        while orders.accept().await.is_ok() {
            order.send_replace(());
        }
    });
    let message = Bytes::from(vec![b'x'; MESSAGE]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, told, message) = (acceptor.clone(), told.clone(), message.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(move |_: Request<Incoming>| {
                let message = message.clone();
                let messages = WatchStream::from_changes(told.clone())
                    .map(move |()| Ok::<_, Infallible>(Frame::data(message.clone())));
                async move { Ok::<_, Infallible>(Response::new(StreamBody::new(messages))) }
            });
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            anyhow::Ok(())
        });
    }
}

/// Blocks its thread, which has nothing else to do: it reads in the order it wrote, which needs no other system call.
fn rounds(port: u16, orders: u16) -> Result<()> {
    let (listener, orders) = (listen(port)?.into_std()?, listen(orders)?.into_std()?);
    orders.set_nonblocking(false)?;
    let mut streams = Vec::new();
    let bare = [b'x'; BARE_ORDER];
    let mut answer = [0; ANSWER];
    loop {
        let (mut order, _) = orders.accept()?;
        let mut size = [0; 4];
        // A connection that says nothing asks whether somebody listens.
        if order.read_exact(&mut size).is_err() {
            continue;
        }
        let table = vec![b'x'; usize::try_from(u32::from_be_bytes(size))?];
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    stream.set_nodelay(true)?;
                    // No write waits for its reader.
                    socket2::SockRef::from(&stream).set_send_buffer_size(2 * table.len())?;
                    streams.push(stream);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        for order in [&bare[..], &table, &bare] {
            for stream in &mut streams {
                stream.write_all(order)?;
            }
            for stream in &mut streams {
                stream.read_exact(&mut answer)?;
            }
        }
    }
}

async fn answers(port: u16, identity: &Identity) -> Result<()> {
    let listener = listen(port)?;
    let acceptor = TlsAcceptor::from(identity.server_to_anybody()?);
    let message = Bytes::from(vec![b'x'; MESSAGE]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (acceptor, message) = (acceptor.clone(), message.clone());
        tokio::spawn(async move {
            let stream = acceptor.accept(stream).await?;
            let service = service_fn(move |request: Request<Incoming>| {
                let message = message.clone();
                async move {
                    request.into_body().collect().await?;
                    Ok::<_, hyper::Error>(Response::new(Full::new(message)))
                }
            });
            http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await?;
            anyhow::Ok(())
        });
    }
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket.listen(4096)?)
}

async fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
