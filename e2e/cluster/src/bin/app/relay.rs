//! The least a sidecar can do: it passes bytes on. What calls and pods take with it, they take with any.

use anyhow::Result;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Passes on what comes to `port`, to `target`.
pub(crate) async fn relay(port: u16, target: &str) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    loop {
        let (mut near, _) = listener.accept().await?;
        let target = target.to_owned();
        tokio::spawn(async move {
            let mut far = TcpStream::connect(target).await?;
            for end in [&near, &far] {
                end.set_nodelay(true)?;
            }
            copy_bidirectional(&mut near, &mut far).await
        });
    }
}
