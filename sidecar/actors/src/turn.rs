//! Turns: one call chain at a time enters an actor, first come first served; a chain that holds the turn may
//! enter again if reentrancy is on.

use std::collections::VecDeque;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

/// Why a turn was not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The actor is being deactivated.
    Closed,
    /// The chain is too deep.
    Depth,
}

/// A call chain that may enter more than once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain<'a> {
    pub(crate) id: &'a str,
    pub(crate) max_depth: u32,
}

/// The turns of one actor.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last: u64,
    current: Option<Turn>,
    queue: VecDeque<Turn>,
}

#[derive(Debug)]
struct Turn {
    number: u64,
    chain: Option<Box<str>>,
    /// Calls inside, or waiting together for the turn to begin.
    depth: u32,
    waiting: SmallVec<[oneshot::Sender<()>; 1]>,
}

/// Leaves the turn, or the queue, when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    turns: &'a Turns,
    number: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.turns.state.lock().leave(self.number);
    }
}

impl Turns {
    /// Waits for a turn. Dropping the future gives up the place in the queue.
    pub(crate) async fn enter(&self, chain: Option<Chain<'_>>) -> Result<Permit<'_>, Refused> {
        let (number, begin) = self.state.lock().enqueue(chain)?;
        let permit = Permit {
            turns: self,
            number,
        };
        if let Some(begin) = begin {
            begin.await.map_err(|_| Refused::Closed)?;
        }
        Ok(permit)
    }

    /// Refuses all who wait and all who come; the turn in progress ends by itself. Says whether it was open.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.queue = VecDeque::new();
        !std::mem::replace(&mut state.closed, true)
    }

    /// Closes unless a turn is in progress; says whether it did.
    pub(crate) fn close_if_idle(&self) -> bool {
        let mut state = self.state.lock();
        if state.current.is_some() || state.closed {
            return false;
        }
        state.closed = true;
        true
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }
}

type Enqueued = (u64, Option<oneshot::Receiver<()>>);

impl State {
    fn enqueue(&mut self, chain: Option<Chain<'_>>) -> Result<Enqueued, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if let Some(chain) = chain
            && let Some(joined) = self.join(chain)
        {
            return joined;
        }
        self.last += 1;
        let mut turn = Turn {
            number: self.last,
            chain: chain.map(|chain| chain.id.into()),
            depth: 1,
            waiting: SmallVec::new(),
        };
        let begin = if self.current.is_none() {
            self.current = Some(turn);
            None
        } else {
            let (sender, receiver) = oneshot::channel();
            turn.waiting.push(sender);
            self.queue.push_back(turn);
            Some(receiver)
        };
        Ok((self.last, begin))
    }

    /// Joins the turn of the same chain, in progress or queued. A refused call does not count.
    fn join(&mut self, chain: Chain<'_>) -> Option<Result<Enqueued, Refused>> {
        let is_same = |turn: &&mut Turn| turn.chain.as_deref() == Some(chain.id);
        if let Some(turn) = self.current.as_mut().filter(is_same) {
            return Some(turn.deepen(chain.max_depth).map(|()| (turn.number, None)));
        }
        let turn = self.queue.iter_mut().find(is_same)?;
        Some(turn.deepen(chain.max_depth).map(|()| {
            let (sender, receiver) = oneshot::channel();
            turn.waiting.push(sender);
            (turn.number, Some(receiver))
        }))
    }

    fn leave(&mut self, number: u64) {
        if let Some(turn) = self.current.as_mut().filter(|turn| turn.number == number) {
            turn.depth -= 1;
            if turn.depth == 0 {
                self.advance();
            }
        } else if let Some(place) = self.queue.iter().position(|turn| turn.number == number) {
            let turn = &mut self.queue[place];
            turn.depth -= 1;
            if turn.depth == 0 {
                self.queue.remove(place);
            }
        }
    }

    /// Begins the next turn.
    fn advance(&mut self) {
        self.current = self.queue.pop_front();
        if let Some(turn) = &mut self.current {
            for waiting in turn.waiting.drain(..) {
                if waiting.send(()).is_err() {
                    // Who has just given up leaves through the own permit.
                }
            }
        } else {
            // An actor at rest keeps no buffer.
            self.queue = VecDeque::new();
        }
    }
}

impl Turn {
    fn deepen(&mut self, max_depth: u32) -> Result<(), Refused> {
        if self.depth >= max_depth {
            return Err(Refused::Depth);
        }
        self.depth += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn chain(id: &str) -> Option<Chain<'_>> {
        Some(Chain { id, max_depth: 3 })
    }

