//! State: written, read, guarded by etags, gone in time, and still there for the next process.

use std::path::Path;

use anyhow::{Result, ensure};
use dapr_e2e::await_condition;
use dapr_e2e::standalone::Sidecar;
use serde_json::{Value, json};

use crate::support::{LIMIT, Stage, component, fetch, story};

#[test]
fn an_in_memory_store_keeps_state() {
    story("state-in-memory", async |stage| {
        let store = component("store", "state.in-memory", &[]);
        let resources = stage.resources("resources", &[store])?;
        let sidecar = sidecar(stage, &stage.id("keeper"), &resources).await?;
        basics(stage, &sidecar).await?;
        guards(stage, &sidecar).await?;
        many(stage, &sidecar).await?;
        expiry(stage, &sidecar).await
    });
}

#[test]
fn a_sqlite_store_keeps_state() {
    story("state-sqlite", async |stage| {
        let resources = stage.resources("resources", &[sqlite()])?;
        let sidecar = sidecar(stage, &stage.id("keeper"), &resources).await?;
        basics(stage, &sidecar).await?;
        guards(stage, &sidecar).await?;
        many(stage, &sidecar).await?;
        expiry(stage, &sidecar).await
    });
}

#[test]
fn a_sqlite_file_is_shared_and_survives() {
    story("state-shared", async |stage| {
        let resources = stage.resources("resources", &[sqlite()])?;
        let id = stage.id("keeper");
        let mut first = sidecar(stage, &id, &resources).await?;
        save(stage, &first, json!([{ "key": "a", "value": { "n": 1 } }])).await?;

        let mut second = sidecar(stage, &id, &resources).await?;
        let etag = fetch(stage.http.get(second.url("state/store/a")))
            .await?
            .expect(200)?
            .header("etag")
            .to_owned();
        let write = json!([{ "key": "a", "value": { "n": 2 }, "etag": etag }]);
        save(stage, &second, write.clone()).await?;
        let late = fetch(stage.http.post(first.url("state/store")).json(&write)).await?;
        late.refusal(409, "ERR_STATE_SAVE")?;
        // Another application sees nothing of it: the key carries the app id.
        let other = sidecar(stage, &stage.id("other"), &resources).await?;
        fetch(stage.http.get(other.url("state/store/a")))
            .await?
            .expect(204)?;

        for sidecar in [&mut first, &mut second] {
            let status = sidecar.process.terminate(LIMIT).await?;
            ensure!(status.success(), "the sidecar ended with {status}");
        }
        let third = sidecar(stage, &id, &resources).await?;
        let reply = fetch(stage.http.get(third.url("state/store/a")))
            .await?
            .expect(200)?;
        assert_eq!(reply.json()?, json!({ "n": 2 }));
        Ok(())
    });
}

fn sqlite() -> String {
    component("store", "state.sqlite", &[("connectionString", "state.db")])
}

async fn sidecar(stage: &Stage, id: &str, resources: &Path) -> Result<Sidecar> {
    let mut spec = stage.spec(id, None);
    spec.resources = Some(resources.to_owned());
    stage.sidecar(&spec, None).await
}

async fn save(stage: &Stage, sidecar: &Sidecar, items: Value) -> Result<()> {
    fetch(stage.http.post(sidecar.url("state/store")).json(&items))
        .await?
        .expect(204)?;
    Ok(())
}

async fn basics(stage: &Stage, sidecar: &Sidecar) -> Result<()> {
    let item = sidecar.url("state/store/order");
    fetch(stage.http.get(&item)).await?.expect(204)?;
    save(
        stage,
        sidecar,
        json!([{ "key": "order", "value": { "item": "tea" } }]),
    )
    .await?;
    let reply = fetch(stage.http.get(&item)).await?.expect(200)?;
    ensure!(
        reply.json()? == json!({ "item": "tea" }),
        "another value: {}",
        reply.body
    );
    ensure!(
        reply.header("content-type") == "application/json",
        "another type: {reply:?}"
    );
    ensure!(!reply.header("etag").is_empty(), "no etag: {reply:?}");
    fetch(stage.http.delete(&item)).await?.expect(204)?;
    fetch(stage.http.get(&item)).await?.expect(204)?;
    fetch(stage.http.delete(&item)).await?.expect(204)?;

    let unknown = fetch(stage.http.get(sidecar.url("state/nowhere/a"))).await?;
    let message = unknown.refusal(400, "ERR_STATE_STORE_NOT_FOUND")?;
    ensure!(message == "state store nowhere is not found", "{message}");
    let write = json!([{ "key": "a||b", "value": 1 }]);
    let message = fetch(stage.http.post(sidecar.url("state/store")).json(&write))
        .await?
        .refusal(400, "ERR_MALFORMED_REQUEST")?;
    ensure!(
        message.ends_with("input key/keyPrefix 'a||b' can't contain '||'"),
        "{message}"
    );
    let keyless = fetch(
        stage
            .http
            .post(sidecar.url("state/store"))
            .json(&json!([{ "value": 1 }])),
    )
    .await?;
    let message = keyless.refusal(400, "ERR_MALFORMED_REQUEST")?;
    ensure!(message == "\"key\" is a required field", "{message}");
    Ok(())
}

