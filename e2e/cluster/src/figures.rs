//! Measured figures: stories note them, and `run` prints the table when all are done.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};

use crate::cluster::variable;

/// Notes a row of the table; without a `run` that wants one it is only printed.
#[expect(clippy::print_stdout, reason = "whoever runs the stories reads it")]
pub fn note(row: &str, value: &str) -> Result<()> {
    println!("{row}: {value}");
    let Some(path) = variable("E2E_FIGURES") else {
        return Ok(());
    };
    let mut file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file
        .as_mut()
        .map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
    writeln!(file, "| {row} | {value} |").context(path)
}

/// The middle and the greatest of some figures, NaN without any.
pub fn middle_and_greatest(figures: &[f64]) -> (f64, f64) {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len().saturating_sub(1) / 2;
    let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
    (at(middle), at(figures.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::middle_and_greatest;

    #[test]
    fn the_middle_of_some() {
        assert_eq!(middle_and_greatest(&[3.0, 1.0, 2.0]), (2.0, 3.0));
        assert_eq!(middle_and_greatest(&[4.0, 1.0, 2.0, 3.0]), (2.0, 4.0));
        assert!(middle_and_greatest(&[]).0.is_nan());
    }
}
