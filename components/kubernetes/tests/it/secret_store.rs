//! Secrets of a real API server, read with a token that may read secrets and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_components_core::conformance::secret_store::{self, Known};
use dapr_components_core::secret_store::{GetRequest, RequestMetadata, SecretStore};
use dapr_components_core::{Metadata, Registries};
use dapr_components_kubernetes::Cluster;
use dapr_e2e_apiserver::real;

async fn open(kubeconfig: &std::path::Path, namespace: Option<&str>) -> Arc<dyn SecretStore> {
    let mut registries = Registries::default();
    let cluster = Cluster {
        api_server: None,
        namespace: namespace.map(str::to_owned),
    };
    dapr_components_kubernetes::register(&mut registries, cluster);
    let properties = [(
        "kubeconfigPath".to_owned(),
        kubeconfig.display().to_string(),
    )];
    let metadata = Metadata::new("kubernetes", "secretstores.kubernetes", "v1", properties);
    let opened = registries.secret_stores.open(metadata.expect("valid"));
    opened.await.expect("opens")
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::panic_in_result_fn,
    reason = "a test may assert as well as return early"
)]

async fn secrets_of_a_namespace() -> anyhow::Result<()> {
    // An error means that a provider is there already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let Some(server) = real::shared("secrets of a namespace").await? else {
        return Ok(());
    };
    let namespace = server.create_namespace("secrets").await?;
    // More than one page.
    for index in 0..30 {
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s{index:02}, namespace: {namespace}}}\nstringData: {{user: u{index}, password: p{index}}}\n"
        );
        server.apply_yaml(&secret).await?;
    }
    server.service_account(&namespace, "reader").await?;
    let rules = [real::rule("", &["secrets"], &["get", "list"])];
    let reach = real::Reach::Namespace(&namespace);
    let kubeconfig = server
        .kubeconfig_for(&namespace, "reader", reach, &rules)
        .await?;
    let store = open(&kubeconfig, Some(&namespace)).await;

    let request = |name: &str| GetRequest {
        name: name.to_owned(),
        metadata: RequestMetadata::new(),
    };
    let error = store.get(request("none")).await.expect_err("no such");
    assert_eq!(error.to_string(), "secrets \"none\" not found");
    let elsewhere = GetRequest {
        metadata: RequestMetadata::from([("namespace".to_owned(), "kube-system".to_owned())]),
        ..request("s00")
    };
    let error = store.get(elsewhere).await.expect_err("not allowed");
    assert!(error.to_string().contains("forbidden"), "{error}");

    let known: Vec<Known> = (0..30)
        .map(|index| Known {
            name: format!("s{index:02}"),
            values: BTreeMap::from([
                ("user".to_owned(), format!("u{index}")),
                ("password".to_owned(), format!("p{index}")),
            ]),
        })
        .collect();
    secret_store::run(&*store, &known, RequestMetadata::new()).await;

    let nowhere = open(&kubeconfig, None).await;
    let error = nowhere.get(request("s00")).await.expect_err("no namespace");
    assert!(
        error.to_string().starts_with("namespace is missing"),
        "{error}"
    );
    Ok(())
}
