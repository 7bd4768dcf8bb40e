//! The application of the stories. As a server it is beside a sidecar; its other words are run in its container, and print
//! what they found as one line of JSON.
//!
//! ```text
//! e2e-app serve                          see `serve.rs` for what it answers
//! e2e-app ask <method> <url> [<body>]    one request
//! e2e-app call <app id> [<count>]        calls /who of another, and prints how many calls failed and who answered
//! e2e-app relay <port> <host:port>       passes bytes on
//! e2e-app knock <host:port>              tries to talk without TLS, and with certificates of a foreign authority
//! ```

#[path = "app/ask.rs"]
mod ask;
#[path = "app/knock.rs"]
mod knock;
#[path = "app/load.rs"]
mod load;
#[path = "app/relay.rs"]
mod relay;
#[path = "app/serve.rs"]
mod serve;
#[path = "app/watch.rs"]
mod watch;

use anyhow::{Result, bail};
use serde::Serialize;

/// Where the application expects its sidecar.
const SIDECAR: &str = "http://127.0.0.1:3500";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // Fails only if a provider is installed already, and then it is this one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve"] => serve::serve().await,
        ["relay", port, target] => relay::relay(port.parse()?, target).await,
        ["ask", method, url] => print(&ask::ask(method, url, "").await?),
        ["ask", method, url, body] => print(&ask::ask(method, url, body).await?),
        ["call", app_id] => print(&ask::call(app_id, 1).await?),
        ["call", app_id, count] => print(&ask::call(app_id, count.parse()?).await?),
        ["knock", address] => print(&knock::knock(address).await?),
        _ => bail!("serve, relay, ask, call or knock"),
    }
}

#[expect(clippy::print_stdout, reason = "the story reads it")]
fn print(answer: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(answer)?);
    Ok(())
}
