//! Applications that speak gRPC, called by name.

use anyhow::{Context as _, Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::{ControlPlane, Sidecar};
use dapr_proto::dapr::proto::common::v1::http_extension::Verb;
use dapr_proto::dapr::proto::common::v1::{HttpExtension, InvokeRequest, InvokeResponse};
use dapr_proto::dapr::proto::runtime::v1::InvokeServiceRequest;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::support::{Answer, App, Deed, GrpcApp, LIMIT, Stage, dapr, fetch, refused, story};

/// A trace that came from elsewhere; without a tracing configuration it is passed on as it is.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A caller without application and a callee that speaks gRPC.
struct Pair {
    caller: Sidecar,
    caller_id: String,
    callee: Sidecar,
    callee_id: String,
    app: GrpcApp,
    _control_plane: ControlPlane,
}

impl Pair {
    async fn start(stage: &Stage, flags: &[&str]) -> Result<Self> {
        let control_plane = stage.control_plane(0).await?;
        let app = GrpcApp::start(Deed {
            invoke,
            ..Deed::default()
        })
        .await?;
        let (caller_id, callee_id) = (stage.id("caller"), stage.id("callee"));
        let mut spec = stage.spec(&callee_id, None);
        spec.app_port = Some(app.port());
        spec.flags = vec!["--app-protocol=grpc".to_owned()];
        spec.flags
            .extend(flags.iter().map(|flag| (*flag).to_owned()));
        spec.environment
            .insert("APP_API_TOKEN".to_owned(), "for-the-app".to_owned());
        let callee = stage.sidecar(&spec, Some(&control_plane)).await?;
        let caller = stage
            .sidecar(&stage.spec(&caller_id, None), Some(&control_plane))
            .await?;
        Ok(Self {
            caller,
            caller_id,
            callee,
            callee_id,
            app,
            _control_plane: control_plane,
        })
    }

    fn url(&self, method: &str) -> String {
        self.caller
            .url(&format!("invoke/{}/method/{method}", self.callee_id))
    }
}

/// `status/<code>` fails with that code, everything else is echoed.
fn invoke(call: InvokeRequest) -> Result<Response<InvokeResponse>, Status> {
    if let Some(code) = call.method.strip_prefix("status/") {
        let code = code.parse::<i32>().unwrap_or_default();
        return Err(Status::new(Code::from_i32(code), format!("code {code}")));
    }
    let mut response = Response::new(InvokeResponse {
        data: call.data,
        content_type: "text/custom".to_owned(),
    });
    let yes = MetadataValue::from_static("yes");
    response.metadata_mut().insert("x-answer", yes);
    Ok(response)
}

fn service_call(app_id: &str, method: &str) -> Request<InvokeServiceRequest> {
    let data = prost_types::Any {
        type_url: String::new(),
        value: b"hello".to_vec(),
    };
    let mut request = Request::new(InvokeServiceRequest {
        id: app_id.to_owned(),
        message: Some(InvokeRequest {
            method: method.to_owned(),
            data: Some(data),
            content_type: "text/plain".to_owned(),
            http_extension: Some(HttpExtension {
                verb: Verb::Put.into(),
                querystring: "item=tea".to_owned(),
            }),
        }),
    });
    let one = MetadataValue::from_static("one");
    request.metadata_mut().insert("x-custom", one);
    let raw = MetadataValue::from_bytes(&[0, 1, 255]);
    request.metadata_mut().insert_bin("x-raw-bin", raw);
    request
}

#[test]
fn a_grpc_application_is_called_over_both_apis() {
    story("grpc-app-calls", async |stage| {
        let pair = Pair::start(stage, &[]).await?;
        let response = dapr(&pair.caller)
            .await?
            .invoke_service(service_call(&pair.callee_id, "over/grpc"))
            .await?;
        let text = |metadata: &tonic::metadata::MetadataMap, name: &str| {
            let value = metadata.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        assert_eq!(text(response.metadata(), "x-answer"), "yes");
        let answer = response.into_inner();
        assert_eq!(answer.content_type, "text/custom");
        assert_eq!(answer.data.unwrap_or_default().value, b"hello");
        let calls = pair.app.calls("over/grpc");
        assert_eq!(calls.len(), 1);
        let (metadata, message) = &calls[0];
        assert_eq!(text(metadata, "x-custom"), "one");
        let raw = metadata.get_bin("x-raw-bin");
        let raw = raw.context("the binary metadata is gone")?.to_bytes()?;
        assert_eq!(&raw[..], [0, 1, 255]);
        assert_eq!(text(metadata, "dapr-authority"), "");
        assert_eq!(text(metadata, "dapr-caller-app-id"), pair.caller_id);
        assert_eq!(text(metadata, "dapr-api-token"), "for-the-app");
        assert_eq!(text(metadata, "destination-app-id"), "");
        let extension = message.http_extension.clone().unwrap_or_default();
        assert_eq!(
            (extension.verb(), extension.querystring.as_str()),
            (Verb::Put, "item=tea")
        );

        let request = stage
            .http
            .post(pair.url("over/http?item=tea"))
            .header("x-custom", "one")
            .header("accept", "text/custom")
            .header("traceparent", TRACE)
            .header("x-raw-bin", "AAA=")
            .header("content-type", "text/plain")
            .body("hello");
        let reply = fetch(request).await?.expect(200)?;
        assert_eq!(
            (reply.body.as_str(), reply.header("content-type")),
            ("hello", "text/custom")
        );
        assert_eq!(reply.header("x-answer"), "yes");
        let calls = pair.app.calls("over/http");
        assert_eq!(calls.len(), 1);
        let (metadata, message) = &calls[0];
        assert_eq!(text(metadata, "x-custom"), "one");
        assert_eq!(text(metadata, "dapr-accept"), "text/custom");
        assert_eq!(text(metadata, "accept"), "");
        assert_eq!(text(metadata, "dapr-api-token"), "for-the-app");
        assert_eq!(text(metadata, "traceparent"), TRACE);
        // To an HTTP caller it is a text like any other.
        let raw = metadata.get_bin("x-raw-bin");
        let raw = raw.context("the binary header is gone")?.to_bytes()?;
        assert_eq!(&raw[..], b"AAA=");
        assert_eq!(message.content_type, "text/plain");
        let extension = message.http_extension.clone().unwrap_or_default();
        assert_eq!(
            (extension.verb(), extension.querystring.as_str()),
            (Verb::Post, "item=tea")
        );
        Ok(())
    });
}

#[test]
fn the_status_of_a_grpc_application_reaches_both_callers() {
    story("grpc-app-status", async |stage| {
        let pair = Pair::start(stage, &[]).await?;
        let mut client = dapr(&pair.caller).await?;
        let expected = [
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
            (Code::Unimplemented, 501),
            (Code::Internal, 500),
            (Code::Unavailable, 503),
        ];
        for (code, http) in expected {
            let method = format!("status/{}", code as i32);
            let call = service_call(&pair.callee_id, &method);
            let status = refused(client.invoke_service(call).await, code)?;
            assert_eq!(status.message(), format!("code {}", code as i32));
            let reply = fetch(stage.http.post(pair.url(&method)))
                .await?
                .expect(http)?;
            let body = reply.json()?;
            assert_eq!(body["code"], code as i32, "{body}");
            assert_eq!(body["message"], format!("code {}", code as i32), "{body}");
        }
        Ok(())
    });
}

#[test]
fn the_status_of_an_http_application_reaches_a_grpc_caller() {
    story("grpc-to-http", async |stage| {
        let app = App::start(|request| match request.path.as_str() {
            "/made" => Answer::status(201).with_body("made"),
            "/gone" => Answer::status(404).with_body("no such order"),
            _ => Answer::status(404),
        })
        .await?;
        let id = stage.id("shop");
        let sidecar = stage.sidecar(&stage.spec(&id, Some(&app)), None).await?;
        // One call of the own application, one through another sidecar.
        let caller = stage.spec(&stage.id("caller"), None);
        let caller = stage.sidecar(&caller, None).await?;
        for (made, sidecar) in [&caller, &sidecar].into_iter().enumerate() {
            let mut call = service_call(&id, "made");
            let mut binary = [0; 29];
            // As `TRACE`, in the form of gRPC.
            let trace = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128;
            binary[2..18].copy_from_slice(&trace.to_be_bytes());
            binary[18] = 1;
            binary[19..27].copy_from_slice(&0xb7ad_6b71_6920_3331_u64.to_be_bytes());
            (binary[27], binary[28]) = (2, 1);
            let binary = MetadataValue::from_bytes(&binary);
            call.metadata_mut().insert_bin("grpc-trace-bin", binary);
            dapr(sidecar).await?.invoke_service(call).await?;
            let seen = &app.seen("/made")[made];
            assert_eq!(seen.header("traceparent"), TRACE, "{made}");
            let authority = format!("127.0.0.1:{}", sidecar.grpc_port);
            assert_eq!(seen.header("dapr-authority"), authority, "{made}");
            assert_eq!(seen.header("x-raw-bin"), "", "{made}");
        }
        let mut client = dapr(&sidecar).await?;
        let response = client.invoke_service(service_call(&id, "made")).await?;
        let status = response.metadata().get("dapr-http-status");
        assert_eq!(status.map(|status| status.as_bytes()), Some(&b"201"[..]));
        let data = response.into_inner().data.unwrap_or_default();
        assert_eq!(data.value, b"made");
        assert_eq!(app.seen("/made")[0].method, "PUT");

        let failed = client.invoke_service(service_call(&id, "gone")).await;
        let status = refused(failed, Code::NotFound)?;
        assert_eq!(status.message(), "Not Found");
        let http = status.metadata().get("dapr-http-status");
        assert_eq!(http.map(|status| status.as_bytes()), Some(&b"404"[..]));
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("no such order"), "{details}");
        Ok(())
    });
}

#[test]
fn an_ill_grpc_application_is_not_called() {
    story("grpc-app-health", async |stage| {
        let flags = [
            "--enable-app-health-check",
            "--app-health-probe-interval=1",
            "--app-health-threshold=1",
        ];
        let pair = Pair::start(stage, &flags).await?;
        let caller = dapr(&pair.caller).await?;
        let call = async || {
            let mut caller = caller.clone();
            caller
                .invoke_service(service_call(&pair.callee_id, "order"))
                .await
        };
        await_condition("the application is called", LIMIT, || async {
            Ok(call().await?)
        })
        .await?;
        pair.app.set_ill(true);
        let status = await_condition("calls are refused", LIMIT, || async {
            refused(call().await, Code::Internal)
        })
        .await?;
        ensure!(
            status.message().contains("app is not in a healthy state"),
            "{status:?}"
        );
        let calls = pair.app.calls("order").len();
        let url = pair
            .callee
            .url(&format!("invoke/{}/method/order", pair.callee_id));
        let message = fetch(stage.http.post(url))
            .await?
            .refusal(500, "ERR_DIRECT_INVOKE")?;
        assert!(
            message.contains("app is not in a healthy state"),
            "{message}"
        );
        assert_eq!(
            pair.app.calls("order").len(),
            calls,
            "an ill one was called"
        );
        pair.app.set_ill(false);
        await_condition("the application is called again", LIMIT, || async {
            Ok(call().await?)
        })
        .await?;
        Ok(())
    });
}
