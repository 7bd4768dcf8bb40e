//! The table and the JSON of a run.

use serde_json::{Value, json};

/// One measured figure; lower is better.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was measured.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it should stay below; `None` if there is no target.
    pub target: Option<f64>,
    /// Measured values of our executables, in order of the runs.
    pub ours: Vec<f64>,
    /// Measured values of the baseline's executables.
    pub baseline: Vec<f64>,
}

impl Row {
    /// A row without values.
    pub fn new(name: &'static str, unit: &'static str, target: Option<f64>) -> Self {
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
            "name": self.name, "unit": self.unit, "target": self.target,
            "ours": self.ours, "baseline": self.baseline,
            "mean": mean(&self.ours), "ratio": self.ratio(),
        })
    }

    /// Ours over the baseline's.
    fn ratio(&self) -> Option<f64> {
        Some(mean(&self.ours)? / mean(&self.baseline).filter(|value| *value > 0.0)?)
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The rows as a table in Markdown.
pub fn table(rows: &[Row]) -> String {
    let number =
        |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let mut text = String::from(
        "| row | unit | measured | target | ratio to baseline |\n|---|---|---|---|---|\n",
    );
    for row in rows {
        let cells = [mean(&row.ours), row.target, row.ratio()].map(number);
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            row.name, row.unit, cells[0], cells[1], cells[2]
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
        assert!(table(&[row]).contains("| x | ms | 2.00 | – | 0.50 |"));
    }
}
