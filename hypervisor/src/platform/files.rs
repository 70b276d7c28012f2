#![expect(unsafe_code, reason = "files lie in RAM where the loader put them")]
//! The files that the loader has read for guests.

use godwit_boot::handoff::BootInfo;
use x86_64::PhysAddr;

use crate::mm::direct;

/// The content of the file that the configuration calls `path`, if the loader found it.
#[must_use]
pub fn content(info: &'static BootInfo, path: &str) -> Option<&'static [u8]> {
    let range = info.file(path)?;
    let start = direct::at(PhysAddr::new(range.start));
    // SAFETY: the loader put the file there, the memory map keeps it from the frame allocator, and nothing
    // writes to it.
    Some(unsafe { core::slice::from_raw_parts(start.as_ptr(), range.length as usize) })
}
