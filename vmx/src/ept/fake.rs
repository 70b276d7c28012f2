//! Tables in plain memory, for tests.

use core::sync::atomic::{AtomicU64, Ordering};
use std::boxed::Box;
use std::collections::HashMap;

use x86_64::PhysAddr;

use super::entry::{ACCESSED, DIRTY};
use super::{Ept, FrameSource, Permissions, Table};
use crate::addr::Gfn;

/// Permissions of ordinary guest memory.
pub(super) const RAM: Permissions = Permissions::all();

/// A source with a limited number of frames.
#[derive(Debug)]
pub(super) struct FakeFrames {
    tables: HashMap<u64, Box<Table>>,
    next: u64,
    limit: usize,
}

impl FakeFrames {
    pub(super) fn new(limit: usize) -> Self {
        Self { tables: HashMap::new(), next: 0x1000, limit }
    }

    pub(super) fn allocated(&self) -> usize {
        self.tables.len()
    }

    /// What the processor does when the guest writes: returns whether the write is allowed.
    pub(super) fn guest_writes(&self, ept: &Ept, gfn: u64) -> bool {
        let Some((slot, _)) = ept.slot(self, Gfn::new(gfn)) else { return false };
        if slot.load(Ordering::Relaxed) & Permissions::WRITE.bits() == 0 {
            return false;
        }
        slot.fetch_or(ACCESSED | DIRTY, Ordering::Relaxed);
        true
    }
}

impl FrameSource for FakeFrames {
    fn allocate(&mut self) -> Option<PhysAddr> {
        if self.tables.len() == self.limit {
            return None;
        }
        let frame = self.next;
        self.next += 0x1000;
        self.tables.insert(frame, Box::new([const { AtomicU64::new(0) }; 512]));
        Some(PhysAddr::new(frame))
    }

    fn free(&mut self, frame: PhysAddr) {
        self.tables.remove(&frame.as_u64()).expect("only allocated frames are freed, and once");
    }

    fn table(&self, frame: PhysAddr) -> &Table {
        &self.tables[&frame.as_u64()]
    }
}
