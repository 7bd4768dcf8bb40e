//! The flags that answer and exit instead of starting a sidecar.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "--version and --build-info answer on stdout, deprecated flags are named on stderr"
)]

use std::process::ExitCode;
use std::time::Duration;

use crate::args::Args;

/// Time `--wait` waits, its requests may take, and between them.
const WAIT: Duration = Duration::from_secs(60);
const WAIT_REQUEST: Duration = Duration::from_millis(500);
const WAIT_PAUSE: Duration = Duration::from_millis(100);

/// Answers `--version`, `--build-info` and `--wait`; `None` when a sidecar is to be started.
pub fn answer(args: &Args) -> Option<ExitCode> {
    if args.version {
        println!("{}", dapr_kit::VERSION);
        return Some(ExitCode::SUCCESS);
    }
    if args.build_info {
        println!(
            "Version: {}\nGit Commit: {}\nGit Version: {}",
            dapr_kit::VERSION,
            dapr_kit::COMMIT,
            dapr_kit::COMMIT
        );
        return Some(ExitCode::SUCCESS);
    }
    if args.app.app_ssl {
        eprintln!("Flag --app-ssl has been deprecated, use '--app-protocol https|grpcs'");
    }
    args.wait.then(|| wait(&args.listen.dapr_http_port))
}

/// Waits until the sidecar on this port can be called; as upstream, the status says nothing.
fn wait(port: &str) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return ExitCode::SUCCESS;
    };
    let address = format!("127.0.0.1:{port}");
    let ready = async {
        while !matches!(
            tokio::time::timeout(WAIT_REQUEST, is_ready(&address)).await,
            Ok(Ok(true))
        ) {
            tokio::time::sleep(WAIT_PAUSE).await;
        }
    };
    match runtime.block_on(async { tokio::time::timeout(WAIT, ready).await }) {
        Ok(()) => println!("Dapr is ready"),
        Err(_) => println!("Dapr did not become ready within {} s", WAIT.as_secs()),
    }
    ExitCode::SUCCESS
}

async fn is_ready(address: &str) -> std::io::Result<bool> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!(
        "GET /v1.0/healthz/outbound HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    Ok(answer.ends_with(b" 204"))
}
