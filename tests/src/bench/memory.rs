//! The memory that the engine moves natively: that of the comparison with QEMU if it stands beside the checkout, one like it
//! otherwise.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use godwit_guest_common::pattern::Filling;
use tempfile::TempDir;

use super::engine::python;
use crate::scratch;

const PAGES_PER_MIB: u64 = 256;
const WORDS_PER_PAGE: usize = 512;
/// Pages of one kind that lie side by side, and which of ten such runs are zero.
const RUN: u64 = 8;
const ZERO_RUNS: [u64; 4] = [0, 3, 5, 8];
/// Makes the comparison's image, as its own programs do.
const SEED: &str = "1";

/// Why a figure is not set against QEMU's.
pub(super) const NO_COMPARISON: &str = "shared/bench, which runs QEMU, does not stand beside the checkout";

/// An image in a file that is gone with it.
pub(super) struct Image {
    _directory: TempDir,
    pub(super) path: PathBuf,
}

/// Where the comparison with QEMU is kept, beside the checkout; `None` if it is not there.
pub(super) fn comparison() -> Option<PathBuf> {
    let directory = scratch::workspace().join("../shared/bench");
    directory.join("mkimage.py").exists().then_some(directory)
}

/// A directory in memory if there is one: disks would be measured otherwise.
pub(super) fn directory() -> Result<TempDir> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_path_buf() } else { scratch::target() };
    Ok(tempfile::tempdir_in(parent)?)
}

impl Image {
    /// Writes one.
    pub(super) fn new(mib: u64) -> Result<Self> {
        let work = directory()?;
        let path = work.path().join("image");
        match comparison() {
            Some(comparison) => {
                let (name, size) = (path.display().to_string(), mib.to_string());
                python(&comparison, work.path(), &["mkimage.py", &name, &size, SEED])?;
            }
            None => write(&mut BufWriter::new(File::create(&path)?), mib)?,
        }
        Ok(Self { _directory: work, path })
    }
}

/// The comparison's mix: 40 % zero, 30 % text, 20 % noise, 10 % nearly the same as an earlier page.
fn write(file: &mut impl Write, mib: u64) -> Result<()> {
    let mut used = 0;
    for page in 0..mib * PAGES_PER_MIB {
        let is_zero = ZERO_RUNS.contains(&(page / RUN % 10));
        for word in 0..WORDS_PER_PAGE {
            let word = if is_zero { 0 } else { Filling::Mixed.word(used, word) };
            file.write_all(&word.to_le_bytes())?;
        }
        used += u64::from(!is_zero);
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_fifths_of_an_image_are_zero_and_three_tenths_text() {
        let mut image = Vec::new();
        write(&mut image, 2).unwrap();
        let (pages, _) = image.as_chunks::<4096>();
        assert_eq!(pages.len(), 512);
        let share = |is: fn(&[u8; 4096]) -> bool| pages.iter().filter(|page| is(page)).count() * 100 / 512;
        assert!((38..=42).contains(&share(|page| page == &[0; 4096])));
        assert!((28..=32).contains(&share(|page| page.is_ascii() && page[0] != 0)));
    }
}
