//! A disk that a person asks for, to boot a machine of their own: checked before anything is built, so that what the
//! loader would complain of is said here.
//!
//! The configuration names files by their paths on the volume, the person by theirs: a file takes the place that the
//! configuration names if its path ends with it, else it lies beside `godwit.toml` under its own name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use godwit_boot::config::{Configuration, parse_bytes};

use super::esp::{self, Content};
use super::{Programs, host_contents};

/// Names in the directory of the configuration that are not for files of the person's.
const TAKEN: [&str; 2] = ["godwit.elf", "godwit.toml"];
/// FAT32 keeps a file's length in 32 bits.
const FILE_BYTES_MAX: u64 = u32::MAX as u64;

/// What is to be on the disk besides the programs.
#[derive(Clone, Debug)]
pub struct Stick {
    configuration: String,
    files: Vec<Placed>,
}

/// A file and its place, relative to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    place: String,
    file: PathBuf,
}

/// A file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named<'a> {
    guest: &'a str,
    key: &'static str,
    path: &'a str,
}

impl Stick {
    /// Checks that `configuration` is a `godwit.toml` and that `files` can be read and have what it names.
    ///
    /// # Errors
    /// Says what is wrong with which file; a mistake in the configuration as the loader says it.
    pub fn check(configuration: &Path, files: &[PathBuf]) -> Result<Self> {
        let shown = configuration.display().to_string();
        let bytes = fs::read(configuration).with_context(|| shown.clone())?;
        let values = parse_bytes(&shown, &bytes)?;
        files.iter().try_for_each(|file| check_file(file).with_context(|| file.display().to_string()))?;
        let named = named(&values);
        let placed = place(&named, files)?;
        let missing = missing(&named, &placed);
        if !missing.is_empty() {
            bail!("{shown}: what it names is not among the files:\n  {}", missing.join("\n  "));
        }
        Ok(Self { configuration: String::from_utf8(bytes)?, files: placed })
    }

    /// What is on the disk.
    ///
    /// # Errors
    /// A file could not be read.
    pub fn contents(&self, programs: &Programs) -> Result<Vec<Content>> {
        let files: Vec<(&str, &Path)> =
            self.files.iter().map(|placed| (placed.place.as_str(), placed.file.as_path())).collect();
        host_contents(programs, &self.configuration, &files)
    }
}

/// Checks that a disk can be put at `path`, where what is there is replaced by it: not one of `inputs`, nor a device.
///
/// # Errors
/// Says what is in the way.
pub fn check_target<'a>(path: &Path, inputs: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let shown = path.display();
    if let Ok(there) = fs::metadata(path) {
        ensure!(there.is_file(), "{shown} is there and not a file: the image is written to a file");
        let same = |input: &PathBuf| fs::canonicalize(input).ok() == fs::canonicalize(path).ok();
        ensure!(!inputs.into_iter().any(same), "{shown} is to be on the image and cannot be the image");
    }
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    ensure!(directory.is_none_or(Path::is_dir), "{shown}: there is no such directory");
    Ok(())
}

/// Writes the disk to `path`, whole or not at all; returns its length in bytes.
///
/// # Errors
/// It cannot be written; what was there is as before.
pub fn write(path: &Path, contents: &[Content]) -> Result<u64> {
    esp::create(path, contents).with_context(|| path.display().to_string())
}

fn check_file(file: &Path) -> Result<()> {
    let content = File::open(file)?.metadata()?;
    ensure!(content.is_file(), "is not a file");
    ensure!(content.len() <= FILE_BYTES_MAX, "is larger than a file on a FAT32 volume can be, 4 GiB");
    Ok(())
}

/// The files that the guests' tables name.
fn named(configuration: &Configuration) -> Vec<Named<'_>> {
    let mut named = Vec::new();
    for guest in configuration.guests() {
        let name = guest.name.as_str();
        named.push(Named { guest: name, key: "kernel", path: guest.kernel.as_str() });
        named.extend(guest.initrd().map(|path| Named { guest: name, key: "initrd", path }));
    }
    named
}

