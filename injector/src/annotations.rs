//! Reading the annotations of a pod. What is absent has a default; what is empty is a value of its own.
//!
//! What is wrong with a value is told by [`crate::warnings`]; here it only counts as absent.

use std::collections::BTreeMap;

use dapr_kit::truthy;

/// The annotations of a pod, by kind of value.
#[derive(Clone, Copy, Debug)]
pub struct Annotations<'a>(&'a BTreeMap<String, String>);

impl<'a> Annotations<'a> {
    /// A view of all of them.
    pub fn new(all: &'a BTreeMap<String, String>) -> Self {
        Self(all)
    }

    /// Its text, if it is there.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// Its text; empty if it is absent.
    pub fn text(&self, name: &str) -> &'a str {
        self.get(name).unwrap_or_default()
    }

    /// Its text, unless that is empty.
    pub fn non_empty(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|text| !text.is_empty())
    }

    /// Whether it says yes; `None` if it is absent.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.get(name).map(truthy)
    }

    /// Its number; `None` if it is absent or no number.
    pub fn int(&self, name: &str) -> Option<i64> {
        int(self.get(name)?)
    }

    /// Its number, cut to 32 bits as upstream does it.
    pub fn int32(&self, name: &str, default: i32) -> i32 {
        self.int(name).map_or(default, truncated)
    }
}

/// A number to base ten, with a sign or without.
pub(crate) fn int(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// The low 32 bits.
pub(crate) fn truncated(number: i64) -> i32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_empty_and_wrong_are_three_things() {
        let all = [
            ("t", ""),
            ("yes", " On "),
            ("n", "-7"),
            ("bad", "7a"),
            ("big", "4294967297"),
        ];
        let all = all
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let annotations = Annotations::new(&all);
        assert_eq!(
            (annotations.get("t"), annotations.get("absent")),
            (Some(""), None)
        );
        assert_eq!(annotations.non_empty("t"), None);
        assert_eq!(annotations.flag("yes"), Some(true));
        assert_eq!(
            (annotations.flag("t"), annotations.flag("absent")),
            (Some(false), None)
        );
        assert_eq!(
            (annotations.int("n"), annotations.int("bad")),
            (Some(-7), None)
        );
        assert_eq!(annotations.int32("bad", 5), 5);
        assert_eq!(annotations.int32("big", 5), 1, "only 32 bits are kept");
    }
}
