//! The table the demo prints: what happened, how it was checked, how long it took.

use std::time::Instant;

/// Prints one line per step, as it is verified.
pub(crate) struct Story {
    start: Instant,
    last: Instant,
    steps: usize,
}

impl Story {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        println!("  {:<2} {:<46} {:<58} {:>7}", "", "what", "seen", "ms");
        println!("  {}", "-".repeat(116));
        Self {
            start: now,
            last: now,
            steps: 0,
        }
    }

    /// A step that was verified; `seen` is what proves it.
    pub(crate) fn step(&mut self, what: &str, seen: &str) {
        self.steps += 1;
        let took = self.last.elapsed().as_millis();
        println!("  {:<2} {what:<46} {seen:<58} {took:>7}", self.steps);
        self.last = Instant::now();
    }

    pub(crate) fn end(&self) {
        println!("  {}", "-".repeat(116));
        println!(
            "  all {} steps verified in {:.1} s",
            self.steps,
            self.start.elapsed().as_secs_f64()
        );
    }
}
