//! The daemon: paces the pattern, measures the gaps between its writes, answers.

use std::fs;
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use godwit_guest_common::gap::Gap;
use godwit_guest_common::pace::Pace;
use godwit_guest_common::pattern::{Counts, Filling, Page, Pattern, Record, Violation};

use super::{ANSWER, ASK, PID, put};
use crate::tsc;

const PAGES_PER_MIB: u64 = 256;
/// Between two batches of a paced pattern.
const PAUSE: Duration = Duration::from_millis(10);
/// Steps of a pattern that runs flat out, between two looks at whether somebody asks.
const BATCH: u64 = 256;
/// A broken migration can damage every page: the count says how many, these lines say how.
const PRINTED_MAX: u64 = 20;

struct Daemon<'m> {
    pattern: Pattern<'m>,
    mib: u64,
    rate: u64,
    start: Instant,
    gap_ns: Gap,
    gap_ticks: Gap,
    printed: u64,
}

/// Runs until it is told to stop.
pub(super) fn run(mib: u64, rate: u64) -> ExitCode {
    let count = mib * PAGES_PER_MIB;
    let pages: Vec<Page> = (0..count).map(|_| Page::default()).collect();
    let table: Vec<Record> = (0..count).map(|_| Record::default()).collect();
    let pattern = Pattern::new(&pages, &table, Filling::Noise);
    let start = Instant::now();
    let (gap_ns, gap_ticks) = (Gap::default(), Gap::default());
    let mut daemon = Daemon { pattern, mib, rate, start, gap_ns, gap_ticks, printed: 0 };
    println!("pattern: started mib={mib} pages_per_second={}", rate_text(rate));
    if let Err(error) = put(PID, &process::id().to_string()) {
        println!("pattern: cannot say that it runs: {error}");
        return ExitCode::FAILURE;
    }
    let mut pace = Pace::new(rate, 0);
    loop {
        let steps = if rate == 0 { BATCH } else { pace.due(daemon.now_ns()) };
        (0..steps).for_each(|_| daemon.step());
        if let Ok(word) = fs::read_to_string(ASK) {
            daemon.answer(&word);
            if word == "stop" {
                return ExitCode::SUCCESS;
            }
        }
        if rate != 0 {
            thread::sleep(PAUSE);
        }
    }
}

impl Daemon<'_> {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn step(&mut self) {
        if let Err(violation) = self.pattern.step() {
            report(&mut self.printed, violation);
        }
        self.gap_ns.event(self.now_ns());
        self.gap_ticks.event(tsc::now());
    }

    fn answer(&mut self, word: &str) {
        let mut checked = String::new();
        if word != "status" {
            let printed = &mut self.printed;
            let found = self.pattern.check(|violation| report(printed, violation));
            checked = format!(" checked={} found={found}", self.pattern.pages());
            // The time for that is not a time in which the guest was stopped.
            self.gap_ns.restart();
            self.gap_ticks.restart();
        }
        let said = match word {
            "stop" => "stopped",
            "check" if self.pattern.counts().violations == 0 => "check ok",
            "check" => "check FAILED",
            _ => "running",
        };
        let line = self.line(said) + &checked;
        let _ = fs::remove_file(ASK);
        if let Err(error) = put(ANSWER, &line) {
            println!("pattern: cannot answer: {error}");
        }
    }

    fn line(&mut self, said: &str) -> String {
        let Counts { writes, verified, sweeps, violations } = self.pattern.counts();
        format!(
            "pattern: {said} mib={} pages_per_second={} sweeps={sweeps} writes={writes} verified={verified} \
             violations={violations} longest_gap_us={} longest_gap_ticks={} recent_gap_us={} recent_gap_ticks={}",
            self.mib,
            rate_text(self.rate),
            self.gap_ns.longest() / 1000,
            self.gap_ticks.longest(),
            self.gap_ns.take_recent() / 1000,
            self.gap_ticks.take_recent(),
        )
    }
}

fn report(printed: &mut u64, violation: Violation) {
    *printed += 1;
    if *printed <= PRINTED_MAX {
        println!("pattern: VIOLATION: {violation}");
    }
}

fn rate_text(rate: u64) -> String {
    if rate == 0 { "flat-out".to_owned() } else { rate.to_string() }
}
