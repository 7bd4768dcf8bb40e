//! An open watch: history from where the client stands, then what happens, then the end the script wants.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::failure;
use super::fault::Fault;
use super::object::Resource;
use super::selector::Selector;
use super::shared::Shared;
use super::store::{Event, Versions};

/// How long a watch lasts whose client does not say.
const LONGEST: Duration = Duration::from_secs(1800);
/// How many events are remembered to be told again.
const AGAIN: usize = 3;

/// What a client wants to watch.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) path: String,
    pub(super) resource: Resource,
    pub(super) namespace: String,
    pub(super) selector: Selector,
    pub(super) version: Option<u64>,
    pub(super) timeout: Option<Duration>,
    pub(super) bookmarks: bool,
}

/// A watch the server answers.
pub(super) struct Live {
    shared: Arc<Shared>,
    wish: Wish,
    /// The last change that was told.
    cursor: u64,
    started: bool,
    queue: VecDeque<Bytes>,
    said: VecDeque<Bytes>,
    events: usize,
    twice: bool,
    fate: Fate,
    until: Instant,
    bookmark: Option<Instant>,
    moved: watch::Receiver<u64>,
    disturbed: watch::Receiver<Option<Fault>>,
}

/// What comes after the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoOn,
    End,
    Reset,
    Silence,
}

impl Live {
    pub(super) fn new(shared: Arc<Shared>, wish: Wish, fault: Option<Fault>) -> Self {
        shared.record.lock().opened(&wish.path);
        let now = Instant::now();
        let mut live = Self {
            cursor: wish.version.unwrap_or_default(),
            until: now + wish.timeout.unwrap_or(LONGEST),
            bookmark: None,
            moved: shared.moved.subscribe(),
            disturbed: shared.disturbed.subscribe(),
            shared,
            wish,
            started: false,
            queue: VecDeque::new(),
            said: VecDeque::new(),
            events: 0,
            twice: false,
            fate: Fate::GoOn,
        };
        live.disturbed.mark_unchanged();
        live.schedule(now);
        if let Some(fault) = fault {
            live.suffer(fault);
        }
        live
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        loop {
            if let Some(bytes) = self.queue.pop_front() {
                return Some(Ok(bytes));
            }
            match self.fate {
                Fate::GoOn => {}
                Fate::End => return None,
                Fate::Reset => return Some(Err(std::io::ErrorKind::ConnectionReset.into())),
                Fate::Silence => std::future::pending().await,
            }
            self.moved.mark_unchanged();
            self.gather();
            if self.queue.is_empty() && self.fate == Fate::GoOn {
                self.wait().await;
            }
        }
    }

    async fn wait(&mut self) {
        let bookmark = self.bookmark.unwrap_or(self.until);
        tokio::select! {
            moved = self.moved.changed() => if moved.is_err() { self.fate = Fate::End },
            disturbed = self.disturbed.changed() => {
                let fault = *self.disturbed.borrow_and_update();
                match fault {
                    Some(fault) if disturbed.is_ok() => self.suffer(fault),
                    _ => {}
                }
            }
            () = sleep_until(self.until) => {
                self.tell_bookmark();
                self.fate = Fate::End;
            }
            () = sleep_until(bookmark) => {
                self.tell_bookmark();
                self.schedule(Instant::now());
            }
        }
    }

    /// Queues what happened since the cursor.
    fn gather(&mut self) {
        let shared = Arc::clone(&self.shared);
        let store = shared.store.lock();
        if !self.started {
            self.started = true;
            match self.wish.version {
                None => {
                    self.cursor = store.last();
                    if shared.options.initial_events {
                        let objects = store.list(&self.wish.resource, &self.wish.namespace);
                        let objects: Vec<_> =
                            objects.map(|(_, object)| Arc::clone(object)).collect();
                        for object in objects {
                            if self.wish.selector.matches(&object.value)
                                && !self.tell("ADDED", &object.text)
                            {
                                return;
                            }
                        }
                    }
                }
                Some(version) if version > store.last() => {
                    return self.too_large(version, store.last());
                }
                Some(_) => {}
            }
        }
        if self.cursor < store.forgotten() {
            return self.error(
                410,
                &format!(
                    "too old resource version: {} ({})",
                    self.cursor,
                    store.forgotten()
                ),
            );
        }
        for event in store.since(self.cursor) {
            self.cursor = event.number;
            if let Some((kind, text)) = self.sight(event)
                && !self.tell(kind, text)
            {
                return;
            }
        }
    }

