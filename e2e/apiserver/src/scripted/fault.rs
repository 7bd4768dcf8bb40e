//! What can go wrong, on demand.

use std::collections::VecDeque;

/// A failure of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status instead of an answer; for a watch that is open already, an `ERROR` event with this code.
    Status {
        /// For example 429.
        code: u16,
        /// Seconds in the header `Retry-After`.
        retry_after: Option<u64>,
    },
    /// The watch is accepted and tells of an error with this code; a list answers with the status.
    Error(u16),
    /// No answer at all, and the connection stays open.
    Mute,
    /// The head of an answer, and then nothing, while the connection stays open.
    Silent,
    /// The connection breaks in the middle of the answer.
    Reset,
    /// Something that is not JSON; a watch goes on after it.
    Garbage,
    /// The last events once more, and every later one twice; a list shows every object twice.
    Duplicate,
    /// The answer ends at once: a watch without an event, a list in the middle.
    End,
}

/// Faults that wait for the next list and the next watch.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) lists: VecDeque<Fault>,
    pub(super) watches: VecDeque<Fault>,
}
