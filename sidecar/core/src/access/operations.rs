//! The operations of a policy as a tree of path segments.

use http::Method;

use super::{Operation, is_allow};
use crate::app::Protocol;

/// Operations in the order of declaration.
#[derive(Debug, Default)]
pub(super) struct Operations {
    roots: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    segment: String,
    action: Option<Action>,
    children: Vec<Self>,
}

/// What an operation allows.
#[derive(Debug)]
struct Action {
    verbs: Vec<String>,
    allow: bool,
}

impl Operations {
    /// Adds an operation; the first one of a path stays.
    pub(super) fn add(&mut self, operation: &Operation, protocol: Protocol) {
        let path = folded(&operation.name, protocol);
        let mut siblings = &mut self.roots;
        let mut segments = segments(&path).peekable();
        while let Some(segment) = segments.next() {
            let index = match siblings.iter().position(|node| node.segment == segment) {
                Some(index) => index,
                None => {
                    siblings.push(Node {
                        segment: segment.to_owned(),
                        action: None,
                        children: Vec::new(),
                    });
                    siblings.len() - 1
                }
            };
            let node = &mut siblings[index];
            if segments.peek().is_none() {
                node.action.get_or_insert_with(|| Action {
                    verbs: operation.http_verb.clone(),
                    allow: is_allow(&operation.action),
                });
            }
            siblings = &mut node.children;
        }
    }

    /// What the operations say about a call; `None` leaves it to the policy's default.
    pub(super) fn decide(
        &self,
        operation: &str,
        verb: Option<&Method>,
        protocol: Protocol,
    ) -> Option<bool> {
        let action = self.find(&folded(operation, protocol))?;
        if !protocol.is_http() {
            return Some(action.allow);
        }
        let verb = verb?;
        let is_listed = |name: &str| action.verbs.iter().any(|listed| listed == name);
        (is_listed(verb.as_str()) || is_listed("*")).then_some(action.allow)
    }

    /// The action of the first node on the way that has one: an operation covers everything below it.
    fn find(&self, path: &str) -> Option<&Action> {
        let mut siblings = &self.roots;
        let mut node: Option<&Node> = None;
        let mut segments = segments(path).peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            let found = siblings
                .iter()
                .find(|node| fits(&node.segment, segment, is_last))?;
            if found.action.is_some() {
                return found.action.as_ref();
            }
            siblings = &found.children;
            node = Some(found);
        }
        // `/a/*` and `/a/**` cover `/a` too.
        let children = &node?.children;
        let wildcard = children
            .iter()
            .find(|child| fits(&child.segment, "*", true))?;
        wildcard.action.as_ref()
    }
}

fn folded(path: &str, protocol: Protocol) -> String {
    if protocol.is_http() {
        path.to_lowercase()
    } else {
        path.to_owned()
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// Whether a request's segment fits a pattern; a lone `*` fits the last one only.
fn fits(pattern: &str, segment: &str, is_last: bool) -> bool {
    match pattern {
        "*" => is_last || segment == "*",
        "**" => true,
        _ => glob(pattern.as_bytes(), segment.as_bytes()),
    }
}

/// Matches `*` against any characters, in linear space and without recursion.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when a match of the last `*` turns out too short.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((after_star, start)) = retry {
            p = after_star;
            t = start + 1;
            retry = Some((after_star, start + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn operations(names: &[(&str, &str)], protocol: Protocol) -> Operations {
        let mut operations = Operations::default();
        for (name, action) in names {
            let operation = Operation {
                name: (*name).to_owned(),
                http_verb: vec!["*".to_owned()],
                action: (*action).to_owned(),
            };
            operations.add(&operation, protocol);
        }
        operations
    }

    #[test]
    fn paths_and_wildcards() {
        let check = |names: &[&str], operation: &str, expected: bool| {
            let names: Vec<_> = names.iter().map(|name| (*name, "allow")).collect();
            let operations = operations(&names, Protocol::Grpc);
            let decision = operations.decide(operation, None, Protocol::Grpc);
            assert_eq!(decision, expected.then_some(true), "{names:?} {operation}");
        };
        check(&["/op1"], "op1", true);
        check(&["op1"], "/op1", true);
        check(&["/op1"], "/op1/sub/x", true);
        check(&["/op1"], "/op2", false);
        check(&["/op1"], "/Op1", false);
        check(&["/a/*"], "/a/b", true);
        check(&["/a/*"], "/a", true);
        check(&["/a/*"], "/a/b/c", false);
        check(&["/a/*/b"], "/a/x/b", false);
        check(&["/a/**"], "/a/b/c", true);
        check(&["/a/**"], "/a", true);
        check(&["/a/**"], "/a/", true);
        check(&["/a/**/b"], "/a", false);
        check(&["/a/b*"], "/a", false);
        check(&["/a/b*"], "/a/bcd", true);
        check(&["/a/b*d"], "/a/bcd/more", true);
        check(&["/a/b*d"], "/a/bce", false);
        check(&["/*"], "/anything", true);
        check(&["/**"], "/any/thing", true);
        // The first sibling that fits is taken, even where a later one would lead on.
        check(&["/a*/x", "/ab/y"], "/ab/y", false);
    }

    #[test]
    fn http_operations_ignore_case_and_ask_for_verbs() {
        let mut operations = Operations::default();
        let operation = Operation {
            name: "/Orders".to_owned(),
            http_verb: vec!["GET".to_owned(), "POST".to_owned()],
            action: "Allow".to_owned(),
        };
        operations.add(&operation, Protocol::Http);
        let decide = |verb: Option<&Method>| operations.decide("oRDERS", verb, Protocol::Http);
        assert_eq!(decide(Some(&Method::GET)), Some(true));
        assert_eq!(decide(Some(&Method::PUT)), None);
        assert_eq!(decide(None), None);
    }

    #[test]
    fn the_first_action_of_a_path_stays() {
        let operations = operations(&[("/a", "deny"), ("/a", "allow")], Protocol::Grpc);
        assert_eq!(operations.decide("/a", None, Protocol::Grpc), Some(false));
    }

    proptest! {
        #[test]
        fn a_glob_fits_what_it_was_made_of(head in "[a-z]{0,5}", middle in "[a-z]{0,5}", tail in "[a-z]{0,5}") {
            let text = format!("{head}{middle}{tail}");
            let pattern = format!("{head}*{tail}");
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn never_panics(name in "[a-b*/]{0,12}", operation in "[a-b*/]{0,12}") {
            let operations = operations(&[(&name, "allow")], Protocol::Grpc);
            let decision = operations.decide(&operation, None, Protocol::Grpc);
            prop_assert_ne!(decision, Some(false));
        }
    }
}
