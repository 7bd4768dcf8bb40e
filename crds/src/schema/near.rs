//! Which known word a misspelled one is closest to.

/// Edits a misspelling may be away from the word that is suggested for it.
const MAX_EDITS: usize = 2;

/// The known name closest to `word`, when one is close enough to be worth a suggestion.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    known
        .map(|name| (edits(&lower, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= MAX_EDITS && *distance * 2 < name.len())
        .min()
        .map(|(_, name)| name)
}

/// Levenshtein distance. Words too long to be a near miss are not compared, which bounds the work.
fn edits(left: &str, right: &str) -> usize {
    if left.len().abs_diff(right.len()) > MAX_EDITS {
        return usize::MAX / 4;
    }
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, left) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, right) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_near_misses_are_suggested() {
        let check = |word: &str, expected: Option<&str>| {
            assert_eq!(
                nearest(
                    word,
                    ["routes", "topic", "pubsubname", "metadata"].into_iter()
                ),
                expected,
                "{word}"
            );
        };
        check("route", Some("routes"));
        check("Topics", Some("topic"));
        check("pubsubName", Some("pubsubname"));
        check("metdata", Some("metadata"));
        check("health", None);
        check("", None);
        check("x", None);
    }
}
