//! Patterns of names as Go's `path.Match` reads them: `*` and `?` stop at `/`, `[a-z]` and `[^a]`, `\` escapes.

/// Whether a pattern is one at all.
pub(crate) fn is_valid(pattern: &str) -> bool {
    tokens(pattern).is_some()
}

/// Whether the whole name matches; a malformed pattern matches nothing.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let Some(tokens) = tokens(pattern) else {
        return false;
    };
    let name: Vec<char> = name.chars().collect();
    // The last `*` seen, and how much of the name it takes: one place to go back to is enough.
    let mut star: Option<(usize, usize)> = None;
    let (mut at, mut taken) = (0, 0);
    loop {
        match (tokens.get(at), name.get(taken)) {
            (None, None) => return true,
            (Some(Token::Any), _) => {
                star = Some((at + 1, taken));
                at += 1;
                continue;
            }
            (Some(token), Some(&letter)) if token.takes(letter) => {
                (at, taken) = (at + 1, taken + 1);
                continue;
            }
            (None | Some(Token::One | Token::Literal(_) | Token::Class { .. }), _) => {}
        }
        match star {
            Some((after, from)) if name.get(from).is_some_and(|&letter| letter != '/') => {
                star = Some((after, from + 1));
                (at, taken) = (after, from + 1);
            }
            Some(_) | None => return false,
        }
    }
}

enum Token {
    Any,
    One,
    Literal(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Token {
    fn takes(&self, letter: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => letter != '/',
            Self::Literal(own) => *own == letter,
            Self::Class { negated, ranges } => {
                let is_in = ranges
                    .iter()
                    .any(|&(low, high)| low <= letter && letter <= high);
                is_in != *negated
            }
        }
    }
}

fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut letters = pattern.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Literal(letters.next()?),
            '[' => class(&mut letters)?,
            letter => Token::Literal(letter),
        });
    }
    Some(tokens)
}

fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && letters.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = bound(letters)?;
        let high = match letters.next_if_eq(&'-') {
            Some(_) => bound(letters)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn bound(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match letters.next()? {
        '-' | ']' => None,
        '\\' => letters.next(),
        letter => Some(letter),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_match_as_in_go() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        };
        check("abc", "abc", true);
        check("", "", true);
        check("", "a", false);
        check("*", "", true);
        check("*", "abc", true);
        check("*c", "abc", true);
        check("a*", "abc", true);
        check("a*b*d", "axbxbd", true);
        check("a*b*d", "axbxbc", false);
        check("team-?", "team-a", true);
        check("team-?", "team-", false);
        check("[a-c]x", "bx", true);
        check("[^a-c]x", "bx", false);
        check("a*", "a/b", false);
        check("a?b", "a/b", false);
        check("\\*", "*", true);
        check("\\*", "a", false);
        check("[", "[", false);
    }

    #[test]
    fn malformed_patterns() {
        for bad in ["[", "[a", "[]a]", "[-]", "[x-]", "[a-", "\\", "[\\"] {
            assert!(!is_valid(bad), "{bad}");
        }
        for good in ["", "*", "[a-z]*", "[\\]]", "[^x]"] {
            assert!(is_valid(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_ends(pattern in "[ab*?/\\[\\]^\\\\-]{0,12}", name in "[ab/]{0,12}") {
            if matches(&pattern, &name) {
                prop_assert!(is_valid(&pattern));
            }
        }

        #[test]
        fn a_plain_name_matches_itself(name in "[a-z0-9.-]{0,20}") {
            prop_assert!(matches(&name, &name));
        }
    }
}
