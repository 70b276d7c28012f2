//! Writes archives in cpio's "newc" format, the one that Linux unpacks as an initrd.
//!
//! The format (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`): per entry a header of the magic
//! `070701` and thirteen numbers of eight hexadecimal digits, the name with a NUL, zeros up to a multiple of four,
//! the data, zeros up to a multiple of four. An entry named `TRAILER!!!` ends the archive.
//!
//! Invariant: equal calls give equal bytes; no time, user or inode of the building machine gets in.

use anyhow::{Context, Result};

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHARACTER_DEVICE: u32 = 0o020_000;

const TRAILER: &str = "TRAILER!!!";

/// An archive that is being written. Parents must be added before what they hold.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// What one entry's header says.
struct Entry<'a> {
    name: &'a str,
    mode: u32,
    links: u32,
    device: (u32, u32),
    data: &'a [u8],
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory that everybody may enter and root may change.
    ///
    /// # Errors
    ///
    /// Never for names a person would write: see [`file`](Self::file).
    pub fn directory(&mut self, name: &str) -> Result<&mut Self> {
        self.entry(&Entry { name, mode: TYPE_DIRECTORY | 0o755, links: 2, device: (0, 0), data: &[] })
    }

    /// Adds a regular file with `permissions` such as `0o755`.
    ///
    /// # Errors
    ///
    /// If `name` or `data` does not fit into 32 bits of length.
    pub fn file(&mut self, name: &str, permissions: u32, data: &[u8]) -> Result<&mut Self> {
        self.entry(&Entry { name, mode: TYPE_FILE | permissions & 0o7777, links: 1, device: (0, 0), data })
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<&mut Self> {
        let data = target.as_bytes();
        self.entry(&Entry { name, mode: TYPE_SYMLINK | 0o777, links: 1, device: (0, 0), data })
    }

    /// Adds a character device.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<&mut Self> {
        let mode = TYPE_CHARACTER_DEVICE | 0o600;
        self.entry(&Entry { name, mode, links: 1, device: (major, minor), data: &[] })
    }

    /// Ends the archive and gives its bytes.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entries = 0;
        self.entry(&Entry { name: TRAILER, mode: 0, links: 1, device: (0, 0), data: &[] })?;
        Ok(self.bytes)
    }

    fn entry(&mut self, entry: &Entry) -> Result<&mut Self> {
        assert!(!entry.name.is_empty() && !entry.name.contains('\0'), "an entry's name is a path");
        let name_size = u32::try_from(entry.name.len() + 1).context("an initrd entry's name is too long")?;
        let data_size = u32::try_from(entry.data.len())
            .with_context(|| format!("{} is too large for an initrd", entry.name))?;
        // Linux takes files of one inode and several links for one file: every entry gets an inode of its own.
        let inode = if entry.name == TRAILER { 0 } else { self.entries + 1 };
        let (user, group, time, check, on_device) = (0, 0, 0, 0, 0);
        let (major, minor) = entry.device;
        self.bytes.extend_from_slice(b"070701");
        for field in [
            inode,
            entry.mode,
            user,
            group,
            entry.links,
            time,
            data_size,
            on_device,
            on_device,
            major,
            minor,
            name_size,
            check,
        ] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(entry.name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(entry.data);
        self.pad();
        self.entries += 1;
        Ok(self)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_empty_archive_is_a_trailer() {
        let bytes = Archive::new().finish().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let zeros = "00000000";
        let header = format!("070701{}00000001{}0000000b{zeros}", zeros.repeat(4), zeros.repeat(6));
        assert_eq!(text, format!("{header}TRAILER!!!\0\0\0\0"));
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn a_file_stands_where_the_format_says() {
        let mut archive = Archive::new();
        archive.file("init", 0o755, b"#!/bin/sh").unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(&bytes[..14], b"07070100000001", "magic and inode");
        assert_eq!(&bytes[14..22], b"000081ed", "a regular file, rwxr-xr-x");
        assert_eq!(&bytes[54..62], b"00000009", "its size");
        assert_eq!(&bytes[94..102], b"00000005", "its name's size with the NUL");
        assert_eq!(&bytes[110..116], b"init\0\0", "its name, padded to four");
        assert_eq!(&bytes[116..128], b"#!/bin/sh\0\0\0", "its data, padded to four");
        assert_eq!(&bytes[128..134], b"070701");
    }

    /// The oracle: whatever cpio or busybox is here. Without one the test above must do.
    #[test]
    fn cpio_reads_what_we_write() {
        let mut archive = Archive::new();
        archive.directory("bin").unwrap().file("bin/x", 0o700, b"contents").unwrap();
        archive.symlink("bin/y", "x").unwrap();
        let bytes = archive.finish().unwrap();
        let cpio = Command::new("cpio").arg("-itv").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut cpio) = cpio else {
            eprintln!("skipped: no cpio on this machine");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listing = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        assert!(listing.contains("drwxr-xr-x") && listing.contains("-rwx------"), "{listing}");
        assert!(listing.contains("bin/y -> x"), "{listing}");
    }
}
