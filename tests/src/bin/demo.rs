//! `scripts/demo`: a running Linux guest moves to another host and back, and shows each time that it is still itself.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use godwit_tests::cluster::{Cluster, Plan};
use godwit_tests::config::GuestConfig;
use godwit_tests::figures::Moved;
use godwit_tests::guest::LinuxFiles;
use godwit_tests::host::{COMMAND_TIMEOUT, Host, MOVE_TIMEOUT};
use godwit_tests::machine::{Availability, Kind};
use serde_json::json;

const LINUX: &str = "linux";
const MEMORY_MIB: u64 = 128;
const BOOT_TIMEOUT: Duration = Duration::from_secs(600);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(120);

/// Moves a running Linux guest from host a to host b by pre-copy, and back by post-copy.
#[derive(Parser)]
#[command(bin_name = "scripts/demo")]
struct Arguments {
    /// Write the figures to this file, as JSON
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// bochs or kvm (directly or in Bochs); the best one that works here unless given
    #[arg(long, value_parser = machine_for_guests)]
    machine: Option<Kind>,
}

/// What the guest says of itself.
#[derive(Debug)]
struct Identity {
    uptime_s: f64,
    /// Processes that are not the kernel's: number and name.
    processes: Vec<String>,
    /// The data's checksum, as the guest computes it now.
    checksum: String,
}

/// A kind of machine on which guests run.
fn machine_for_guests(text: &str) -> Result<Kind, String> {
    let kind: Kind = text.parse()?;
    if kind.has_vmx() { Ok(kind) } else { Err(format!("guests do not run on {kind}, which has no VMX")) }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let start = Instant::now();
    match demo(&arguments, start) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("demo: FAILED after {} s: {error:#}", start.elapsed().as_secs());
            ExitCode::FAILURE
        }
    }
}

fn demo(arguments: &Arguments, start: Instant) -> Result<String> {
    let kind = arguments.machine.unwrap_or_else(Kind::best);
    if let (Kind::Bochs, Availability::Missing(reason)) = (kind, Kind::QemuKvm.availability()) {
        say(start, &format!("no QEMU/KVM here ({reason}), so the hosts run on Bochs, which emulates VMX"));
    } else {
        say(start, &format!("the hosts run on {kind}"));
    }
    say(start, "building loader, hypervisor and guest");
    let mut guest = GuestConfig::linux(LINUX, MEMORY_MIB);
    guest.command_line = LinuxFiles::COMMAND_LINE.replace(" quiet", "");
    let mut cluster = Plan::new("demo", kind, 2).guest(0, guest).start()?;
    show_consoles(&mut cluster, start);
    say(start, "booting hosts a and b from UEFI");
    cluster.wait_for_prompts()?;
    let [a, b] = cluster.hosts.as_mut_slice() else { anyhow::bail!("two hosts were asked for") };

    say(start, "starting the guest on a and watching it boot");
    a.succeed("vm start linux")?;
    let ready = a.attach(LINUX, "guest: ready", BOOT_TIMEOUT)?;
    let before = identity(a)?;
    a.detach()?;

    say(start, "moving it: its memory first, then the guest (pre-copy)");
    let (moved, after) = move_and_compare([a, b], "--mode precopy", &before, start)?;
    say(start, "and back: the guest first, then its memory (post-copy)");
    let (back, after) = move_and_compare([b, a], "--mode postcopy --downtime-limit 1s", &after, start)?;
    ensure!(back.details.contains("after the switch: "), "nothing came after the switch: {}", back.details);
    let waits = back.details.lines().find_map(|line| line.trim().strip_prefix("waits: "));
    say(start, &format!("post-copy: {}; waits for pages: {}", back.line, waits.unwrap_or("none")));
    if let Some(file) = &arguments.report {
        let text = report(kind, [&moved, &back], [&before, &after], &ready, start)?;
        fs::write(file, text).with_context(|| file.display().to_string())?;
    }
    let (total, downtime) = (human(moved.total), human(moved.downtime));
    let sent = moved.sent_bytes as f64 / f64::from(1 << 20);
    Ok(format!(
        "demo: linux moved a -> b: total {total} downtime {downtime} rounds {} sent {sent:.1} MiB verified",
        moved.rounds
    ))
}

/// Moves the guest from the first host to the second, and asks it there whether it is still what it was `before`.
fn move_and_compare(
    [from, to]: [&mut Host; 2],
    options: &str,
    before: &Identity,
    start: Instant,
) -> Result<(Moved, Identity)> {
    let peer = to.name.clone();
    from.enter(&format!("migrate {LINUX} {peer} {options}"))?;
    let moved = from.finish_migrate(LINUX, &peer, MOVE_TIMEOUT)?.moved()?;
    say(start, &format!("asking it, at {peer}, whether it is still itself"));
    to.attach(LINUX, "", COMMAND_TIMEOUT)?;
    let after = identity(to)?;
    let complaints = to.guest_command("complaints", COMMAND_TIMEOUT)?;
    to.detach()?;
    compare(before, &after, &complaints)?;
    let left = from.guest_state(LINUX)?.map(|(state, _)| state);
    ensure!(left.is_none_or(|state| state == "stopped"), "the guest still exists at {}", from.name);
    say(
        start,
        &format!(
            "uptime {} s -> {} s, {} processes unchanged, checksum of its data {} at both hosts, kernel log quiet",
            before.uptime_s,
            after.uptime_s,
            after.processes.len(),
            after.checksum
        ),
    );
    Ok((moved, after))
}

