//! The loop of a watcher: asks the plan, does what it says, and tells it what came of it.

use std::convert::Infallible;
use std::sync::Arc;

use serde_json::value::RawValue;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::failure::{Class, Failure};
use super::plan::{News, Paging, Plan, Step};
use super::reader::Shared;
use super::server::{Part, Said, Server, Stream};
use super::store::{Age, Key, Put};
use super::wire::{Event, Identity, Page, unquoted};
use super::{Change, Config, Object};

/// More pages than any list has: a server whose pages never end is not believed.
const MOST_PAGES: usize = 100_000;

/// A watcher at work.
pub(super) struct Run<K> {
    server: Server,
    plan: Plan,
    shared: Arc<Shared<K>>,
    stream: Option<Stream>,
}

impl<K: Object> Run<K> {
    pub(super) fn new(server: Server, config: Config, shared: Arc<Shared<K>>) -> Self {
        Self {
            server,
            plan: Plan::new(config, Instant::now()),
            shared,
            stream: None,
        }
    }

    pub(super) async fn forever(mut self, mut on: impl FnMut(Change<K>) + Send) -> Infallible {
        loop {
            match self.plan.next(Instant::now()) {
                Step::Wait { until } => sleep_until(until).await,
                Step::List { paging } => self.list(paging, &mut on).await,
                Step::Watch { version } => {
                    let seconds = self.plan.watch_started(Instant::now(), rand::random());
                    self.stream = Some(self.server.watch(version.as_deref(), seconds));
                }
                Step::Read { until } => self.read(until, &mut on).await,
            }
        }
    }

    /// Reads the list. An open watch is not read meanwhile: its events are as new as the list or newer, so they come
    /// after it.
    async fn list(&mut self, paging: Paging, on: &mut (impl FnMut(Change<K>) + Send)) {
        self.plan.list_started(Instant::now());
        match self.pages(paging, on).await {
            Ok((version, news)) => {
                self.plan.listed(version, news);
                self.recovered();
                if self.shared.complete() {
                    info!(
                        kind = self.server.kind,
                        objects = self.shared.store.read().len(),
                        "listed"
                    );
                    on(Change::Synced);
                }
            }
            Err(failure) => {
                self.plan
                    .list_failed(&failure, Instant::now(), rand::random());
                self.failed("list", &failure);
            }
        }
    }