    /// What an event looks like through the selector.
    fn sight<'a>(&self, event: &'a Event) -> Option<(&'static str, &'a str)> {
        let wanted = self.wish.namespace.is_empty() || self.wish.namespace == event.name.namespace;
        if !wanted || event.resource != self.wish.resource {
            return None;
        }
        let matches = |value: &Value| self.wish.selector.matches(value);
        let before = event.old.as_ref().is_some_and(|old| matches(&old.value));
        let after = !event.deleted && matches(&event.new.value);
        let kind = match (before, after) {
            (false, false) => return None,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        Some((kind, &event.new.text))
    }

    /// Queues an event. Says whether there may be more.
    fn tell(&mut self, kind: &str, object: &str) -> bool {
        let event = Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"));
        self.said.push_back(event.clone());
        if self.said.len() > AGAIN {
            self.said.pop_front();
        }
        if self.twice {
            self.queue.push_back(event.clone());
        }
        self.queue.push_back(event);
        self.events += 1;
        if self
            .shared
            .options
            .events_per_watch
            .is_some_and(|most| self.events >= most)
        {
            self.fate = Fate::End;
        }
        self.fate == Fate::GoOn
    }

    fn tell_bookmark(&mut self) {
        let versions = self.shared.store.lock().versions();
        if !self.wish.bookmarks
            || self.shared.options.bookmarks.is_none()
            || versions == Versions::Off
        {
            return;
        }
        // Everything up to the cursor was told, and nothing of this kind happened since.
        let version = self.cursor.max(*self.moved.borrow());
        if self.moved.has_changed().unwrap_or(true) {
            return;
        }
        let bookmark = json!({"type": "BOOKMARK", "object": {
            "apiVersion": self.wish.resource.api_version(),
            "kind": "Bookmark",
            "metadata": {"resourceVersion": version.to_string()},
        }});
        self.queue.push_back(Bytes::from(format!("{bookmark}\n")));
    }

    fn schedule(&mut self, now: Instant) {
        self.bookmark = self.shared.options.bookmarks.map(|interval| now + interval);
    }

    fn error(&mut self, code: u16, message: &str) {
        self.refuse(&failure(code, message));
    }

    fn too_large(&mut self, version: u64, current: u64) {
        let mut status = failure(
            504,
            &format!("Too large resource version: {version}, current: {current}"),
        );
        status["details"] =
            json!({"retryAfterSeconds": 1, "causes": [{"reason": "ResourceVersionTooLarge"}]});
        self.refuse(&status);
    }

    fn refuse(&mut self, status: &Value) {
        let event = json!({"type": "ERROR", "object": status});
        self.queue.push_back(Bytes::from(format!("{event}\n")));
        self.fate = Fate::End;
    }

    fn suffer(&mut self, fault: Fault) {
        match fault {
            Fault::Status { code, .. } | Fault::Error(code) => self.error(code, "scripted"),
            Fault::Mute | Fault::Silent => self.fate = Fate::Silence,
            Fault::Reset => {
                self.queue.push_back(Bytes::from_static(
                    b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"na",
                ));
                self.fate = Fate::Reset;
            }
            Fault::Garbage => self.queue.push_back(Bytes::from_static(b"!? no event\n")),
            Fault::Duplicate => {
                self.twice = true;
                self.queue.extend(self.said.iter().cloned());
            }
            Fault::End => self.fate = Fate::End,
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.record.lock().closed(&self.wish.path);
    }
}
