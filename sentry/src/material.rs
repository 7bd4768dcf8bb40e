//! What is done with what was found: use it, make what is missing, or refuse. Nothing a user brought is ever replaced
//! without their word.

use std::time::Duration;

use dapr_security::certificate;

use crate::ca::{self, Files};
use crate::config::WORKLOAD_TTL;
use crate::jwt;
use crate::rotation::Record;
use crate::storage::{Changes, Item, Kept, Published, Storage};

/// Why material is refused. Each text names the object and the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(
        "{missing} is missing, while {present} is there: restore it, or remove both to have a new certificate authority made"
    )]
    Incomplete { missing: String, present: String },
    #[error(
        "{published} has a root certificate, while {secret} has none: restore the Secret, or remove the key from the ConfigMap to have a new certificate authority made"
    )]
    Orphaned { published: String, secret: String },
    #[error("{published} differs from {secret}: both must have the same root certificates")]
    Disagree { published: String, secret: String },
    #[error("{0} is no rotation state of this program: remove it to end the rotation where it is")]
    Rotation(String),
}

/// The certificate authority that applies.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Ca {
    Use(Files),
    /// There is none yet. Where files of an older one are left over, they are named.
    Generate {
        left_over: Vec<Item>,
    },
}

const TRIO: [Item; 3] = [Item::Root, Item::Chain, Item::Key];

/// Decides about root, chain and key.
pub(crate) fn ca(kept: &Kept, storage: &Storage) -> Result<Ca, Refused> {
    if let [Some(root), Some(chain), Some(key)] = TRIO.map(|item| kept.get(item)) {
        return Ok(Ca::Use(Files {
            root: root.to_vec(),
            chain: chain.to_vec(),
            key: key.to_vec(),
        }));
    }
    let (present, missing): (Vec<_>, Vec<_>) =
        TRIO.into_iter().partition(|item| kept.get(*item).is_some());
    let Some(published) = &kept.published else {
        // Files: the original makes all three anew as soon as one is missing.
        return Ok(Ca::Generate { left_over: present });
    };
    if let (Some(present), Some(missing)) = (present.first(), missing.first()) {
        return Err(Refused::Incomplete {
            missing: storage.describe(*missing),
            present: storage.describe(*present),
        });
    }
    if published.root.is_some() {
        return Err(Refused::Orphaned {
            published: storage.describe_published(),
            secret: storage.describe(Item::Root),
        });
    }
    Ok(Ca::Generate {
        left_over: Vec::new(),
    })
}

/// Decides what has to be published; nothing if it is there already or there is nobody to publish to.
pub(crate) fn publication(
    kept: &Kept,
    storage: &Storage,
    with_keys: bool,
) -> Result<Option<Published>, Refused> {
    let Some(published) = &kept.published else {
        return Ok(None);
    };
    let keys = jwt(kept).map(|pair| pair.keys);
    let root = kept.get(Item::Root);
    let record = rotation(kept, storage)?;
    let wanted = Published {
        root: root.map(plain),
        keys,
        phase: record.as_ref().map(|it| it.phase.name().to_owned()),
    };
    let same_root = match (&published.root, &wanted.root) {
        (None, _) => true,
        (Some(published), Some(root)) => plain(published) == *root,
        (Some(_), None) => false,
    };
    // While a root is rotated the Secret leads, and a crash may have come between it and the ConfigMap.
    let is_rotating = record.is_some_and(|record| {
        let published = plain(published.root.as_deref().unwrap_or_default());
        record.expects(&published, &wanted.root)
    });
    if !same_root && !is_rotating {
        return Err(Refused::Disagree {
            published: storage.describe_published(),
            secret: storage.describe(Item::Root),
        });
    }
    // While JWTs are switched off nothing is written for their sake, and what is published stays as long as its key
    // does: tokens that were issued are still verified with it.
    let is_off = !with_keys && wanted.keys.is_some();
    let same_keys = is_off || published.keys == wanted.keys;
    let same_phase = published.phase == wanted.phase;
    let is_there = same_root && published.root.is_some() && same_keys && same_phase;
    Ok((!is_there).then_some(wanted))
}

