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

use std::process::ExitCode;

use shop::Shop;
use story::Story;

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
    let folder = tempfile::Builder::new().prefix("dapr-demo-").tempdir()?;
    println!(
        "\nA shop on Dapr: one certificate authority, three placement replicas, three sidecars\n"
    );
    let mut story = Story::new();
    let mut shop = Shop::open(folder.path(), &mut story).await?;
    shop.tell(&mut story).await?;
    story.end();
    if keep {
        println!(
            "\nEverything stays up until Ctrl-C. Try:\n{}",
            shop.requests_to_try()
        );
        tokio::signal::ctrl_c().await?;
    }
    shop.close().await;
    // Dropping the folder removes logs, keys and the database.
    folder.close()?;
    Ok(())
}
