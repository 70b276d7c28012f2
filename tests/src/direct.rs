//! The Linux guest without a hypervisor under it: its kernel's EFI stub, started by the firmware's shell on the same
//! kind of machine. The reference for "as a guest takes so much longer".

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::LinuxFiles;
use crate::image::esp::{self, Content};

/// Writes a disk from which the firmware starts `linux` with `command_line`.
///
/// # Errors
/// A file could not be read, or the disk not be written.
pub fn disk(path: &Path, linux: &LinuxFiles, command_line: &str) -> Result<()> {
    let read = |file: &Path| fs::read(file).with_context(|| file.display().to_string());
    // No EFI/BOOT/BOOTX64.EFI: the firmware then falls back to its shell, which runs this script.
    let script = format!("fs0:\r\n\\vmlinuz.efi {command_line} initrd=\\initrd.img\r\n");
    let contents = [
        Content::new("startup.nsh", script.into_bytes()),
        Content::new("vmlinuz.efi", read(&linux.kernel)?),
        Content::new("initrd.img", read(&linux.initrd)?),
    ];
    let disk = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    esp::write(disk, &contents).with_context(|| path.display().to_string())
}
