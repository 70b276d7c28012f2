//! The figures: what is measured, how far it should be, how far it is.
//!
//! Each section boots what it needs and returns rows. A figure that could not be measured is a row that says why.

use std::time::Duration;

use serde::Serialize;

pub mod boot;
pub mod engine;
pub mod exits;
pub mod image;
pub mod live;
mod memory;
pub mod modes;
pub mod moves;

/// Guests start and end within this.
const GUEST_TIMEOUT: Duration = Duration::from_secs(300);

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub figure: String,
    /// What is to be reached, in words.
    pub target: String,
    /// What was measured, in words.
    pub measured: String,
    /// Whether it was reached.
    pub verdict: Verdict,
}

/// How a figure stands to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Reached.
    Reached,
    /// Measured, and not reached.
    Missed,
    /// Nothing to reach: for comparison.
    Reference,
    /// Could not be measured.
    NotMeasured,
}

impl Row {
    /// A figure that must not be larger than `limit`.
    pub fn at_most(figure: &str, measured: f64, limit: f64, unit: &str) -> Self {
        let verdict = if measured <= limit { Verdict::Reached } else { Verdict::Missed };
        let (target, measured) =
            (format!("≤ {}{unit}", number(limit)), format!("{}{unit}", number(measured)));
        Self { figure: figure.to_owned(), target, measured, verdict }
    }

    /// The same with how far single measurements were from it.
    #[must_use]
    pub fn with_spread(self, least: f64, most: f64) -> Self {
        let spread = format!("{} ({}–{})", self.measured, number(least), number(most));
        Self { measured: spread, ..self }
    }

    /// The same with what it is made of.
    #[must_use]
    pub fn with_details(self, details: &str) -> Self {
        Self { measured: format!("{} ({details})", self.measured), ..self }
    }

    /// A figure for comparison.
    pub fn reference(figure: &str, measured: String) -> Self {
        Self { figure: figure.to_owned(), target: "–".to_owned(), measured, verdict: Verdict::Reference }
    }

    /// A figure that could not be had.
    pub fn not_measured(figure: &str, reason: String) -> Self {
        let (target, verdict) = ("–".to_owned(), Verdict::NotMeasured);
        Self { figure: figure.to_owned(), target, measured: format!("not measured: {reason}"), verdict }
    }
}

/// A section's rows, or one that says why there are none.
pub fn section(name: &str, rows: anyhow::Result<Vec<Row>>) -> Vec<Row> {
    rows.unwrap_or_else(|error| vec![Row::not_measured(name, format!("{error:#}"))])
}

/// The rows as a Markdown table.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from("| figure | to reach | measured | |\n|---|---|---|---|\n");
    for row in rows {
        let verdict = match row.verdict {
            Verdict::Reached => "reached",
            Verdict::Missed => "**missed**",
            Verdict::Reference => "",
            Verdict::NotMeasured => "**not measured**",
        };
        let measured = row.measured.replace(['\n', '|'], " ");
        text.push_str(&format!("| {} | {} | {measured} | {verdict} |\n", row.figure, row.target));
    }
    text
}

/// Whole numbers with separators, small ones with two decimals.
fn number(value: f64) -> String {
    if value.fract().abs() > 1e-9 && value < 1_000.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(250.0), "250");
        assert_eq!(number(1.067), "1.07");
    }

    #[test]
    fn a_missed_figure_stands_out_and_a_failure_keeps_its_place() {
        let rows = [
            Row::at_most("CPUID", 300.0, 250.0, " ticks"),
            Row::not_measured("boot", "no\nBochs | here".into()),
        ];
        let text = table(&rows);
        let spread = Row::at_most("CPUID", 225.0, 250.0, " ticks").with_spread(224.0, 1_300.0);
        assert_eq!(spread.measured, "225 ticks (224–1,300)");
        let detailed = Row::at_most("exits", 12.0, 20.0, "").with_details("HLT 12");
        assert_eq!(detailed.measured, "12 (HLT 12)");
        assert!(text.contains("| CPUID | ≤ 250 ticks | 300 ticks | **missed** |"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }
}
