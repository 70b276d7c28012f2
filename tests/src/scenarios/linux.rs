//! Debian's kernel as a guest: boot, console, pause, power off.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Plan};
use crate::config::GuestConfig;
use crate::host::{COMMAND_TIMEOUT, Host};
use crate::machine::Kind;
use crate::suite::{Check, Group, eventually};

/// From `vm start` to the shell.
pub(super) const LINUX_TIMEOUT: Duration = Duration::from_secs(600);
pub(super) const LINUX: &str = "linux";
/// Takes so long to be built that a person can type meanwhile.
const LARGE: &str = "large";
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn group(kind: Kind) -> Group {
    Group { name: "linux", kind, weight: 1, plan, checks: CHECKS }
}

fn plan(kind: Kind) -> Plan {
    let mut witness = GuestConfig::bare("witness", "pattern 256 50000");
    witness.memory_mib = 32;
    let mut linux = GuestConfig { vcpus: 2, ..GuestConfig::linux(LINUX, 128) };
    // Enough to verify.
    linux.command_line.push_str(" godwit.data_mib=4");
    let mut large = GuestConfig::bare(LARGE, "hello");
    large.memory_mib = 320;
    Plan::new("linux", kind, 1).guest(0, linux).guest(0, witness).guest(0, large)
}

const CHECKS: &[Check] = &[
    Check { name: "a guest is stopped while its memory is made ready", run: stops_starting },
    Check { name: "the guest boots to a shell", run: boots },
    Check { name: "its shell computes", run: computes },
    Check { name: "both of its processors work, and one goes off and on again", run: has_two_processors },
    Check { name: "one comes back from its console and attaches again", run: reattaches },
    Check { name: "its clocks stand still while it is paused", run: pauses },
    Check { name: "a second guest runs beside it", run: second_guest },
    Check { name: "its kernel has nothing to complain about", run: no_complaints },
    Check { name: "it powers off", run: powers_off },
];

/// Its memory is all given back.
fn stops_starting(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    let free = |host: &mut Host| -> Result<String> {
        let memory = host.succeed("mem")?;
        Ok(memory.lines().find(|line| line.starts_with("free")).context("no free memory")?.to_owned())
    };
    let before = free(host)?;
    host.succeed("vm start large")?;
    let row = host.expect_state(LARGE, "starting")?;
    ensure!(row.contains("% of its memory is ready"), "{row}");
    let refusal = host.command("vm start large", COMMAND_TIMEOUT)?;
    ensure!(refusal.contains("cannot start large: it is starting"), "{refusal}");
    host.succeed("vm stop large")?;
    eventually(COMMAND_TIMEOUT, || {
        let row = host.expect_state(LARGE, "stopped")?;
        ensure!(row.contains("stopped on request"), "{row}");
        Ok(())
    })?;
    let after = free(host)?;
    ensure!(before == after, "{before} became {after}");
    Ok(())
}

fn boots(cluster: &mut Cluster) -> Result<()> {
    start(&mut cluster.hosts[0])
}

/// Starts the Linux guest, waits for its shell and leaves the console attached to the host.
pub(super) fn start(host: &mut Host) -> Result<()> {
    host.succeed("vm start linux")?;
    let ready = host.attach(LINUX, "guest: ready", LINUX_TIMEOUT)?;
    ensure!(ready.contains("kernel="), "{ready}");
    host.guest_command("", COMMAND_TIMEOUT)?;
    host.detach()
}

/// Attaches, runs `command` in the guest's shell, comes back.
pub(super) fn run(host: &mut Host, command: &str, timeout: Duration) -> Result<String> {
    host.attach(LINUX, "", COMMAND_TIMEOUT)?;
    host.guest_command("", COMMAND_TIMEOUT)?;
    let output = host.guest_command(command, timeout);
    host.detach()?;
    output
}

/// The guest's uptime in seconds.
pub(super) fn uptime(host: &mut Host) -> Result<f64> {
    let text = run(host, "cat /proc/uptime", COMMAND_TIMEOUT)?;
    let first = text.split_whitespace().next().context("no uptime")?;
    first.parse().with_context(|| format!("uptime {text:?}"))
}

