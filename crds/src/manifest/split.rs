//! Cuts a file into documents the way upstream does: at each line that starts with `---`, which is dropped
//! to its end, whatever follows on it.

/// One document of a file, still text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece<'a> {
    /// Its place in the file, counted from 1.
    pub(crate) index: usize,
    /// The line it starts on, counted from 1.
    pub(crate) line: usize,
    pub(crate) text: &'a str,
}

pub(crate) fn split(text: &str) -> impl Iterator<Item = Piece<'_>> {
    // Editors on some systems put this mark first; it is no part of the YAML.
    let mut rest = Some(text.strip_prefix('\u{feff}').unwrap_or(text));
    let (mut index, mut line) = (0, 1);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        index += 1;
        let (piece, next_line) = match text.split_once("\n---") {
            Some((piece, after)) => {
                rest = after.split_once('\n').map(|(_, after)| after);
                (
                    Piece {
                        index,
                        line,
                        text: piece,
                    },
                    line + lines(piece) + 2,
                )
            }
            None => (Piece { index, line, text }, line),
        };
        line = next_line;
        Some(piece)
    })
}

fn lines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn documents_start_after_a_line_of_dashes() {
        let check = |text: &str, expected: &[(usize, usize, &str)]| {
            let pieces: Vec<_> = split(text)
                .map(|piece| (piece.index, piece.line, piece.text))
                .collect();
            assert_eq!(pieces, expected, "{text:?}");
        };
        check("a", &[(1, 1, "a")]);
        check("", &[(1, 1, "")]);
        check("a\nb\n---\nc", &[(1, 1, "a\nb"), (2, 4, "c")]);
        check("---\na\n---\nb\n", &[(1, 1, "---\na"), (2, 4, "b\n")]);
        check(
            "a\n--- # note\nb\n\n---\nc",
            &[(1, 1, "a"), (2, 3, "b\n"), (3, 6, "c")],
        );
        check("a\r\n---\r\nb", &[(1, 1, "a\r"), (2, 3, "b")]);
        check("a\n---", &[(1, 1, "a")]);
        check("a\n---\n", &[(1, 1, "a"), (2, 3, "")]);
        check("a: --- b", &[(1, 1, "a: --- b")]);
        check("\u{feff}a", &[(1, 1, "a")]);
    }
}
