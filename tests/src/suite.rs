//! The runner of the end-to-end tests.
//!
//! A [`Group`] boots one cluster and runs its checks on it in order; groups run in parallel as far as the processors
//! allow. A group whose machine is missing is skipped, by name and with the reason. The last line of a run is
//! `N passed, N failed, N skipped`.

use std::iter::Sum;
use std::panic::catch_unwind;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::{Cluster, Plan};
use crate::lock;
use crate::machine::{Availability, Kind};

/// One thing that must be true of a cluster.
#[derive(Clone, Copy)]
pub struct Check {
    /// What must be true, as a sentence.
    pub name: &'static str,
    /// Finds out.
    pub run: fn(&mut Cluster) -> Result<()>,
}

/// Checks that share a boot.
#[derive(Clone, Copy)]
pub struct Group {
    /// For `--only`, and in every line about it.
    pub name: &'static str,
    /// The machines it needs.
    pub kind: Kind,
    /// How many processors its machines keep busy.
    pub weight: usize,
    /// What it boots.
    pub plan: fn(Kind) -> Plan,
    /// What it checks, in order.
    pub checks: &'static [Check],
}

/// How many checks ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// True.
    pub passed: usize,
    /// Not true, or not reached.
    pub failed: usize,
    /// Machine missing.
    pub skipped: usize,
    /// What was not true, in order, without what was not reached for it.
    pub failures: Vec<&'static str>,
}

/// What is true of every group that has booted.
const BOOTS: &str = "the hosts come up to their prompts";
/// What is true of every group whose thread has not panicked.
const LAB_WORKS: &str = "the lab works";

/// Runs `groups` with `processors` of them busy at once; prints as it goes. How each group ended, in their order.
pub fn run(groups: &[Group], processors: usize) -> Vec<Tally> {
    let free = Mutex::new(processors);
    let freed = Condvar::new();
    thread::scope(|scope| {
        let mut runs = Vec::new();
        for group in groups {
            // A group that weighs more than there is runs alone.
            let weight = group.weight.min(processors);
            let mut guard = lock(&free);
            while *guard < weight {
                guard = freed.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            *guard -= weight;
            drop(guard);
            let (free, freed) = (&free, &freed);
            runs.push(scope.spawn(move || {
                let tally = catch_unwind(|| run_group(group)).unwrap_or_else(|_| lost(group));
                *lock(free) += weight;
                freed.notify_all();
                tally
            }));
        }
        runs.into_iter().zip(groups).map(|(run, group)| run.join().unwrap_or_else(|_| lost(group))).collect()
    })
}

/// A group whose thread panicked: a fault of the lab's.
fn lost(group: &Group) -> Tally {
    report("FAIL", group, LAB_WORKS, "its thread panicked, see above");
    Tally { failed: 1 + group.checks.len(), failures: vec![LAB_WORKS], ..Tally::default() }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut all, one| {
            all.failures.extend(one.failures);
            Self {
                passed: all.passed + one.passed,
                failed: all.failed + one.failed,
                skipped: all.skipped + one.skipped,
                failures: all.failures,
            }
        })
    }
}

fn run_group(group: &Group) -> Tally {
    let mut tally = Tally::default();
    if let Availability::Missing(reason) = group.kind.availability() {
        let remark = format!("no {} here: {reason}", group.kind);
        report("skip", group, &format!("{} checks", group.checks.len()), &remark);
        tally.skipped = group.checks.len();
        return tally;
    }
    let start = Instant::now();
    let mut cluster = match boot(group) {
        Ok(cluster) => cluster,
        Err(error) => {
            report("FAIL", group, BOOTS, &format!("{error:#}"));
            tally.failed = 1 + group.checks.len();
            tally.failures.push(BOOTS);
            return tally;
        }
    };
    report("ok", group, BOOTS, &seconds(start));
    tally.passed += 1;
    for (number, check) in group.checks.iter().enumerate() {
        let start = Instant::now();
        match (check.run)(&mut cluster) {
            Ok(()) => {
                report("ok", group, check.name, &seconds(start));
                tally.passed += 1;
            }
            Err(error) => {
                report(
                    "FAIL",
                    group,
                    check.name,
                    &format!("{}\n{error:#}\n{}", seconds(start), logs(&mut cluster)),
                );
                tally.failed += 1;
                tally.failures.push(check.name);
                if let Err(error) = recover(&mut cluster) {
                    let left = &group.checks[number + 1..];
                    for check in left {
                        report("FAIL", group, check.name, &format!("not reached: {error}"));
                    }
                    tally.failed += left.len();
                    return tally;
                }
            }
        }
    }
    tally
}

fn boot(group: &Group) -> Result<Cluster> {
    let mut cluster = (group.plan)(group.kind).start()?;
    let booted = cluster.wait_for_prompts();
    booted.with_context(|| logs(&mut cluster))?;
    Ok(cluster)
}

fn recover(cluster: &mut Cluster) -> Result<()> {
    for host in &mut cluster.hosts {
        if let Some(port) = host.port {
            cluster.switch.mend(port);
        }
    }
    cluster.hosts.iter_mut().try_for_each(|host| host.recover())
}

fn logs(cluster: &mut Cluster) -> String {
    let paths = cluster.hosts.iter_mut().map(|host| {
        let transcript = host.serial().transcript().display().to_string();
        format!("host {}: {transcript}", host.name)
    });
    paths.collect::<Vec<_>>().join("\n")
}

fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}

fn report(verdict: &str, group: &Group, name: &str, remark: &str) {
    let mut lines = remark.lines();
    let first = lines.next().unwrap_or_default();
    let rest: String = lines.map(|line| format!("\n      | {line}")).collect();
    println!("{verdict:<4} {} ({}): {name}: {first}{rest}", group.name, group.kind);
}

/// Tries `attempt` until it succeeds, at most for `timeout`; returns its last error.
///
/// # Errors
/// It never succeeded.
pub fn eventually<T>(timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}
