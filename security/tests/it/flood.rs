use std::time::Duration;

use dapr_security::{Acceptor, Expect, ServerOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::authority::Authority;
use crate::service::{ask, dial, server_with};

const ID: &str = "spiffe://public/ns/default/orders";
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn silent_and_babbling_clients_stall_nobody() {
    let (security, _keep) = Authority::new().security(ID);
    let server = server_with(Acceptor::Mutual(security.clone()), ServerOptions::default()).await;
    let mut clients = Vec::new();
    for number in 0..200u32 {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        if number % 2 == 0 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        clients.push(client);
    }
    let connector = security.connector(Expect::Path {
        namespace: "default".to_owned(),
        app_id: "orders".to_owned(),
    });
    let mut client = timeout(SOON, dial(server.address, connector))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(timeout(SOON, ask(&mut client)).await.unwrap().unwrap(), ID);
}

#[tokio::test]
async fn more_silent_clients_than_handshakes_stall_nobody() {
    let (security, _keep) = Authority::new().security(ID);
    let options = ServerOptions {
        handshake_timeout: SOON * 10,
        max_handshakes: 4,
        ..Default::default()
    };
    let server = server_with(Acceptor::Mutual(security.clone()), options).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    let connector = security.connector(Expect::Id(security.spiffe_id().unwrap()));
    let mut client = timeout(SOON, dial(server.address, connector))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(timeout(SOON, ask(&mut client)).await.unwrap().unwrap(), ID);
    // The oldest was ended long before its time.
    let ended = timeout(SOON, silent[0].read(&mut [0])).await.unwrap();
    assert!(ended.is_err() || ended.is_ok_and(|length| length == 0));
}

#[tokio::test]
async fn more_connections_than_the_limit_wait_until_one_ends() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let options = ServerOptions {
        max_connections: Some(2),
        ..Default::default()
    };
    let server = server_with(Acceptor::PlainWeb, options).await;
    let connect = async || TcpStream::connect(server.address).await.unwrap();
    let answer = async |stream: &mut TcpStream| {
        let mut status = [0; b"HTTP/1.1 ".len()];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 ");
    };
    let (mut first, mut second) = (connect().await, connect().await);
    for stream in [&mut first, &mut second] {
        stream.write_all(GET).await.unwrap();
        timeout(SOON, answer(stream)).await.unwrap();
    }
    let mut third = connect().await;
    third.write_all(GET).await.unwrap();
    let early = timeout(Duration::from_millis(300), third.read_u8()).await;
    assert!(early.is_err(), "there is no room for it");
    drop(first);
    timeout(SOON, answer(&mut third)).await.unwrap();
}
