//! A dissemination round as this sidecar sees it: orders in, effects out. No stream, no clock, no actor.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::ring::Host;
use crate::table::{Next, Table};

/// An order of placement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Lock {
        version: u64,
    },
    Update {
        version: u64,
        entries: Vec<(Arc<str>, Vec<Host>)>,
        replication: i64,
    },
    Unlock {
        version: u64,
    },
    /// An operation this sidecar does not know.
    Unknown(String),
}

/// What this sidecar tells placement it has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Lock,
    Update,
    Unlock,
}

/// What has to be done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// The round has to reach `update` in time.
    StartTimer,
    StopTimer,
    /// Publish the table with `changed` blocked, drain their calls, deactivate actors that moved away;
    /// then report [`Dissemination::installed`].
    Install {
        table: Arc<Table>,
        changed: BTreeSet<Arc<str>>,
    },
    /// Calls of all types run again and the host is ready.
    Unblock,
    Answer {
        answer: Answer,
        version: u64,
    },
    /// End the stream.
    Close(Violation),
}

/// Why the stream is ended from this side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("update of version {version} after lock of version {locked}")]
    OldUpdate { version: u64, locked: u64 },
    #[error("unknown operation {0:?}")]
    UnknownOperation(String),
    #[error("placement table refused")]
    Table(#[from] crate::table::Error),
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Dissemination {
    table: Arc<Table>,
    locked: u64,
    /// Version of the `update` whose `unlock` is awaited.
    updated: Option<u64>,
}

impl Dissemination {
    /// A new stream; `table` is the last one seen, so that rings need not be built again.
    pub(crate) fn new(table: Arc<Table>) -> Self {
        Self {
            table,
            locked: 0,
            updated: None,
        }
    }

    /// What an order asks for.
    pub(crate) fn order(&mut self, order: Order) -> Vec<Effect> {
        match order {
            Order::Lock { version } => self.lock(version),
            Order::Update {
                version,
                entries,
                replication,
            } => self.update(version, entries, replication),
            Order::Unlock { version } => self.unlock(version),
            Order::Unknown(operation) => {
                vec![Effect::Close(Violation::UnknownOperation(operation))]
            }
        }
    }

    /// A table was installed: placement may be told.
    pub(crate) fn installed(&self) -> (Answer, u64) {
        (Answer::Update, self.locked)
    }

    /// A lock blocks nobody: which types change is only known with the table.
    fn lock(&mut self, version: u64) -> Vec<Effect> {
        self.locked = version;
        self.updated = None;
        vec![
            Effect::StartTimer,
            Effect::Answer {
                answer: Answer::Lock,
                version,
            },
        ]
    }

    fn update(
        &mut self,
        version: u64,
        entries: Vec<(Arc<str>, Vec<Host>)>,
        replication: i64,
    ) -> Vec<Effect> {
        if version < self.locked {
            return vec![Effect::Close(Violation::OldUpdate {
                version,
                locked: self.locked,
            })];
        }
        let Next { table, changed } = match self.table.next(entries, replication) {
            Ok(next) => next,
            Err(error) => return vec![Effect::Close(error.into())],
        };
        self.table = Arc::new(table);
        self.updated = Some(version);
        vec![
            Effect::StopTimer,
            Effect::Install {
                table: Arc::clone(&self.table),
                changed,
            },
        ]
    }

    fn unlock(&mut self, version: u64) -> Vec<Effect> {
        match self.updated {
            Some(updated) if version >= updated => {
                self.updated = None;
                vec![
                    Effect::Unblock,
                    Effect::Answer {
                        answer: Answer::Unlock,
                        version,
                    },
                ]
            }
            Some(_) | None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The shell in small: which types are blocked, what was answered.
    struct Shell {
        core: Dissemination,
        blocked: BTreeSet<Arc<str>>,
        timer: bool,
        answers: Vec<(Answer, u64)>,
        closed: Option<Violation>,
        unblocked: usize,
    }

    impl Shell {
        fn new() -> Self {
            Self {
                core: Dissemination::new(Arc::default()),
                blocked: BTreeSet::new(),
                timer: false,
                answers: Vec::new(),
                closed: None,
                unblocked: 0,
            }
        }

        fn order(&mut self, order: Order) {
            for effect in self.core.order(order) {
                self.perform(effect);
            }
        }

        fn perform(&mut self, effect: Effect) {
            match effect {
                Effect::StartTimer => self.timer = true,
                Effect::StopTimer => self.timer = false,
                Effect::Install { changed, .. } => {
                    self.blocked.extend(changed);
                    self.answers.push(self.core.installed());
                }
                Effect::Unblock => {
                    self.blocked.clear();
                    self.unblocked += 1;
                }
                Effect::Answer { answer, version } => self.answers.push((answer, version)),
                Effect::Close(violation) => self.closed = Some(violation),
            }
        }
    }

    fn update(version: u64, types: &[(&str, u8)]) -> Order {
        let entries = types
            .iter()
            .map(|(name, host)| {
                let host = Host {
                    name: format!("h{host}:1").into(),
                    app_id: "app".into(),
                    port: 0,
                    local: false,
                };
                (Arc::from(*name), vec![host])
            })
            .collect();
        Order::Update {
            version,
            entries,
            replication: 3,
        }
    }

    #[test]
    fn a_normal_round() {
        let mut shell = Shell::new();
        shell.order(Order::Lock { version: 4 });
        assert!(shell.timer);
        shell.order(update(4, &[("a", 1)]));
        assert!(!shell.timer);
        assert_eq!(shell.blocked.len(), 1);
        shell.order(Order::Unlock { version: 4 });
        assert!(shell.blocked.is_empty());
        assert_eq!(
            shell.answers,
            [(Answer::Lock, 4), (Answer::Update, 4), (Answer::Unlock, 4)]
        );
    }

    #[test]
    fn an_abandoned_round_keeps_its_types_blocked() {
        let mut shell = Shell::new();
        shell.order(Order::Lock { version: 1 });
        shell.order(update(1, &[("a", 1)]));
        shell.order(Order::Lock { version: 2 });
        shell.order(Order::Unlock { version: 1 });
        assert_eq!(shell.blocked.len(), 1, "no update since the lock");
        shell.order(update(2, &[("a", 1), ("b", 1)]));
        assert_eq!(shell.blocked.len(), 2);
        shell.order(Order::Unlock { version: 2 });
        assert!(shell.blocked.is_empty());
    }

    #[test]
    fn wrong_orders() {
        let mut shell = Shell::new();
        shell.order(Order::Unlock { version: 9 });
        assert_eq!((shell.unblocked, shell.answers.len()), (0, 0));
        shell.order(Order::Lock { version: 5 });
        shell.order(update(5, &[]));
        shell.order(Order::Unlock { version: 4 });
        assert_eq!(shell.unblocked, 0);
        shell.order(update(4, &[]));
        assert_eq!(
            shell.closed,
            Some(Violation::OldUpdate {
                version: 4,
                locked: 5
            })
        );
        shell.order(Order::Unknown("dance".to_owned()));
        assert_eq!(
            shell.closed,
            Some(Violation::UnknownOperation("dance".to_owned()))
        );
    }

    fn orders() -> impl Strategy<Value = Order> {
        prop_oneof![
            (0u64..6).prop_map(|version| Order::Lock { version }),
            (
                0u64..6,
                proptest::collection::vec((0usize..4, 0u8..3), 0..4)
            )
                .prop_map(|(version, types)| {
                    let types: Vec<_> = types
                        .into_iter()
                        .map(|(name, host)| (["a", "b", "c", "d"][name], host))
                        .collect();
                    update(version, &types)
                }),
            (0u64..6).prop_map(|version| Order::Unlock { version }),
        ]
    }

    proptest! {
        #[test]
        fn nothing_stays_blocked_after_an_unlock(orders in proptest::collection::vec(orders(), 0..40)) {
            let mut shell = Shell::new();
            for order in orders {
                let unlock = matches!(order, Order::Unlock { .. });
                let (unblocked, answers) = (shell.unblocked, shell.answers.len());
                shell.order(order);
                if shell.closed.is_some() {
                    return Ok(());
                }
                if shell.unblocked > unblocked {
                    prop_assert!(unlock && shell.blocked.is_empty());
                    prop_assert_eq!(shell.answers.len(), answers + 1);
                } else if unlock {
                    // An ignored unlock is not answered.
                    prop_assert_eq!(shell.answers.len(), answers);
                }
            }
            // Whatever happened, one complete round sets everything free.
            let version = shell.core.locked + 1;
            shell.order(Order::Lock { version });
            shell.order(update(version, &[("a", 1)]));
            shell.order(Order::Unlock { version });
            prop_assert!(shell.blocked.is_empty());
            prop_assert!(!shell.timer);
        }
    }
}
