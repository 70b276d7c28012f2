//! Debian's packages: found and downloaded by apt, which checks signatures and checksums, and unpacked, never installed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Depends on the newest cloud kernel: a kernel with few drivers, made for virtual machines.
const KERNEL_META_PACKAGE: &str = "linux-image-cloud-amd64";

const WHAT_TO_DO: &str = "the lab needs files out of Debian's packages: on a Debian system with a network run \
     `apt-get update` as root and try again (they are only downloaded, never installed)";

/// One package in one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Package {
    /// The directory's name in the cache. A version may hold `:` and `~`, which make fine file names on Linux.
    pub(crate) fn directory(&self) -> String {
        format!("{}_{}", self.name, self.version)
    }
}

/// Finds the package that the meta package stands for at present.
pub(crate) fn newest_kernel() -> Result<Package> {
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
pub(crate) fn kernel_release(package: &str) -> Result<&str> {
    let release = package.strip_prefix("linux-image-").unwrap_or_default();
    ensure!(release.starts_with(|c: char| c.is_ascii_digit()), "{package} is not the package of one kernel");
    Ok(release)
}

/// Finds the version that apt would download.
pub(crate) fn resolve(name: &str) -> Result<Package> {
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

/// Downloads a package into `directory` and gives the file. apt checks its signature and checksum.
pub(crate) fn download(directory: &Path, package: &Package) -> Result<PathBuf> {
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
pub(crate) fn unpack(archive: &Path, member: &str) -> Result<Vec<u8>> {
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

/// Unpacks a whole package into `directory`.
pub(crate) fn unpack_all(archive: &Path, directory: &Path) -> Result<()> {
    let output = Command::new("dpkg-deb").arg("--extract").arg(archive).arg(directory).output();
    let output = output.context("dpkg-deb does not run")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot unpack {}: {}", archive.display(), said.trim());
    Ok(())
}

/// The version of a package that is installed.
pub(crate) fn installed_version(name: &str) -> Result<String> {
    let output = Command::new("dpkg-query").args(["--show", "--showformat=${Version}", name]).output();
    let output = output.context("dpkg-query does not run")?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success() && !version.is_empty(), "{name} is not installed: run scripts/setup");
    Ok(version)
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
}
