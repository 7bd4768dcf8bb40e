//! A sidecar that does what the test says.

use dapr_proto::dapr::proto::placement::v1::placement_client::PlacementClient;
use dapr_proto::dapr::proto::placement::v1::{
    Host, HostOperation, PlacementOrder, PlacementTables,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::process::PATIENCE;

pub(crate) const NAMESPACE: &str = "default";

pub(crate) struct Sidecar {
    id: String,
    namespace: String,
    messages: Option<mpsc::Sender<Host>>,
    orders: Streaming<PlacementOrder>,
}

/// The report of a sidecar.
pub(crate) fn report(id: &str, entities: &[&str]) -> Host {
    Host {
        name: format!("{id}:50002"),
        id: id.to_owned(),
        namespace: NAMESPACE.to_owned(),
        entities: entities.iter().map(|entity| (*entity).to_owned()).collect(),
        operation: HostOperation::Report.into(),
        ..Host::default()
    }
}

impl Sidecar {
    /// Opens a stream and reports.
    pub(crate) async fn connect(port: u16, id: &str, entities: &[&str]) -> Self {
        Self::open(port, report(id, entities))
            .await
            .expect("the stream opens")
    }

    /// Opens a stream with any first message.
    pub(crate) async fn open(port: u16, first: Host) -> Result<Self, Status> {
        let (id, namespace) = (first.id.clone(), first.namespace.clone());
        let client = PlacementClient::connect(format!("http://127.0.0.1:{port}")).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        let (messages, queue) = mpsc::channel(16);
        messages.send(first).await.expect("room");
        let orders = client
            .report_dapr_status(ReceiverStream::new(queue))
            .await?
            .into_inner();
        Ok(Self {
            id,
            namespace,
            messages: Some(messages),
            orders,
        })
    }

    pub(crate) async fn send(&self, message: Host) {
        self.messages
            .as_ref()
            .expect("still open")
            .send(message)
            .await
            .expect("the stream is open");
    }

    /// Sends a message again and again, without reading anything, until the other future is done.
    pub(crate) async fn send_until(&self, message: Host, done: impl Future<Output = ()>) {
        let messages = self.messages.as_ref().expect("still open");
        let repeat = async {
            while messages.send(message.clone()).await.is_ok() {}
            std::future::pending().await
        };
        tokio::select! {
            () = repeat => {}
            () = done => {}
        }
    }

    /// Ends the own half of the stream.
    pub(crate) fn half_close(&mut self) {
        self.messages = None;
    }

    pub(crate) async fn answer(&self, operation: HostOperation, version: u64) {
        self.send(Host {
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            operation: operation.into(),
            version: Some(version),
            ..Host::default()
        })
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<PlacementOrder, Status> {
        let order = timeout(PATIENCE, self.orders.message())
            .await
            .expect("an order in time");
        order.map(|order| order.expect("streams end with a status"))
    }

    pub(crate) async fn expect(
        &mut self,
        operation: &str,
        version: u64,
    ) -> Option<PlacementTables> {
        let tables = self.try_expect(operation, version).await;
        tables.expect("an order")
    }

    async fn try_expect(
        &mut self,
        operation: &str,
        version: u64,
    ) -> Result<Option<PlacementTables>, Status> {
        let order = self.next().await?;
        assert_eq!(
            (order.operation.as_str(), order.version),
            (operation, version)
        );
        Ok(order.tables)
    }

    /// The status the stream ends with, whatever comes before.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// Follows one round with all its streams and returns the table as `type=host,host`.
pub(crate) async fn round(sidecars: &mut [&mut Sidecar], version: u64) -> String {
    try_round(sidecars, version).await.expect("a whole round")
}

/// As [`round`], or the status a stream ends with meanwhile.
pub(crate) async fn try_round(
    sidecars: &mut [&mut Sidecar],
    version: u64,
) -> Result<String, Status> {
    let mut tables = None;
    for (order, answer) in [
        ("lock", HostOperation::Lock),
        ("update", HostOperation::Update),
        ("unlock", HostOperation::Unlock),
    ] {
        for sidecar in &mut *sidecars {
            let update = sidecar.try_expect(order, version).await?;
            assert_eq!(update.is_some(), order == "update");
            tables = update.or(tables);
            sidecar.answer(answer, version).await;
        }
    }
    Ok(show(&tables.expect("a round has an update")))
}

/// A table as `type=host,host`.
pub(crate) fn show(tables: &PlacementTables) -> String {
    let types = tables.entries.iter().map(|(name, table)| {
        let hosts: Vec<&str> = table
            .load_map
            .values()
            .map(|host| host.id.as_str())
            .collect();
        format!("{name}={}", hosts.join(","))
    });
    types.collect::<Vec<_>>().join(" ")
}
