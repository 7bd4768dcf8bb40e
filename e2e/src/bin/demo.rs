//! `make demo`: a secured application comes up, works, loses a host and a leader, and goes on.
//!
//! Every line of the table is checked; the exit status is 0 only if all of them held.
#![expect(
    clippy::print_stdout,
    reason = "the table on stdout is what the demo is for"
)]

#[path = "demo/shop.rs"]
mod shop;
#[path = "demo/story.rs"]
mod story;

use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;

use anyhow::bail;
use shop::Shop;
use story::Story;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let keep = std::env::args().any(|argument| argument == "--keep");
    if let Err(error) = rustls::crypto::aws_lc_rs::default_provider().install_default() {
        println!("no crypto provider: {error:?}");
        return ExitCode::FAILURE;
    }
    match run(keep).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(keep: bool) -> anyhow::Result<()> {
    // Heard of from the beginning: whoever ends the demo half-way leaves no keys and no processes behind.
    let mut ended = pin!(ended()?);
    let folder = tempfile::Builder::new().prefix("dapr-demo-").tempdir()?;
    let told = tokio::select! {
        told = tell(folder.path()) => Some(told?),
        () = &mut ended => None,
    };
    let Some(shop) = told else {
        // What was begun is dropped by now, its processes with it.
        folder.close()?;
        bail!("a signal ended it");
    };
    if keep {
        println!(
            "\nEverything stays up until Ctrl-C. Try:\n{}",
            shop.requests_to_try()
        );
        ended.await;
    }
    shop.close().await;
    // Dropping the folder removes logs, keys and the database.
    folder.close()?;
    Ok(())
}

async fn tell(folder: &Path) -> anyhow::Result<Shop> {
    println!(
        "\nA shop on Dapr: one certificate authority, three placement replicas, three sidecars\n"
    );
    let mut story = Story::new();
    let mut shop = Shop::open(folder, &mut story).await?;
    shop.tell(&mut story).await?;
    story.end();
    Ok(shop)
}

/// Until SIGINT or SIGTERM, from now on.
fn ended() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}
