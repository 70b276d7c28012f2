//! The Linux guest's initrd: busybox, one program of ours under several names, and the script that is process 1.

use anyhow::Result;

use super::cpio::Archive;

/// Process 1.
const INIT: &[u8] = include_bytes!("../../guests/linux/init");
/// Read by every interactive shell.
const PROFILE: &[u8] = include_bytes!("../../guests/linux/profile");
/// Prints what the kernel's log complains about.
const COMPLAINTS: &[u8] = include_bytes!("../../guests/linux/complaints");

/// Names under which busybox is called: what the scripts need and what a person at the console looks for.
const BUSYBOX_NAMES: &[&str] = &[
    "ash",
    "awk",
    "cat",
    "chmod",
    "clear",
    "cp",
    "cttyhack",
    "cut",
    "date",
    "dd",
    "df",
    "dmesg",
    "echo",
    "env",
    "false",
    "find",
    "free",
    "grep",
    "head",
    "hexdump",
    "hostname",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mount",
    "mv",
    "nice",
    "nproc",
    "poweroff",
    "ps",
    "pwd",
    "reboot",
    "rm",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "time",
    "top",
    "touch",
    "true",
    "tty",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "vi",
    "wc",
    "which",
    "xargs",
    "yes",
];

/// Names under which our program is called; `tests/guests/linux/src/main.rs` knows the same.
const PROGRAM_NAMES: &[&str] = &["heartbeat", "pattern", "ticks", "verify"];

/// What the archive cannot take from this source tree.
pub struct Contents<'a> {
    /// A statically linked busybox.
    pub busybox: &'a [u8],
    /// The statically linked program of `tests/guests/linux`.
    pub program: &'a [u8],
}

/// Writes the initrd.
///
/// # Errors
///
/// If a file is larger than the format allows.
pub fn build(contents: &Contents) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for name in ["bin", "data", "dev", "etc", "proc", "root", "run", "sys", "tmp"] {
        archive.directory(name)?;
    }
    // The kernel opens the console for process 1 before that could mount anything on /dev.
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, INIT)?;
    archive.file("etc/profile", 0o644, PROFILE)?;
    archive.file("bin/complaints", 0o755, COMPLAINTS)?;
    archive.file("bin/busybox", 0o755, contents.busybox)?;
    for name in BUSYBOX_NAMES {
        archive.symlink(&format!("bin/{name}"), "busybox")?;
    }
    archive.file("bin/guest", 0o755, contents.program)?;
    for name in PROGRAM_NAMES {
        archive.symlink(&format!("bin/{name}"), "guest")?;
    }
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        let mut names: Vec<_> = BUSYBOX_NAMES.iter().chain(PROGRAM_NAMES).collect();
        names.extend(&["complaints", "busybox", "guest"]);
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn equal_contents_give_equal_archives() {
        let contents = Contents { busybox: b"busybox", program: b"program" };
        assert_eq!(build(&contents).unwrap(), build(&contents).unwrap());
    }
}
