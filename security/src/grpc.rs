//! What gRPC servers refuse by themselves, in the words of gRPC's Go library: callers and people know those.

use tonic::Status;

/// For a call of what is not there, on a server of one service.
pub fn unserved(path: &str, service: &str) -> Status {
    let called = path.strip_prefix('/').and_then(|it| it.rsplit_once('/'));
    Status::unimplemented(match called {
        Some((called, method)) if called == service => {
            format!("unknown method {method} for service {service}")
        }
        Some((called, _)) => format!("unknown service {called}"),
        None => format!("malformed method name: {path:?}"),
    })
}

/// For a message that could not be read; tonic has other codes and texts. Any other status stays.
pub fn unreadable(status: Status) -> Status {
    let text = status.message();
    if let Some(text) = size_error(text) {
        return Status::resource_exhausted(text);
    }
    match text.strip_prefix("failed to decode Protobuf message: ") {
        Some(reason) => Status::internal(format!(
            "grpc: failed to unmarshal the received message: {reason}"
        )),
        None => status,
    }
}

/// The text for a message over the limit, if tonic's text says that there was one. Its code is `ResourceExhausted`.
pub fn size_error(text: &str) -> Option<String> {
    let (verb, rest) = match text.strip_prefix("Error, decoded message length too large: found ") {
        Some(rest) => ("received message", rest),
        None => (
            "trying to send message",
            text.strip_prefix("Error, encoded message length too large: found ")?,
        ),
    };
    let (found, rest) = rest.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(format!(
        "grpc: {verb} larger than max ({found} vs. {limit})"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_is_not_served_is_named() {
        let check = |path: &str, expected: &str| {
            let status = unserved(path, "a.B");
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unimplemented, expected),
                "{path}"
            );
        };
        check("/a.B/Nope", "unknown method Nope for service a.B");
        check("/x.y/Z", "unknown service x.y");
        check("/a.B/Z/more", "unknown service a.B/Z");
        check("/x", r#"malformed method name: "/x""#);
        check("/", r#"malformed method name: "/""#);
    }

    #[test]
    fn what_cannot_be_read_reads_as_in_go() {
        let check = |status: Status, code: Code, text: &str| {
            let told = unreadable(status);
            assert_eq!((told.code(), told.message()), (code, text));
        };
        check(
            Status::out_of_range(
                "Error, decoded message length too large: found 10 bytes, the limit is: 4 bytes",
            ),
            Code::ResourceExhausted,
            "grpc: received message larger than max (10 vs. 4)",
        );
        check(
            Status::out_of_range(
                "Error, encoded message length too large: found 10 bytes, the limit is: 4 bytes",
            ),
            Code::ResourceExhausted,
            "grpc: trying to send message larger than max (10 vs. 4)",
        );
        check(
            Status::internal("failed to decode Protobuf message: invalid wire type"),
            Code::Internal,
            "grpc: failed to unmarshal the received message: invalid wire type",
        );
        check(
            Status::aborted("something else"),
            Code::Aborted,
            "something else",
        );
    }
}
