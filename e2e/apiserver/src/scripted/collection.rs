//! Lists, in pages where they are wanted.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::discovery;
use super::object::{Resource, Stored};
use super::selector::Selector;
use super::shared::{Rest, Shared};
use super::store::Versions;

/// So many lists can be read page by page at the same time; the oldest expires.
const PAGED_LISTS: usize = 64;

/// The parameters of a request.
#[derive(Clone, Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn new(query: &str) -> Self {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Self(
            pairs
                .map(|(key, value)| (decode(key).into_owned(), decode(value).into_owned()))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.clone())
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// Undoes the encoding of a form.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits);
                bytes.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
            }
            other => bytes.push(other),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// A list or a page of one, every object `times` times.
pub(super) fn list(
    shared: &Shared,
    resource: &Resource,
    namespace: &str,
    query: &Query,
    times: usize,
) -> Answer {
    let (id, start, rest) = match query.get("continue") {
        None => (None, 0, snapshot(shared, resource, namespace, query)),
        Some(token) => match resume(shared, &token) {
            Some((id, start, rest)) => (Some(id), start, rest),
            None => return answer::status(410, "the provided continue parameter is too old"),
        },
    };
    let limit = query
        .number("limit")
        .filter(|limit| *limit > 0 && shared.options.paging);
    let size = limit.map_or(rest.items.len(), |limit| {
        usize::try_from(limit).unwrap_or(usize::MAX)
    });
    let end = start.saturating_add(size).min(rest.items.len());
    let versions = shared.store.lock().versions();
    let mut metadata = json!({});
    if versions == Versions::On {
        metadata["resourceVersion"] = json!(rest.version.to_string());
    }
    if end < rest.items.len() {
        metadata["remainingItemCount"] = json!(rest.items.len() - end);
        let id = id.unwrap_or_else(|| keep(shared, rest.clone()));
        metadata["continue"] = json!(format!("{id}:{end}"));
    }
    let page = rest.items.get(start..end).unwrap_or_default();
    answer::text(200, write(shared, resource, &metadata, page, times))
}

fn snapshot(shared: &Shared, resource: &Resource, namespace: &str, query: &Query) -> Rest {
    let selector = Selector::new(
        query.get("labelSelector").as_deref(),
        query.get("fieldSelector").as_deref(),
    );
    let store = shared.store.lock();
    let objects = store.list(resource, namespace).map(|(_, object)| object);
    Rest {
        version: store.last(),
        items: objects
            .filter(|object| selector.matches(&object.value))
            .cloned()
            .collect(),
    }
}

fn resume(shared: &Shared, token: &str) -> Option<(u64, usize, Rest)> {
    let (id, start) = token.split_once(':')?;
    let (id, start) = (id.parse().ok()?, start.parse().ok()?);
    let pages = shared.pages.lock();
    let (_, rest) = pages.iter().find(|(known, _)| *known == id)?;
    Some((id, start, rest.clone()))
}

fn keep(shared: &Shared, rest: Rest) -> u64 {
    let mut pages = shared.pages.lock();
    let id = pages.last().map_or(1, |(id, _)| id + 1);
    pages.push((id, rest));
    if pages.len() > PAGED_LISTS {
        pages.remove(0);
    }
    id
}

/// The kind of a list, as far as an object or the server's own list of kinds tells it. Clients in Go read no other.
fn list_kind(shared: &Shared, resource: &Resource) -> String {
    let told = shared.store.lock().kind(resource);
    let kind = told.or_else(|| {
        let kinds = shared.kinds.lock();
        discovery::kind(resource, &kinds).map(str::to_owned)
    });
    kind.unwrap_or_default() + "List"
}

fn write(
    shared: &Shared,
    resource: &Resource,
    metadata: &Value,
    items: &[Arc<Stored>],
    times: usize,
) -> String {
    let kind = list_kind(shared, resource);
    let api_version = resource.api_version();
    let length: usize = items.iter().map(|object| object.item.len() + 1).sum();
    let mut text = String::with_capacity(times * length + 200);
    text.push_str(&format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
    ));
    let written = items
        .iter()
        .flat_map(|object| std::iter::repeat_n(&object.item, times));
    for (index, item) in written.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::new("labelSelector=app%3Da%2Ctier+in+%28x%29&limit=5&watch=&broken");
        assert_eq!(
            query.get("labelSelector").as_deref(),
            Some("app=a,tier in (x)")
        );
        assert_eq!(query.number("limit"), Some(5));
        assert_eq!(query.get("watch"), None);
    }
}
