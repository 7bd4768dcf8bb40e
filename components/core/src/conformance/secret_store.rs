//! The suite of secret stores.

use std::collections::BTreeMap;

use crate::secret_store::{Feature, GetRequest, RequestMetadata, Secret, SecretStore};

/// A secret the store under test holds, put there by its test.
#[derive(Debug, Clone)]
pub struct Known {
    /// Name of the secret.
    pub name: String,
    /// Its values.
    pub values: BTreeMap<String, String>,
}

/// Checks that `known` secrets are found one by one and in bulk, and that a missing one is never made up.
/// `metadata` goes with every request.
pub async fn run(store: &dyn SecretStore, known: &[Known], metadata: RequestMetadata) {
    let all = store
        .bulk_get(metadata.clone())
        .await
        .expect("all secrets are listed");
    for Known { name, values } in known {
        let request = GetRequest {
            name: name.clone(),
            metadata: metadata.clone(),
        };
        let found = store.get(request).await.expect("a known secret is found");
        assert_eq!(found.0, *values, "values of {name}");
        assert_eq!(
            all.get(name).map(|secret| &secret.0),
            Some(values),
            "{name} in bulk"
        );
        if !store
            .features()
            .contains(&Feature::MultipleKeyValuesPerSecret)
        {
            assert_eq!(
                values.len(),
                1,
                "{name} has one value in a store of single values"
            );
        }
        let told = format!("{found:?}");
        // Names are shown, so a value that is part of one tells nothing here.
        let is_telling = |value: &&String| !values.keys().any(|key| key.contains(value.as_str()));
        for value in values.values().filter(is_telling) {
            assert!(!told.contains(value.as_str()), "{name} shows a value");
        }
    }
    let stranger = GetRequest {
        name: "conformance-stranger".to_owned(),
        metadata,
    };
    if let Ok(Secret(values)) = store.get(stranger).await {
        assert!(
            values.values().all(String::is_empty),
            "a secret nobody stored has values"
        );
    }
    assert!(!all.contains_key("conformance-stranger"));
    store.close().await;
}
