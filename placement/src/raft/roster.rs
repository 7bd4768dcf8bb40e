//! Who takes part: when a replica that knows nothing may vote, and how the members become those of the list.
//!
//! Pure; `raft` asks and carries out.
//!
//! A replica without a log has to be let in (`standing`). Only when so many know nothing that no majority is left that
//! could remember, there is nothing to wait for, and nothing else ends the waiting: neither a long time nor a majority
//! of the list, of which the members may be the other part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;

use super::Node;
use super::wire::Greeting;

/// How long those of the list that do not answer are waited for, before a majority begins without them. Who has a
/// log may be among them, and is then the leader of a cluster of fewer replicas that is to become this one; a list
/// of three with one that cannot be started, on the other hand, has to begin one day.
pub(super) const WELCOME: Duration = Duration::from_secs(10);

/// What a replica that knows nothing does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A leader will come, or more will answer: one of these has to.
    Wait(BTreeSet<u64>),
    /// Nobody knows anything: all begin with the members of the list.
    Begin,
    /// Those who know something are too few to go on alone.
    Join,
}

/// What a replica that knows nothing has learnt of the others.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The answers to the last greeting.
    pub(super) answers: BTreeMap<u64, Greeting>,
    /// The members each replica named last, also those that answer no more. Who has forgotten them since is not here.
    pub(super) memberships: BTreeMap<u64, BTreeSet<u64>>,
    /// For how long those that do not answer now have been silent.
    pub(super) silent: Duration,
}

/// Decides from what is known of the others; who does not answer is taken to remember.
///
/// No time makes up for the word of one that remembers: what was agreed on may be known to it alone.
pub(super) fn next(own: u64, list: &BTreeSet<u64>, known: &Known) -> Next {
    let Known {
        answers,
        memberships,
        silent,
    } = known;
    let mut fresh = BTreeSet::from([own]);
    let mut named = Vec::new();
    for (id, answer) in answers {
        match answer {
            Greeting::Fresh | Greeting::Begun => {
                fresh.insert(*id);
            }
            // It waits for its first entry like this one.
            Greeting::Whole(members) if members.is_empty() => {}
            Greeting::Whole(members) => named.push(members),
        }
    }
    let told = !named.is_empty();
    if !told {
        named.extend(memberships.values());
        named.push(list);
    }
    let mut waits = BTreeSet::new();
    for members in &named {
        let remembering = members.difference(&fresh);
        if remembering.clone().count() >= majority(members.len()) {
            waits.extend(remembering);
        }
    }
    if !waits.is_empty() {
        return Next::Wait(waits);
    }
    if told {
        // One that is none of the members is of no help to them.
        return match named.iter().any(|members| members.contains(&own)) {
            true => Next::Join,
            false => Next::Wait(named.into_iter().flatten().copied().collect()),
        };
    }
    let absent = list.iter().filter(|id| **id != own);
    let absent: BTreeSet<u64> = absent
        .filter(|id| !answers.contains_key(id))
        .copied()
        .collect();
    if absent.is_empty() || *silent >= WELCOME {
        Next::Begin
    } else {
        Next::Wait(absent)
    }
}

fn majority(of: usize) -> usize {
    of / 2 + 1
}

/// Where the members are on the way to the list.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// With their incarnations.
    pub(super) voters: BTreeMap<u64, u64>,
    /// The voters there will be, when a change is half made: until it is whole, a majority of the former is needed too.
    pub(super) next: Option<BTreeSet<u64>>,
    pub(super) learners: BTreeMap<u64, Learner>,
}

/// One that listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Learner {
    pub(super) incarnation: u64,
    /// It has all the leader has.
    pub(super) caught_up: bool,
}

/// Who there should be, and who is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    /// Addresses.
    pub(super) list: BTreeMap<u64, String>,
    /// The incarnations that were heard of lately, none for those that answer for all.
    pub(super) heard: BTreeMap<u64, Option<u64>>,
}

impl Wanted {
    /// Whether a replica that is there counts less than it could. As long as that is so, nobody should go.
    pub(super) fn is_strained(&self, members: &Members) -> bool {
        let here = self.list.keys().filter(|id| self.heard.contains_key(id));
        let mut missing = here.filter(|id| match members.voters.get(id) {
            Some(incarnation) => self.is_gone(**id, *incarnation),
            None => true,
        });
        members.next.is_some() || missing.next().is_some()
    }

