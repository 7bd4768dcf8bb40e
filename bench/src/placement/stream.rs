//! A gRPC stream with little work of its own: of a client that copies, queues and wakes as general ones do, the rows would tell
//! more than of Placement.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use dapr_proto::dapr::proto::placement::v1::Host;
use h2::client::{Builder, Connection};
use h2::{RecvStream, SendStream};
use http::{Request, StatusCode, header};
use prost::{EncodeError, Message as _};
use tokio::net::TcpStream;

const REPORT_DAPR_STATUS: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// No table waits for its reader. Clients of grpc-go make their windows as large by themselves.
const WINDOW: u32 = 1 << 20;
/// Whether it is compressed, and the length of a message, stand before it.
const PREFIX: usize = 5;

/// A stream on a connection of its own, all in the task that reads it.
#[derive(Debug)]
pub struct Stream {
    connection: Connection<TcpStream>,
    hosts: SendStream<Bytes>,
    orders: RecvStream,
    unread: Unread,
}

/// What Placement sends, in the pieces it came in.
#[derive(Debug)]
pub struct Order(Vec<Bytes>);

impl Order {
    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Whether it is this one.
    pub fn is(&self, mut other: &[u8]) -> bool {
        self.0
            .iter()
            .all(|piece| match other.split_at_checked(piece.len()) {
                Some((begin, rest)) => {
                    other = rest;
                    begin == piece
                }
                None => false,
            })
            && other.is_empty()
    }
}

impl Stream {
    /// Opens a stream with the first message of a host.
    pub async fn open(port: u16, host: &Host) -> Result<Self> {
        let io = TcpStream::connect(("127.0.0.1", port)).await?;
        io.set_nodelay(true)?;
        let (mut requests, mut connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(io)
            .await?;
        let request = Request::post(format!("http://127.0.0.1:{port}{REPORT_DAPR_STATUS}"))
            .header(header::TE, "trailers")
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(())?;
        let (mut response, mut hosts) = requests.send_request(request, false)?;
        hosts.send_data(frame(host)?, false)?;
        let response = poll_fn(|cx| {
            poll_open(&mut connection, cx)?;
            Pin::new(&mut response)
                .poll(cx)
                .map_err(anyhow::Error::from)
        })
        .await?;
        ensure!(response.status() == StatusCode::OK, "{}", response.status());
        Ok(Self {
            connection,
            hosts,
            orders: response.into_body(),
            unread: Unread::default(),
        })
    }

    /// Queues a message, which leaves with the wait for the next order.
    pub fn send(&mut self, host: &Host) -> Result<()> {
        Ok(self.hosts.send_data(frame(host)?, false)?)
    }

    /// The next order; an error at the end of the stream, whatever it ended with.
    pub async fn next(&mut self) -> Result<Order> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Order>> {
        poll_open(&mut self.connection, cx)?;
        loop {
            if let Some(order) = self.unread.take()? {
                return Poll::Ready(Ok(order));
            }
            let piece = ready!(self.orders.poll_data(cx)).context("the stream ended")??;
            self.orders.flow_control().release_capacity(piece.len())?;
            self.unread.push(piece);
        }
    }
}

/// Reads and writes; an error if the connection is over.
fn poll_open(connection: &mut Connection<TcpStream>, cx: &mut Context<'_>) -> Result<()> {
    match Pin::new(connection).poll(cx) {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok(())) => bail!("the connection ended"),
        Poll::Ready(Err(error)) => Err(error.into()),
    }
}

/// Pieces of messages.
#[derive(Debug, Default)]
struct Unread {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

impl Unread {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The first message, once all of it is there.
    fn take(&mut self) -> Result<Option<Order>> {
        let Some([compressed, length @ ..]) = self.prefix() else {
            return Ok(None);
        };
        ensure!(compressed == 0, "a compressed order");
        let length = usize::try_from(u32::from_be_bytes(length))?;
        if self.bytes < PREFIX + length {
            return Ok(None);
        }
        self.cut(PREFIX);
        Ok(Some(Order(self.cut(length))))
    }

    fn prefix(&self) -> Option<[u8; PREFIX]> {
        let mut bytes = self.pieces.iter().flatten().copied();
        let mut prefix = [0; PREFIX];
        for place in &mut prefix {
            *place = bytes.next()?;
        }
        Some(prefix)
    }

    /// Takes so many bytes away, which are there.
    fn cut(&mut self, mut length: usize) -> Vec<Bytes> {
        let mut cut = Vec::new();
        self.bytes -= length;
        while length > 0
            && let Some(piece) = self.pieces.front_mut()
        {
            let part = piece.split_to(length.min(piece.len()));
            if !piece.has_remaining() {
                self.pieces.pop_front();
            }
            length -= part.len();
            cut.push(part);
        }
        cut
    }
}

fn frame(host: &Host) -> Result<Bytes, EncodeError> {
    let length = host.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    host.encode(&mut frame)?;
    Ok(frame.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_when_all_of_it_is_there() {
        let host = Host {
            id: "app".to_owned(),
            ..Host::default()
        };
        let framed = frame(&host).expect("room");
        let message = host.encode_to_vec();
        let two = Bytes::from([&framed[..], &framed[..]].concat());
        for size in 1..two.len() {
            let mut unread = Unread::default();
            let mut orders = Vec::new();
            let mut given = 0;
            for piece in two.chunks(size) {
                unread.push(Bytes::copy_from_slice(piece));
                given += piece.len();
                orders.extend(std::iter::from_fn(|| unread.take().expect("no error")));
                assert_eq!(orders.len(), given / framed.len(), "{given} in {size}");
            }
            for order in orders {
                assert_eq!(order.to_vec(), message);
                assert_eq!(order.bytes(), message.len());
                assert!(order.is(&message));
                assert!(!order.is(&message[1..]) && !order.is(&[&message[..], b"x"].concat()));
            }
            assert_eq!(unread.bytes, 0);
        }
        let mut unread = Unread::default();
        unread.push(Bytes::from_static(&[1, 0, 0, 0, 0]));
        assert!(unread.take().is_err());
    }
}
