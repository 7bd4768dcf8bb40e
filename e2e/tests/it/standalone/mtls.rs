//! Only who shows a certificate of the same authority speaks with a sidecar.

use std::time::Duration;

use anyhow::{Context as _, Result};
use dapr_e2e::standalone::{ControlPlane, Sentry};
use dapr_security::{AnchorsSource, Expect, KeyKind, Options, Security, TokenSource, TrustDomain};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower::ServiceExt as _;

use crate::support::{App, LIMIT, fetch, story};

#[test]
fn plaintext_and_strangers_are_refused() {
    story("mtls", async |stage| {
        let app = App::plain().await?;
        let control_plane = stage.control_plane(0).await?;
        let foreign_folder = stage.folder().join("foreign");
        std::fs::create_dir(&foreign_folder)?;
        let foreign = ControlPlane::start(&foreign_folder, 0).await?;
        let (id, stranger_id) = (stage.id("guarded"), stage.id("stranger"));
        let sidecar = stage
            .sidecar(&stage.spec(&id, Some(&app)), Some(&control_plane))
            .await?;
        let stranger = stage
            .sidecar(&stage.spec(&stranger_id, None), Some(&foreign))
            .await?;

        assert!(
            refuses_plaintext(sidecar.internal_port).await?,
            "plaintext was answered"
        );

        let own = &control_plane.sentry;
        connect(own, &own.trust_anchors, sidecar.internal_port, &id)
            .await
            .context("with the right identity")?;
        let mistaken = connect(own, &own.trust_anchors, sidecar.internal_port, "another").await;
        assert!(
            mistaken.is_err(),
            "the sidecar was taken for another application"
        );
        // This one trusts the sidecar, so only the sidecar can refuse.
        let both = format!("{}\n{}", own.trust_anchors, foreign.sentry.trust_anchors);
        let connected = connect(&foreign.sentry, &both, sidecar.internal_port, &id).await;
        assert!(connected.is_err(), "a foreign certificate was accepted");
        let nameless = reqwest::Client::builder()
            .danger_accept_invalid_certs(true)
            .build()?
            .get(format!("https://127.0.0.1:{}/", sidecar.internal_port))
            .send()
            .await;
        assert!(
            nameless.is_err(),
            "a client without certificate was answered"
        );

        // The same between two sidecars, each trusted by its own authority only.
        let calls = [
            (stranger.url(&format!("invoke/{id}/method/secret")), &id),
            (
                sidecar.url(&format!("invoke/{stranger_id}/method/secret")),
                &stranger_id,
            ),
        ];
        for (url, callee) in calls {
            let message = fetch(stage.http.get(url))
                .await?
                .refusal(500, "ERR_DIRECT_INVOKE")?;
            assert!(
                message.starts_with(&format!("failed to invoke, id: {callee}, err: ")),
                "{message}"
            );
        }
        assert!(
            app.seen("/secret").is_empty(),
            "the call of a stranger arrived"
        );
        Ok(())
    });
}

/// Opens a connection with an identity of `sentry` to a server that has to be `app_id`, certified by `anchors`.
async fn connect(sentry: &Sentry, anchors: &str, port: u16, app_id: &str) -> Result<()> {
    let anchors = AnchorsSource::Inline(anchors.to_owned());
    let (security, renewal) = Security::start(options(sentry, anchors, "tester")?).await?;
    // Nobody renews an identity that is used once.
    drop(renewal);
    handshake(&security, port, app_id).await
}

/// What an application asks Sentry for.
pub(super) fn options(sentry: &Sentry, anchors: AnchorsSource, app_id: &str) -> Result<Options> {
    Ok(Options {
        trust_anchors: anchors,
        sentry_address: sentry.address.clone(),
        control_plane_trust_domain: TrustDomain::new("localhost")?,
        control_plane_namespace: "default".to_owned(),
        namespace: "default".to_owned(),
        app_id: app_id.to_owned(),
        token: TokenSource::None,
        jwt_audiences: Vec::new(),
        key: KeyKind::default(),
        trust_domain_in_request: None,
        mtls: true,
    })
}

/// Opens a new connection to a sidecar that has to be `app_id` and waits for its first byte.
pub(super) async fn handshake(security: &Security, port: u16, app_id: &str) -> Result<()> {
    let expect = Expect::Path {
        namespace: "default".to_owned(),
        app_id: app_id.to_owned(),
    };
    let uri = format!("https://127.0.0.1:{port}").parse()?;
    let mut stream = security.connector(expect).oneshot(uri).await?.into_inner();
    // The server judges the client's certificate after the handshake has ended for the client: only an
    // answer proves that it was taken.
    stream.write_all(PREFACE).await?;
    stream.flush().await?;
    let mut first = [0];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut first))
        .await
        .context("no answer")??;
    Ok(())
}

/// What an HTTP/2 client says first: the preface and an empty settings frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Whether a server that asks for certificates closes a plaintext connection without answering a frame.
async fn refuses_plaintext(port: u16) -> Result<bool> {
    const TLS_ALERT: u8 = 0x15;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(PREFACE).await?;
    let mut answer = Vec::new();
    // A reset is as good an answer as an end; what counts is that no frame came.
    drop(
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer))
            .await
            .context("still open")?,
    );
    Ok(answer.first().is_none_or(|byte| *byte == TLS_ALERT))
}
