//! The application of the stories: serves its sidecar, or calls another application through it.
//!
//!     e2e-app serve                      answers /who with the name of its pod
//!     e2e-app call <app id> [<count>]    calls /who of another, and prints how many calls failed and who answered

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::routing::get;
use serde::Serialize;

/// Where the sidecar expects the application.
const PORT: u16 = 8000;
/// Where the application expects its sidecar.
const SIDECAR: &str = "http://127.0.0.1:3500";
/// A call that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Serialize)]
struct Summary {
    answers: BTreeMap<String, usize>,
    failures: BTreeMap<String, usize>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => serve().await,
        ["call", app_id] => call(app_id, 1).await,
        ["call", app_id, count] => call(app_id, count.parse()?).await,
        _ => bail!("serve, or call <app id> [<count>]"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the application reads its environment"
)]
async fn serve() -> Result<()> {
    let pod = std::env::var("POD").context("POD is not set")?;
    let app = Router::new().route("/who", get(async || pod));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", PORT)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

/// Calls one after the other.
#[expect(clippy::print_stdout, reason = "the story reads it")]
async fn call(app_id: &str, count: usize) -> Result<()> {
    let client = reqwest::Client::builder().timeout(LIMIT).build()?;
    let url = format!("{SIDECAR}/v1.0/invoke/{app_id}/method/who");
    let mut summary = Summary::default();
    for _ in 0..count {
        match once(&client, &url).await {
            Ok(pod) => *summary.answers.entry(pod).or_default() += 1,
            Err(error) => *summary.failures.entry(format!("{error:#}")).or_default() += 1,
        }
    }
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

async fn once(client: &reqwest::Client, url: &str) -> Result<String> {
    let answer = client.get(url).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(text)
}
