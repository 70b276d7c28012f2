//! `scripts/bench`: the figures, as a table.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::PossibleValuesParser;
use godwit_tests::bench::{self, Row, Verdict, section};
use godwit_tests::machine::Kind;

/// Measures the figures and prints them beside what is to be reached.
#[derive(Parser)]
#[command(bin_name = "scripts/bench")]
struct Arguments {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Measure only this (may be repeated)
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(SECTIONS.map(|(name, _)| name)))]
    only: Vec<String>,
    /// The machine; the figures to reach are for bochs
    #[arg(long, default_value = "bochs")]
    machine: Kind,
}

type Measure = fn(Kind) -> Result<Vec<Row>>;

const SECTIONS: [(&str, Measure); 7] = [
    ("image", bench::image::measure),
    ("exits", bench::exits::measure),
    ("boot", bench::boot::measure),
    ("moves", bench::moves::measure),
    ("modes", bench::modes::measure),
    ("engine", |_| bench::engine::measure()),
    ("live", |_| bench::live::measure()),
];

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(rows) if rows.iter().any(|row| row.verdict == Verdict::NotMeasured) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, measure) in SECTIONS {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            eprintln!("bench: {name} …");
            rows.extend(section(name, measure(arguments.machine)));
        }
    }
    println!("{}", bench::table(&rows));
    if let Some(file) = &arguments.report {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_there_is_can_be_measured() {
        let parse = |only: &str| Arguments::try_parse_from(["bench", "--only", only]);
        for (name, _) in SECTIONS {
            assert_eq!(parse(name).unwrap().only, [name]);
        }
        let error = parse("typo").err().unwrap();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(SECTIONS.iter().all(|(name, _)| text.contains(name)), "{text}");
    }
}
