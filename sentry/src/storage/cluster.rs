//! The Secret and the ConfigMap `dapr-trust-bundle`. They come with the installation; Sentry reads and updates them,
//! never creates them, and leaves keys alone that are not its own.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use dapr_security::SENTRY_ANNOTATION;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use super::{Changes, Error, FOREIGN, Item, Kept, Published};

/// Name of both objects.
pub(crate) const NAME: &str = "dapr-trust-bundle";
/// On the Secret: how far a rotation of the root is.
const ROTATION_ANNOTATION: &str = "dapr.io/root-rotation";
/// On the Secret: see [`Item::LongestTtl`].
const LONGEST_TTL_ANNOTATION: &str = "dapr.io/longest-workload-cert-ttl-seconds";
/// On the ConfigMap: the phase alone.
const PHASE_ANNOTATION: &str = "dapr.io/root-rotation-phase";
/// On the ConfigMap, which unlike the Secret may be watched: each new value asks for one rotation.
const REQUEST_ANNOTATION: &str = "dapr.io/rotate-root";

/// Both objects and the names of the keys in them.
#[derive(Clone)]
pub(crate) struct Cluster {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    namespace: String,
    keys: BTreeMap<Item, String>,
    /// Where this replica is, for pods that its Service does not yet lead to it.
    address: Option<SocketAddr>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("namespace", &self.namespace)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// `keys` are those of root, chain, key, JWT key and key set.
    pub(crate) fn new(client: Client, namespace: &str, keys: [String; 5]) -> Self {
        let named = [
            Item::Root,
            Item::Chain,
            Item::Key,
            Item::JwtKey,
            Item::JwtKeys,
        ];
        let own = [
            (Item::NextChain, "next-issuer.crt".to_owned()),
            (Item::NextKey, "next-issuer.key".to_owned()),
        ];
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            keys: named.into_iter().zip(keys).chain(own).collect(),
            address: None,
        }
    }

    /// With the address of this replica, which is written with all that is published.
    pub(crate) fn reached_at(self, address: Option<SocketAddr>) -> Self {
        Self { address, ..self }
    }

    /// Empty for what is no key but an annotation.
    fn key(&self, item: Item) -> &str {
        self.keys.get(&item).map_or("", String::as_str)
    }

    pub(super) fn describe(&self, item: Item) -> String {
        match annotation(item) {
            Some(name) => format!("{}, annotation {name:?}", self.secret()),
            None => self.describe_key(self.key(item)),
        }
    }

    pub(super) fn describe_key(&self, key: &str) -> String {
        format!("{}, key {key:?}", self.secret())
    }

    pub(super) fn describe_published(&self) -> String {
        format!("{}, key {:?}", self.config_map(), self.key(Item::Root))
    }

    fn secret(&self) -> String {
        format!("Secret {}/{NAME}", self.namespace)
    }

    fn config_map(&self) -> String {
        format!("ConfigMap {}/{NAME}", self.namespace)
    }

    pub(super) async fn load(&self) -> Result<Kept, Error> {
        // The Secret is written first, so it is read last: what is published is never newer than what it follows from.
        let config_map = self.config_maps.get_opt(NAME).await;
        let config_map = found(config_map, || self.config_map())?;
        let secret = self.secrets.get_opt(NAME).await;
        let secret = found(secret, || self.secret())?;
        Ok(self.kept(secret, config_map))
    }

    /// What stands in the two objects.
    fn kept(&self, secret: Secret, config_map: ConfigMap) -> Kept {
        let mut items: BTreeMap<Item, Vec<u8>> = BTreeMap::new();
        let data = secret.data.iter().flatten();
        let data: BTreeMap<&str, &ByteString> = data.map(|(key, it)| (key.as_str(), it)).collect();
        // An empty value is what an installation without a CA of the user's leaves there.
        let value = |key: &str| data.get(key).map(|it| &it.0).filter(|it| !it.is_empty());
        for (item, key) in &self.keys {
            if let Some(value) = value(key) {
                items.insert(*item, value.clone());
            }
        }
        let annotations = secret.metadata.annotations.as_ref();
        for item in Item::ALL {
            let text = annotation(item).and_then(|name| annotations?.get(name));
            if let Some(text) = text {
                items.insert(item, text.clone().into_bytes());
            }
        }
        let foreign = FOREIGN.map(|name| value(name).cloned());
        let text = |item| {
            let texts = config_map.data.as_ref()?;
            let text = texts.get(self.key(item)).filter(|it| !it.is_empty())?;
            Some(text.clone().into_bytes())
        };
        let annotations = config_map.metadata.annotations.as_ref();
        let annotated = |name: &str| annotations.and_then(|it| it.get(name)).cloned();
        let published = Published {
            root: text(Item::Root),
            keys: text(Item::JwtKeys),
            phase: annotated(PHASE_ANNOTATION),
        };
        let request = annotated(REQUEST_ANNOTATION);
        let mut kept = Kept {
            items,
            published: Some(published),
            request,
            is_foreign: false,
            objects: Some(Box::new((secret, config_map))),
        };
        kept.adopt(foreign);
        kept
    }

    pub(super) async fn save(&self, kept: &Kept, changes: &Changes) -> Result<Kept, Error> {
        let Some(objects) = &kept.objects else {
            return Err(Error::Missing(self.secret()));
        };
        let mut secret = objects.0.clone();
        for (item, contents) in changes {
            match annotation(*item) {
                Some(name) => {
                    let text = contents.as_ref().map(|it| String::from_utf8_lossy(it));
                    annotate(&mut secret.metadata, name, text.as_deref());
                }
                None => {
                    let (data, key) = (secret.data.get_or_insert_default(), self.key(*item));
                    match contents {
                        Some(contents) => {
                            data.insert(key.to_owned(), ByteString(contents.clone()));
                        }
                        None => {
                            data.remove(key);
                        }
                    }
                }
            }
        }
        let params = PostParams::default();
        let updated = self.secrets.replace(NAME, &params, &secret).await;
        let updated = done(updated, || self.secret())?;
        // What was accepted is what was sent. It is not asked for again: an answer may come from a cache that lags.
        follow(&mut secret.metadata, updated.metadata);
        Ok(self.kept(secret, objects.1.clone()))
    }

    pub(super) async fn publish(&self, kept: &Kept, published: &Published) -> Result<Kept, Error> {
        let Some(objects) = &kept.objects else {
            return Err(Error::Missing(self.config_map()));
        };
        let mut config_map = objects.1.clone();
        let data = config_map.data.get_or_insert_default();
        for (item, contents) in [
            (Item::Root, &published.root),
            (Item::JwtKeys, &published.keys),
        ] {
            match contents {
                Some(contents) => {
                    let text = String::from_utf8(contents.clone());
                    let text = text.map_err(|_| Error::Key {
                        object: self.secret(),
                        key: self.key(item).to_owned(),
                    })?;
                    data.insert(self.key(item).to_owned(), text);
                }
                None => {
                    data.remove(self.key(item));
                }
            }
        }
        let phase = published.phase.as_deref();
        annotate(&mut config_map.metadata, PHASE_ANNOTATION, phase);
        self.write_address(&mut config_map.metadata);
        self.update(&mut config_map).await?;
        Ok(self.kept(objects.0.clone(), config_map))
    }

    /// Says where this replica is, if the ConfigMap says something else.
    pub(super) async fn announce(&self, kept: Kept) -> Result<Kept, Error> {
        let Some(objects) = &kept.objects else {
            return Err(Error::Missing(self.config_map()));
        };
        let mut config_map = objects.1.clone();
        self.write_address(&mut config_map.metadata);
        if config_map.metadata == objects.1.metadata {
            return Ok(kept);
        }
        self.update(&mut config_map).await?;
        Ok(self.kept(objects.0.clone(), config_map))
    }

    fn write_address(&self, metadata: &mut ObjectMeta) {
        if let Some(address) = self.address {
            annotate(metadata, SENTRY_ANNOTATION, Some(&address.to_string()));
        }
    }

    pub(super) async fn request(&self, text: &str) -> Result<(), Error> {
        let config_map = self.config_maps.get_opt(NAME).await;
        let mut config_map = found(config_map, || self.config_map())?;
        annotate(&mut config_map.metadata, REQUEST_ANNOTATION, Some(text));
        self.update(&mut config_map).await
    }

    pub(super) async fn acknowledge(&self, kept: &Kept) -> Result<Kept, Error> {
        let Some(objects) = &kept.objects else {
            return Err(Error::Missing(self.config_map()));
        };
        let mut config_map = objects.1.clone();
        annotate(&mut config_map.metadata, REQUEST_ANNOTATION, None);
        self.update(&mut config_map).await?;
        Ok(self.kept(objects.0.clone(), config_map))
    }

    async fn update(&self, config_map: &mut ConfigMap) -> Result<(), Error> {
        let params = PostParams::default();
        let updated = self.config_maps.replace(NAME, &params, config_map).await;
        let updated = done(updated, || self.config_map())?;
        follow(&mut config_map.metadata, updated.metadata);
        Ok(())
    }
}

