//! The text of a request to an application or a server that was not answered.

use http::{Method, Uri};

/// The text Go's client has for a failed request, which upstream's callers see: `Get "<url>": <reason>`.
pub(super) fn text(verb: &Method, uri: &Uri, error: &(dyn std::error::Error + 'static)) -> String {
    let verb = verb.as_str();
    let verb = format!(
        "{}{}",
        &verb[..verb.len().min(1)],
        verb.get(1..).unwrap_or_default().to_lowercase()
    );
    let address = uri.authority().map(ToString::to_string).unwrap_or_default();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut reason = None;
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<std::io::Error>() {
            reason = Some(match io.kind() {
                std::io::ErrorKind::ConnectionRefused => {
                    format!("dial tcp {address}: connect: connection refused")
                }
                std::io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
                _ => io.to_string(),
            });
        } else if let Some(hyper) = current.downcast_ref::<hyper::Error>()
            && hyper.is_incomplete_message()
        {
            reason = Some("EOF".to_owned());
        } else if reason.is_none() && current.source().is_none() {
            reason = Some(current.to_string());
        }
        cause = current.source();
    }
    format!("{verb} \"{uri}\": {}", reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn failures_read_as_gos_do() {
        let check = |error: io::Error, expected: &str| {
            let uri = Uri::from_static("http://127.0.0.1:3000/x");
            assert_eq!(text(&Method::GET, &uri, &error), expected);
        };
        let refused = io::ErrorKind::ConnectionRefused.into();
        check(
            refused,
            "Get \"http://127.0.0.1:3000/x\": dial tcp 127.0.0.1:3000: connect: connection refused",
        );
        check(
            io::ErrorKind::ConnectionReset.into(),
            "Get \"http://127.0.0.1:3000/x\": read: connection reset by peer",
        );
        check(
            io::Error::other("odd"),
            "Get \"http://127.0.0.1:3000/x\": odd",
        );
    }
}
