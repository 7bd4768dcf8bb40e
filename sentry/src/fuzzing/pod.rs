//! Tokens, user names, pods and configurations of the `kubernetes` validator.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dapr_proto::dapr::proto::sentry::v1::SignCertificateRequest;
use dapr_security::TrustDomain;
use serde_json::Value;

use crate::validator::kubernetes::{
    Configuration, ControlPlane, Pod, bound_pod, decide, service_account,
};

const NAMESPACE: &str = "dapr-system";
const DOMAIN: &str = "cluster.local";

/// Lines: claims of a token, user name, app id and namespace of the request, pod, configuration.
pub fn pod(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    drop(bound_pod(text));
    let mut lines = text.splitn(6, '\n');
    let [claims, user, app_id, namespace, pod, configuration] =
        [(); 6].map(|()| lines.next().unwrap_or_default());
    bound(claims);
    let Ok(account) = service_account(user) else {
        return;
    };
    assert!(user.starts_with("system:"));
    assert!(user.ends_with(&format!(":{}:{}", account.namespace, account.name)));
    let (Ok(pod), configuration) = (
        serde_json::from_str::<Pod>(pod),
        serde_json::from_str::<Configuration>(configuration)
            .ok()
            .map(Arc::new),
    ) else {
        return;
    };
    let request = SignCertificateRequest {
        id: app_id.to_owned(),
        namespace: namespace.to_owned(),
        ..Default::default()
    };
    let control_plane = ControlPlane {
        trust_domain: TrustDomain::new(DOMAIN).expect("it is a trust domain"),
        namespace: NAMESPACE.to_owned(),
    };
    let granted = decide(&request, &account, &pod, &control_plane, |_, _| {
        configuration.clone()
    });
    let Ok(trust_domain) = granted else {
        return;
    };
    assert_eq!(namespace, account.namespace);
    assert_eq!(pod.service_account(), account.name);
    let annotation = |name: &str| pod.annotations().get(name).map(String::as_str);
    match (
        annotation("dapr.io/control-plane"),
        annotation("dapr.io/app-id"),
    ) {
        (Some(part), None) => {
            assert_eq!((namespace, trust_domain.as_str()), (NAMESPACE, DOMAIN));
            assert_eq!(app_id, format!("dapr-{part}"));
        }
        (None, expected) => {
            assert_eq!(app_id, expected.unwrap_or_else(|| pod.name()));
            let configured = configuration.map(|it| it.trust_domain().to_owned());
            assert!(
                trust_domain.as_str() == "public"
                    || configured.is_some_and(|it| it.contains(trust_domain.as_str()))
            );
        }
        (Some(_), Some(_)) => panic!("granted to a pod that is two things at once"),
    }
}

fn bound(claims: &str) {
    let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let Ok(pod) = bound_pod(&token) else {
        return;
    };
    let claims: Value = serde_json::from_str(claims).expect("claims of a bound token are JSON");
    assert_eq!(claims["kubernetes.io"]["pod"]["name"], pod.name);
    assert!(!pod.name.is_empty());
}
