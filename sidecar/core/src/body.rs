//! Bodies on their way through the sidecar: frames are handed on as they come, never collected unless a
//! rule needs the whole.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Empty, Full};

/// Any error, as bodies and transports report them.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed body.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// No bytes.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// These bytes in one frame.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Reads a whole body of at most `limit` bytes; a body of one frame is not copied.
///
/// # Errors
/// What reading it failed with, or that it is longer than the limit.
pub async fn collect(mut body: Body, limit: usize) -> Result<Bytes, BoxError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.len() + rest.len() + data.len() > limit {
            return Err(format!("body is longer than {limit} bytes").into());
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            rest.extend_from_slice(&std::mem::take(&mut first));
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn frames(parts: &'static [&'static [u8]]) -> Body {
        let frames = parts
            .iter()
            .map(|part| Ok(http_body::Frame::data(Bytes::from_static(part))));
        StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
    }

    #[tokio::test]
    async fn frames_are_joined_up_to_the_limit() {
        assert_eq!(collect(empty(), 0).await.expect("fits"), "");
        assert_eq!(collect(full("abc"), 3).await.expect("fits"), "abc");
        assert_eq!(
            collect(frames(&[b"a", b"", b"bc", b"d"]), 4)
                .await
                .expect("fits"),
            "abcd"
        );
        assert!(collect(frames(&[b"ab", b"cd"]), 3).await.is_err());
    }
}
