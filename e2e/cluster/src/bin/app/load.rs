//! A steady load: requests leave on schedule, whether or not earlier ones have come back.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::Result;
use dapr_e2e_cluster::Summary;
use reqwest::Client;
use serde::Deserialize;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::ask::{self, once};

/// A request that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

/// What is to be sent.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Order {
    /// Where to; the body is a little JSON.
    pub(crate) url: String,
    /// Requests per second.
    pub(crate) rate: u32,
}

/// A load that is on.
#[derive(Debug)]
pub(crate) struct Load {
    end: oneshot::Sender<Infallible>,
    task: tokio::task::JoinHandle<Summary>,
    sent: watch::Receiver<usize>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(order: Order) -> Result<Self> {
        let client = ask::client(LIMIT)?;
        let (end, ended) = oneshot::channel();
        let (sending, sent) = watch::channel(0);
        let task = tokio::spawn(run(client, order, ended, sending));
        Ok(Self { end, task, sent })
    }

    /// How many were sent so far, and more to come.
    pub(crate) fn sent(&self) -> watch::Receiver<usize> {
        self.sent.clone()
    }

    /// Ends, when every request has come back or has failed.
    pub(crate) async fn stop(self) -> Result<Summary> {
        drop(self.end);
        Ok(self.task.await?)
    }
}

async fn run(
    client: Client,
    order: Order,
    mut ended: oneshot::Receiver<Infallible>,
    sent: watch::Sender<usize>,
) -> Summary {
    let mut ticks = interval(Duration::from_secs(1) / order.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut summary = Summary::default();
    let mut flying = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            Some(done) = flying.join_next() => note(&mut summary, done),
            _ = ticks.tick() => {
                sent.send_modify(|sent| *sent += 1);
                let request = client.post(&order.url).json(&serde_json::json!({"n": *sent.borrow()}));
                flying.spawn(async move {
                    let began = Instant::now();
                    (once(request).await, began.elapsed())
                });
            }
        }
    }
    while let Some(done) = flying.join_next().await {
        note(&mut summary, done);
    }
    summary
}

fn note(summary: &mut Summary, done: Result<(Result<String>, Duration), tokio::task::JoinError>) {
    match done {
        Ok((answer, took)) => {
            if answer.is_ok() {
                summary.took(took);
            }
            summary.count(answer);
        }
        Err(error) => summary.count(Err(error.into())),
    }
}
