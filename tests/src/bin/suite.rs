//! The end-to-end tests: `scripts/test` runs them last.

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use godwit_tests::machine::{Availability, Kind};
use godwit_tests::suite::{Group, Tally};
use godwit_tests::{guest, image, scenarios, suite};

/// Runs the end-to-end tests.
#[derive(Parser)]
#[command(bin_name = "suite")]
struct Arguments {
    /// Run only groups whose name contains this (may be repeated)
    #[arg(long)]
    only: Vec<String>,
    /// Run only groups on this kind of machine: bochs, kvm (directly where nested VMX works, in Bochs elsewhere), tcg
    #[arg(long)]
    machine: Option<Kind>,
    /// Run groups that fail once more, and count that: for machines whose load nobody controls. What passes only then is
    /// named
    #[arg(long)]
    again: bool,
    /// Build and download what the machines boot, and leave
    #[arg(long)]
    build: bool,
    /// List the checks and leave
    #[arg(long)]
    list: bool,
    /// How many machines may be busy at once; the number of processors unless given
    #[arg(long)]
    jobs: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let groups = match wanted(scenarios::groups(), &arguments) {
        Ok(groups) => groups,
        Err(problem) => Arguments::command().error(ErrorKind::InvalidValue, problem).exit(),
    };
    if arguments.list {
        for group in &groups {
            group.checks.iter().for_each(|check| println!("{} ({}): {}", group.name, group.kind, check.name));
        }
        return ExitCode::SUCCESS;
    }
    let built = if arguments.build { build(&groups) } else { image::programs().map(|_| ()) };
    if let Err(error) = built {
        println!("FAIL what machines boot is built: {error:#}\n0 passed, 1 failed, 0 skipped");
        return ExitCode::FAILURE;
    }
    if arguments.build {
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let processors = std::thread::available_parallelism().map_or(2, usize::from);
    let processors = arguments.jobs.unwrap_or(processors).max(1);
    let mut tallies = suite::run(&groups, processors);
    let first = if arguments.again { run_again(&groups, &mut tallies, processors) } else { Vec::new() };
    let tally: Tally = tallies.into_iter().sum();
    println!();
    for kind in Kind::ALL {
        match kind.availability() {
            Availability::Available if groups.iter().any(|group| group.kind == kind) => {
                println!("machine {kind}: available")
            }
            Availability::Available => println!("machine {kind}: available, no group ran on it"),
            Availability::Missing(reason) => {
                println!("machine {kind}: MISSING, nothing was tested on it: {reason}")
            }
        }
    }
    println!("genuine KVM: {}", Kind::kvm());
    println!("end-to-end tests took {} s", start.elapsed().as_secs());
    first.iter().for_each(|first| print!("{first}"));
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 && tally.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Those of `groups` that are asked for, or what is wrong with what is asked.
fn wanted(mut groups: Vec<Group>, arguments: &Arguments) -> Result<Vec<Group>, String> {
    let names = |groups: &[Group]| {
        let mut names: Vec<&str> = groups.iter().map(|group| group.name).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    };
    let is_known = |only: &String| groups.iter().any(|group| group.name.contains(only.as_str()));
    if let Some(unknown) = arguments.only.iter().find(|only| !is_known(only)) {
        return Err(format!("--only {unknown}: no group has that in its name; they are {}", names(&groups)));
    }
    if let Some(kind) = arguments.machine {
        groups.retain(|group| group.kind == kind);
    }
    let all = names(&groups);
    let is_wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|o| name.contains(o));
    groups.retain(|group| is_wanted(group.name));
    if let (Some(kind), true) = (arguments.machine, groups.is_empty()) {
        return Err(format!("no such group runs on {kind}; those that do are: {all}"));
    }
    Ok(groups)
}

/// Builds whatever the machines of `groups` boot; otherwise each group does when its turn comes.
fn build(groups: &[Group]) -> Result<()> {
    image::programs()?;
    guest::linux(&guest::cache())?;
    guest::bare(&guest::cache())?;
    let is_here = |kind: &Kind| kind.availability() == Availability::Available;
    let mut kinds = Kind::ALL.into_iter().filter(|kind| groups.iter().any(|group| group.kind == *kind));
    kinds.try_for_each(|kind| if is_here(&kind) { kind.prepare() } else { Ok(()) })
}

/// A group that failed and ran again: what a later pass must not hide.
struct First {
    group: &'static str,
    kind: Kind,
    /// What was not true at first.
    failures: Vec<&'static str>,
    passed_then: bool,
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, kind, failures, passed_then } = self;
        match passed_then {
            true => {
                writeln!(f, "UNSTABLE {group} ({kind}): passed only when it ran again; at first it failed:")?
            }
            false => {
                writeln!(f, "FAIL {group} ({kind}): failed when it ran again, too; at first it failed:")?
            }
        }
        failures.iter().try_for_each(|name| writeln!(f, "         {name}"))
    }
}

/// Runs the groups that failed once more and replaces how they ended; how they ended at first.
fn run_again(groups: &[Group], tallies: &mut [Tally], processors: usize) -> Vec<First> {
    let failed: Vec<usize> = (0..groups.len()).filter(|&index| tallies[index].failed > 0).collect();
    let again: Vec<Group> = failed.iter().map(|&index| groups[index]).collect();
    again.iter().for_each(|group| println!("     {} ({}) failed and runs again", group.name, group.kind));
    let ended = failed.into_iter().zip(suite::run(&again, processors));
    ended.map(|(index, then)| replace(&groups[index], &mut tallies[index], then)).collect()
}

fn replace(group: &Group, tally: &mut Tally, then: Tally) -> First {
    let passed_then = then.failed == 0;
    let failures = std::mem::replace(tally, then).failures;
    First { group: group.name, kind: group.kind, failures, passed_then }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Result<Vec<&'static str>, String> {
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let groups = wanted(scenarios::groups(), &arguments)?;
        Ok(groups.iter().map(|group| group.name).collect())
    }

    #[test]
    fn groups_are_found_by_part_of_their_name_and_by_their_machine() {
        assert_eq!(names("suite").unwrap().len(), scenarios::groups().len());
        assert_eq!(names("suite --only move --only spoo --machine bochs").unwrap(), ["moves", "spool"]);
    }

    #[test]
    fn what_names_no_group_is_an_error_that_names_them() {
        let error = names("suite --only moves --only typo").unwrap_err();
        assert!(error.starts_with("--only typo: ") && error.contains("moves, ") && error.contains("spool"));
        let error = names("suite --only moves --machine tcg").unwrap_err();
        assert!(error.contains("QEMU/TCG") && error.contains("without-"), "{error}");
        assert!(Arguments::try_parse_from(["suite", "qick"]).is_err());
    }

    #[test]
    fn what_passes_only_the_second_time_is_named_with_what_failed() {
        let group = scenarios::groups()[0];
        let failed = Tally { failed: 2, failures: vec!["one", "two"], ..Tally::default() };
        let passed = Tally { passed: 9, ..Tally::default() };
        let mut tally = failed.clone();
        let told = replace(&group, &mut tally, passed.clone()).to_string();
        assert_eq!(tally, passed);
        assert!(
            told.starts_with("UNSTABLE moves (") && told.ends_with("failed:\n         one\n         two\n"),
            "{told}"
        );
        let told = replace(&group, &mut failed.clone(), failed.clone()).to_string();
        assert!(
            told.starts_with("FAIL moves (") && told.contains("too; at first it failed:\n         one\n"),
            "{told}"
        );
    }
}
