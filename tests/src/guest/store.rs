//! The directory that keeps downloads and build results: one process at a time builds in it, and a file in it is
//! either absent or complete.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directory, locked against other processes until it is dropped.
pub(crate) struct Store {
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// The directory, absolute.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Creates the directory if need be and waits until no other process builds in it.
pub(crate) fn open(directory: &Path) -> Result<Store> {
    let say = || format!("the directory for guests {}", directory.display());
    fs::create_dir_all(directory).with_context(say)?;
    let path = fs::canonicalize(directory).with_context(say)?;
    let lock = File::create(path.join("lock")).with_context(say)?;
    lock.lock().with_context(say)?;
    Ok(Store { path, _lock: lock })
}

/// Reads a whole file; the error names it.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Makes `path` hold `contents`. A reader sees the old file or the new one; an equal file is left alone.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    let partial = path.with_extension("partial");
    fs::write(&partial, contents).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_leaves_an_equal_file_alone_and_replaces_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.img");
        replace(&path, b"one").unwrap();
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        replace(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), before);
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no partial file stays");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = read(Path::new("/nonexistent/busybox")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/busybox"));
    }
}
