use std::path::Path;

use super::*;
use crate::rotation::{Phase, digest};
use crate::storage::{Cluster, Directory};

fn directory() -> Storage {
    let paths = [
        "/c/ca.crt",
        "/c/issuer.crt",
        "/c/issuer.key",
        "/c/jwt.key",
        "/c/jwks.json",
    ];
    Storage::Directory(Directory::new(Path::new("/c"), paths.map(Path::new)))
}

fn cluster() -> Storage {
    let config = kube::Config::new(http::Uri::from_static("http://127.0.0.1:1"));
    let client = kube::Client::try_from(config).unwrap();
    let keys = ["ca.crt", "issuer.crt", "issuer.key", "jwt.key", "jwks.json"].map(str::to_owned);
    Storage::Cluster(Box::new(Cluster::new(client, "dapr-system", keys)))
}

fn kept(items: &[(Item, &str)], published: Option<Option<&str>>) -> Kept {
    let items = items
        .iter()
        .map(|(item, text)| (*item, text.as_bytes().to_vec()));
    let mut kept = Kept::default();
    kept.items = items.collect();
    kept.published = published.map(|root| Published {
        root: root.map(|text| text.as_bytes().to_vec()),
        keys: None,
        phase: None,
    });
    kept
}

const WHOLE: [(Item, &str); 3] = [
    (Item::Root, "root"),
    (Item::Chain, "chain"),
    (Item::Key, "key"),
];

fn check_ca(kept: &Kept, storage: &Storage, expected: &str) {
    let found = match ca(kept, storage) {
        Ok(Ca::Use(_)) => "use".to_owned(),
        Ok(Ca::Generate { left_over }) => format!("generate, left over {left_over:?}"),
        Err(refused) => refused.to_string(),
    };
    assert!(found.contains(expected), "{found}: {expected}");
}

#[tokio::test]
async fn in_a_cluster_nothing_is_replaced_in_silence() {
    let storage = cluster();
    let check = |items: &[(Item, &str)], published, expected: &str| {
        check_ca(&kept(items, Some(published)), &storage, expected);
    };
    check(&[], None, "generate");
    check(&WHOLE, None, "use");
    check(&WHOLE, Some("root"), "use");
    check(&WHOLE, Some("other"), "use"); // publication() refuses it
    check(
        &[WHOLE[0], WHOLE[1]],
        Some("root"),
        "Secret dapr-system/dapr-trust-bundle, key \"issuer.key\" is missing",
    );
    check(
        &[WHOLE[2]],
        None,
        "Secret dapr-system/dapr-trust-bundle, key \"ca.crt\" is missing, while Secret dapr-system/dapr-trust-bundle, key \"issuer.key\" is there",
    );
    check(
        &[],
        Some("root"),
        "ConfigMap dapr-system/dapr-trust-bundle, key \"ca.crt\" has a root certificate, while",
    );
}

#[test]
fn files_are_made_anew_as_soon_as_one_is_missing() {
    let storage = directory();
    let check = |items: &[(Item, &str)], expected: &str| {
        check_ca(&kept(items, None), &storage, expected);
    };
    check(&[], "generate, left over []");
    check(&WHOLE, "use");
    check(&[WHOLE[0]], "generate, left over [Root]");
    check(&[WHOLE[1], WHOLE[2]], "generate, left over [Chain, Key]");
}

fn record(before: &str) -> String {
    serde_json::to_string(&Record {
        phase: Phase::Publishing,
        since: 0,
        until: 0,
        settled: 0,
        retiring: Vec::new(),
        successor: String::new(),
        request: String::new(),
        before: digest(before.as_bytes()),
    })
    .unwrap()
}

#[tokio::test]
async fn what_is_published_must_be_what_is_kept() {
    let storage = cluster();
    let check = |items: &[(Item, &str)], published: Option<&str>, expected: &str| {
        let kept = kept(items, Some(published));
        let found = match publication(&kept, &storage, false) {
            Ok(None) => "nothing".to_owned(),
            Ok(Some(it)) => String::from_utf8(it.root.unwrap_or_default()).unwrap(),
            Err(refused) => refused.to_string(),
        };
        assert!(found.contains(expected), "{found}: {expected}");
    };
    check(&WHOLE, Some("root"), "nothing");
    check(&WHOLE, None, "root");
    check(
        &WHOLE,
        Some("other"),
        "ConfigMap dapr-system/dapr-trust-bundle, key \"ca.crt\" differs from Secret dapr-system/dapr-trust-bundle, key \"ca.crt\"",
    );
    let (old, foreign) = (record("old"), record("older"));
    let rotating = |record| [WHOLE[0], WHOLE[1], WHOLE[2], (Item::Rotation, record)];
    check(&rotating(&old), Some("old"), "root");
    check(&rotating(&foreign), Some("old"), "differs from");
    check(&rotating("no record"), Some("old"), "is no rotation state");
}