    /// Whether the member is no more: somebody else goes by its id.
    fn is_gone(&self, id: u64, incarnation: u64) -> bool {
        let heard = self.heard.get(&id).copied().flatten();
        heard.is_some_and(|heard| heard != incarnation)
    }
}

/// The next single change on the way from the members to the list, if one can be made now. Nobody votes before it
/// has caught up, and nobody leaves before the ones that replace it vote; but those that have lost their log go at
/// once, for they vote no more anyway.
pub(super) fn change(members: &Members, wanted: &Wanted) -> Option<ChangeMembers<u64, Node>> {
    let Members {
        voters,
        next,
        learners,
    } = members;
    if let Some(next) = next {
        return Some(ChangeMembers::ReplaceAllVoters(next.clone()));
    }
    let list = &wanted.list;
    let gone = voters
        .iter()
        .filter(|(id, incarnation)| wanted.is_gone(**id, **incarnation));
    let gone: BTreeSet<u64> = gone.map(|(id, _)| *id).collect();
    // Fewer could not agree on it, nor lead.
    if !gone.is_empty() && voters.len() - gone.len() >= majority(voters.len()) {
        return Some(ChangeMembers::RemoveVoters(gone));
    }
    let gone = learners
        .iter()
        .filter(|(id, learner)| wanted.is_gone(**id, learner.incarnation));
    let gone: BTreeSet<u64> = gone.map(|(id, _)| *id).collect();
    if !gone.is_empty() {
        return Some(ChangeMembers::RemoveNodes(gone));
    }
    let missing = list.iter().filter_map(|(id, address)| {
        let known = voters.contains_key(id) || learners.contains_key(id);
        let incarnation = wanted.heard.get(id).filter(|_| !known)?.unwrap_or_default();
        let address = address.clone();
        Some((
            *id,
            Node {
                address,
                incarnation,
            },
        ))
    });
    let nodes: BTreeMap<u64, Node> = missing.collect();
    if !nodes.is_empty() {
        return Some(ChangeMembers::AddNodes(nodes));
    }
    let ready = learners
        .iter()
        .filter(|(id, learner)| learner.caught_up && list.contains_key(id));
    let ready: BTreeSet<u64> = ready.map(|(id, _)| *id).collect();
    if !ready.is_empty() {
        return Some(ChangeMembers::AddVoterIds(ready));
    }
    let leaving = voters.keys().copied().filter(|id| !list.contains_key(id));
    let leaving: BTreeSet<u64> = leaving.collect();
    let staying = voters.len() - leaving.len();
    if !leaving.is_empty() && staying >= majority(list.len()) {
        return Some(ChangeMembers::RemoveVoters(leaving));
    }
    let idle = learners.keys().copied().filter(|id| !list.contains_key(id));
    let idle: BTreeSet<u64> = idle.collect();
    (!idle.is_empty()).then_some(ChangeMembers::RemoveNodes(idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(members: &[u64]) -> Greeting {
        Greeting::Whole(members.iter().copied().collect())
    }

    /// Members that were named by some that answer no more.
    type Former<'a> = &'a [(u64, &'a [u64])];

    fn check_known(
        list: &[u64],
        answers: &[(u64, Greeting)],
        former: Former<'_>,
        silent: Duration,
        expected: Next,
    ) {
        let list = list.iter().copied().collect();
        let memberships = former
            .iter()
            .map(|(id, members)| (*id, members.iter().copied().collect()));
        let known = Known {
            answers: answers.iter().cloned().collect(),
            memberships: memberships.collect(),
            silent,
        };
        assert_eq!(next(1, &list, &known), expected, "{known:?}");
    }

    fn check(list: &[u64], answers: &[(u64, Greeting)], expected: Next) {
        check_known(list, answers, &[], Duration::ZERO, expected);
    }

    fn wait<const N: usize>(on: [u64; N]) -> Next {
        Next::Wait(on.into())
    }

    #[test]
    fn the_first_start() {
        use Greeting::{Begun, Fresh};
        check(&[1], &[], Next::Begin);
        check(&[1, 2, 3], &[], wait([2, 3]));
        check(&[1, 2, 3], &[(2, Fresh), (3, Fresh)], Next::Begin);
        check(&[1, 2, 3], &[(2, Begun), (3, Fresh)], Next::Begin);
        // The others began a moment ago and will send all there is.
        check(&[1, 2, 3], &[(2, whole(&[]))], wait([2, 3]));
        check(&[1, 2, 3, 4, 5], &[(2, Fresh)], wait([3, 4, 5]));
    }

    #[test]
    fn a_majority_begins_without_the_rest_after_a_long_time_only() {
        use Greeting::{Begun, Fresh};
        let three = [1, 2, 3];
        let moment = WELCOME - Duration::from_millis(1);
        check_known(&three, &[(2, Fresh)], &[], moment, wait([3]));
        check_known(&three, &[(2, Fresh)], &[], WELCOME, Next::Begin);
        check_known(&three, &[(2, Begun)], &[], WELCOME, Next::Begin);
        check_known(&three, &[], &[], WELCOME, wait([2, 3]));
        let five = [1, 2, 3, 4, 5];
        let answers = [(2, Fresh), (5, Fresh)];
        check_known(&five, &answers, &[], moment, wait([3, 4]));
        check_known(&five, &answers, &[], WELCOME, Next::Begin);
    }

    #[test]
    fn coming_back_without_a_log() {
        let all = [1, 2, 3];
        check(&all, &[(2, whole(&all)), (3, whole(&all))], wait([2, 3]));
        // The silent one may be the only other that knows what was agreed on, however long it is away.
        let late = 10 * WELCOME;
        check_known(&all, &[(2, whole(&all))], &[], late, wait([2, 3]));
        // One is left that remembers; it needs a second one.
        check(&all, &[(2, whole(&all)), (3, Greeting::Fresh)], Next::Join);
        // Members it is none of have to find each other first.
        let answers = [(2, whole(&[2, 3])), (3, Greeting::Fresh)];
        check(&all, &answers, wait([2, 3]));
        // It is gone as well, and the two that are left have nothing to join.
        let former: Former<'_> = &[(2, &[1, 2, 3])];
        let answers = [(3, Greeting::Fresh)];
        check_known(&all, &answers, former, Duration::ZERO, wait([2]));
        check_known(&all, &answers, former, WELCOME, Next::Begin);
    }

    #[test]
    fn one_more_replica_waits_to_be_let_in() {
        let all = [1, 2, 3];
        let answers = [(2, Greeting::Fresh), (3, whole(&[3]))];
        check(&all, &answers, wait([3]));
        // The only one that votes is heard no more: it still leads those who are there.
        let former: Former<'_> = &[(3, &[3])];
        let answers = [(2, Greeting::Fresh)];
        check_known(&all, &answers, former, 10 * WELCOME, wait([3]));
    }

    /// Members as `(id, incarnation)`, learners with whether they have all; those in `heard` go by that incarnation, all
    /// others of the list by 0.
    fn check_change(
        voters: &[(u64, u64)],
        learners: &[(u64, u64, bool)],
        list: &[u64],
        heard: &[(u64, Option<u64>)],
        expected: &str,
    ) {
        let learners = learners.iter().map(|(id, incarnation, caught_up)| {
            let learner = Learner {
                incarnation: *incarnation,
                caught_up: *caught_up,
            };
            (*id, learner)
        });
        let members = Members {
            voters: voters.iter().copied().collect(),
            next: None,
            learners: learners.collect(),
        };
        let mut wanted = Wanted {
            list: list.iter().map(|id| (*id, format!("h{id}:1"))).collect(),
            heard: list.iter().map(|id| (*id, None)).collect(),
        };
        wanted.heard.extend(heard.iter().copied());
        let found = change(&members, &wanted).map_or_else(String::new, |change| match change {
            ChangeMembers::AddNodes(nodes) => {
                let nodes = nodes.iter().map(|(id, node)| (*id, node.incarnation));
                format!("+{:?}", nodes.collect::<Vec<_>>())
            }
            ChangeMembers::AddVoterIds(ids) => format!("vote{ids:?}"),
            ChangeMembers::RemoveVoters(ids) => format!("-vote{ids:?}"),
            ChangeMembers::RemoveNodes(ids) => format!("-{ids:?}"),
            other => format!("{other:?}"),
        });
        assert_eq!(found, expected, "{members:?} {wanted:?}");
    }

    fn old<const N: usize>(ids: [u64; N]) -> [(u64, u64); N] {
        ids.map(|id| (id, 0))
    }

    fn check_list(voters: &[u64], learners: &[(u64, bool)], list: &[u64], expected: &str) {
        let voters: Vec<(u64, u64)> = voters.iter().map(|id| (*id, 0)).collect();
        let learners: Vec<(u64, u64, bool)> =
            learners.iter().map(|(id, has)| (*id, 0, *has)).collect();
        check_change(&voters, &learners, list, &[], expected);
    }

    #[test]
    fn one_to_three_to_five_and_back() {
        check_list(&[1], &[], &[1], "");
        check_list(&[1], &[], &[1, 2, 3], "+[(2, 0), (3, 0)]");
        check_list(&[1], &[(2, false), (3, false)], &[1, 2, 3], "");
        check_list(&[1], &[(2, true), (3, false)], &[1, 2, 3], "vote{2}");
        check_list(&[1, 2], &[(3, true)], &[1, 2, 3], "vote{3}");
        check_list(&[1, 2, 3], &[], &[1, 2, 3, 4, 5], "+[(4, 0), (5, 0)]");
        check_list(&[1, 2, 3, 4, 5], &[], &[1, 2, 3], "-vote{4, 5}");
        check_list(&[1, 2, 3], &[(4, true), (5, false)], &[1, 2, 3], "-{4, 5}");
        check_list(&[1, 2, 3], &[], &[1], "-vote{2, 3}");
    }

    #[test]
    fn replacing_waits_for_the_successor() {
        check_list(&[1, 2, 3], &[], &[1, 2, 4], "+[(4, 0)]");
        check_list(&[1, 2, 3], &[(4, true)], &[1, 2, 4], "vote{4}");
        check_list(&[1, 2, 3, 4], &[], &[1, 2, 4], "-vote{3}");
        // All at once: the new ones vote first.
        check_list(
            &[1, 2, 3],
            &[(4, false), (5, false), (6, false)],
            &[4, 5, 6],
            "",
        );
    }

    #[test]
    fn a_change_that_was_begun_is_finished_first() {
        let members = Members {
            voters: old([1, 2, 3]).into(),
            next: Some(BTreeSet::from([1, 2])),
            learners: BTreeMap::new(),
        };
        let wanted = Wanted::default();
        assert!(wanted.is_strained(&members));
        let expected = ChangeMembers::ReplaceAllVoters(BTreeSet::from([1, 2]));
        assert_eq!(change(&members, &wanted), Some(expected));
    }

    #[test]
    fn one_that_lost_its_log_goes_and_comes() {
        let all = [1, 2, 3];
        let lost = [(3, Some(7))];
        check_change(&old(all), &[], &all, &lost, "-vote{3}");
        check_change(&old([1, 2]), &[], &all, &lost, "+[(3, 7)]");
        check_change(&old([1, 2]), &[(3, 7, false)], &all, &lost, "");
        check_change(&old([1, 2]), &[(3, 7, true)], &all, &lost, "vote{3}");
        check_change(&[(1, 0), (2, 0), (3, 7)], &[], &all, &lost, "");
        // Lost again, as a learner and as a voter.
        let again = [(3, Some(8))];
        check_change(&old([1, 2]), &[(3, 7, true)], &all, &again, "-{3}");
        check_change(&[(1, 0), (2, 0), (3, 7)], &[], &all, &again, "-vote{3}");
        // One that stands in for all it was stays, and so does one nobody has heard of.
        check_change(&[(1, 0), (2, 0), (3, 7)], &[], &all, &[(3, None)], "");
        // A majority has to be left to agree.
        let both = [(1, Some(4)), (2, Some(5))];
        check_change(&old([1, 2]), &[], &[1, 2], &both, "");
    }
}
