//! The page `/placement/state`: what the leader knows, as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use dapr_proto::dapr::proto::placement::v1::Host;
use parking_lot::Mutex;
use serde::Serialize;

/// All namespaces with at least one stream.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tables {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tables: BTreeMap<String, Table>,
}

/// One namespace. Empty values are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Table {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostElement>,
    #[serde(skip_serializing_if = "is_default")]
    version: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct HostElement {
    #[serde(skip_serializing_if = "is_default")]
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    port: i64,
    #[serde(skip_serializing_if = "is_default")]
    load: i64,
    #[serde(skip_serializing_if = "is_default")]
    entities: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    id: String,
    #[serde(skip_serializing_if = "is_default")]
    pod: String,
    #[serde(skip_serializing_if = "is_default")]
    api_level: u32,
    #[serde(skip_serializing_if = "is_default")]
    namespace: String,
    #[serde(skip_serializing_if = "is_default")]
    operation: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Table {
    pub(crate) fn new(version: u64, hosts: Vec<Host>) -> Self {
        Self {
            hosts: hosts.into_iter().map(HostElement::from).collect(),
            version,
        }
    }
}

impl From<Host> for HostElement {
    #[expect(
        deprecated,
        reason = "the page shows every field a sidecar may still send"
    )]
    fn from(host: Host) -> Self {
        let Host {
            name,
            port,
            load,
            entities,
            id,
            pod,
            api_level,
            namespace,
            operation,
            version,
        } = host;
        Self {
            name,
            port,
            load,
            entities,
            id,
            pod,
            api_level,
            namespace,
            operation,
            version,
        }
    }
}

/// Where a namespace shows its last table. The lock guards one pointer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Arc<Mutex<Arc<Table>>>);

impl Shown {
    pub(crate) fn show(&self, table: Table) {
        *self.0.lock() = Arc::new(table);
    }

    pub(crate) fn get(&self) -> Table {
        let shown = Arc::clone(&self.0.lock());
        Table::clone(&shown)
    }
}

#[cfg(test)]
mod tests {
    use dapr_proto::dapr::proto::placement::v1::HostOperation;

    use super::*;

    fn check(tables: &[(&str, Table)], expected: &str) {
        let tables = tables
            .iter()
            .map(|(name, table)| ((*name).to_owned(), table.clone()))
            .collect();
        assert_eq!(
            serde_json::to_string(&Tables { tables }).expect("serializes"),
            expected
        );
    }

    #[test]
    #[expect(deprecated, reason = "sidecars still send api_level")]
    fn empty_values_are_left_out() {
        check(&[], "{}");
        check(&[("ns", Table::default())], r#"{"tables":{"ns":{}}}"#);
        let host = Host {
            name: "10.0.0.1:50002".to_owned(),
            entities: vec!["t1".to_owned(), "t2".to_owned()],
            id: "app".to_owned(),
            api_level: 20,
            namespace: "ns".to_owned(),
            operation: HostOperation::Report.into(),
            ..Host::default()
        };
        check(
            &[("ns", Table::new(3, vec![host]))],
            r#"{"tables":{"ns":{"hosts":[{"name":"10.0.0.1:50002","entities":["t1","t2"],"id":"app","api_level":20,"namespace":"ns","operation":1}],"version":3}}}"#,
        );
        // Nobody reports a version, but who does has it here, too.
        let host = Host {
            name: "h".to_owned(),
            version: Some(0),
            ..Host::default()
        };
        check(
            &[("ns", Table::new(1, vec![host]))],
            r#"{"tables":{"ns":{"hosts":[{"name":"h","version":0}],"version":1}}}"#,
        );
    }
}
