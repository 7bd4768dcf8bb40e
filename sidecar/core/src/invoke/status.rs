//! Between gRPC codes and HTTP statuses; neither table is the inverse of the other.

use http::StatusCode;

use crate::rpc::Code;

/// The HTTP status an HTTP caller gets for a gRPC code.
pub fn to_http(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            StatusCode::BAD_REQUEST
        }
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The gRPC code a gRPC caller gets for an HTTP status.
pub fn to_grpc(status: StatusCode) -> Code {
    match status.as_u16() {
        200..=299 => Code::Ok,
        408 => Code::Cancelled,
        500 => Code::Unknown,
        400 => Code::Internal,
        504 => Code::DeadlineExceeded,
        404 => Code::NotFound,
        409 => Code::AlreadyExists,
        403 => Code::PermissionDenied,
        401 => Code::Unauthenticated,
        429 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        503 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

/// The text Go has for an HTTP status, which callers know; empty for numbers without one.
pub fn text(status: StatusCode) -> &'static str {
    match status.as_u16() {
        413 => "Request Entity Too Large",
        414 => "Request URI Too Long",
        416 => "Requested Range Not Satisfiable",
        _ => status.canonical_reason().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_to_http() {
        let table = [
            (Code::Ok, 200),
            (Code::Cancelled, 408),
            (Code::Unknown, 500),
            (Code::InvalidArgument, 400),
            (Code::DeadlineExceeded, 504),
            (Code::NotFound, 404),
            (Code::AlreadyExists, 409),
            (Code::PermissionDenied, 403),
            (Code::Unauthenticated, 401),
            (Code::ResourceExhausted, 429),
            (Code::FailedPrecondition, 400),
            (Code::Aborted, 409),
            (Code::OutOfRange, 400),
            (Code::Unimplemented, 501),
            (Code::Internal, 500),
            (Code::DataLoss, 500),
            (Code::Unavailable, 503),
        ];
        for (code, status) in table {
            assert_eq!(to_http(code).as_u16(), status, "{code:?}");
        }
    }

    #[test]
    fn texts_are_those_callers_know() {
        assert_eq!(text(StatusCode::NOT_FOUND), "Not Found");
        assert_eq!(
            text(StatusCode::PAYLOAD_TOO_LARGE),
            "Request Entity Too Large"
        );
        assert_eq!(text(StatusCode::from_u16(799).expect("a status")), "");
    }

    #[test]
    fn http_to_grpc() {
        let table = [
            (200, Code::Ok),
            (204, Code::Ok),
            (408, Code::Cancelled),
            (500, Code::Unknown),
            (400, Code::Internal),
            (504, Code::DeadlineExceeded),
            (404, Code::NotFound),
            (409, Code::AlreadyExists),
            (403, Code::PermissionDenied),
            (401, Code::Unauthenticated),
            (429, Code::ResourceExhausted),
            (501, Code::Unimplemented),
            (503, Code::Unavailable),
            (302, Code::Unknown),
            (418, Code::Unknown),
        ];
        for (status, code) in table {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(to_grpc(status), code, "{status}");
        }
    }
}