fn computes(cluster: &mut Cluster) -> Result<()> {
    let output = run(&mut cluster.hosts[0], "echo $((6 * 7)) && uname -s", COMMAND_TIMEOUT)?;
    ensure!(output.lines().collect::<Vec<_>>() == ["42", "Linux"], "{output:?}");
    let output = run(&mut cluster.hosts[0], "verify", LINUX_TIMEOUT)?;
    ensure!(output.contains("verify: ok"), "{output}");
    Ok(())
}

/// Interrupts between its processors tell that both work.
fn has_two_processors(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    let calls = "echo cpus=$(grep -c ^processor /proc/cpuinfo) $(grep 'Function call' /proc/interrupts)";
    let output = run(host, calls, COMMAND_TIMEOUT)?;
    ensure!(output.contains("cpus=2 CAL: "), "{output}");
    let words = output.split_whitespace().skip_while(|word| *word != "CAL:").skip(1).take(2);
    ensure!(words.filter_map(|word| word.parse().ok()).all(|calls: u32| calls > 0), "{output}");
    let online = "/sys/devices/system/cpu/cpu1/online";
    let command =
        format!("echo 0 > {online} && grep -c ^processor /proc/cpuinfo && echo 1 > {online} && cat {online}");
    let output = run(host, &command, LINUX_TIMEOUT)?;
    ensure!(output.split_whitespace().collect::<Vec<_>>() == ["1", "1"], "{output}");
    Ok(())
}

fn reattaches(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    run(host, "echo before-detaching", COMMAND_TIMEOUT)?;
    host.attach(LINUX, "before-detaching", COMMAND_TIMEOUT).context("the last lines are shown again")?;
    host.detach()
}

fn pauses(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.succeed("vm pause linux")?;
    eventually(COMMAND_TIMEOUT, || host.expect_state(LINUX, "paused"))?;
    let uptime_of = |host: &mut Host| -> Result<String> {
        let info = host.succeed("vm info linux")?;
        Ok(info.lines().find(|line| line.starts_with("uptime")).context("no uptime")?.to_owned())
    };
    let before = uptime_of(host)?;
    std::thread::sleep(PAUSE);
    let after = uptime_of(host)?;
    ensure!(before == after, "{before} became {after} while it was paused");
    host.succeed("vm resume linux")?;
    let first = uptime(host)?;
    std::thread::sleep(Duration::from_millis(300));
    let second = uptime(host)?;
    ensure!(second > first, "time stands still after the pause: {first}, {second}");
    Ok(())
}

fn second_guest(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.succeed("vm start witness")?;
    let line = host.attach("witness", "pattern: sweep", LINUX_TIMEOUT)?;
    ensure!(line.contains(" 0 errors"), "{line}");
    host.detach()?;
    let output = run(host, "echo still here", COMMAND_TIMEOUT)?;
    ensure!(output == "still here", "{output:?}");
    host.succeed("vm stop witness").map(|_| ())
}

fn no_complaints(cluster: &mut Cluster) -> Result<()> {
    quiet_kernel(&mut cluster.hosts[0])
}

/// The guest's kernel log has no word of lockups, stalls, jumping clocks or bugs.
pub(super) fn quiet_kernel(host: &mut Host) -> Result<()> {
    let output = run(host, "complaints", COMMAND_TIMEOUT)?;
    ensure!(output.contains("complaints: none"), "{output}");
    Ok(())
}

fn powers_off(cluster: &mut Cluster) -> Result<()> {
    let host = &mut cluster.hosts[0];
    host.attach(LINUX, "", COMMAND_TIMEOUT)?;
    host.guest_command("", COMMAND_TIMEOUT)?;
    host.serial().send_line("poweroff")?;
    let line = host.serial().expect_line("linux ended:", LINUX_TIMEOUT)?;
    ensure!(line.contains("switched itself off"), "{line}");
    host.wait_for_prompt(COMMAND_TIMEOUT)?;
    host.expect_state(LINUX, "stopped").map(|_| ())
}
