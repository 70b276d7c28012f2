//! How many VM exits the KVM under a machine has taken for it: KVM's own statistics, one file each in debugfs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::figures::value;

/// Where KVM has a directory for each VM, named after QEMU's process and a file descriptor.
const STATISTICS: &str = "/sys/kernel/debug/kvm";

/// A machine's VM exits so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmExits {
    /// All of them.
    pub total: u64,
    /// Port I/O.
    pub ports: u64,
    /// Device registers in memory.
    pub mmio: u64,
    /// HLT.
    pub halts: u64,
}

impl KvmExits {
    /// Of `exits=1 io_exits=2 mmio_exits=3 halt_exits=4`, anywhere in a line.
    pub(super) fn parse(line: &str) -> Result<Self> {
        let number = |name: &str| -> Result<u64> {
            let text = value(line, name).with_context(|| format!("no {name} in: {line}"))?;
            text.parse().with_context(|| line.to_owned())
        };
        Ok(Self {
            total: number("exits")?,
            ports: number("io_exits")?,
            mmio: number("mmio_exits")?,
            halts: number("halt_exits")?,
        })
    }

    /// Of the QEMU process `pid` on this machine.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let prefix = format!("{pid}-");
        let directories = fs::read_dir(STATISTICS)
            .with_context(|| format!("{STATISTICS} cannot be read: it takes root and a mounted debugfs"))?;
        let is_ours =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix));
        let mut paths = directories.filter_map(|entry| Some(entry.ok()?.path()));
        let path =
            paths.find(|path| is_ours(path)).with_context(|| format!("{STATISTICS}: no VM of {pid}"))?;
        let number = |name: &str| -> Result<u64> {
            let file = path.join(name);
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            text.trim().parse().with_context(|| file.display().to_string())
        };
        Ok(Self {
            total: number("exits")?,
            ports: number("io_exits")?,
            mmio: number("mmio_exits")?,
            halts: number("halt_exits")?,
        })
    }

    /// What has come since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            ports: self.ports.saturating_sub(earlier.ports),
            mmio: self.mmio.saturating_sub(earlier.mmio),
            halts: self.halts.saturating_sub(earlier.halts),
        }
    }

    /// `port I/O 12, MMIO 3, HLT 4`.
    #[must_use]
    pub fn causes(&self) -> String {
        let Self { ports, mmio, halts, .. } = self;
        format!("port I/O {ports}, MMIO {mmio}, HLT {halts}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_statistics_is_read() {
        let line =
            "[    9.1] godwit lab: statistics of m: exits=24900 io_exits=18500 mmio_exits=7 halt_exits=40";
        let exits = KvmExits { total: 24_900, ports: 18_500, mmio: 7, halts: 40 };
        assert_eq!(KvmExits::parse(line).unwrap(), exits);
        assert_eq!(exits.causes(), "port I/O 18500, MMIO 7, HLT 40");
        assert!(KvmExits::parse("statistics of m: exits=1").is_err());
    }
}
