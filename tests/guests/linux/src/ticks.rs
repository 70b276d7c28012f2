//! `ticks [N]`: what a CPUID costs, seen from a user program.

use std::process::ExitCode;

use godwit_guest_common::samples::Summary;

use crate::tsc;

const SAMPLES_DEFAULT: usize = 1000;
const SAMPLES_MAX: usize = 1_000_000;

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let count = match arguments.first().map(|text| text.parse()) {
        None => SAMPLES_DEFAULT,
        Some(Ok(count @ 1..=SAMPLES_MAX)) => count,
        Some(_) => {
            println!("ticks: usage: ticks [1..{SAMPLES_MAX}]");
            return ExitCode::FAILURE;
        }
    };
    let mut samples: Vec<u64> = (0..count).map(|_| tsc::cpuid_round_trip()).collect();
    if let Some(summary) = Summary::of(&mut samples) {
        println!("bench cpuid-user {summary}");
    }
    ExitCode::SUCCESS
}
