//! Who takes part: when a replica that knows nothing may vote, and how the members become those of the list.
//!
//! Pure; `raft` asks and carries out.
//!
//! A replica without a log must not vote as if it had never promised anything. It waits for a leader that brings
//! it up to date. Only when so many know nothing that no majority is left that could remember, there is nothing to
//! wait for.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ChangeMembers;
use openraft::impls::BasicNode;

use super::wire::Greeting;

/// What a replica that knows nothing does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A leader will come, or more will answer.
    Wait,
    /// Nobody knows anything: all begin with the members of the list.
    Begin,
    /// Those who know something are too few to go on alone.
    Join,
}

/// Decides from what the others of the list have answered; who has not is taken to remember.
pub(super) fn next(own: u64, list: &BTreeSet<u64>, answers: &BTreeMap<u64, Greeting>) -> Next {
    let mut fresh = BTreeSet::from([own]);
    let mut memberships = Vec::new();
    for (id, answer) in answers {
        match answer {
            Greeting::Fresh => {
                fresh.insert(*id);
            }
            // Before its first entry it is as good as fresh, but it will vote.
            Greeting::Whole(members) if members.is_empty() => {}
            Greeting::Whole(members) => memberships.push(members),
        }
    }
    let forgotten = |members: &BTreeSet<u64>| {
        let remembering = members.difference(&fresh).count();
        remembering < majority(members.len())
    };
    if memberships.is_empty() {
        if forgotten(list) {
            Next::Begin
        } else {
            Next::Wait
        }
    } else if memberships.into_iter().all(forgotten) {
        Next::Join
    } else {
        Next::Wait
    }
}

fn majority(of: usize) -> usize {
    of / 2 + 1
}

/// Where the members are on the way to the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    pub(super) voters: BTreeSet<u64>,
    /// Those who listen, and whether they have all the leader has.
    pub(super) learners: BTreeMap<u64, bool>,
}

/// The next single change on the way from the members to the list, if one can be made now. Nobody votes before it
/// has caught up, and nobody leaves before the ones that replace it vote.
pub(super) fn change(
    members: &Members,
    list: &BTreeMap<u64, String>,
) -> Option<ChangeMembers<u64, BasicNode>> {
    let missing = list
        .iter()
        .filter(|(id, _)| !members.voters.contains(id) && !members.learners.contains_key(id));
    let nodes: BTreeMap<u64, BasicNode> = missing
        .map(|(id, address)| (*id, BasicNode::new(address)))
        .collect();
    if !nodes.is_empty() {
        return Some(ChangeMembers::AddNodes(nodes));
    }
    let ready = members
        .learners
        .iter()
        .filter(|(id, caught_up)| **caught_up && list.contains_key(id));
    let ready: BTreeSet<u64> = ready.map(|(id, _)| *id).collect();
    if !ready.is_empty() {
        return Some(ChangeMembers::AddVoterIds(ready));
    }
    let leaving: BTreeSet<u64> = members
        .voters
        .iter()
        .copied()
        .filter(|id| !list.contains_key(id))
        .collect();
    let staying = members.voters.len() - leaving.len();
    if !leaving.is_empty() && staying >= majority(list.len()) {
        return Some(ChangeMembers::RemoveVoters(leaving));
    }
    let idle: BTreeSet<u64> = members
        .learners
        .keys()
        .copied()
        .filter(|id| !list.contains_key(id))
        .collect();
    (!idle.is_empty()).then_some(ChangeMembers::RemoveNodes(idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(members: &[u64]) -> Greeting {
        Greeting::Whole(members.iter().copied().collect())
    }

    fn check(list: &[u64], answers: &[(u64, Greeting)], expected: Next) {
        let list = list.iter().copied().collect();
        let answers = answers.iter().cloned().collect();
        assert_eq!(next(1, &list, &answers), expected, "{answers:?}");
    }

    #[test]
    fn the_first_start() {
        check(&[1], &[], Next::Begin);
        check(&[1, 2, 3], &[], Next::Wait);
        check(&[1, 2, 3], &[(2, Greeting::Fresh)], Next::Begin);
        // The others began a moment ago and will send all there is.
        check(&[1, 2, 3], &[(2, whole(&[]))], Next::Wait);
        check(&[1, 2, 3, 4, 5], &[(2, Greeting::Fresh)], Next::Wait);
        check(
            &[1, 2, 3, 4, 5],
            &[(2, Greeting::Fresh), (5, Greeting::Fresh)],
            Next::Begin,
        );
    }

    #[test]
    fn coming_back_without_a_log() {
        let all = [1, 2, 3];
        check(&all, &[(2, whole(&all)), (3, whole(&all))], Next::Wait);
        // The silent one may be the only other that knows what was agreed on.
        check(&all, &[(2, whole(&all))], Next::Wait);
        // One is left that remembers; it needs a second one.
        check(&all, &[(2, whole(&all)), (3, Greeting::Fresh)], Next::Join);
    }

    #[test]
    fn one_more_replica_waits_to_be_let_in() {
        check(
            &[1, 2, 3],
            &[(2, Greeting::Fresh), (3, whole(&[3]))],
            Next::Wait,
        );
    }

    fn check_change(voters: &[u64], learners: &[(u64, bool)], list: &[u64], expected: &str) {
        let members = Members {
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
        };
        let list = list.iter().map(|id| (*id, format!("h{id}:1"))).collect();
        let found = change(&members, &list).map_or_else(String::new, |change| match change {
            ChangeMembers::AddNodes(nodes) => format!("+{:?}", nodes.keys().collect::<Vec<_>>()),
            ChangeMembers::AddVoterIds(ids) => format!("vote{ids:?}"),
            ChangeMembers::RemoveVoters(ids) => format!("-vote{ids:?}"),
            ChangeMembers::RemoveNodes(ids) => format!("-{ids:?}"),
            other => format!("{other:?}"),
        });
        assert_eq!(found, expected, "{members:?} {list:?}");
    }

    #[test]
    fn one_to_three_to_five_and_back() {
        check_change(&[1], &[], &[1], "");
        check_change(&[1], &[], &[1, 2, 3], "+[2, 3]");
        check_change(&[1], &[(2, false), (3, false)], &[1, 2, 3], "");
        check_change(&[1], &[(2, true), (3, false)], &[1, 2, 3], "vote{2}");
        check_change(&[1, 2], &[(3, true)], &[1, 2, 3], "vote{3}");
        check_change(&[1, 2, 3], &[], &[1, 2, 3, 4, 5], "+[4, 5]");
        check_change(&[1, 2, 3, 4, 5], &[], &[1, 2, 3], "-vote{4, 5}");
        check_change(&[1, 2, 3], &[(4, true), (5, false)], &[1, 2, 3], "-{4, 5}");
        check_change(&[1, 2, 3], &[], &[1], "-vote{2, 3}");
    }

    #[test]
    fn replacing_waits_for_the_successor() {
        check_change(&[1, 2, 3], &[], &[1, 2, 4], "+[4]");
        check_change(&[1, 2, 3], &[(4, true)], &[1, 2, 4], "vote{4}");
        check_change(&[1, 2, 3, 4], &[], &[1, 2, 4], "-vote{3}");
        // All at once: the new ones vote first.
        check_change(
            &[1, 2, 3],
            &[(4, false), (5, false), (6, false)],
            &[4, 5, 6],
            "",
        );
    }
}
