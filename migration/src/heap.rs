//! What the engines take of a host's memory beside a guest's RAM: identities and sets of pages, device state, and what arrives
//! in pieces.
//!
//! A peer says how large a guest is, so a host promises an engine all that it may take before it lets it begin, and refuses what
//! it has not. What an engine was promised and has not taken yet is its `heap_owed`: a host must not give that away.

use crate::bitmap::PageBitmap;
use crate::device;
use crate::guest::GuestDescription;
use crate::source::Source;
use crate::spool::Spool;
use crate::target::Target;
use crate::target::receiver::Receiver;
use crate::wire::record::PACK_BYTES_MAX;

/// What is collected of one unit on each of the three connections, and what is queued to be said.
const LINKS_BYTES: u64 = 3 * (PACK_BYTES_MAX as u64 + (16 << 10));
/// Pages of a block, for which a host says what it takes itself.
const BLOCK_PAGES: u32 = 512;

/// What a host can spare for one more guest, or for pages that it is to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// For RAM, in bytes.
    pub ram_bytes: u64,
    /// For what is noted about it, in bytes of the host's heap.
    pub heap_bytes: u64,
}

/// Bytes of its heap that a host takes itself for a guest, beside the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostShare {
    /// For any guest.
    pub bytes: u64,
    /// For each of its vCPUs.
    pub bytes_per_vcpu: u64,
    /// For each 2 MiB of its RAM.
    pub bytes_per_block: u64,
}

impl HostShare {
    /// For a guest of so many pages and vCPUs.
    pub(crate) const fn of(&self, pages: u32, vcpus: u32) -> u64 {
        let blocks = pages.div_ceil(BLOCK_PAGES) as u64;
        self.bytes + self.bytes_per_vcpu * vcpus as u64 + self.bytes_per_block * blocks
    }
}

impl Source {
    /// Bytes of the heap that it may yet take. Before it has begun that is all that it needs.
    #[must_use]
    pub fn heap_owed(&self) -> u64 {
        if self.is_finished() {
            return 0;
        }
        let GuestDescription { layout, vcpus, .. } = self.guest();
        let (max, held) = self.tables(layout.page_count());
        debug_assert!(held <= max, "{held} bytes of tables where {max} were asked for");
        let state = if self.may_be_saved() { device::heap_bytes(*vcpus) } else { 0 };
        LINKS_BYTES + state + max.saturating_sub(held)
    }
}

impl Target {
    /// Bytes of the heap that it may yet take, and that the host may for it.
    #[must_use]
    pub fn heap_owed(&self) -> u64 {
        if self.is_finished() {
            return 0;
        }
        let guest = |guest: &GuestDescription| {
            // Once the guest has run its state is nobody's here.
            let state = if self.is_restored() { device::heap_bytes(guest.vcpus) } else { 0 };
            let (max, held) = (self.needs_of_heap(guest) - state, self.tables_held());
            debug_assert!(held <= max, "{held} bytes of tables where {max} were asked for");
            max - held.min(max)
        };
        LINKS_BYTES + self.guest().map_or(0, guest)
    }

    /// Bytes of the heap that are needed for `guest`, by the engine and by the host.
    pub(crate) fn needs_of_heap(&self, guest: &GuestDescription) -> u64 {
        let pages = guest.layout.page_count();
        Receiver::bytes_for(pages)
            + device::heap_bytes(guest.vcpus)
            + self.host_share().of(pages, guest.vcpus)
    }
}

impl Spool {
    /// Bytes of the heap that it may yet take, and that the host may for the pages.
    #[must_use]
    pub fn heap_owed(&self) -> u64 {
        if self.is_finished() {
            return 0;
        }
        let needs = self.pages_of_guest().map_or(0, |pages| self.needs_of_heap(pages));
        LINKS_BYTES + needs.saturating_sub(self.sets_held())
    }

    /// Bytes of the heap that are needed to keep pages of a guest of so many pages: four sets, and what the store takes.
    pub(crate) const fn needs_of_heap(&self, pages: u32) -> u64 {
        Receiver::BYTES + 4 * PageBitmap::bytes_for(pages) + self.store_share().of(pages, 0)
    }
}