    #[tokio::test]
    async fn turns_come_in_the_order_of_asking() {
        let turns = Turns::default();
        let first = turns.enter(None).await.expect("free");
        let mut second = pin!(turns.enter(None));
        let mut third = pin!(turns.enter(None));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.now_or_never().expect("its turn").expect("open");
        drop(second);
        assert!(third.now_or_never().expect("its turn").is_ok());
    }

    #[tokio::test]
    async fn who_gives_up_loses_the_place_only() {
        let turns = Turns::default();
        let first = turns.enter(None).await.expect("free");
        let mut third = pin!(turns.enter(None));
        {
            let mut second = pin!(turns.enter(None));
            assert!(second.as_mut().now_or_never().is_none());
            assert!(third.as_mut().now_or_never().is_none());
        }
        drop(first);
        assert!(third.now_or_never().expect("its turn").is_ok());
        assert!(turns.close_if_idle(), "nothing is left behind");
    }

    #[tokio::test]
    async fn giving_up_after_the_turn_began_passes_it_on() {
        let turns = Turns::default();
        let first = turns.enter(None).await.expect("free");
        let mut second = Box::pin(turns.enter(None));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        // The turn is granted but the waiter never looks.
        drop(second);
        assert!(turns.enter(None).now_or_never().expect("free").is_ok());
    }

    #[tokio::test]
    async fn a_chain_enters_its_own_turn() {
        let turns = Turns::default();
        let outer = turns.enter(chain("a")).await.expect("free");
        let inner = turns.enter(chain("a")).await.expect("same chain");
        let mut other = pin!(turns.enter(chain("b")));
        let mut joined = pin!(turns.enter(chain("b")));
        assert!(other.as_mut().now_or_never().is_none());
        assert!(joined.as_mut().now_or_never().is_none());
        drop(outer);
        assert!(other.as_mut().now_or_never().is_none(), "inner is inside");
        drop(inner);
        assert!(other.now_or_never().expect("its turn").is_ok());
        assert!(joined.now_or_never().expect("the same turn").is_ok());
    }

    #[tokio::test]
    async fn a_refused_call_does_not_count() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(turns.enter(chain("a")).await.expect("within the depth"));
        }
        let refused = turns.enter(chain("a")).await;
        assert_eq!(refused.err(), Some(Refused::Depth));
        drop(held);
        assert!(turns.enter(None).now_or_never().expect("free").is_ok());
    }

    #[tokio::test]
    async fn closing_refuses_who_waits_and_who_comes() {
        let turns = Turns::default();
        let first = turns.enter(None).await.expect("free");
        assert!(!turns.close_if_idle());
        let mut second = pin!(turns.enter(None));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(turns.close());
        assert!(!turns.close());
        assert_eq!(second.await.err(), Some(Refused::Closed));
        assert_eq!(turns.enter(None).await.err(), Some(Refused::Closed));
        drop(first);
    }

    proptest! {
        /// Enter and leave in any order: at most one chain is inside, and in the end the actor is free.
        #[test]
        fn one_chain_at_a_time(steps in proptest::collection::vec((0usize..4, any::<bool>()), 0..60)) {
            let turns = Turns::default();
            let names = ["a", "b", "c"];
            let mut waiting = VecDeque::new();
            let mut inside: Vec<(Option<&str>, Permit<'_>)> = Vec::new();
            for (who, leave) in steps {
                if leave && !inside.is_empty() {
                    inside.swap_remove(who % inside.len());
                } else {
                    let name = names.get(who).copied();
                    let entering = turns.enter(name.map(|id| Chain { id, max_depth: 2 }));
                    waiting.push_back((name, Box::pin(entering)));
                }
                let mut still = VecDeque::new();
                for (name, mut entering) in waiting {
                    match entering.as_mut().now_or_never() {
                        Some(Ok(permit)) => inside.push((name, permit)),
                        Some(Err(refused)) => prop_assert_eq!(refused, Refused::Depth),
                        None => still.push_back((name, entering)),
                    }
                }
                waiting = still;
                let anonymous = inside.iter().filter(|(name, _)| name.is_none()).count();
                prop_assert!(anonymous == 0 || inside.len() == 1);
                prop_assert!(inside.iter().all(|(name, _)| *name == inside[0].0));
                prop_assert!(!inside.is_empty() || waiting.is_empty());
            }
            drop(waiting);
            drop(inside);
            prop_assert!(turns.close_if_idle());
        }
    }
}
