//! The shop's front: takes an order and hands it to whoever is called `orders`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use dapr_examples_orders::{Order, Sidecar, serve};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let app = Router::new()
        .route("/buy", post(buy))
        .route("/healthz", get(|| async {}))
        .with_state(Sidecar::from_environment()?);
    serve(app).await
}

async fn buy(
    State(sidecar): State<Sidecar>,
    Json(order): Json<Order>,
) -> Result<Json<serde_json::Value>, (StatusCode, String)> {
    let receipt = sidecar.invoke("orders", "place", &order).await;
    receipt
        .map(Json)
        .map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
}
