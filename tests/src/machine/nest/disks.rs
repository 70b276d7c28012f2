//! The disks of the Linux that runs in Bochs: one it boots from and one it lives on, out of Debian's packages.
//!
//! The kernel, busybox and the boot loader are downloaded and unpacked, never installed; QEMU, its libraries and the
//! firmware are those that `scripts/setup` has installed. What is built is kept in `target/nest/`, in a directory
//! named for the packages' versions and our own files.

use std::fmt::Write;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xxhash_rust::xxh64::xxh64;

use super::super::{FIRMWARE, qemu};
use crate::debian::{self, Package};
use crate::guest::cpio::Archive;
use crate::guest::{self, store};
use crate::scratch;

/// Process 1 of the initial RAM disk, and then.
const INITRD_INIT: &str = include_str!("../../../guests/nest/initrd");
const INIT: &str = include_str!("../../../guests/nest/init");

/// The kernel's command line. Without `tsc_early_khz` time runs 35 times slow: the processor claims a frequency that Bochs
/// does not keep. SMAP and string instructions are slow in Bochs, and its XSAVEC puts vector registers in the wrong
/// place; see the lab's README.
const COMMAND_LINE: &str = "console=ttyS0,115200 quiet loglevel=4 panic=-1 mitigations=off nokaslr tsc=reliable \
     clocksource=tsc no_timer_check nmi_watchdog=0 random.trust_cpu=on tsc_early_khz=100000 lpj=400000 \
     cryptomgr.notests noxsaves clearcpuid=smap,erms,fsrm,xsaves,xsavec ipv6.disable=1 audit=0";

/// Modules for the disks, in the order in which they are loaded.
const DISK_MODULES: [&str; 5] = ["scsi_common", "scsi_mod", "libata", "ata_piix", "sd_mod"];
const KVM_MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-intel"];
/// For the wire.
const BRIDGE_MODULES: [&str; 4] = ["llc", "stp", "bridge", "tun"];

const INITRD_COMMANDS: [&str; 5] = ["sh", "mount", "insmod", "usleep", "switch_root"];
const COMMANDS: [&str; 13] = [
    "sh", "brctl", "cat", "dmesg", "grep", "head", "insmod", "ip", "kill", "mount", "stty", "tunctl",
    "usleep",
];

/// OVMF looks for a TPM below the firmware and polls one that is not there 150,000 times. With these bytes of 0xff before
/// it, it sees at once that there is none, and boots in half the time.
const FIRMWARE_BYTES: usize = 0x12c_0000;

const BOOT_DISK_SECTORS: u32 = 67_584;
const ROOT_DISK_MIB: u64 = 160;

/// The two disks.
pub(super) struct Disks {
    /// FAT, with boot loader, kernel and initial RAM disk.
    pub boot: PathBuf,
    /// ext4, with KVM's and the wire's modules, QEMU, firmware and our program.
    pub root: PathBuf,
}

impl Disks {
    fn at(directory: &Path) -> Self {
        Self { boot: directory.join("boot.img"), root: directory.join("root.img") }
    }

    fn cached(cache: &Path, packages: &Packages) -> Option<Self> {
        let disks = Self::at(&cache.join(packages.key()));
        (disks.boot.is_file() && disks.root.is_file()).then_some(disks)
    }
}

/// Gives the disks, from the cache or else built. `current` in the cache names the packages in use: as long as its disks
/// are there nothing is asked of apt or the network; deleting it asks again.
///
/// # Errors
/// apt cannot provide a package, a tool is missing or a file cannot be written; the message says what to do.
pub(super) fn disks() -> Result<Disks> {
    let cache = store::open(&scratch::target().join("nest"))?;
    let program = guest::lines(&guest::cache())?;
    let installed = installed(&program)?;
    let current = cache.path().join("current");
    let known = fs::read_to_string(&current).ok().and_then(|text| Packages::parse(&text, &installed));
    if let Some(disks) = known.and_then(|packages| Disks::cached(cache.path(), &packages)) {
        return Ok(disks);
    }
    let packages = Packages::find(installed)?;
    store::replace(&current, packages.downloaded().as_bytes())?;
    if let Some(disks) = Disks::cached(cache.path(), &packages) {
        return Ok(disks);
    }
    let directory = cache.path().join(packages.key());
    let disks = Disks::at(&directory);
    let work = cache.path().join("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let unpacked = packages.unpack(&work)?;
    build_root(&work, &unpacked, &program).context("the disk of the Linux under the machines")?;
    build_boot(&work, &unpacked).context("the boot disk of the Linux under the machines")?;
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("manifest"), packages.manifest())?;
    for (from, to) in [("boot.img", &disks.boot), ("root.img", &disks.root)] {
        fs::rename(work.join(from), to)?;
    }
    fs::remove_dir_all(&work)?;
    remove_others(cache.path(), &directory)?;
    Ok(disks)
}

