//! What is compressed: pages that resemble others, and packs of pages.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::codec::lz::{Compressor, PLAIN_MAX, Plain};
use crate::codec::patch;
use crate::codec::sample;
use crate::codec::similar::{Features, SimilarIndex};
use crate::identity::{Identities, Identity};
use crate::ram::{GuestRam, PAGE_BYTES, Page, PageBytes, RamFailure};
use crate::wire::record::PACK_PAGES_MAX;

/// Most packs in a row that go uncompressed after one that did not pay.
const BACK_OFF_MAX: u32 = 64;

/// Pages that wait to be compressed together.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) plain: Plain,
    pub(super) pages: Vec<(Page, Identity)>,
    pub(super) features: Vec<Features>,
}

/// What is noted of a page that waits.
const STAGED_BYTES: usize = size_of::<(Page, Identity)>() + size_of::<Features>();

const _: () = assert!(PACK_PAGES_MAX * PAGE_BYTES <= PLAIN_MAX);

/// What compression needs.
#[derive(Debug)]
pub(super) struct Codec {
    pub(super) index: SimilarIndex,
    pub(super) compressor: Compressor,
    pub(super) staged: Staged,
    reference: Box<PageBytes>,
    /// Promising pages that are to go raw before compression is tried again, and how many next time.
    skip: u32,
    back_off: u32,
    /// What a page came to in the last pack that paid.
    packed_page: usize,
}

impl Codec {
    /// Bytes of the heap that it takes for so many pages.
    pub(super) fn bytes_for(page_count: u32) -> u64 {
        SimilarIndex::bytes_for(page_count) + Self::BYTES
    }

    /// Bytes of the heap that it takes for any number of pages.
    const BYTES: u64 = (Compressor::BYTES + Plain::BYTES + PAGE_BYTES + PACK_PAGES_MAX * STAGED_BYTES) as u64;

    /// Bytes of the heap that it has.
    pub(super) const fn bytes(&self) -> u64 {
        self.index.bytes() + Self::BYTES
    }

    pub(super) fn new(page_count: u32) -> Result<Self, RamFailure> {
        let staged = Staged {
            plain: Plain::new(),
            pages: Vec::with_capacity(PACK_PAGES_MAX),
            features: Vec::with_capacity(PACK_PAGES_MAX),
        };
        let index = SimilarIndex::new(page_count)?;
        Ok(Self {
            index,
            compressor: Compressor::new(),
            staged,
            reference: Box::new([0; PAGE_BYTES]),
            skip: 0,
            back_off: 0,
            packed_page: PAGE_BYTES / 2,
        })
    }

    /// A page that the target holds and that differs little; its number and the length of the differences.
    pub(super) fn find(
        &mut self,
        page: Page,
        content: &PageBytes,
        features: &Features,
        identities: &Identities,
        ram: &dyn GuestRam,
        patch: &mut [u8],
    ) -> Option<(Page, usize)> {
        for candidate in self.index.candidates(features) {
            if candidate == page || ram.read_page(candidate, &mut self.reference).is_err() {
                continue;
            }
            let Some(length) = patch::diff(&self.reference, content, patch) else { continue };
            // The guest may have changed the candidate since it was sent: only what the target holds counts.
            if Identity::of(&self.reference) == identities.get(candidate) {
                return Some((candidate, length));
            }
        }
        None
    }

    /// Whether to try and compress the page.
    pub(super) fn wants(&mut self, content: &PageBytes) -> bool {
        if !sample::is_promising(content) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    /// About what is staged will come to.
    pub(super) fn staged_bytes(&self) -> usize {
        self.staged.pages.len() * self.packed_page
    }

    /// Draws conclusions from a pack: one that saved little makes the next ones wait.
    pub(super) fn learn(&mut self, packed: Option<usize>, plain_bytes: usize) {
        let paid = packed.is_some_and(|bytes| bytes * 8 <= plain_bytes * 7);
        if let Some(bytes) = packed.filter(|_| paid) {
            self.packed_page = bytes * PAGE_BYTES / plain_bytes.max(1);
        }
        self.back_off = if paid { 0 } else { (self.back_off * 2).clamp(1, BACK_OFF_MAX) };
        self.skip = self.back_off * PACK_PAGES_MAX as u32;
    }
}

impl Staged {
    pub(super) fn push(&mut self, page: Page, identity: Identity, content: &PageBytes, features: Features) {
        self.plain.push(content);
        self.pages.push((page, identity));
        self.features.push(features);
    }

    /// Keeps the allocations.
    pub(super) fn recycle(&mut self, mut pages: Vec<(Page, Identity)>, mut features: Vec<Features>) {
        pages.clear();
        features.clear();
        self.plain.clear();
        (self.pages, self.features) = (pages, features);
    }
}
