//! When to list, when to watch, and from which version. Pure: time and randomness are arguments.
//!
//! A server is taken at its word as long as its versions hold what they promise. Then one list is enough: a watch goes
//! on where the last one ended. It is not believed any more once a list or a change comes without a version, or a
//! change with a version that is not newer, or watches keep ending within seconds. From then on each watch is opened
//! first and the list read after that, so that nothing can happen unseen in between.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use super::failure::{Class, Failure};
use super::pace::Backoff;
use super::store::number;

/// How long a watch must have lasted to count as a success, and to show that the server does not end it in a hurry;
/// half the time it was asked for is enough.
const LASTING: Duration = Duration::from_secs(5);
/// So many hasty ends in a row, and the server is listed after each watch it opens.
const HASTY_ENDS: u32 = 3;
/// So many refused watches in a row, and the list is read as well, for the watch may never come.
const REFUSED_WATCHES: u32 = 3;
/// How long a server without versions is given to register a watch it has not answered yet: some send the head of
/// their answer with the first event only.
const REGISTERED_AFTER: Duration = Duration::from_millis(250);
/// By how much each pause between lists is longer than the last, while nothing changes.
const RELIST_FACTOR: f64 = 1.5;
/// By how much each pause between fruitless watches is longer than the last.
const REOPEN_FACTOR: f64 = 2.0;

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Read the whole list.
    List { paging: Paging },
    /// Open a watch.
    Watch {
        /// The version to go on from.
        version: Option<String>,
    },
    /// Read the open watch, until then at most.
    Read { until: Instant },
    /// Do nothing until then.
    Wait { until: Instant },
}

/// Whether a list is asked for in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paging {
    Pages,
    Whole,
}

/// Whether an event or a list told something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Changed,
    Same,
}

/// What the watcher knows about the server, and when it may turn to it again.
#[derive(Debug)]
pub(super) struct Plan {
    config: Config,
    trust: Trust,
    /// Up to where everything is known.
    version: Option<String>,
    /// Consecutive watches that ended in a hurry.
    hasty: u32,
    /// Consecutive answers that history is gone.
    gone: Backoff,
    list: List,
    watch: Watch,
    stream: Stream,
}

/// Whether the server's versions hold what they promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Versions,
    Nothing,
}

#[derive(Debug)]
struct List {
    /// Whether one was complete.
    complete: bool,
    /// Whether one is wanted, whatever the rest says.
    owed: bool,
    paging: Paging,
    /// The version of the last complete one.
    version: Option<String>,
    started: Option<Instant>,
    not_before: Instant,
    /// Lists in a row that changed nothing.
    still: u32,
    backoff: Backoff,
}

#[derive(Debug)]
struct Watch {
    not_before: Instant,
    /// Watches in a row that ended at once with no news.
    fruitless: u32,
    refused: u32,
    backoff: Backoff,
}

/// The watch, of which there is one at most.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stream {
    Closed,
    Open {
        since: Instant,
        until: Instant,
        /// From when on no change can escape it.
        registered: Instant,
        /// Whether a list was begun after that.
        listed: bool,
        news: News,
    },
}

