//! What the KVM under a machine has to say about it: its log, from a marker on, and what in it is a complaint.
//!
//! KVM tells a hypervisor that runs on it only that a VM entry failed, and its log why: with the module parameter
//! `dump_invalid_vmcs=1` it prints the VMCS. A marker of the lab's own in the log proves that what is read is the log.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

/// What the lab writes into a log, so that no check takes it for KVM's.
pub(super) const OURS: &str = "godwit lab: ";
/// Where a program writes into the kernel's log.
const KERNEL_LOG: &str = "/dev/kmsg";

/// Signs of a complaint, in lower case: KVM's own words, the VMCS it dumps, its trace of refused VM entries, and a
/// kernel in trouble.
const SIGNS: [&str; 15] = [
    "kvm",
    "vmx",
    "vmcs",
    "***",
    "vmenter",
    "vm-entry",
    "bug:",
    "warning:",
    "oops",
    "call trace",
    "general protection",
    "segfault",
    "lockup",
    "stall",
    "out of memory",
];

/// The lines of a log that complain.
#[must_use]
pub fn complaints(log: &str) -> Vec<&str> {
    let complains = |line: &&str| {
        let lower = line.to_lowercase();
        !line.contains(OURS) && SIGNS.iter().any(|sign| lower.contains(sign))
    };
    log.lines().filter(complains).collect()
}

/// What follows the line with `marker`.
///
/// # Errors
/// No line has it: this is not the log, or it has lost its beginning.
pub(super) fn since<'a>(log: &'a str, marker: &str) -> Result<&'a str> {
    let at = log.find(marker).with_context(|| format!("the kernel's log does not hold {marker:?}"))?;
    let rest = &log[at..];
    Ok(rest.split_once('\n').map_or("", |(_, rest)| rest))
}

/// Writes a marker into this machine's kernel log, for [`read`].
///
/// # Errors
/// It cannot be written, for want of privilege.
pub(super) fn mark(name: &str) -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let marker = format!("{OURS}{name} begins, {process}-{number}");
    fs::write(KERNEL_LOG, format!("{marker}\n"))
        .with_context(|| format!("{KERNEL_LOG} cannot be written, which takes root"))?;
    Ok(marker)
}

/// This machine's kernel log from `marker` on.
///
/// # Errors
/// It cannot be read, or no longer reaches back to the marker.
pub(super) fn read(marker: &str) -> Result<String> {
    let output = Command::new("dmesg").output().context("dmesg does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "dmesg cannot read the kernel's log: {}", said.trim());
    since(&String::from_utf8_lossy(&output.stdout), marker).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumped_vmcs_and_a_refused_entry_are_complaints() {
        let log = "\
[   20.1] godwit lab: kvm_intel is loaded, nested=Y
[   20.2] EXT4-fs (sdb): mounted filesystem without journal.
[   21.0] kvm_intel: VMCS 00000000a1b2c3d4, last attempted VM-entry on CPU 0
[   21.0] *** Guest State ***
 qemu-system-x86-107 [000] ..... 22.5: kvm_nested_vmenter_failed: CC(!nested_cpu_has_ept(vmcs12))";
        let found = complaints(log);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].contains("VMCS 00000000a1b2c3d4"));
    }

    #[test]
    fn a_quiet_log_has_none() {
        assert!(
            complaints("[    1.0] random: crng init done\n[    2.0] godwit lab: kvm is here\n").is_empty()
        );
    }

    #[test]
    fn only_what_follows_the_marker_counts() {
        let log = "kvm: old complaint\ngodwit lab: here, 7\nnew\n";
        assert_eq!(since(log, "godwit lab: here, 7").unwrap(), "new\n");
        assert!(since(log, "godwit lab: here, 8").is_err());
    }
}
