//! What the stories share: an injector's settings, and an API server with Dapr's kinds.

use std::path::Path;
use std::time::Duration;

use dapr_e2e_apiserver::real::{self, ApiServer};
use dapr_injector::config::Config;
use dapr_injector::settings::{Mode, Settings, Surroundings, Token};
use tokio::sync::OnceCell;
use tokio::time::{sleep, timeout};

const SOON: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(50);

/// Those of an installation that satisfies the strictest pod security.
pub(crate) fn settings(variables: &[(&str, &str)]) -> Settings {
    let required = [
        ("SIDECAR_IMAGE", "daprd:1.18.3"),
        ("NAMESPACE", "dapr-system"),
        ("SIDECAR_IMAGE_PULL_POLICY", "IfNotPresent"),
        ("SIDECAR_DROP_ALL_CAPABILITIES", "true"),
    ];
    let environment = required.iter().chain(variables).copied().collect();
    let surroundings = Surroundings {
        cluster_domain: "cluster.local".to_owned(),
        scheduler_enabled: true,
        token: Token::Projected,
        mode: Mode::Regular,
    };
    Settings::new(
        &Config::from_environment(&environment).unwrap(),
        &surroundings,
    )
}

/// None if there is no API server to be had, which was reported.
pub(crate) async fn server(story: &str) -> Option<&'static ApiServer> {
    static KINDS: OnceCell<()> = OnceCell::const_new();
    let server = real::shared(story).await.unwrap()?;
    let kinds = async || {
        let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/yaml");
        server.create_crds(&crds).await.unwrap();
    };
    KINDS.get_or_init(kinds).await;
    Some(server)
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            sleep(TICK).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "{what} did not happen");
}