/// The Secret may not be watched: without it no other replica would hear of a step that leaves the bundle as it is.
#[tokio::test]
async fn each_step_changes_what_is_published() {
    let storage = cluster();
    let record = record("root");
    let check = |record: Option<&str>, phase: Option<&str>, expected: Option<Option<&str>>| {
        let mut kept = kept(&WHOLE, Some(Some("root")));
        if let Some(record) = record {
            kept.items.insert(Item::Rotation, record.into());
        }
        kept.published.as_mut().unwrap().phase = phase.map(str::to_owned);
        let found = publication(&kept, &storage, false).unwrap();
        let found = found.map(|it| it.phase);
        assert_eq!(found.as_ref().map(Option::as_deref), expected, "{phase:?}");
    };
    check(None, None, None);
    check(Some(&record), None, Some(Some("publishing")));
    check(Some(&record), Some("publishing"), None);
    let switched = record.replace("publishing", "switched");
    check(Some(&switched), Some("publishing"), Some(Some("switched")));
    check(None, Some("retired"), Some(None));
}

#[test]
fn the_longest_ttl_is_never_forgotten() {
    let check = |recorded: Option<&str>, now: u64, expected: u64| {
        let items: Vec<_> = recorded
            .map(|it| (Item::LongestTtl, it))
            .into_iter()
            .collect();
        let found = longest_ttl(&kept(&items, None), Duration::from_secs(now));
        assert_eq!(found.as_secs(), expected, "{recorded:?} {now}");
    };
    check(Some("60"), 3, 60);
    check(Some("3"), 60, 60);
    check(None, 60, 86_400);
    check(None, 100_000, 100_000);
    check(Some("no number"), 60, 86_400);
    let (_, text) = record_ttl(Duration::from_millis(1_500));
    assert_eq!(text.as_deref(), Some(&b"2"[..]));
    let (_, usual) = record_ttl(Duration::from_secs(86_400));
    assert_eq!(usual, None);
}

#[test]
fn comments_do_not_make_a_difference() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap()
        .pem();
    let commented = format!("# my root\n{}", pem.replace('\n', "\r\n"));
    assert_eq!(plain(pem.as_bytes()), plain(commented.as_bytes()));
    assert_ne!(plain(b"a"), plain(b"b"));
}

#[tokio::test]
async fn comments_are_not_published() {
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap()
        .pem()
        .replace("\r\n", "\n");
    let commented = format!("# password of the vault: secret\n{pem}");
    let items = [(Item::Root, commented.as_str()), WHOLE[1], WHOLE[2]];
    let published = publication(&kept(&items, Some(None)), &cluster(), false).unwrap();
    let root = published.and_then(|it| it.root).unwrap();
    assert_eq!(String::from_utf8(root).unwrap(), pem);
    // What a user has published stays as it is, and a rotation knows it again.
    let published = publication(&kept(&items, Some(Some(&commented))), &cluster(), false);
    assert_eq!(published.unwrap(), None);
    let before = record(&pem);
    let items = [WHOLE[0], WHOLE[1], WHOLE[2], (Item::Rotation, &before)];
    let published = publication(&kept(&items, Some(Some(&commented))), &cluster(), false);
    assert!(published.unwrap().is_some());
}

#[tokio::test]
async fn a_key_set_is_published_for_jwts_and_stays_as_long_as_its_key() {
    let storage = cluster();
    let check =
        |key: Option<&str>, published: Option<&str>, wanted, expected: Option<Option<&str>>| {
            let mut kept = kept(&WHOLE, Some(Some("root")));
            if let Some(key) = key {
                kept.items.insert(Item::JwtKey, key.into());
                kept.items.insert(Item::JwtKeys, b"keys".to_vec());
            }
            kept.published.as_mut().unwrap().keys = published.map(Into::into);
            let found = publication(&kept, &storage, wanted).unwrap();
            let found = found.map(|it| it.keys.map(|keys| String::from_utf8(keys).unwrap()));
            assert_eq!(
                found.as_ref().map(Option::as_deref),
                expected,
                "{key:?} {published:?} {wanted}"
            );
        };
    check(Some("key"), None, true, Some(Some("keys")));
    check(Some("key"), Some("keys"), true, None);
    check(Some("key"), Some("older"), true, Some(Some("keys")));
    // Switched off.
    check(Some("key"), None, false, None);
    check(Some("key"), Some("keys"), false, None);
    check(None, Some("keys"), false, Some(None));
    check(None, None, false, None);
}
