//! SQL's `LIKE` with the escape character `\`, case-sensitive.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Literal(char),
    One,
    Any,
}

/// Whether `text` as a whole matches `pattern`.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let tokens = tokens(pattern);
    let text: Vec<char> = text.chars().collect();
    let (mut at_token, mut at_text) = (0, 0);
    // Where the last `%` stands and how much of the text it has taken: the only place to step back to.
    let mut last_any: Option<(usize, usize)> = None;
    while at_text < text.len() {
        match tokens.get(at_token) {
            Some(Token::Any) => {
                last_any = Some((at_token, at_text));
                at_token += 1;
            }
            Some(Token::One) => {
                at_token += 1;
                at_text += 1;
            }
            Some(Token::Literal(c)) if *c == text[at_text] => {
                at_token += 1;
                at_text += 1;
            }
            Some(Token::Literal(_)) | None => {
                let Some((any, taken)) = last_any else {
                    return false;
                };
                last_any = Some((any, taken + 1));
                at_token = any + 1;
                at_text = taken + 1;
            }
        }
    }
    tokens[at_token..].iter().all(|token| *token == Token::Any)
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        tokens.push(match c {
            '%' => Token::Any,
            '_' => Token::One,
            '\\' => Token::Literal(chars.next().unwrap_or('\\')),
            c => Token::Literal(c),
        });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern, text), expected, "{pattern} on {text}");
        };
        check("a%", "a", true);
        check("a%", "abc", true);
        check("a%", "ba", false);
        check("%b%c", "abxbc", true);
        check("%b%c", "abxbcd", false);
        check("_", "ü", true);
        check("_", "", false);
        check("%", "", true);
        check("A", "a", false);
        check("a\\%", "a%", true);
        check("a\\%", "ab", false);
        check("a\\", "a\\", true);
        check("x||%||metadata", "x||a||metadata", true);
        check("x||%||metadata", "x||a||history", false);
    }

    /// The definition, token by token.
    fn by_definition(tokens: &[Token], text: &[char]) -> bool {
        match (tokens, text) {
            ([], _) => text.is_empty(),
            ([Token::Any, rest @ ..], _) => {
                by_definition(rest, text) || (!text.is_empty() && by_definition(tokens, &text[1..]))
            }
            ([Token::One, rest @ ..], [_, text @ ..]) => by_definition(rest, text),
            ([Token::Literal(c), rest @ ..], [first, text @ ..]) => {
                c == first && by_definition(rest, text)
            }
            ([Token::One | Token::Literal(_), ..], []) => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab%_\\\\]{0,8}", text in "[ab%_]{0,8}") {
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(matches(&pattern, &text), by_definition(&tokens(&pattern), &chars));
        }
    }
}
