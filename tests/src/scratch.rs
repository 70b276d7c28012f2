//! Scratch directories under `target/lab/`: one per machine, kept until the next run so that failures can be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static SWEEP: Once = Once::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The workspace's root directory.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_path_buf()
}

/// The directory of build products and of everything the lab writes. A relative `CARGO_TARGET_DIR` is what it is to
/// the lab's own builds, which run in the workspace.
pub fn target() -> PathBuf {
    workspace().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Makes a fresh directory for `name`. The first call in a process removes what dead processes left behind.
///
/// # Errors
/// The directory could not be made.
pub fn directory(name: &str) -> io::Result<PathBuf> {
    let root = target().join("lab");
    SWEEP.call_once(|| sweep(&root));
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = root.join(format!("{}-{number:02}-{name}", process::id()));
    fs::create_dir_all(&path)?;
    Ok(path)
}

fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|n| n.split('-').next()).and_then(|n| n.parse::<u32>().ok());
        if let Some(owner) = owner
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directories_of_one_name_differ() {
        let (first, second) = (directory("twice").unwrap(), directory("twice").unwrap());
        assert_ne!(first, second);
        assert!(first.is_dir() && second.is_dir());
        fs::remove_dir_all(first).unwrap();
        fs::remove_dir_all(second).unwrap();
    }
}