/// The certificates of a PEM text without comments; what cannot be parsed stays as it is. Comments may be a person's
/// notes, and what is published is for everybody.
pub(crate) fn plain(text: &[u8]) -> Vec<u8> {
    match certificate::chain_from_pem(text) {
        Ok(chain) => certificate::chain_to_pem(&chain).into_bytes(),
        Err(_) => text.to_vec(),
    }
}

/// The state of the rotation, if there is one.
pub(crate) fn rotation(kept: &Kept, storage: &Storage) -> Result<Option<Record>, Refused> {
    let Some(text) = kept.get(Item::Rotation) else {
        return Ok(None);
    };
    let record = serde_json::from_slice(text);
    record
        .map(Some)
        .map_err(|_| Refused::Rotation(storage.describe(Item::Rotation)))
}

/// The longest TTL that certificates of the authority may have, with those that are issued from now on. Where nothing
/// was recorded, by the original or an older version for instance, they were issued with what is usual if not with more.
pub(crate) fn longest_ttl(kept: &Kept, now: Duration) -> Duration {
    let text = kept.get(Item::LongestTtl);
    let recorded = text.and_then(|it| str::from_utf8(it).ok()?.trim().parse().ok());
    recorded.map_or(WORKLOAD_TTL, Duration::from_secs).max(now)
}

/// The change that records a TTL; parts of a second count as a whole one. The usual one is taken for granted where nothing
/// is recorded, so that most authorities are kept as the original keeps them.
pub(crate) fn record_ttl(ttl: Duration) -> (Item, Option<Vec<u8>>) {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    let is_usual = seconds == WORKLOAD_TTL.as_secs();
    let text = (!is_usual).then(|| seconds.to_string().into_bytes());
    (Item::LongestTtl, text)
}

/// What a person has to look at because of an error of the authority.
pub(crate) fn at_fault(error: &ca::Error) -> Item {
    match error {
        ca::Error::Roots(_)
        | ca::Error::Anchors(_)
        | ca::Error::NotSelfSigned(_)
        | ca::Error::NotAuthority(ca::Place::Root(_))
        | ca::Error::PathLength(ca::Place::Root(_)) => Item::Root,
        ca::Error::KeyBlock | ca::Error::Key(_) | ca::Error::KeyMismatch => Item::Key,
        ca::Error::Chain(_)
        | ca::Error::Broken(_)
        | ca::Error::NotAuthority(ca::Place::Chain(_))
        | ca::Error::PathLength(ca::Place::Chain(_))
        | ca::Error::NotAccepted(_)
        | ca::Error::NotValidNow
        | ca::Error::Unrooted
        | ca::Error::Make(_)
        | ca::Error::Template(_)
        | ca::Error::Cross => Item::Chain,
    }
}

/// As [`at_fault`], of the pair that signs JWTs.
pub(crate) fn jwt_at_fault(error: &jwt::Error) -> Item {
    match error {
        jwt::Error::Parse(_) | jwt::Error::Empty | jwt::Error::Missing(_) => Item::JwtKeys,
        jwt::Error::KeyBlock
        | jwt::Error::Key
        | jwt::Error::Public(_)
        | jwt::Error::Fit(_)
        | jwt::Error::Generated
        | jwt::Error::Make(_)
        | jwt::Error::Sign => Item::JwtKey,
    }
}

/// The JWT key and its key set, if both are there.
pub(crate) fn jwt(kept: &Kept) -> Option<jwt::Files> {
    let (key, keys) = (kept.get(Item::JwtKey)?, kept.get(Item::JwtKeys)?);
    Some(jwt::Files {
        key: key.to_vec(),
        keys: keys.to_vec(),
    })
}

/// The changes that put an authority into its place.
pub(crate) fn changes(files: &Files) -> Changes {
    [
        (Item::Root, &files.root),
        (Item::Chain, &files.chain),
        (Item::Key, &files.key),
    ]
    .into_iter()
    .map(|(item, contents)| (item, Some(contents.clone())))
    .collect()
}

#[cfg(test)]
mod tests;
