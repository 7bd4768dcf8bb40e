//! Measured figures: stories note them, and `run` prints the table when all are done.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};

use crate::cluster::variable;

/// What a figure is held against. Less is better.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// What it should be on an idle machine.
    pub target: f64,
    /// What the original needs.
    pub original: f64,
    /// So many times the original's figure is a failure: 1 where a busy machine spoils nothing.
    pub slack: f64,
    /// Of all three.
    pub unit: &'static str,
}

/// Notes a row of the table, and holds its figure against the mark. `measured` tells more than the one figure.
pub fn hold(row: &str, measured: &str, figure: f64, mark: Mark) -> Result<()> {
    let Mark {
        target,
        original,
        slack,
        unit,
    } = mark;
    let (target, limit) = (format!("{target} {unit}"), format!("{original} {unit}"));
    print(row, measured, &target, &limit)?;
    // Also false for NaN.
    ensure!(
        figure < original * slack,
        "{row}: {figure:.2} {unit}, the original needs {limit}"
    );
    Ok(())
}

/// Notes a row of the table that has no mark.
pub fn note(row: &str, measured: &str) -> Result<()> {
    print(row, measured, "–", "–")
}

/// Without a `run` that wants a table it is only printed.
#[expect(clippy::print_stdout, reason = "whoever runs the stories reads it")]
fn print(row: &str, measured: &str, target: &str, original: &str) -> Result<()> {
    println!("{row}: {measured} (target {target}, the original {original})");
    let Some(path) = variable("E2E_FIGURES") else {
        return Ok(());
    };
    let mut file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file
        .as_mut()
        .map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
    writeln!(file, "| {row} | {measured} | {target} | {original} |").context(path)
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
    use super::{Mark, hold, middle_and_greatest};

    #[test]
    fn a_figure_has_to_be_better_than_the_originals() {
        let mark = Mark {
            target: 1.0,
            original: 2.0,
            slack: 1.0,
            unit: "s",
        };
        for (figure, holds) in [(0.5, true), (1.9, true), (2.0, false), (f64::NAN, false)] {
            assert_eq!(hold("row", "", figure, mark).is_ok(), holds, "{figure}");
        }
        let busy = Mark { slack: 2.0, ..mark };
        assert!(hold("row", "", 3.0, busy).is_ok());
        assert!(hold("row", "", 4.0, busy).is_err());
    }

    #[test]
    fn the_middle_of_some() {
        assert_eq!(middle_and_greatest(&[3.0, 1.0, 2.0]), (2.0, 3.0));
        assert_eq!(middle_and_greatest(&[4.0, 1.0, 2.0, 3.0]), (2.0, 4.0));
        assert!(middle_and_greatest(&[]).0.is_nan());
    }
}
