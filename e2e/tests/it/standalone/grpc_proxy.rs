//! Calls of services Dapr does not know, carried from sidecar to sidecar.

use std::collections::HashMap;

use anyhow::Context as _;
use futures::StreamExt as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::metadata::MetadataMap;

use crate::support::{App, Deed, EchoClient, GrpcApp, connect, refused, resiliency, story};

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> &'a str {
    let value = metadata.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

#[test]
fn an_unknown_service_is_reached_through_two_sidecars() {
    story("proxy-remote", async |stage| {
        let control_plane = stage.control_plane(0).await?;
        let app = GrpcApp::start(Deed::default()).await?;
        let (caller_id, callee_id) = (stage.id("caller"), stage.id("callee"));
        let mut spec = stage.spec(&callee_id, None);
        spec.app_port = Some(app.port());
        spec.flags = vec!["--app-protocol=grpc".to_owned()];
        spec.environment
            .insert("APP_API_TOKEN".to_owned(), "for-the-app".to_owned());
        let _callee = stage.sidecar(&spec, Some(&control_plane)).await?;
        let caller = stage
            .sidecar(&stage.spec(&caller_id, None), Some(&control_plane))
            .await?;
        let mut echo = EchoClient::new(connect(&caller).await?, &callee_id);

        let response = echo.call("/story.Echo/Say", "hello").await?;
        assert_eq!(response.get_ref(), "you said hello");
        let raw = response.metadata().get_bin("x-raw-bin");
        let raw = raw.context("the binary header is gone")?.to_bytes()?;
        assert_eq!(&raw[..], [0, 1, 255]);
        let seen = app.echoes();
        assert_eq!(seen.len(), 1);
        assert_eq!(text(&seen[0], "x-custom"), "one");
        assert_eq!(text(&seen[0], "dapr-caller-app-id"), caller_id);
        assert_eq!(text(&seen[0], "dapr-callee-app-id"), callee_id);
        assert_eq!(text(&seen[0], "dapr-app-id"), "");
        assert_eq!(text(&seen[0], "dapr-api-token"), "for-the-app");

        let status = refused(
            echo.call("/story.Echo/Refuse", "").await,
            Code::AlreadyExists,
        )?;
        assert_eq!(status.message(), "said before");
        assert_eq!(text(status.metadata(), "x-reason"), "because");
        refused(
            echo.call("/story.Echo/Unheard", "").await,
            Code::Unimplemented,
        )?;

        let mut numbers = echo.count(100).await?;
        for number in 1..=100 {
            let next = numbers.message().await?;
            assert_eq!(next, Some(number.to_string()));
        }
        let status = refused(numbers.message().await, Code::OutOfRange)?;
        assert_eq!(status.message(), "no more numbers");

        let (say, texts) = mpsc::channel(1);
        say.send("a".to_owned()).await?;
        let mut answers = echo.chat(ReceiverStream::new(texts).boxed()).await?;
        assert_eq!(answers.message().await?.as_deref(), Some("you said a"));
        // Only said once the first answer is there: nothing may wait for the end of the stream.
        say.send("b".to_owned()).await?;
        assert_eq!(answers.message().await?.as_deref(), Some("you said b"));
        drop(say);
        assert_eq!(answers.message().await?, None);
        Ok(())
    });
}

#[test]
fn policies_of_the_callee_wrap_proxied_calls() {
    story("proxy-policies", async |stage| {
        let app = GrpcApp::start(Deed::default()).await?;
        let (caller_id, callee_id) = (stage.id("caller"), stage.id("callee"));
        let mut spec = stage.spec(&callee_id, None);
        spec.app_port = Some(app.port());
        spec.flags = vec!["--app-protocol=grpc".to_owned()];
        let _callee = stage.sidecar(&spec, None).await?;
        let mut spec = stage.spec(&caller_id, None);
        let target = json!({ "retry": "again" });
        let policies = json!({
            "policies": { "retries": { "again": { "duration": "10ms", "maxRetries": 2 } } },
            "targets": { "apps": HashMap::from([(callee_id.as_str(), target)]) },
        });
        spec.resources = Some(stage.resources("caller", &[resiliency("retries", policies)])?);
        let caller = stage.sidecar(&spec, None).await?;
        let mut echo = EchoClient::new(connect(&caller).await?, &callee_id);
        let response = echo.call("/story.Echo/Say", "hello").await?;
        assert_eq!(response.get_ref(), "you said hello");
        assert_eq!(app.echoes().len(), 1);
        let refusal = echo.call("/story.Echo/Refuse", "").await;
        let status = refused(refusal, Code::AlreadyExists)?;
        assert_eq!(status.message(), "said before");
        assert_eq!(text(status.metadata(), "x-reason"), "because");
        assert_eq!(app.echoes().len(), 4, "one attempt and two retries");
        // A conversation says that it is one, and goes on without them.
        let (say, texts) = mpsc::channel(1);
        say.send("a".to_owned()).await?;
        let mut answers = echo.chat(ReceiverStream::new(texts).boxed()).await?;
        for next in ["a", "b"] {
            let answer = answers.message().await?;
            assert_eq!(answer, Some(format!("you said {next}")));
            say.send("b".to_owned()).await?;
        }
        Ok(())
    });
}

#[test]
fn proxied_calls_reach_the_own_application_or_say_why_not() {
    story("proxy-local", async |stage| {
        let app = GrpcApp::start(Deed::default()).await?;
        let id = stage.id("own");
        let mut spec = stage.spec(&id, None);
        spec.app_port = Some(app.port());
        spec.flags = vec!["--app-protocol=grpc".to_owned()];
        let sidecar = stage.sidecar(&spec, None).await?;
        let channel = connect(&sidecar).await?;
        let mut echo = EchoClient::new(channel.clone(), &id);
        let response = echo.call("/story.Echo/Say", "hello").await?;
        assert_eq!(response.get_ref(), "you said hello");

        let mut odd = EchoClient::new(channel, "a.b.c");
        let status = refused(odd.call("/story.Echo/Say", "hello").await, Code::Unknown)?;
        assert_eq!(status.message(), "invalid app id a.b.c");

        let http = App::plain().await?;
        let http_id = stage.id("http");
        let sidecar = stage
            .sidecar(&stage.spec(&http_id, Some(&http)), None)
            .await?;
        let mut echo = EchoClient::new(connect(&sidecar).await?, &http_id);
        let status = refused(
            echo.call("/story.Echo/Say", "hello").await,
            Code::Unavailable,
        )?;
        assert!(
            status.message().starts_with("connection error"),
            "{status:?}"
        );
        Ok(())
    });
}
