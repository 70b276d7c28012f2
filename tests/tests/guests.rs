//! The guests run directly on an emulated machine without VMX, before any hypervisor of ours is under them: what they
//! print and find is then theirs alone.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::time::Duration;

use godwit_tests::guest::{self, LinuxFiles};
use godwit_tests::process::Process;
use godwit_tests::scratch;
use godwit_tests::serial::Serial;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const BOOT: Duration = Duration::from_secs(120);
const ANSWER: Duration = Duration::from_secs(60);

/// A QEMU that starts a kernel without firmware or loader of ours.
struct Direct {
    process: Process,
    serial: Serial,
}

/// Starts `kernel`, or says by name what is missing.
fn boot(name: &str, kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Option<Direct> {
    if !Path::new(QEMU).exists() {
        eprintln!("MISSING: {QEMU} (package qemu-system-x86): {name} was not run");
        return None;
    }
    let scratch = scratch::directory(name).unwrap();
    let serial = Serial::listen(&scratch.join("serial.log")).unwrap();
    let path = |path: &Path| path.display().to_string();
    let serial_port = format!("tcp:127.0.0.1:{}", serial.port());
    let mut arguments = vec!["-machine", "pc,accel=tcg", "-cpu", "max", "-m", "128", "-no-reboot"];
    arguments.extend(["-nodefaults", "-display", "none", "-serial", &serial_port]);
    let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    arguments.extend(["-kernel".into(), path(kernel), "-append".into(), command_line.to_owned()]);
    if let Some(initrd) = initrd {
        arguments.extend(["-initrd".into(), path(initrd)]);
    }
    let process = Process::start(QEMU, &arguments, |_| ()).unwrap();
    Some(Direct { process, serial })
}

impl Direct {
    /// Types a command at the Linux guest's shell and gives what it prints.
    fn command(&mut self, command: &str) -> String {
        self.serial.send_line(command).unwrap();
        self.serial.expect("guest# ", ANSWER).unwrap()
    }
}

fn linux(name: &str, options: &str) -> Option<Direct> {
    let files = guest::linux(&guest::cache()).unwrap();
    let command_line = format!("{} {options}", LinuxFiles::COMMAND_LINE);
    let mut machine = boot(name, &files.kernel, Some(&files.initrd), &command_line)?;
    machine.serial.expect(LinuxFiles::READY, BOOT).unwrap();
    machine.serial.expect("guest# ", ANSWER).unwrap();
    Some(machine)
}

#[test]
fn linux_boots_verifies_its_data_and_powers_off() {
    // QEMU's clocks drift apart on a busy machine; they are not what is tested here.
    let Some(mut machine) = linux("guest-linux", "tsc=reliable") else { return };
    let verified = machine.command("verify");
    assert!(verified.contains("verify: ok "), "{verified}");
    let damaged =
        machine.command("printf x | dd of=/data/data bs=1 seek=4097 conv=notrunc 2>/dev/null; verify");
    assert!(
        damaged.contains("verify: DIFFERENT ") && damaged.contains("1 pages changed, the first is page 1")
    );
    let complaints = machine.command("complaints");
    assert!(complaints.contains("complaints: none"), "{complaints}");
    let planted = machine.command("echo 'watchdog: BUG: soft lockup - CPU#0 stuck' >/dev/kmsg; complaints");
    assert!(planted.contains("complaints: 1"), "{planted}");
    let ticks = machine.command("ticks 100");
    assert!(ticks.contains("bench cpuid-user min="), "{ticks}");
    machine.serial.send_line("poweroff").unwrap();
    assert!(machine.process.wait(ANSWER).is_some(), "the machine is off");
}

#[test]
fn linux_runs_the_pattern_and_finds_nothing_wrong() {
    let Some(mut machine) =
        linux("guest-pattern", "godwit.data_mib=1 godwit.pattern=4,2000 godwit.heartbeat=1")
    else {
        return;
    };
    machine.serial.expect("heartbeat: uptime=", ANSWER).unwrap();
    let status = machine.command("pattern status");
    assert!(status.contains("pattern: running mib=4 pages_per_second=2000 "), "{status}");
    let check = machine.command("pattern check");
    assert!(
        check.contains("check ok") && check.contains("violations=0") && check.contains("checked=1024"),
        "{check}"
    );
    let stopped = machine.command("pattern stop");
    assert!(stopped.contains("pattern: stopped "), "{stopped}");
    assert!(machine.command("pattern status").contains("pattern: not running"));
    let started = machine.command("pattern start 2; sleep 1; pattern stop");
    assert!(started.contains("pages_per_second=flat-out") && started.contains("violations=0"), "{started}");
    assert!(machine.command("nonsense").contains("not found"), "the shell lives");
}

/// Runs the bare-metal guest until it prints `last`, and gives what it printed.
fn bare(behaviour: &str, last: &str) -> Option<String> {
    let kernel = guest::bare(&guest::cache()).unwrap();
    let mut machine = boot("guest-bare", &kernel, None, behaviour)?;
    Some(machine.serial.expect_line(last, BOOT).unwrap())
}

#[test]
fn bare_measures_each_exit() {
    for name in ["cpuid", "rdmsr", "port", "apic"] {
        let Some(line) = bare(&format!("{name} 100"), &format!("bench {name} min=")) else { return };
        assert!(line.contains(" median=") && line.contains(" mean=") && line.contains(" n=100"), "{line}");
    }
    let Some(line) = bare("bench", "bench apic min=") else { return };
    assert!(line.contains(" n=1000"), "{line}");
}

#[test]
fn bare_sees_its_faults() {
    for (behaviour, line) in [
        ("unknown-exit", "bare: exception 6,"),
        ("single-step", "single-step: 7 traps of 7, dr6 0xffff4ff0"),
        ("nonsense", "bare: no behaviour \"nonsense\""),
        ("hello", "bare: done"),
    ] {
        if bare(behaviour, line).is_none() {
            return;
        }
    }
}

#[test]
fn bare_runs_the_pattern_and_finds_nothing_wrong() {
    let Some(line) = bare("pattern 512 2000", "pattern: sweep 37 ") else { return };
    assert!(line.contains(" 0 errors"), "{line}");
}

#[test]
fn bare_echoes_what_it_receives() {
    let kernel = guest::bare(&guest::cache()).unwrap();
    let Some(mut machine) = boot("guest-echo", &kernel, None, "echo") else { return };
    machine.serial.expect("echo: ready", BOOT).unwrap();
    for text in ["one", "a longer line, with blanks", "end"] {
        machine.serial.write(format!("{text}\r").as_bytes()).unwrap();
        machine.serial.expect_line(&format!("echo: {text}"), ANSWER).unwrap();
    }
    machine.serial.expect("bare: done", ANSWER).unwrap();
}

#[test]
fn bare_powers_off() {
    let kernel = guest::bare(&guest::cache()).unwrap();
    let Some(mut machine) = boot("guest-power-off", &kernel, None, "power-off") else { return };
    assert!(machine.process.wait(BOOT).is_some(), "it is still on");
    let said = machine.serial.text();
    assert!(said.contains("power-off: 0x") && !said.contains("still here"), "{said}");
}
