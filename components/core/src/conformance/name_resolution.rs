//! The suite of name resolvers.

use std::sync::Arc;

use crate::name_resolution::{Instance, ResolveRequest, Resolver};
use crate::registry::Opening;

/// Opens resolvers for two apps, each of which must find the other and itself, and nobody a stranger.
pub async fn run(open: impl Fn(Instance) -> Opening<dyn Resolver>) {
    let one = instance(50101);
    let two = instance(50102);
    let of_one = open(one.clone()).await.expect("first resolver");
    let of_two = open(two.clone()).await.expect("second resolver");
    for (resolver, target) in [
        (&of_one, &two),
        (&of_two, &one),
        (&of_one, &one),
        (&of_one, &two),
    ] {
        let address = resolve(resolver, &target.app_id).await;
        let expected = format!("{}:{}", target.address, target.internal_port);
        assert_eq!(address, Ok(expected), "address of {}", target.app_id);
    }
    let stranger = resolve(&of_one, "conformance-stranger").await;
    assert!(
        stranger.is_err(),
        "an app nobody registered has no address, not {stranger:?}"
    );
    of_two.close().await;
    of_one.close().await;
}

fn instance(port: u16) -> Instance {
    Instance {
        app_id: format!("conformance-{}", uuid::Uuid::new_v4().simple()),
        namespace: "default".to_owned(),
        address: "127.0.0.1".to_owned(),
        hostname: "conformance".to_owned(),
        internal_port: port,
        http_port: 3500,
        app_port: 0,
    }
}

async fn resolve(resolver: &Arc<dyn Resolver>, app_id: &str) -> Result<String, String> {
    let request = ResolveRequest {
        app_id: app_id.to_owned(),
        namespace: "default".to_owned(),
        port: 50101,
    };
    resolver
        .resolve(&request)
        .await
        .map_err(|error| error.to_string())
}
