//! The sidecar's HTTP API, as far as the shop uses it. The official SDKs wrap the same calls.

use serde::Serialize;

/// The sidecar beside this application.
#[derive(Debug, Clone)]
pub struct Sidecar {
    client: reqwest::Client,
    base: String,
}

/// What went wrong with a call: the transport, or the status and body of the answer.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

impl Sidecar {
    /// The sidecar on `DAPR_HTTP_PORT`.
    pub fn from_environment() -> Result<Self, String> {
        let port = crate::variable("DAPR_HTTP_PORT")?;
        Ok(Self {
            client: reqwest::Client::new(),
            base: format!("http://127.0.0.1:{port}/v1.0"),
        })
    }

    /// Calls a method of another application by its name.
    pub async fn invoke(
        &self,
        app: &str,
        method: &str,
        body: &impl Serialize,
    ) -> Result<serde_json::Value, Error> {
        let url = format!("{}/invoke/{app}/method/{method}", self.base);
        Ok(succeeded(self.client.post(url).json(body).send().await?)
            .await?
            .json()
            .await?)
    }

    /// Saves a value under a key.
    pub async fn save(&self, store: &str, key: &str, value: &impl Serialize) -> Result<(), Error> {
        let items = serde_json::json!([{ "key": key, "value": value }]);
        succeeded(
            self.client
                .post(format!("{}/state/{store}", self.base))
                .json(&items)
                .send()
                .await?,
        )
        .await?;
        Ok(())
    }

    /// Publishes an event.
    pub async fn publish(
        &self,
        pubsub: &str,
        topic: &str,
        event: &impl Serialize,
    ) -> Result<(), Error> {
        let url = format!("{}/publish/{pubsub}/{topic}", self.base);
        succeeded(self.client.post(url).json(event).send().await?).await?;
        Ok(())
    }

    /// Reads a key of an actor's state; `None` if it was never written.
    pub async fn actor_state(
        &self,
        actor: &str,
        id: &str,
        key: &str,
    ) -> Result<Option<serde_json::Value>, Error> {
        let url = format!("{}/actors/{actor}/{id}/state/{key}", self.base);
        let answer = succeeded(self.client.get(url).send().await?).await?;
        if answer.status() == reqwest::StatusCode::NO_CONTENT {
            return Ok(None);
        }
        Ok(Some(answer.json().await?))
    }

    /// Writes a key of an actor's state.
    pub async fn set_actor_state(
        &self,
        actor: &str,
        id: &str,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), Error> {
        let url = format!("{}/actors/{actor}/{id}/state", self.base);
        let operations = serde_json::json!([{ "operation": "upsert", "request": { "key": key, "value": value } }]);
        succeeded(self.client.post(url).json(&operations).send().await?).await?;
        Ok(())
    }
}

async fn succeeded(answer: reqwest::Response) -> Result<reqwest::Response, Error> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(format!("{status}: {}", answer.text().await?).into())
}