impl Plan {
    pub(super) fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            trust: Trust::Versions,
            version: None,
            hasty: 0,
            gone: Backoff::default(),
            list: List {
                complete: false,
                owed: true,
                paging: Paging::Pages,
                version: None,
                started: None,
                not_before: now,
                still: 0,
                backoff: Backoff::default(),
            },
            watch: Watch {
                not_before: now,
                fruitless: 0,
                refused: 0,
                backoff: Backoff::default(),
            },
            stream: Stream::Closed,
        }
    }

    pub(super) fn next(&self, now: Instant) -> Step {
        let list = self.list_due();
        let watch = self.watch_due();
        // A due watch goes first: what happens while the list is read must not escape.
        if watch.is_some_and(|due| due <= now) {
            return Step::Watch {
                version: self.resume(),
            };
        }
        if list.is_some_and(|due| due <= now) {
            return Step::List {
                paging: self.list.paging,
            };
        }
        match self.stream {
            Stream::Open { until, .. } => Step::Read {
                until: list.map_or(until, |due| due.min(until)),
            },
            Stream::Closed => Step::Wait {
                // One of them is due some time: without a list there is no watch, and then a list is wanted.
                until: watch
                    .into_iter()
                    .chain(list)
                    .min()
                    .unwrap_or(now + self.config.backoff.floor),
            },
        }
    }

    /// When a list may be read, if one is wanted.
    fn list_due(&self) -> Option<Instant> {
        let not_before = self.list.not_before;
        if self.list.owed || !self.list.complete {
            return Some(not_before);
        }
        if !self.is_doubted() {
            return None;
        }
        match self.stream {
            Stream::Closed => Some(not_before),
            Stream::Open { listed: true, .. } => None,
            Stream::Open { registered, .. } => Some(not_before.max(registered)),
        }
    }

    /// When a watch may be opened: one at a time, and not before it is known from where.
    fn watch_due(&self) -> Option<Instant> {
        let known = self.list.complete && (self.version.is_some() || self.trust == Trust::Nothing);
        (known && self.stream == Stream::Closed).then_some(self.watch.not_before)
    }

    fn resume(&self) -> Option<String> {
        match self.trust {
            Trust::Versions => self.version.clone(),
            Trust::Nothing => None,
        }
    }

    /// Whether lists are needed besides watches.
    fn is_doubted(&self) -> bool {
        self.trust == Trust::Nothing || self.hasty >= HASTY_ENDS
    }

    /// Whether a list was complete.
    pub(super) fn is_complete(&self) -> bool {
        self.list.complete
    }

    pub(super) fn list_started(&mut self, now: Instant) {
        self.list.started = Some(now);
        self.list.owed = false;
        if let Stream::Open {
            registered, listed, ..
        } = &mut self.stream
        {
            *listed = *registered <= now;
        }
    }

    /// A list is complete. `version` is the one the server gave.
    pub(super) fn listed(&mut self, version: Option<String>, news: News) {
        let unmoved = version == self.version || version == self.list.version;
        if version.is_none() || (self.list.complete && unmoved && news == News::Changed) {
            self.trust = Trust::Nothing;
        }
        self.list.version.clone_from(&version);
        self.version = version;
        self.list.still = if news == News::Changed {
            0
        } else {
            self.list.still.saturating_add(1)
        };
        self.list.complete = true;
        self.list.paging = Paging::Pages;
        self.list.backoff.succeed();
        let pause = self.config.relist.after(self.list.still, RELIST_FACTOR);
        self.list.not_before = self
            .list
            .started
            .map_or(self.list.not_before, |started| started + pause);
    }

    pub(super) fn list_failed(&mut self, failure: &Failure, now: Instant, share: f64) {
        self.list.owed = true;
        let expired = failure.class == Class::Gone && self.list.paging == Paging::Pages;
        if expired {
            // The list took longer than the server keeps its history: only a whole one will do.
            self.list.paging = Paging::Whole;
            self.list.not_before = now;
            return;
        }
        self.list.paging = Paging::Pages;
        let pause = self
            .list
            .backoff
            .fail(self.config.backoff, failure.retry_after, share);
        self.list.not_before = now + pause;
    }

    /// A watch was asked for. Says for how many seconds the server should keep it.
    pub(super) fn watch_started(&mut self, now: Instant, share: f64) -> u32 {
        let wanted = self
            .config
            .watch_timeout
            .mul_f64(1.0 + share / 2.0)
            .as_secs_f64()
            .ceil();
        let seconds = if wanted < 1.0 {
            1
        } else {
            u32::try_from(wanted as u64).unwrap_or(u32::MAX)
        };
        self.stream = Stream::Open {
            since: now,
            until: now + Duration::from_secs(u64::from(seconds)) + self.config.grace,
            registered: now + REGISTERED_AFTER,
            listed: false,
            news: News::Same,
        };
        seconds
    }

    /// The server accepted the watch.
    pub(super) fn watch_accepted(&mut self, now: Instant) {
        if let Stream::Open {
            registered, listed, ..
        } = &mut self.stream
        {
            (*registered, *listed) = (now, false);
        }
    }

    /// An object came with the watch. Its version is `None` when it has none.
    pub(super) fn event(&mut self, version: Option<&str>, told: News) {
        if told == News::Changed {
            self.list.still = 0;
            self.watch.fruitless = 0;
            self.watch_works();
            if let Stream::Open { news, .. } = &mut self.stream {
                *news = News::Changed;
            }
        }
        if !self.advance(version) && told == News::Changed && self.trust == Trust::Versions {
            self.trust = Trust::Nothing;
            self.list.owed = true;
        }
    }

    /// Everything up to `version` was told.
    pub(super) fn bookmark(&mut self, version: Option<&str>) {
        self.advance(version);
    }

    /// Whether `version` is beyond what was known.
    fn advance(&mut self, version: Option<&str>) -> bool {
        let forward = is_beyond(version, self.version.as_deref());
        if forward {
            self.version = version.map(ToOwned::to_owned);
            self.watch_works();
        }
        forward
    }

    /// Ends a watch that is over its time. Says whether it was.
    pub(super) fn watch_over(&mut self, now: Instant) -> bool {
        let over = matches!(self.stream, Stream::Open { until, .. } if until <= now);
        if over {
            self.watch_ended(now);
        }
        over
    }

    /// The watch ended without an error.
    pub(super) fn watch_ended(&mut self, now: Instant) {
        let Stream::Open { since, news, .. } = std::mem::replace(&mut self.stream, Stream::Closed)
        else {
            return;
        };
        if now.duration_since(since) >= self.lasting() {
            self.hasty = 0;
            self.watch.fruitless = 0;
            self.watch_works();
            self.watch.not_before = now;
            return;
        }
        self.hasty = self.hasty.saturating_add(1);
        if news == News::Changed {
            self.watch.not_before = now;
        } else {
            self.watch.not_before = now
                + self
                    .config
                    .reopen
                    .after(self.watch.fruitless, REOPEN_FACTOR);
            self.watch.fruitless = self.watch.fruitless.saturating_add(1);
        }
    }

    /// The watch could not be opened, broke, or ended with an error.
    pub(super) fn watch_failed(&mut self, failure: &Failure, now: Instant, share: f64) {
        let stream = std::mem::replace(&mut self.stream, Stream::Closed);
        if let Stream::Open { since, .. } = stream
            && now.duration_since(since) >= self.lasting()
            && failure.class != Class::Gone
        {
            self.watch_works();
        }
        match failure.class {
            Class::Gone if self.trust == Trust::Versions => self.history_gone(failure, now, share),
            Class::Unreachable => self.watch_later(failure, now, share),
            // Without versions no history was asked for.
            Class::Gone | Class::Refused => {
                self.watch_later(failure, now, share);
                self.watch.refused = self.watch.refused.saturating_add(1);
                self.list.owed |= self.watch.refused >= REFUSED_WATCHES;
            }
        }
    }

    /// The list follows at once, unless one was just read. A server that goes on like this is given pauses.
    fn history_gone(&mut self, failure: &Failure, now: Instant, share: f64) {
        self.version = None;
        self.list.owed = true;
        let first = self.gone.failures() == 0;
        let pause = self
            .gone
            .fail(self.config.backoff, failure.retry_after, share);
        let at_once = first && failure.retry_after.is_none();
        let pause = if at_once { Duration::ZERO } else { pause };
        let floor = self
            .list
            .started
            .map_or(now, |started| started + self.config.relist.floor);
        self.list.not_before = floor.max(now + pause);
        self.watch.not_before = self.list.not_before;
    }

    fn watch_later(&mut self, failure: &Failure, now: Instant, share: f64) {
        let pause = self
            .watch
            .backoff
            .fail(self.config.backoff, failure.retry_after, share);
        self.watch.not_before = now + pause;
    }

    fn lasting(&self) -> Duration {
        LASTING.min(self.config.watch_timeout / 2)
    }

    fn watch_works(&mut self) {
        self.gone.succeed();
        self.watch.refused = 0;
        self.watch.backoff.succeed();
    }
}

/// Whether `seen` is beyond `known`. Versions that are no numbers can only differ.
fn is_beyond(seen: Option<&str>, known: Option<&str>) -> bool {
    match (number(seen), number(known)) {
        (Some(seen), Some(known)) => seen > known,
        _ => seen.is_some() && seen != known,
    }
}

#[cfg(test)]
mod tests;