fn say(start: Instant, text: &str) {
    println!("[{:3} s] demo: {text}", start.elapsed().as_secs());
}

/// Every line of every console appears here, with its host's name.
fn show_consoles(cluster: &mut Cluster, start: Instant) {
    for host in &mut cluster.hosts {
        let name = host.name.clone();
        let show = move |line: &str| {
            // What the firmware draws before the host is up says nothing.
            if !line.trim().is_empty() {
                println!("[{:3} s] {name} | {line}", start.elapsed().as_secs());
            }
        };
        host.serial().set_tap(Some(Box::new(show)));
    }
}

/// Asks the guest to whose console `host` is attached.
fn identity(host: &mut Host) -> Result<Identity> {
    host.guest_command("", COMMAND_TIMEOUT)?;
    let uptime = host.guest_command("cat /proc/uptime", COMMAND_TIMEOUT)?;
    let uptime_s = uptime.split(' ').next().unwrap_or_default().parse().with_context(|| uptime.clone())?;
    let table = host.guest_command("ps", COMMAND_TIMEOUT)?;
    let processes = user_processes(&table);
    let output = host.guest_command("verify", VERIFY_TIMEOUT)?;
    let checksum =
        output.split("verify: ok ").nth(1).with_context(|| format!("its data is broken: {output}"))?;
    Ok(Identity { uptime_s, processes, checksum: checksum.trim().to_owned() })
}

/// Number and command of the processes in `ps`'s output that stay: not the kernel's, which come and go, and not the
/// `ps` itself, which the shell may run as a child of its own name.
fn user_processes(table: &str) -> Vec<String> {
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let column = |row: Vec<&str>| row.iter().position(|word| *word == "COMMAND");
    let Some(command_column) = lines.find_map(column) else {
        return Vec::new();
    };
    let of_row = |row: Vec<&str>| {
        let number: u32 = row.first()?.parse().ok()?;
        let command = row.get(command_column..)?;
        let first = command.first()?;
        let stays = !first.starts_with('[') && !["ps", "{ps}"].contains(first);
        stays.then(|| format!("{number} {}", command.join(" ")))
    };
    lines.filter_map(of_row).collect()
}

fn compare(before: &Identity, after: &Identity, complaints: &str) -> Result<()> {
    ensure!(!before.processes.is_empty(), "the guest listed no processes");
    ensure!(before.checksum == after.checksum, "the data changed: {before:?} {after:?}");
    ensure!(before.processes == after.processes, "the processes changed: {before:?} {after:?}");
    ensure!(after.uptime_s >= before.uptime_s, "the uptime went back: {before:?} {after:?}");
    ensure!(complaints.contains("complaints: none"), "the guest's kernel complains: {complaints}");
    Ok(())
}

fn human(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

fn report(
    kind: Kind,
    moves: [&Moved; 2],
    [before, after]: [&Identity; 2],
    ready: &str,
    start: Instant,
) -> Result<String> {
    let figures = |moved: &Moved| {
        json!({
            "total_ms": moved.total.as_secs_f64() * 1e3,
            "downtime_ms": moved.downtime.as_secs_f64() * 1e3,
            "rounds": moved.rounds,
            "sent_bytes": moved.sent_bytes,
            "pages_in_downtime": moved.pages_in_downtime,
            "details": moved.details.lines().collect::<Vec<_>>(),
        })
    };
    let all = json!({
        "machine": kind.to_string(),
        "guest": LINUX,
        "guest_memory_mib": MEMORY_MIB,
        "guest_ready": ready,
        "precopy": figures(moves[0]),
        "postcopy": figures(moves[1]),
        "verified": true,
        "uptime_s": [before.uptime_s, after.uptime_s],
        "checksum": after.checksum,
        "processes": after.processes,
        "demo_s": start.elapsed().as_secs_f64(),
    });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_vmx_is_refused() {
        let parse = |kind: &str| Arguments::try_parse_from(["demo", "--machine", kind]);
        assert_eq!(parse("bochs").unwrap().machine, Some(Kind::Bochs));
        for wrong in ["tcg", "boch"] {
            assert_eq!(parse(wrong).err().unwrap().exit_code(), 2, "{wrong}");
        }
    }

    #[test]
    fn kernel_threads_and_ps_are_not_compared() {
        let table = "PID   USER     TIME  COMMAND\n    1 0         0:02 {init} /bin/sh /init\n\
                     2 0         0:00 [kthreadd]\n   83 0         0:00 sh -l\n   90 0         0:00 ps\n";
        assert_eq!(user_processes(table), ["1 {init} /bin/sh /init", "83 sh -l"]);
    }

    #[test]
    fn a_table_without_times_is_understood() {
        let table = "PID   USER     COMMAND\n    1 0        {init} /bin/sh /init\n\
                     89 0        sh -l\n    91 0        {ps} sh -l\n";
        assert_eq!(user_processes(table), ["1 {init} /bin/sh /init", "89 sh -l"]);
    }
}