/// Removes the disks of earlier packages; a machine that still runs from one keeps it open.
fn remove_others(cache: &Path, directory: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if path.is_dir() && path != directory {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// The packages in use.
struct Packages {
    kernel: Package,
    busybox: Package,
    syslinux: Package,
    installed: Installed,
}

/// Names and versions of the installed packages that go onto the disks, and of our program.
type Installed = Vec<(&'static str, String)>;

fn installed(program: &[u8]) -> Result<Installed> {
    let names = ["qemu-system-x86", "qemu-system-data", "ovmf"];
    let versions = names.into_iter().map(|name| Ok((name, debian::installed_version(name)?)));
    versions.chain([Ok(("our lines", format!("{:016x}", xxh64(program, 0))))]).collect()
}

impl Packages {
    /// Asks apt.
    fn find(installed: Installed) -> Result<Self> {
        Ok(Self {
            kernel: debian::newest_kernel()?,
            busybox: debian::resolve("busybox-static")?,
            syslinux: debian::resolve("syslinux")?,
            installed,
        })
    }

    /// Reads what [`Self::downloaded`] has written; `None` if it is not that.
    fn parse(text: &str, installed: &Installed) -> Option<Self> {
        let mut packages = text.lines().map(|line| {
            let (name, version) = line.split_once(' ')?;
            Some(Package { name: name.to_owned(), version: version.to_owned() })
        });
        let mut next = || packages.next().flatten();
        Some(Self { kernel: next()?, busybox: next()?, syslinux: next()?, installed: installed.clone() })
    }

    /// The downloaded packages, a line each.
    fn downloaded(&self) -> String {
        let packages = [&self.kernel, &self.busybox, &self.syslinux];
        packages.map(|Package { name, version }| format!("{name} {version}\n")).concat()
    }

    /// Everything that the disks depend on.
    fn manifest(&self) -> String {
        let mut text = self.downloaded();
        for (name, version) in &self.installed {
            let _ = writeln!(text, "{name} {version}");
        }
        let own = [INITRD_INIT, INIT, include_str!("disks.rs")].concat();
        let _ = writeln!(text, "own files {:016x}", xxh64(own.as_bytes(), 0));
        text
    }

    /// The name of the directory in the cache.
    fn key(&self) -> String {
        format!("{}-{:016x}", self.kernel.version, xxh64(self.manifest().as_bytes(), 0))
    }

    /// Downloads and unpacks into `work`.
    fn unpack(&self, work: &Path) -> Result<Unpacked> {
        let tree = work.join("packages");
        for package in [&self.kernel, &self.busybox, &self.syslinux] {
            let place = work.join(&package.name);
            fs::create_dir_all(&place)?;
            debian::unpack_all(&debian::download(&place, package)?, &tree)?;
        }
        Ok(Unpacked { tree, release: debian::kernel_release(&self.kernel.name)?.to_owned() })
    }
}

/// Unpacked packages.
struct Unpacked {
    tree: PathBuf,
    /// The kernel's.
    release: String,
}

impl Unpacked {
    fn busybox(&self) -> PathBuf {
        self.tree.join("bin/busybox")
    }

    /// Writes a module without debugging information, type information and signature, which cost seconds to load.
    fn module(&self, name: &str, directory: &Path) -> Result<PathBuf> {
        let root = self.tree.join("lib/modules").join(&self.release).join("kernel");
        let file = format!("{name}.ko");
        let from = find(&root, &file)?.with_context(|| format!("the kernel's package has no {file}"))?;
        let to = directory.join(file);
        run(Command::new("objcopy").args(["--strip-debug", "--remove-section=.BTF"]).arg(from).arg(&to))?;
        Ok(to)
    }
}

/// Finds a file by its name.
fn find(directory: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if let Some(path) = find(&entry.path(), name)? {
                return Ok(Some(path));
            }
        } else if entry.file_name() == name {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn build_root(work: &Path, unpacked: &Unpacked, program: &[u8]) -> Result<()> {
    let root = work.join("root");
    for name in
        ["bin", "dev", "firmware", "modules", "proc", "run", "sys", "tmp", "usr/bin", "usr/share/qemu"]
    {
        fs::create_dir_all(root.join(name))?;
    }
    for (name, content) in [("init", INIT.as_bytes()), ("bin/lines", program)] {
        fs::write(root.join(name), content)?;
        fs::set_permissions(root.join(name), Permissions::from_mode(0o755))?;
    }
    fs::copy(unpacked.busybox(), root.join("bin/busybox"))?;
    for name in COMMANDS {
        symlink("busybox", root.join("bin").join(name))?;
    }
    for name in KVM_MODULES.iter().chain(&BRIDGE_MODULES) {
        unpacked.module(name, &root.join("modules"))?;
    }
    for file in needed_by(qemu::PROGRAM)? {
        let to = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(to.parent().unwrap_or(&root))?;
        fs::copy(&file, &to).with_context(|| file.display().to_string())?;
    }
    // QEMU wants it for every processor.
    fs::copy("/usr/share/qemu/kvmvapic.bin", root.join("usr/share/qemu/kvmvapic.bin"))?;
    let firmware = store::read(Path::new(FIRMWARE))?;
    let mut padded = vec![0xff; FIRMWARE_BYTES.saturating_sub(firmware.len())];
    padded.extend(&firmware);
    fs::write(root.join("firmware/OVMF.fd"), padded)?;
    let image = work.join("root.img");
    File::create(&image)?.set_len(ROOT_DISK_MIB << 20)?;
    run(Command::new("mkfs.ext4").args(["-q", "-O", "^has_journal", "-d"]).arg(&root).arg(&image))
}

/// `program`, its dynamic loader and its libraries, under the names by which they are looked for.
fn needed_by(program: &str) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd does not run")?;
    ensure!(output.status.success(), "ldd cannot read {program}");
    Ok(libraries(&String::from_utf8_lossy(&output.stdout), program))
}

/// Picks the files out of what `ldd` prints.
fn libraries(text: &str, program: &str) -> Vec<PathBuf> {
    let files = text.split_whitespace().filter(|word| word.starts_with('/'));
    [program].into_iter().chain(files).map(PathBuf::from).collect()
}

fn build_boot(work: &Path, unpacked: &Unpacked) -> Result<()> {
    let initrd = work.join("initrd.img");
    fs::write(&initrd, build_initrd(work, unpacked)?)?;
    let configuration = work.join("syslinux.cfg");
    let text =
        format!("DEFAULT nest\nLABEL nest\nKERNEL vmlinuz\nINITRD initrd.img\nAPPEND {COMMAND_LINE}\n");
    fs::write(&configuration, text)?;
    let kernel = unpacked.tree.join(format!("boot/vmlinuz-{}", unpacked.release));
    let image = work.join("boot.img");
    File::create(&image)?.set_len(u64::from(BOOT_DISK_SECTORS) * 512)?;
    // No partitions: the BIOS loads the file system's own first sector. 16 heads and 63 sectors are Bochs's.
    run(Command::new("mformat")
        .args(["-T", &BOOT_DISK_SECTORS.to_string(), "-h", "16", "-s", "63", "-H", "0", "-i"])
        .arg(&image)
        .arg("::"))?;
    for (file, name) in [(&configuration, "syslinux.cfg"), (&kernel, "vmlinuz"), (&initrd, "initrd.img")] {
        run(Command::new("mcopy").arg("-i").arg(&image).arg(file).arg(format!("::{name}")))?;
    }
    run(Command::new(unpacked.tree.join("usr/bin/syslinux")).arg("--install").arg(&image))
}

fn build_initrd(work: &Path, unpacked: &Unpacked) -> Result<Vec<u8>> {
    let stripped = work.join("disk-modules");
    fs::create_dir_all(&stripped)?;
    let mut archive = Archive::new();
    for name in ["bin", "dev", "modules", "root"] {
        archive.directory(name)?;
    }
    archive.character_device("dev/console", 5, 1)?;
    archive.file("init", 0o755, INITRD_INIT.as_bytes())?;
    archive.file("bin/busybox", 0o755, &store::read(&unpacked.busybox())?)?;
    for name in INITRD_COMMANDS {
        archive.symlink(&format!("bin/{name}"), "busybox")?;
    }
    for name in DISK_MODULES {
        let module = unpacked.module(name, &stripped)?;
        archive.file(&format!("modules/{name}.ko"), 0o644, &store::read(&module)?)?;
    }
    archive.finish()
}

/// Runs a tool that must succeed.
fn run(command: &mut Command) -> Result<()> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("{tool} does not run: scripts/setup installs it"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{tool} failed: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packages_in_use_are_read_back() {
        let package = |name: &str| Package { name: name.to_owned(), version: "3:1~x".to_owned() };
        let installed = vec![("ovmf", "1".to_owned())];
        let (kernel, busybox, syslinux) = (package("linux-image-1-x"), package("b"), package("s"));
        let packages = Packages { kernel, busybox, syslinux, installed: installed.clone() };
        let read = Packages::parse(&packages.downloaded(), &installed).unwrap();
        assert_eq!(read.key(), packages.key());
        assert!(Packages::parse("linux-image-1-x 1\n", &installed).is_none());
        let newer = Packages::parse(&packages.downloaded(), &vec![("ovmf", "2".to_owned())]).unwrap();
        assert_ne!(newer.key(), packages.key(), "another firmware, other disks");
    }

    #[test]
    fn the_loader_and_the_libraries_are_found() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f31)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f32)\n";
        let files = libraries(text, "/usr/bin/q");
        let expected = ["/usr/bin/q", "/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(files, expected.map(PathBuf::from));
    }
}