/// Where each of `files` goes.
fn place(named: &[Named<'_>], files: &[PathBuf]) -> Result<Vec<Placed>> {
    let mut all: Vec<Placed> = Vec::new();
    for file in files {
        for place in places_of(file, named)? {
            let shown = file.display();
            ensure!(!TAKEN.iter().any(|taken| is_same(taken, &place)), "{shown}: that name is taken");
            if let Some(other) = all.iter().find(|other| is_same(&other.place, &place)) {
                bail!("{} and {shown} would both be godwit/{place}", other.file.display());
            }
            all.push(Placed { place, file: file.clone() });
        }
    }
    Ok(all)
}

/// The places of one file, each once: those that are named, else its own name.
fn places_of(file: &Path, named: &[Named<'_>]) -> Result<Vec<String>> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("{}: its name is not UTF-8 text", file.display()))?;
    let mut places: Vec<String> = Vec::new();
    for place in named.iter().map(|named| volume_path(named.path)) {
        if ends_with(file, &place) && !places.iter().any(|other| is_same(other, &place)) {
            places.push(place);
        }
    }
    if places.is_empty() {
        places.push(name.to_owned());
    }
    Ok(places)
}

/// A line for each file that is named and has no place.
fn missing(named: &[Named<'_>], placed: &[Placed]) -> Vec<String> {
    let is_there = |path: &str| placed.iter().any(|placed| is_same(&placed.place, &volume_path(path)));
    let lines = named.iter().filter(|named| !is_there(named.path));
    lines.map(|Named { guest, key, path }| format!("{path} ({key} of guest {guest})")).collect()
}

/// `path`, as the configuration has it, in one form: the firmware takes either slash, and a dot for nothing.
fn volume_path(path: &str) -> String {
    path.split(['/', '\\']).filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

/// Whether the last names of `file` are those of `place`.
fn ends_with(file: &Path, place: &str) -> bool {
    let mut names = file.components().rev().map(|name| name.as_os_str().to_str());
    !place.is_empty()
        && place.rsplit('/').all(|part| names.next().flatten().is_some_and(|n| is_same(n, part)))
}

/// FAT takes no notice of case.
fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: &str = "[[guest]]\nname = \"linux\"\nmemory_mib = 64\n";

    /// A directory with these files, each of which holds its own name.
    fn directory(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        directory
    }

    /// Checks `configuration` with these files of `directory`.
    fn check(directory: &tempfile::TempDir, configuration: &str, files: &[&str]) -> Result<Stick> {
        let path = directory.path().join("my.toml");
        fs::write(&path, configuration).unwrap();
        let files: Vec<PathBuf> = files.iter().map(|file| directory.path().join(file)).collect();
        Stick::check(&path, &files)
    }

    fn complaint(directory: &tempfile::TempDir, configuration: &str, files: &[&str]) -> String {
        let error = format!("{:#}", check(directory, configuration, files).unwrap_err());
        error.replace(&format!("{}/", directory.path().display()), "")
    }

    fn places(stick: &Stick) -> Vec<&str> {
        stick.files.iter().map(|placed| placed.place.as_str()).collect()
    }

    #[test]
    fn what_was_asked_for_is_on_the_disk() {
        let directory = directory(&["loader", "hypervisor", "vmlinuz", "images/initrd.img", "notes"]);
        let configuration = format!("{GUEST}kernel = \"vmlinuz\"\ninitrd = \"images/initrd.img\"\n");
        let files = ["vmlinuz", "images/initrd.img", "notes"];
        let stick = check(&directory, &configuration, &files).unwrap();
        assert_eq!(places(&stick), files);
        let [loader, hypervisor] = ["loader", "hypervisor"].map(|name| directory.path().join(name));
        let out = directory.path().join("out.img");
        let length = write(&out, &stick.contents(&Programs { loader, hypervisor }).unwrap()).unwrap();
        assert_eq!(length, fs::metadata(&out).unwrap().len());
        for (path, expected) in [
            ("EFI/BOOT/BOOTX64.EFI", "loader"),
            ("godwit/godwit.elf", "hypervisor"),
            ("godwit/godwit.toml", configuration.as_str()),
            ("godwit/images/initrd.img", "images/initrd.img"),
            ("godwit/notes", "notes"),
        ] {
            assert_eq!(esp::read_back(&out, path), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn a_mistake_in_the_configuration_is_told_as_the_loader_tells_it() {
        let directory = directory(&[]);
        assert_eq!(
            complaint(&directory, "[host]\nnam = \"a\"\n", &[]),
            "my.toml:2: host.nam: unknown key; expected one of name"
        );
        assert_eq!(complaint(&directory, "[host\n", &[]).split_once(": ").unwrap().0, "my.toml:1");
    }

    #[test]
    fn everything_that_is_named_and_missing_is_told() {
        let directory = directory(&["vmlinuz"]);
        let configuration = format!("{GUEST}kernel = \"boot/vmlinuz\"\ninitrd = \"initrd.img\"\n");
        assert_eq!(
            complaint(&directory, &configuration, &["vmlinuz"]),
            "my.toml: what it names is not among the files:\n  boot/vmlinuz (kernel of guest linux)\n  \
             initrd.img (initrd of guest linux)"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = directory(&["images/initrd.img"]);
        assert_eq!(complaint(&directory, "", &["gone"]), "gone: No such file or directory (os error 2)");
        assert_eq!(complaint(&directory, "", &["images"]), "images: is not a file");
    }

    #[test]
    fn two_files_do_not_take_one_place() {
        let directory = directory(&["a/vmlinuz", "b/Vmlinuz", "GODWIT.toml"]);
        let error = complaint(&directory, "", &["a/vmlinuz", "b/Vmlinuz"]);
        assert_eq!(error, "a/vmlinuz and b/Vmlinuz would both be godwit/Vmlinuz");
        assert_eq!(complaint(&directory, "", &["GODWIT.toml"]), "GODWIT.toml: that name is taken");
    }

    #[test]
    fn a_path_of_the_configuration_is_found_as_the_firmware_finds_it() {
        let directory = directory(&["images/vmlinuz"]);
        for kernel in ["vmlinuz", "VMLINUZ", "images/vmlinuz", "./images/./vmlinuz", "images\\\\vmlinuz"] {
            let configuration = format!("{GUEST}kernel = \"{kernel}\"\n");
            assert!(check(&directory, &configuration, &["images/vmlinuz"]).is_ok(), "{kernel}");
        }
        let configuration = format!("{GUEST}kernel = \".\"\n");
        assert!(check(&directory, &configuration, &["images/vmlinuz"]).is_err());
    }

    #[test]
    fn guests_share_a_file_and_call_it_as_they_like() {
        let directory = directory(&["a/vmlinuz"]);
        let guest = |name, kernel| format!("{}kernel = \"{kernel}\"\n", GUEST.replace("linux", name));
        let configuration = guest("one", "vmlinuz") + &guest("two", "a/vmlinuz") + &guest("three", "VMLINUZ");
        let stick = check(&directory, &configuration, &["a/vmlinuz"]).unwrap();
        assert_eq!(places(&stick), ["vmlinuz", "a/vmlinuz"]);
    }

    #[test]
    fn an_input_or_a_device_is_not_replaced() {
        let directory = directory(&["vmlinuz", "other"]);
        let inputs = ["vmlinuz"].map(|name| directory.path().join(name));
        for allowed in ["other", "new.img"] {
            check_target(&directory.path().join(allowed), &inputs).unwrap();
        }
        assert!(check_target(&directory.path().join("./vmlinuz"), &inputs).is_err());
        assert!(check_target(&directory.path().join("gone/new.img"), &inputs).is_err());
        assert!(check_target(Path::new("new.img"), &inputs).is_ok());
        let error = check_target(Path::new("/dev/null"), &inputs).unwrap_err().to_string();
        assert!(error.starts_with("/dev/null is there and not a file"), "{error}");
    }
}