/// Etags: the second of two writers who have read the same loses.
async fn guards(stage: &Stage, sidecar: &Sidecar) -> Result<()> {
    let (store, item) = (
        sidecar.url("state/store"),
        sidecar.url("state/store/guarded"),
    );
    save(stage, sidecar, json!([{ "key": "guarded", "value": 1 }])).await?;
    let read = fetch(stage.http.get(&item))
        .await?
        .expect(200)?
        .header("etag")
        .to_owned();
    let write = json!([{ "key": "guarded", "value": 2, "etag": read, "options": { "concurrency": "first-write" } }]);
    fetch(stage.http.post(&store).json(&write))
        .await?
        .expect(204)?;
    let message = fetch(stage.http.post(&store).json(&write))
        .await?
        .refusal(409, "ERR_STATE_SAVE")?;
    let expected =
        "failed saving state in state store store: possible etag mismatch. error from state store";
    ensure!(message.starts_with(expected), "{message}");

    let create =
        json!([{ "key": "guarded", "value": 3, "options": { "concurrency": "first-write" } }]);
    fetch(stage.http.post(&store).json(&create))
        .await?
        .refusal(409, "ERR_STATE_SAVE")?;
    let stale = stage.http.delete(&item).header("if-match", &read);
    fetch(stale).await?.refusal(409, "ERR_STATE_DELETE")?;
    let now = fetch(stage.http.get(&item))
        .await?
        .expect(200)?
        .header("etag")
        .to_owned();
    ensure!(now != read, "the etag did not change");
    fetch(stage.http.delete(&item).header("if-match", now))
        .await?
        .expect(204)?;
    Ok(())
}

/// Bulk reads and transactions.
async fn many(stage: &Stage, sidecar: &Sidecar) -> Result<()> {
    save(
        stage,
        sidecar,
        json!([{ "key": "one", "value": 1 }, { "key": "two", "value": "zwei" }]),
    )
    .await?;
    let request = stage
        .http
        .post(sidecar.url("state/store/bulk"))
        .json(&json!({ "keys": ["one", "two", "none"] }));
    let items = fetch(request).await?.expect(200)?.json()?;
    let data = |key: &str| {
        items
            .as_array()?
            .iter()
            .find(|item| item["key"] == key)?
            .get("data")
            .cloned()
    };
    ensure!(
        data("one") == Some(json!(1)) && data("two") == Some(json!("zwei")),
        "bulk read: {items}"
    );
    ensure!(
        items.as_array().is_some_and(|items| items.len() == 3) && data("none").is_none(),
        "bulk read: {items}"
    );

    let url = sidecar.url("state/store/transaction");
    let operations = json!([
        { "operation": "upsert", "request": { "key": "three", "value": 3 } },
        { "operation": "delete", "request": { "key": "one" } },
    ]);
    fetch(
        stage
            .http
            .post(&url)
            .json(&json!({ "operations": operations })),
    )
    .await?
    .expect(204)?;
    fetch(stage.http.get(sidecar.url("state/store/three")))
        .await?
        .expect(200)?;
    fetch(stage.http.get(sidecar.url("state/store/one")))
        .await?
        .expect(204)?;

    let operations = json!([
        { "operation": "upsert", "request": { "key": "four", "value": 4 } },
        { "operation": "upsert", "request": { "key": "two", "value": 0, "etag": "999999" } },
    ]);
    let broken = stage
        .http
        .post(&url)
        .json(&json!({ "operations": operations }));
    fetch(broken).await?.refusal(500, "ERR_STATE_TRANSACTION")?;
    fetch(stage.http.get(sidecar.url("state/store/four")))
        .await?
        .expect(204)?;
    Ok(())
}

async fn expiry(stage: &Stage, sidecar: &Sidecar) -> Result<()> {
    let item = sidecar.url("state/store/brief");
    save(
        stage,
        sidecar,
        json!([{ "key": "brief", "value": 1, "metadata": { "ttlInSeconds": "2" } }]),
    )
    .await?;
    let reply = fetch(stage.http.get(&item)).await?.expect(200)?;
    ensure!(
        reply.header("metadata.ttlexpiretime").ends_with('Z'),
        "no expiry: {reply:?}"
    );
    await_condition("the item has expired", LIMIT, || async {
        fetch(stage.http.get(&item)).await?.expect(204)?;
        Ok(())
    })
    .await
}
