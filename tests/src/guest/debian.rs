//! Debian's kernel and busybox for the Linux guest.
//!
//! The result is kept in `debian/` of the cache, one directory per package and version, and `debian/current` names
//! the two in use. Once that is there nothing is asked of apt or the network; deleting it asks again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::store;
use crate::debian::{Package, download, kernel_release, newest_kernel, resolve, unpack};

const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Files out of Debian's packages.
pub struct Packages {
    /// `vmlinuz`, a bzImage.
    pub kernel: PathBuf,
    /// The kernel's package and version.
    pub kernel_version: String,
    /// The statically linked busybox.
    pub busybox: PathBuf,
}

/// Gives the files, from the cache or else from apt.
pub(crate) fn packages(cache: &Path) -> Result<Packages> {
    let directory = cache.join("debian");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let current = directory.join("current");
    if let Some(packages) = fs::read_to_string(&current).ok().and_then(|text| cached(&directory, &text)) {
        return Ok(packages);
    }
    let kernel = newest_kernel()?;
    let busybox = resolve(BUSYBOX_PACKAGE)?;
    fetch(&directory, &kernel, &format!("./boot/vmlinuz-{}", kernel_release(&kernel.name)?), "vmlinuz")?;
    fetch(&directory, &busybox, "./bin/busybox", "busybox")?;
    let text = format!("{} {}\n{} {}\n", kernel.name, kernel.version, busybox.name, busybox.version);
    store::replace(&current, text.as_bytes())?;
    cached(&directory, &text).context("the packages vanished from the cache while they were unpacked")
}

/// Reads `current`: two lines of name and version. `None` if it is not that or the files are not there.
fn cached(directory: &Path, current: &str) -> Option<Packages> {
    let mut lines = current.lines().map(|line| {
        let (name, version) = line.split_once(' ')?;
        Some(Package { name: name.to_owned(), version: version.to_owned() })
    });
    let (kernel, busybox) = (lines.next()??, lines.next()??);
    let packages = Packages {
        kernel: directory.join(kernel.directory()).join("vmlinuz"),
        kernel_version: format!("{} {}", kernel.name, kernel.version),
        busybox: directory.join(busybox.directory()).join("busybox"),
    };
    (packages.kernel.is_file() && packages.busybox.is_file()).then_some(packages)
}

/// Downloads `package` unless its directory is there, and unpacks `member` to `file` in it.
fn fetch(directory: &Path, package: &Package, member: &str, file: &str) -> Result<()> {
    let unpacked = directory.join(package.directory());
    if unpacked.join(file).is_file() {
        return Ok(());
    }
    fs::create_dir_all(&unpacked).with_context(|| format!("cannot create {}", unpacked.display()))?;
    let archive = download(&unpacked, package)?;
    let contents = unpack(&archive, member)?;
    store::replace(&unpacked.join(file), &contents)?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {}", archive.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_used_only_if_the_files_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let text = "linux-image-1-x 1.0\nbusybox-static 1:2\n";
        assert!(cached(directory.path(), text).is_none());
        assert!(cached(directory.path(), "nonsense").is_none());
        for (package, file) in [("linux-image-1-x_1.0", "vmlinuz"), ("busybox-static_1:2", "busybox")] {
            fs::create_dir(directory.path().join(package)).unwrap();
            fs::write(directory.path().join(package).join(file), b"x").unwrap();
        }
        let packages = cached(directory.path(), text).unwrap();
        assert_eq!(packages.kernel_version, "linux-image-1-x 1.0");
        assert!(packages.busybox.ends_with("busybox-static_1:2/busybox"));
    }
}
