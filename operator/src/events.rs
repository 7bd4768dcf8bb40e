//! What a sidecar is told when an object changes: it depends on what the sidecar saw before and sees now. Pure.

use dapr_proto::dapr::proto::operator::v1::ResourceEventType;

/// What is said about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// It is there now.
    Created,
    /// It differs from before.
    Updated,
    /// It is not there any more.
    Deleted,
}

impl Type {
    /// Its number on the wire.
    pub fn wire(self) -> i32 {
        let wire = match self {
            Self::Created => ResourceEventType::Created,
            Self::Updated => ResourceEventType::Updated,
            Self::Deleted => ResourceEventType::Deleted,
        };
        wire.into()
    }
}

/// What somebody is told who sees the object before and after a change, or not. An object out of scope is as good as
/// none.
pub fn transition(before: bool, after: bool) -> Option<Type> {
    match (before, after) {
        (false, true) => Some(Type::Created),
        (true, true) => Some(Type::Updated),
        (true, false) => Some(Type::Deleted),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use dapr_crds::in_scope;

    use super::*;

    /// Scopes of an object before and after a change; `None` for no object. The caller is `shop`.
    fn check(before: Option<&[&str]>, after: Option<&[&str]>, expected: Option<Type>) {
        let sees = |scopes: Option<&[&str]>| scopes.is_some_and(|it| in_scope(it, "shop"));
        assert_eq!(
            transition(sees(before), sees(after)),
            expected,
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn scope_before_and_after_decides() {
        let (ours, theirs) = (Some(&["shop"][..]), Some(&["cart"][..]));
        check(None, ours, Some(Type::Created));
        check(None, Some(&[]), Some(Type::Created));
        check(None, theirs, None);
        check(ours, ours, Some(Type::Updated));
        check(theirs, ours, Some(Type::Created));
        check(ours, theirs, Some(Type::Deleted));
        check(theirs, theirs, None);
        check(ours, None, Some(Type::Deleted));
        check(theirs, None, None);
    }

    #[test]
    fn numbers_on_the_wire() {
        let numbers = [Type::Created, Type::Updated, Type::Deleted].map(Type::wire);
        assert_eq!(numbers, [1, 2, 3]);
    }
}
