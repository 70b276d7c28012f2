//! Debian's kernel and busybox: resolved and downloaded by apt, unpacked, never installed.
//!
//! The result is kept in `debian/` of the cache, one directory per package and version, and `debian/current` names
//! the two in use. Once that is there nothing is asked of apt or the network; deleting it asks again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::store;

/// Depends on the newest cloud kernel: a kernel with few drivers, made for virtual machines.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

const WHAT_TO_DO: &str = "the Linux guest needs Debian's packages linux-image-cloud-amd64 and busybox-static: on a \
     Debian system with a network run `apt-get update` as root and try again (only downloaded, never installed)";

/// Files out of Debian's packages.
pub struct Packages {
    /// `vmlinuz`, a bzImage.
    pub kernel: PathBuf,
    /// The kernel's package and version.
    pub kernel_version: String,
    /// The statically linked busybox.
    pub busybox: PathBuf,
}

/// One package in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

impl Package {
    /// The directory's name in the cache. A version may hold `:` and `~`, which make fine file names on Linux.
    fn directory(&self) -> String {
        format!("{}_{}", self.name, self.version)
    }
}

/// Gives the files, from the cache or else from apt.
pub(crate) fn packages(cache: &Path) -> Result<Packages> {
    let directory = cache.join("debian");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let current = directory.join("current");
    if let Some(packages) = fs::read_to_string(&current).ok().and_then(|text| cached(&directory, &text)) {
        return Ok(packages);
    }
    let kernel = resolve_kernel()?;
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

/// Finds the package that the meta package stands for at present.
fn resolve_kernel() -> Result<Package> {
    let text = apt_cache(&["depends", KERNEL_META_PACKAGE])?;
    let name = kernel_dependency(&text).with_context(|| format!("apt knows no kernel: {WHAT_TO_DO}"))?;
    resolve(&name)
}

/// Picks the kernel out of the output of `apt-cache depends`.
fn kernel_dependency(text: &str) -> Option<String> {
    let mut names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-") && kernel_release(name).is_ok()).map(str::to_owned)
}

/// `6.1.0-56-cloud-amd64` of `linux-image-6.1.0-56-cloud-amd64`.
fn kernel_release(package: &str) -> Result<&str> {
    let release = package.strip_prefix("linux-image-").unwrap_or_default();
    ensure!(release.starts_with(|c: char| c.is_ascii_digit()), "{package} is not the package of one kernel");
    Ok(release)
}

/// Finds the version that apt would download.
fn resolve(name: &str) -> Result<Package> {
    let text = apt_cache(&["show", "--no-all-versions", name])?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    let version = version.with_context(|| format!("apt knows no package {name}: {WHAT_TO_DO}"))?;
    Ok(Package { name: name.to_owned(), version: version.trim().to_owned() })
}

/// Runs `apt-cache` and gives what it prints. Its exit status says nothing: an unknown package is an empty answer.
fn apt_cache(arguments: &[&str]) -> Result<String> {
    let output = Command::new("apt-cache").args(arguments).env("LC_ALL", "C").output();
    let output = output.with_context(|| format!("apt-cache does not run: {WHAT_TO_DO}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// Downloads a package into `directory` and gives the file. apt checks its signature and checksum.
fn download(directory: &Path, package: &Package) -> Result<PathBuf> {
    let Package { name, version } = package;
    // Without the sandbox option apt warns when its own user cannot write to the directory.
    let output = Command::new("apt-get")
        .args(["-q", "-o", "APT::Sandbox::User=root", "download", &format!("{name}={version}")])
        .env("LC_ALL", "C")
        .current_dir(directory)
        .output()
        .with_context(|| format!("apt-get does not run: {WHAT_TO_DO}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get could not download {name} {version}: {}\n{WHAT_TO_DO}", reason.trim());
    }
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    files
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get left no package in {}", directory.display()))
}

/// Takes one file out of a package.
fn unpack(archive: &Path, member: &str) -> Result<Vec<u8>> {
    let say = || format!("cannot unpack {member} of {}", archive.display());
    let tree = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(archive).output().with_context(say)?;
    ensure!(tree.status.success(), "{}: {}", say(), String::from_utf8_lossy(&tree.stderr).trim());
    let mut tar = Command::new("tar");
    let tar = tar.args(["-x", "-O", "-f", "-", member]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tar = tar.spawn().with_context(say)?;
    let mut input = tar.stdin.take().with_context(say)?;
    // tar may stop reading once it has the member: a broken pipe here is not an error, a bad status below is.
    let writer = std::thread::spawn(move || input.write_all(&tree.stdout));
    let output = tar.wait_with_output().with_context(say)?;
    drop(writer.join());
    ensure!(output.status.success() && !output.stdout.is_empty(), "{}: the package does not hold it", say());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_behind_the_meta_package_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(kernel_dependency(text).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(kernel_release("linux-image-6.1.0-56-cloud-amd64").unwrap(), "6.1.0-56-cloud-amd64");
    }

    #[test]
    fn an_empty_answer_of_apt_holds_no_kernel() {
        assert_eq!(kernel_dependency(""), None);
        assert_eq!(kernel_dependency("x\n  Depends: linux-image-cloud-amd64\n"), None);
    }

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
