//! Builds one page frame in place, in the buffer that will be sent.

use crate::identity::Identity;
use crate::ram::{GuestRam, PAGE_BYTES, Page, PageBytes, RamFailure};
use crate::wire::frame::{HEADER_BYTES, Header, Kind, PAGES_BYTES_MAX};
use crate::wire::record::{Fold, PACK_NUMBER_BYTES, RECORD_BYTES, Record};

/// A record whose pages are still being added.
#[derive(Clone, Copy, Debug)]
struct Open {
    is_raw: bool,
    first: Page,
    count: u16,
    /// Where its header goes.
    at: usize,
    fold: Fold,
}

/// A page frame under construction.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    buffer: &'a mut [u8],
    used: usize,
    open: Option<Open>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(buffer: &'a mut [u8]) -> Self {
        let length = buffer.len().min(HEADER_BYTES + PAGES_BYTES_MAX);
        Self { buffer: &mut buffer[..length], used: HEADER_BYTES, open: None }
    }

    /// Bytes of pages and records that are in it.
    pub(crate) const fn len(&self) -> usize {
        self.used - HEADER_BYTES
    }

    /// Bytes that are left.
    pub(crate) fn room(&self) -> usize {
        self.buffer.len() - self.used
    }

    /// Whether a page fits that is added as it is.
    pub(crate) fn has_room_for_page(&self) -> bool {
        self.room() >= PAGE_BYTES + 2 * RECORD_BYTES
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == HEADER_BYTES && self.open.is_none()
    }

    /// Adds a zero page.
    pub(crate) fn zero(&mut self, page: Page) {
        if !self.continues(page, false) {
            self.begin(page, false);
        }
        self.extend(Identity::ZERO);
    }

    /// Where the content of `page` lies if it is added raw next. At least a page and two record headers of
    /// room are there.
    pub(crate) fn slot(&mut self, page: Page) -> &mut PageBytes {
        let gap = if self.continues(page, true) { 0 } else { RECORD_BYTES };
        let at = self.used + gap;
        self.buffer[at..].first_chunk_mut::<PAGE_BYTES>().expect("the caller made sure of the room")
    }

    /// Adds the page whose content was put into its [`Batch::slot`].
    pub(crate) fn raw(&mut self, page: Page, identity: Identity) {
        if !self.continues(page, true) {
            self.begin(page, true);
        }
        self.used += PAGE_BYTES;
        self.extend(identity);
    }

    /// Adds a page as it is; what it is. The caller made sure of the room ([`Self::has_room_for_page`]).
    pub(crate) fn page(&mut self, page: Page, ram: &dyn GuestRam) -> Result<Identity, RamFailure> {
        if ram.is_zero(page)? {
            self.zero(page);
            return Ok(Identity::ZERO);
        }
        let content = self.slot(page);
        ram.read_page(page, content)?;
        let identity = Identity::of(content);
        self.raw(page, identity);
        Ok(identity)
    }

    /// Adds a page by its differences from another.
    pub(crate) fn similar(&mut self, page: Page, reference: Page, identity: Identity, patch: &[u8]) {
        self.close();
        let at = self.used;
        let body = at + RECORD_BYTES;
        self.buffer[body..body + patch.len()].copy_from_slice(patch);
        let record = Record::Similar { page, reference, bytes: patch.len() as u16 };
        let mut fold = Fold::default();
        fold.add(identity);
        self.buffer[at..body].copy_from_slice(&record.encode(fold));
        self.used = body + patch.len();
    }

    /// Adds a pack: `compress` writes the pages' content to the front of what it is given and says how long it
    /// is; `None` leaves the frame as it was.
    pub(crate) fn pack(
        &mut self,
        pages: &[(Page, Identity)],
        compress: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<usize> {
        self.close();
        let at = self.used;
        let numbers = at + RECORD_BYTES;
        let content = numbers + pages.len() * PACK_NUMBER_BYTES;
        let end = (content + pages.len() * (PAGE_BYTES - PAGE_BYTES / 16)).min(self.buffer.len());
        let length = compress(&mut self.buffer[content..end])?;
        let mut fold = Fold::default();
        for (index, (page, identity)) in pages.iter().enumerate() {
            fold.add(*identity);
            let number = numbers + index * PACK_NUMBER_BYTES;
            self.buffer[number..number + PACK_NUMBER_BYTES].copy_from_slice(&page.0.to_le_bytes());
        }
        let bytes = (content - numbers + length) as u32;
        let record = Record::Pack { count: pages.len() as u16, bytes };
        self.buffer[at..numbers].copy_from_slice(&record.encode(fold));
        self.used = content + length;
        Some(length)
    }

    /// Completes the frame; its length.
    pub(crate) fn finish(mut self, sequence: u32) -> usize {
        self.close();
        let (header, body) = self.buffer.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&Header::encode(Kind::Pages, sequence, &body[..self.used - HEADER_BYTES]));
        self.used
    }

    fn continues(&self, page: Page, is_raw: bool) -> bool {
        self.open.is_some_and(|open| {
            open.is_raw == is_raw && open.count < u16::MAX && open.first.0 + u32::from(open.count) == page.0
        })
    }

    fn begin(&mut self, first: Page, is_raw: bool) {
        self.close();
        self.open = Some(Open { is_raw, first, count: 0, at: self.used, fold: Fold::default() });
        self.used += RECORD_BYTES;
    }

    fn extend(&mut self, identity: Identity) {
        if let Some(open) = &mut self.open {
            open.count += 1;
            if open.is_raw {
                open.fold.add(identity);
            }
        }
    }

    fn close(&mut self) {
        if let Some(Open { is_raw, first, count, at, fold }) = self.open.take() {
            let record = if is_raw { Record::Raw { first, count } } else { Record::Zero { first, count } };
            self.buffer[at..at + RECORD_BYTES].copy_from_slice(&record.encode(fold));
        }
    }
}