/// The annotation of the Secret an item is kept in, if it is no key.
fn annotation(item: Item) -> Option<&'static str> {
    match item {
        Item::Rotation => Some(ROTATION_ANNOTATION),
        Item::LongestTtl => Some(LONGEST_TTL_ANNOTATION),
        Item::Root
        | Item::Chain
        | Item::Key
        | Item::JwtKey
        | Item::JwtKeys
        | Item::NextChain
        | Item::NextKey => None,
    }
}

fn annotate(metadata: &mut ObjectMeta, name: &str, text: Option<&str>) {
    match (text, &mut metadata.annotations) {
        (Some(text), annotations) => {
            let annotations = annotations.get_or_insert_default();
            annotations.insert(name.to_owned(), text.to_owned());
        }
        (None, Some(annotations)) => {
            annotations.remove(name);
        }
        (None, None) => {}
    }
}

/// The version that an update has made.
fn follow(metadata: &mut ObjectMeta, updated: ObjectMeta) {
    metadata.resource_version = updated.resource_version;
}

fn found<T>(result: kube::Result<Option<T>>, object: impl Fn() -> String) -> Result<T, Error> {
    match result {
        Ok(found) => found.ok_or_else(|| Error::Missing(object())),
        Err(source) => Err(Error::Get {
            object: object(),
            source,
        }),
    }
}

fn done<T>(result: kube::Result<T>, object: impl Fn() -> String) -> Result<T, Error> {
    match result {
        Ok(updated) => Ok(updated),
        Err(kube::Error::Api(status)) if status.code == 409 => Err(Error::Conflict(object())),
        Err(source) => Err(Error::Update {
            object: object(),
            source,
        }),
    }
}
