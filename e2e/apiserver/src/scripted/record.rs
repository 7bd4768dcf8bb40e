//! What was asked of the server.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

/// How many requests are remembered one by one; counts go on.
const REMEMBERED: usize = 10_000;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// GET of a collection.
    List,
    /// GET of a collection with `watch=true`.
    Watch,
    /// GET of an object.
    Get,
    /// POST to a collection.
    Create,
    /// PUT of an object.
    Update,
    /// PATCH of an object.
    Patch,
    /// DELETE of an object.
    Delete,
    /// Anything else.
    Other,
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub verb: Verb,
    /// The HTTP method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query, still encoded.
    pub query: String,
    /// The header `Accept`, empty without one.
    pub accept: String,
    /// When it came.
    pub at: Instant,
}

/// How many requests of a verb went to a path's last collection, for example `(List, "pods")`.
pub type Counts = BTreeMap<(Verb, String), usize>;

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) requests: VecDeque<Request>,
    pub(super) counts: Counts,
    /// Open watches by path, and the most there were at once.
    pub(super) open: BTreeMap<String, (usize, usize)>,
}

impl Request {
    /// The value of a query parameter, still encoded.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let mut pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

impl Record {
    pub(super) fn note(&mut self, request: Request, plural: &str) {
        *self
            .counts
            .entry((request.verb, plural.to_owned()))
            .or_default() += 1;
        self.requests.push_back(request);
        if self.requests.len() > REMEMBERED {
            self.requests.pop_front();
        }
    }

    pub(super) fn opened(&mut self, path: &str) {
        let (now, most) = self.open.entry(path.to_owned()).or_default();
        *now += 1;
        *most = (*most).max(*now);
    }

    pub(super) fn closed(&mut self, path: &str) {
        if let Some((now, _)) = self.open.get_mut(path) {
            *now -= 1;
        }
    }
}
