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
    for line in deprecations(args) {
        eprintln!("{line}");
    }
    args.wait.then(|| wait(&args.listen.dapr_http_port))
}

/// A line for each deprecated flag that is given, whatever its value.
fn deprecations(args: &Args) -> Vec<String> {
    let limits = &args.limits;
    let flags = [
        (
            args.app.app_ssl.is_some(),
            "app-ssl",
            "use '--app-protocol https|grpcs'",
        ),
        (
            args.resources.components_path.is_some(),
            "components-path",
            "use --resources-path",
        ),
        (
            limits.dapr_http_max_request_size.is_some(),
            "dapr-http-max-request-size",
            "use '--max-body-size 4Mi'",
        ),
        (
            limits.dapr_http_read_buffer_size.is_some(),
            "dapr-http-read-buffer-size",
            "use '--read-buffer-size 4Ki'",
        ),
    ];
    flags
        .into_iter()
        .filter(|(is_given, ..)| *is_given)
        .map(|(_, flag, remedy)| format!("Flag --{flag} has been deprecated, {remedy}"))
        .collect()
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

#[cfg(test)]
mod tests {
    use dapr_kit::flags::{Dashes, try_parse_from};

    use super::*;

    #[test]
    fn deprecated_flags_are_named_whatever_their_value() {
        let check = |flags: &str, expected: &[&str]| {
            let flags = std::iter::once("daprd").chain(flags.split_whitespace());
            let args: Args = try_parse_from(Dashes::OneOrTwo, flags).expect("flags parse");
            assert_eq!(deprecations(&args), expected);
        };
        check("--app-id a", &[]);
        check(
            "--app-ssl=false --components-path /c --dapr-http-max-request-size -1 --dapr-http-read-buffer-size 8",
            &[
                "Flag --app-ssl has been deprecated, use '--app-protocol https|grpcs'",
                "Flag --components-path has been deprecated, use --resources-path",
                "Flag --dapr-http-max-request-size has been deprecated, use '--max-body-size 4Mi'",
                "Flag --dapr-http-read-buffer-size has been deprecated, use '--read-buffer-size 4Ki'",
            ],
        );
    }
}
