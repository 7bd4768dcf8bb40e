//! What was written, and files that are something else. The library's own suite is in `log`.

use super::*;

fn log_id(term: u64, index: u64) -> LogIdOf<Types> {
    LogIdOf::<Types>::new(
        openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 },
        index,
    )
}

async fn filled(folder: &Path) -> Disk {
    let mut disk = Disk::open(folder, "p0").expect("opens");
    let entries: Vec<EntryOf<Types>> = (0..200)
        .map(|index| EntryOf::<Types>::new_blank(log_id(1, index)))
        .collect();
    disk.append(entries, IOFlushed::<Types>::noop())
        .await
        .expect("written");
    RaftLogStorage::<Types>::save_committed(&mut disk, Some(log_id(1, 150)))
        .await
        .expect("written");
    disk
}

#[tokio::test]
async fn what_was_written_is_there_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = filled(folder.path()).await;
    assert_eq!(disk.standing().expect("read"), None);
    let standing = Standing::stranger(7).let_in();
    disk.set_standing(standing).await.expect("written");
    drop(disk);
    let disk = Disk::open(folder.path(), "p0").expect("opens again");
    assert_eq!(disk.standing().expect("read"), Some(standing));
    let state = disk.log_state::<Types>().expect("read");
    assert_eq!(state.last_log_id, Some(log_id(1, 199)));
    assert!(
        !disk
            .contradicts(&[log_id(1, 3), log_id(2, 199)])
            .expect("read")
    );
    assert!(disk.contradicts(&[log_id(2, 3)]).expect("read"));
}

#[tokio::test]
async fn the_store_of_another_replica_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = filled(folder.path()).await;
    let error = Disk::open(folder.path(), "p0").expect_err("open already");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    drop(disk);
    let error = Disk::open(folder.path(), "p1").expect_err("of p0");
    assert!(
        error
            .to_string()
            .contains("is of replica \"p0\" and not of \"p1\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("written");
    let error = Disk::open(&file, "p0").expect_err("no folder");
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
    assert!(
        error.to_string().contains("--raft-logstore-path"),
        "{error}"
    );
}

/// Changes the file and expects that this is found.
async fn check_damage(damage: impl Fn(&mut Vec<u8>)) {
    let folder = tempfile::tempdir().expect("a folder");
    drop(filled(folder.path()).await);
    let path = folder.path().join(FILE);
    let mut bytes = fs::read(&path).expect("read");
    damage(&mut bytes);
    fs::write(&path, &bytes).expect("written");
    let error = Disk::open(folder.path(), "p0").expect_err("it is damaged");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    assert!(
        fs::exists(&path).expect("looked for"),
        "a damaged log is left to a human"
    );
}

#[tokio::test]
async fn damage_is_found_and_left_alone() {
    check_damage(Vec::clear).await;
    check_damage(|bytes| bytes.truncate(100)).await;
    check_damage(|bytes| bytes.truncate(bytes.len() / 2)).await;
    check_damage(|bytes| bytes.fill(0)).await;
    // Every page is of no use.
    check_damage(|bytes| bytes[4096..].fill(0xa5)).await;
}

#[tokio::test]
async fn a_missing_entry_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = filled(folder.path()).await;
    disk.write(|transaction| remove(transaction, (Bound::Included(7), Bound::Included(7))))
        .await
        .expect("written");
    drop(disk);
    let error = Disk::open(folder.path(), "p0").expect_err("one is missing");
    assert!(error.to_string().contains("entry 7 is missing"), "{error}");
}

/// Every byte of the pages that are in use would take minutes. A prime, for all places within a page.
const STRIDE: usize = 397;

#[tokio::test]
async fn a_wrong_byte_is_found_or_does_no_harm() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(filled(folder.path()).await);
    let path = folder.path().join(FILE);
    let good = fs::read(&path).expect("read");
    let (mut found, mut harmless) = (0, 0);
    for place in (0..good.len()).step_by(STRIDE) {
        // What was never written is all zero.
        if good[place] == 0 && place > 4096 {
            continue;
        }
        let mut bytes = good.clone();
        bytes[place] ^= 0xff;
        fs::write(&path, &bytes).expect("written");
        match Disk::open(folder.path(), "p0") {
            Ok(disk) => {
                harmless += 1;
                let entries = disk.entries((Bound::Unbounded, Bound::Unbounded));
                assert_eq!(entries.expect("read").len(), 200, "byte {place}");
                let committed = disk.fact::<LogIdOf<Types>>(fact::COMMITTED);
                assert_eq!(committed.expect("read"), Some(log_id(1, 150)));
            }
            Err(Error::Damaged { .. }) => found += 1,
            Err(error) => panic!("byte {place}: {error}"),
        }
    }
    assert!(found > 10, "{found} {harmless}");
}

/// Takes entries out of a good store, and returns what its start says.
async fn without(range: (Bound<u64>, Bound<u64>)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = filled(folder.path()).await;
    disk.write(move |transaction| remove(transaction, range))
        .await
        .expect("written");
    drop(disk);
    match Disk::open(folder.path(), "p0") {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn entries_that_were_agreed_on_are_missed() {
    let missing = "entry 150 was agreed on and is missing";
    let all = without((Bound::Unbounded, Bound::Unbounded)).await;
    assert!(all.contains(missing), "{all}");
    let tail = without((Bound::Included(150), Bound::Unbounded)).await;
    assert!(tail.contains(missing), "{tail}");
    // Others may be taken back: nobody has promised anything.
    let rest = without((Bound::Included(151), Bound::Unbounded)).await;
    assert_eq!(rest, "");
}

#[tokio::test]
async fn a_start_that_was_cut_short_leaves_no_store() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join(UNFINISHED), "half").expect("written");
    let disk = Disk::open(folder.path(), "p0").expect("opens");
    assert_eq!(disk.standing().expect("read"), None);
}
