//! The Linux guest without a hypervisor under it, on the same kind of machine: the reference for "as a guest it takes
//! so much longer". `tests/guests/direct` starts the kernel from UEFI and says when.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::LinuxFiles;
use crate::image::esp::{self, Content};
use crate::{image, scratch};

/// The line that says when the kernel was entered; `tsc=` follows.
pub const ENTERED: &str = "direct: kernel entered";

/// Writes a disk from which UEFI starts `linux` with `command_line`.
///
/// # Errors
/// The starter could not be built, a file not be read, or the disk not be written.
pub fn disk(path: &Path, linux: &LinuxFiles, command_line: &str) -> Result<()> {
    image::cargo_build("-p godwit-direct --bin direct --features image --target x86_64-unknown-uefi", &[])?;
    let read = |file: &Path| fs::read(file).with_context(|| file.display().to_string());
    let starter = scratch::target().join("x86_64-unknown-uefi/release/direct.efi");
    let contents = [
        Content::new("EFI/BOOT/BOOTX64.EFI", read(&starter)?),
        Content::new("cmdline", command_line.as_bytes().to_vec()),
        Content::new("vmlinuz", read(&linux.kernel)?),
        Content::new("initrd.img", read(&linux.initrd)?),
    ];
    esp::create(path, &contents).with_context(|| path.display().to_string())?;
    Ok(())
}
