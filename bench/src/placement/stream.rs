//! A gRPC stream with little work of its own: of a client that copies and grows as generated ones do, the rows would tell more
//! than of Placement.

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use dapr_proto::dapr::proto::placement::v1::Host;
use futures::StreamExt as _;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::{EncodeError, Message as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::{Service as _, ServiceExt as _};

const REPORT_DAPR_STATUS: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// No table waits for its reader. Clients of grpc-go make their windows as large by themselves.
const WINDOW: u32 = 1 << 20;
/// Whether it is compressed, and the length of a message, stand before it.
const PREFIX: usize = 5;
/// See `PIECE` of the server's writes.
const PIECE: usize = 2 << 10;

/// What Placement sends.
#[derive(Debug)]
pub struct Orders {
    body: Body,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were given out.
    taken: usize,
    /// The connection.
    _channel: Channel,
}

/// Opens a stream on a connection of its own, on which the queued messages leave.
pub async fn open(port: u16, messages: mpsc::Receiver<Host>) -> Result<Orders> {
    let mut channel = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect()
        .await?;
    let messages = ReceiverStream::new(messages).map(|host| frame(&host).map(Frame::data));
    let request = Request::post(REPORT_DAPR_STATUS)
        .header(header::TE, "trailers")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(Body::new(StreamBody::new(messages)))?;
    let response = channel.ready().await?.call(request).await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    Ok(Orders {
        body: response.into_body(),
        buffer: Vec::new(),
        taken: 0,
        _channel: channel,
    })
}

impl Orders {
    /// The next order; an error at the end of the stream, whatever it ended with.
    pub async fn next(&mut self) -> Result<&[u8]> {
        self.buffer.drain(..std::mem::take(&mut self.taken));
        let length = loop {
            if let Some(length) = whole(&self.buffer)? {
                break length;
            }
            let frame = self.body.frame().await.context("the stream ended")??;
            for piece in frame.into_data().unwrap_or_default().chunks(PIECE) {
                self.buffer.extend_from_slice(piece);
            }
        };
        self.taken = PREFIX + length;
        self.buffer
            .get(PREFIX..self.taken)
            .context("less than was counted")
    }
}

/// The length of the first message, once all of it is there.
fn whole(buffer: &[u8]) -> Result<Option<usize>> {
    let Some(([compressed, length @ ..], rest)) = buffer.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    ensure!(*compressed == 0, "a compressed order");
    let length = usize::try_from(u32::from_be_bytes(*length))?;
    Ok((rest.len() >= length).then_some(length))
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
        let length = host.encoded_len();
        for cut in 0..framed.len() {
            assert_eq!(whole(&framed[..cut]).expect("no error"), None, "{cut}");
        }
        let two = [&framed[..], &framed[..]].concat();
        assert_eq!(whole(&two).expect("no error"), Some(length));
        assert_eq!(Host::decode(&two[PREFIX..PREFIX + length]), Ok(host));
        assert!(whole(&[1, 0, 0, 0, 0]).is_err());
    }
}