    /// Takes every page as it comes; what none of them shows is deleted at the end.
    async fn pages(
        &mut self,
        paging: Paging,
        on: &mut (impl FnMut(Change<K>) + Send),
    ) -> Result<(Option<String>, News), Failure> {
        self.shared.store.write().begin_list();
        let mut news = News::Same;
        let mut token: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let part = match (paging, &token) {
                (Paging::Whole, None) => Part::Whole,
                (Paging::Pages, None) => Part::First,
                (_, Some(token)) => Part::After(token),
            };
            let body = self.server.list(part).await?;
            let page = Page::read(&body).map_err(|error| Failure::refused(error.to_string()))?;
            for item in page.items {
                let Some(identity) = self.identity(item) else {
                    continue;
                };
                if self.put(identity, item, on).1 == News::Changed {
                    news = News::Changed;
                }
            }
            if page.next.is_none() {
                return Ok((page.version, self.sweep(news, on)));
            }
            if page.next == token {
                break;
            }
            token = page.next;
        }
        Err(Failure::refused(
            "the pages of the list do not end".to_owned(),
        ))
    }

    fn sweep(&self, mut news: News, on: &mut impl FnMut(Change<K>)) -> News {
        let gone = self.shared.store.read().gone();
        for key in gone {
            if self.delete(&key, on) == News::Changed {
                news = News::Changed;
            }
        }
        news
    }

    async fn read(&mut self, until: Instant, on: &mut (impl FnMut(Change<K>) + Send)) {
        let Some(stream) = &mut self.stream else {
            // The plan believes in a watch that is not there: it is opened again.
            self.plan.watch_ended(Instant::now());
            return;
        };
        let Ok(said) = timeout_at(until, stream.next()).await else {
            // A list may be due, or the watch is over its time: a server that said nothing for so long may be gone.
            if self.plan.watch_over(Instant::now()) {
                debug!(kind = self.server.kind, "the watch is over its time");
                self.stream = None;
            }
            return;
        };
        match said {
            Said::Accepted => {
                self.plan.watch_accepted(Instant::now());
                self.recovered();
            }
            Said::Event(frame) => self.event(&frame, on),
            Said::Ended => {
                self.stream = None;
                self.plan.watch_ended(Instant::now());
            }
            Said::Failed(failure) => self.broken(&failure),
        }
    }

    fn event(&mut self, frame: &[u8], on: &mut impl FnMut(Change<K>)) {
        let event = match Event::read(frame) {
            Ok(event) => event,
            Err(error) => return self.broken(&Failure::refused(error.to_string())),
        };
        let told = match event {
            Event::Applied(object) => self
                .identity(object)
                .map(|identity| self.put_newer(identity, object, on)),
            Event::Deleted(object) => self
                .identity(object)
                .map(|identity| self.delete_newer(identity, on)),
            Event::Bookmark(version) => {
                self.plan.bookmark(version.as_deref());
                None
            }
            Event::Error(status) => return self.broken(&Failure::of_status(&status)),
            Event::Unknown => None,
        };
        if let Some((identity, news)) = told {
            self.plan.event(identity.version.as_deref(), news);
        }
        self.recovered();
    }

    fn put_newer(
        &self,
        identity: Identity,
        object: &RawValue,
        on: &mut impl FnMut(Change<K>),
    ) -> (Identity, News) {
        let age = self.shared.store.read().age(&identity);
        match age {
            Age::Older => (identity, News::Same),
            Age::Current => self.put(identity, object, on),
        }
    }

    fn delete_newer(&self, identity: Identity, on: &mut impl FnMut(Change<K>)) -> (Identity, News) {
        let age = self.shared.store.read().age(&identity);
        let news = match age {
            Age::Older => News::Same,
            Age::Current => self.delete(&identity.key, on),
        };
        (identity, news)
    }

    fn put(
        &self,
        identity: Identity,
        object: &RawValue,
        on: &mut impl FnMut(Change<K>),
    ) -> (Identity, News) {
        let read = match identity.object::<K>(object) {
            Ok(read) => read,
            Err(error) => {
                self.unreadable(&identity, &error);
                return (identity, News::Same);
            }
        };
        let (put, mended) = {
            let mut store = self.shared.store.write();
            let unreadable = store.unreadable().len();
            let put = store.put(identity.clone(), read);
            (put, store.unreadable().len() != unreadable)
        };
        match put {
            Put::Unchanged => {
                if mended {
                    self.shared.changed();
                }
                (identity, News::Same)
            }
            Put::Changed { old, new } => {
                self.shared.changed();
                on(Change::Applied { old, new });
                (identity, News::Changed)
            }
        }
    }

    fn delete(&self, key: &Key, on: &mut impl FnMut(Change<K>)) -> News {
        let (old, mended) = {
            let mut store = self.shared.store.write();
            let unreadable = store.unreadable().len();
            let old = store.remove(key);
            (old, store.unreadable().len() != unreadable)
        };
        if old.is_some() || mended {
            self.shared.changed();
        }
        let Some(old) = old else {
            return News::Same;
        };
        on(Change::Deleted { old });
        News::Changed
    }

    fn identity(&self, object: &RawValue) -> Option<Identity> {
        let identity = Identity::read(object, self.server.namespace.as_deref());
        identity
            .inspect_err(|error| warn!(kind = self.server.kind, %error, "skipped"))
            .ok()
    }

    fn unreadable(&self, identity: &Identity, error: &serde_json::Error) {
        let error = unquoted(error);
        let news = {
            let mut store = self.shared.store.write();
            store.put_unreadable(identity, error.clone())
        };
        if news {
            self.shared.changed();
            let (namespace, name) = (&identity.key.namespace, &identity.key.name);
            warn!(kind = self.server.kind, %namespace, %name, error, "cannot be read, skipped");
        }
    }

    fn broken(&mut self, failure: &Failure) {
        self.stream = None;
        self.plan
            .watch_failed(failure, Instant::now(), rand::random());
        // History that is gone is no trouble: the list follows at once, and says so if it is.
        if failure.class == Class::Gone {
            debug!(
                kind = self.server.kind,
                reason = failure.text,
                "listing again"
            );
        } else {
            self.failed("watch", failure);
        }
    }

    fn failed(&self, verb: &str, failure: &Failure) {
        let error = format!("{verb} {}: {}", self.server.kind, failure.text);
        let now = Instant::now();
        let news = self
            .shared
            .health
            .send_if_modified(|health| health.failed(&error, failure.presence, now));
        if news {
            warn!(kind = self.server.kind, error, "behind the API server");
        } else {
            debug!(
                kind = self.server.kind,
                error, "still behind the API server"
            );
        }
    }

    /// The server was heard: trouble, if there was any, is over.
    fn recovered(&self) {
        let now = Instant::now();
        let synced = self.plan.is_complete();
        let recovered = self
            .shared
            .health
            .send_if_modified(|health| health.heard(now, synced));
        if recovered {
            debug!(kind = self.server.kind, "follows the API server");
        }
    }
}
