//! The shop's back: keeps orders, announces them, and follows each on its way with an actor.
//!
//! Several instances can run side by side: they share the state store, and an actor lives on one of them.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use dapr_examples_orders::{Order, Sidecar, serve, variable};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Name of the state store component.
const STORE: &str = "statestore";
/// Name of the pub/sub component.
const PUBSUB: &str = "pubsub";
/// The actor type that follows one order.
const PARCEL: &str = "Parcel";

#[derive(Clone)]
struct Shop {
    sidecar: Sidecar,
    /// Tells instances apart.
    instance: String,
    /// Events this instance has received.
    events: Arc<Mutex<Vec<Value>>>,
}

type Answer = Result<Json<Value>, (StatusCode, String)>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shop = Shop {
        sidecar: Sidecar::from_environment()?,
        instance: variable("INSTANCE")?,
        events: Arc::default(),
    };
    let app = Router::new()
        .route("/place", post(place))
        .route("/order-placed", post(order_placed))
        .route("/events", get(events))
        // What the sidecar asks and calls to host actors.
        .route(
            "/dapr/config",
            get(|| async { Json(json!({ "entities": [PARCEL], "actorIdleTimeout": "1h" })) }),
        )
        .route("/actors/{actor}/{id}/method/{method}", put(parcel))
        .route("/actors/{actor}/{id}", delete(|| async {}))
        .route("/healthz", get(|| async {}))
        .with_state(shop);
    serve(app).await
}

/// Called by other applications through their sidecars.
async fn place(State(shop): State<Shop>, headers: HeaderMap, Json(order): Json<Order>) -> Answer {
    shop.sidecar
        .save(STORE, &order.id, &order)
        .await
        .map_err(failed)?;
    shop.sidecar
        .publish(PUBSUB, "order-placed", &order)
        .await
        .map_err(failed)?;
    let caller = headers
        .get("dapr-caller-app-id")
        .and_then(|value| value.to_str().ok());
    Ok(Json(
        json!({ "order": order.id, "keptBy": shop.instance, "calledBy": caller }),
    ))
}

/// Called by the sidecar for each event of the subscription in `resources/subscription.yaml`.
async fn order_placed(State(shop): State<Shop>, Json(event): Json<Value>) -> Json<Value> {
    shop.events.lock().await.push(event["data"].clone());
    Json(json!({ "status": "SUCCESS" }))
}

/// What this instance has received so far.
async fn events(State(shop): State<Shop>) -> Json<Value> {
    Json(json!(*shop.events.lock().await))
}

/// The actor: counts the stations its parcel has passed. One call at a time per parcel, wherever it lives.
async fn parcel(
    State(shop): State<Shop>,
    Path((actor, id, method)): Path<(String, String, String)>,
) -> Answer {
    let stations = shop
        .sidecar
        .actor_state(&actor, &id, "stations")
        .await
        .map_err(failed)?;
    let mut stations = stations.and_then(|value| value.as_u64()).unwrap_or(0);
    match method.as_str() {
        "move" => {
            stations += 1;
            shop.sidecar
                .set_actor_state(&actor, &id, "stations", &stations)
                .await
                .map_err(failed)?;
        }
        "where" => {}
        _ => {
            return Err((
                StatusCode::NOT_FOUND,
                format!("a parcel knows move and where, not {method}"),
            ));
        }
    }
    Ok(Json(
        json!({ "parcel": id, "stations": stations, "host": shop.instance }),
    ))
}

fn failed(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, error.to_string())
}
