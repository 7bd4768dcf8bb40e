//! The table and the JSON of a run.

use std::fmt;

use serde_json::{Value, json};

/// What a figure should reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Lower is better.
    AtMost(f64),
    /// Higher is better.
    AtLeast(f64),
    /// Lower is better, and what counts is ours over the baseline's.
    RatioAtMost(f64),
    /// Higher is better, and what counts is ours over the baseline's.
    RatioAtLeast(f64),
}

impl Target {
    /// Whether it is reached; unknown without the figure it is about.
    fn is_met(self, mean: Option<f64>, ratio: Option<f64>) -> Option<bool> {
        Some(match self {
            Self::AtMost(limit) => mean? <= limit,
            Self::AtLeast(limit) => mean? >= limit,
            Self::RatioAtMost(limit) => ratio? <= limit,
            Self::RatioAtLeast(limit) => ratio? >= limit,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::RatioAtMost(limit) => write!(f, "≤ {limit} × baseline"),
            Self::RatioAtLeast(limit) => write!(f, "≥ {limit} × baseline"),
        }
    }
}

/// One measured figure.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it should reach; `None` if there is no target.
    pub target: Option<Target>,
    /// Measured values of our executables, in order of the runs.
    pub ours: Vec<f64>,
    /// Measured values of the baseline's executables.
    pub baseline: Vec<f64>,
}

impl Row {
    /// A row without values.
    pub fn new(name: &'static str, unit: &'static str, target: Option<Target>) -> Self {
        Self {
            name,
            unit,
            target,
            ours: Vec::new(),
            baseline: Vec::new(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit,
            "target": self.target.map(|target| target.to_string()), "met": self.is_met(),
            "ours": self.ours, "baseline": self.baseline,
            "mean": mean(&self.ours), "ratio": self.ratio(),
        })
    }

    /// Ours over the baseline's.
    fn ratio(&self) -> Option<f64> {
        Some(mean(&self.ours)? / mean(&self.baseline).filter(|value| *value > 0.0)?)
    }

    fn is_met(&self) -> Option<bool> {
        self.target?.is_met(mean(&self.ours), self.ratio())
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The rows as a table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let none = || "–".to_owned();
    let number = |value: Option<f64>| value.map_or_else(none, |value| format!("{value:.2}"));
    let mut text = String::from(
        "| row | unit | measured | target | met | ratio to baseline |\n|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let target = row.target.map_or_else(none, |target| target.to_string());
        let met = row
            .is_met()
            .map_or_else(none, |met| if met { "yes" } else { "no" }.to_owned());
        text.push_str(&format!(
            "| {} | {} | {} | {target} | {met} | {} |\n",
            row.name,
            row.unit,
            number(mean(&row.ours)),
            number(row.ratio()),
        ));
    }
    text
}

/// The rows as JSON, all values kept.
pub fn json(rows: &[Row]) -> Value {
    Value::Array(rows.iter().map(Row::json).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_needs_a_baseline() {
        let mut row = Row::new("x", "ms", None);
        row.ours = vec![1.0, 3.0];
        assert_eq!(row.ratio(), None);
        row.baseline = vec![4.0];
        assert_eq!(row.ratio(), Some(0.5));
        assert!(table(&[row]).contains("| x | ms | 2.00 | – | – | 0.50 |"));
    }

    #[test]
    fn targets_have_a_direction() {
        let check = |target: Target, ours: f64, baseline: &[f64], expected: Option<bool>| {
            let mut row = Row::new("x", "ms", Some(target));
            row.ours.push(ours);
            row.baseline.extend(baseline);
            assert_eq!(row.is_met(), expected, "{target} {ours} {baseline:?}");
        };
        check(Target::AtMost(2.0), 2.0, &[], Some(true));
        check(Target::AtMost(2.0), 2.1, &[], Some(false));
        check(Target::AtLeast(2.0), 2.1, &[], Some(true));
        check(Target::AtLeast(2.0), 1.9, &[], Some(false));
        check(Target::RatioAtMost(0.5), 1.0, &[], None);
        check(Target::RatioAtMost(0.5), 1.0, &[2.0], Some(true));
        check(Target::RatioAtMost(0.5), 1.0, &[1.0], Some(false));
        check(Target::RatioAtLeast(4.0), 8.0, &[2.0], Some(true));
        check(Target::RatioAtLeast(4.0), 7.0, &[2.0], Some(false));
    }
}
