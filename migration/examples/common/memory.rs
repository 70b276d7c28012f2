//! Memory for a guest's RAM, as hypervisors map it: anonymous, in huge pages where the kernel has them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use godwit_migration::PAGE_BYTES;
use memmap2::{Advice, MmapMut};

use super::Failure;

/// The content of an image file.
pub(crate) fn load(path: &Path) -> Result<MmapMut, Failure> {
    let mut file = File::open(path)?;
    let bytes = usize::try_from(file.metadata()?.len())? / PAGE_BYTES * PAGE_BYTES;
    let mut map = map(bytes)?;
    file.read_exact(&mut map)?;
    Ok(map)
}

/// So many zero bytes that have been touched, as a host's memory is that recycles it.
pub(crate) fn touched(bytes: usize) -> Result<MmapMut, Failure> {
    let mut map = map(bytes)?;
    for pass in [1, 0] {
        map.chunks_mut(PAGE_BYTES).for_each(|page| page[0] = std::hint::black_box(pass));
    }
    Ok(map)
}

fn map(bytes: usize) -> Result<MmapMut, Failure> {
    let map = MmapMut::map_anon(bytes)?;
    // Kernels without huge pages do without.
    let _ = map.advise(Advice::HugePage);
    Ok(map)
}
