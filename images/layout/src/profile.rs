//! Which functions ran, from what valgrind's callgrind writes (<https://valgrind.org/docs/manual/cl-format.html>), with
//! names as the linker knows them (`--demangle=no`).

use std::collections::{HashMap, HashSet};

/// Functions of one profile.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// In the order they were first written, which is by file and not by time.
    pub ran: Vec<String>,
    /// How often each was called.
    pub calls: HashMap<String, u64>,
}

impl Profile {
    /// Reads a profile. Lines that say nothing about functions are passed over, as the format asks for.
    pub fn parse(text: &str) -> Self {
        let mut names: HashMap<&str, &str> = HashMap::new();
        let (mut ran, mut seen, mut calls) = (Vec::new(), HashSet::new(), HashMap::new());
        let mut callee = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("cfn=") {
                callee = function(name, &mut names);
            } else if let Some(name) = line.strip_prefix("fn=") {
                if let Some(name) = function(name, &mut names)
                    && seen.insert(name)
                {
                    ran.push(name.to_owned());
                }
            } else if let Some(counts) = line.strip_prefix("calls=") {
                let count = counts.split_ascii_whitespace().next();
                let count: Option<u64> = count.and_then(|count| count.parse().ok());
                if let (Some(name), Some(count)) = (callee, count) {
                    let sum = calls.entry(name.to_owned()).or_insert(0_u64);
                    *sum = sum.saturating_add(count);
                }
            }
        }
        Self { ran, calls }
    }
}

/// `(12) name` says what 12 stands for, `(12)` is it again. Of a function that calls itself each level has a number.
fn function<'a>(text: &'a str, names: &mut HashMap<&'a str, &'a str>) -> Option<&'a str> {
    let (number, name) = text.strip_prefix('(')?.split_once(')')?;
    let name = name.trim();
    if !name.is_empty() {
        let name = match name.rsplit_once('\'') {
            Some((name, level)) if level.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => name,
        };
        names.insert(number, name);
    }
    names.get(number).copied()
}

/// The order of what ran: first what each of `rounds` needed, then the rest. `steady` are profiles of the rounds alone,
/// `starts` of everything before.
pub fn order<'a>(steady: &'a [Profile], starts: &'a [Profile], rounds: u64) -> Vec<&'a str> {
    let often = |profile: &'a Profile| {
        let calls = &profile.calls;
        let ran = profile.ran.iter().map(String::as_str);
        ran.filter(move |name| calls.get(*name).is_some_and(|count| *count >= rounds))
    };
    let all = |profile: &'a Profile| profile.ran.iter().map(String::as_str);
    let mut seen = HashSet::new();
    let hot = steady.iter().flat_map(often);
    let rest = steady.iter().chain(starts).flat_map(all);
    hot.chain(rest).filter(|name| seen.insert(*name)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Profile, order};

    const TEXT: &str = "\
# callgrind format
events: Ir
ob=(1) /daprd
fl=(1) ???
fn=(7) serve
0 12
cfn=(8) parse
calls=20 0
0 400
cfn=(9) walk'2
calls=1 0
0 4
fn=(8)
0 20
fn=(9)
0 1
cfn=(8)
calls=5 0
0 1
fn=(10) walk
totals: 3
";

    #[test]
    fn functions_are_read_with_their_calls() {
        let profile = Profile::parse(TEXT);
        assert_eq!(profile.ran, ["serve", "parse", "walk"]);
        assert_eq!(profile.calls.get("parse"), Some(&25));
        assert_eq!(profile.calls.get("walk"), Some(&1));
        assert_eq!(profile.calls.get("serve"), None);
    }

    #[test]
    fn what_every_round_needs_comes_first() {
        let start = Profile::parse("fn=(1) main\nfn=(2) parse\n");
        assert_eq!(
            order(&[Profile::parse(TEXT)], &[start], 20),
            ["parse", "serve", "walk", "main"]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(c?fn=\\(?[0-9]{0,3}\\)?.{0,9}\n|calls=.{0,25}\n|.{0,20}\n){0,20}") {
            Profile::parse(&text);
        }
    }
}
