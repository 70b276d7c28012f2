//! Puts what arrives into the guest's RAM and keeps account of what RAM then holds. Identities are of what was
//! read back from RAM, so the digest speaks of RAM and not of the stream.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use crate::codec::lz::{COPY_BYTES, Decompressor, PLAIN_MAX};
use crate::codec::patch;
use crate::device::{DeviceState, Necessity, SECTION_BYTES_MAX, SECTIONS_BYTES_MAX, SECTIONS_MAX, Section};
use crate::identity::{Identities, Identity};
use crate::ram::{GuestRam, PAGE_BYTES, Page, PageBytes, RamFailure};
use crate::reason::{AbortReason, StreamFault};
use crate::status::PageCounts;
use crate::wire::control::{SectionPart, guest_digest, section_digest};
use crate::wire::record::{Fold, PACK_NUMBER_BYTES, Received, Record};

/// A record whose content is awaited.
#[derive(Debug)]
struct Current {
    received: Received,
    /// Pages of it that have come.
    done: u16,
    fold: Fold,
}

/// What has arrived of a guest.
#[derive(Debug)]
pub(crate) struct Receiver {
    page_count: u32,
    identities: Identities,
    current: Option<Current>,
    page: Box<PageBytes>,
    decompressor: Decompressor,
    plain: Vec<u8>,
    state: DeviceState,
    state_bytes: usize,
    /// Bytes that the last section still lacks.
    section_missing: usize,
    counts: PageCounts,
}

impl Receiver {
    /// For RAM of so many zero pages.
    pub(crate) fn new(page_count: u32) -> Result<Self, RamFailure> {
        Ok(Self {
            page_count,
            identities: Identities::new(page_count, Identity::ZERO)?,
            current: None,
            page: Box::new([0; PAGE_BYTES]),
            decompressor: Decompressor::new(),
            plain: vec![0; PLAIN_MAX + COPY_BYTES],
            state: Vec::new(),
            state_bytes: 0,
            section_missing: 0,
            counts: PageCounts::default(),
        })
    }

    pub(crate) const fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Takes a record's header.
    pub(crate) fn record(&mut self, received: Received, ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        let (first, count) = match received.record {
            Record::Zero { first, count } | Record::Raw { first, count } => (first, count),
            Record::Similar { page, reference, .. } => {
                self.check_page(reference)?;
                (page, 1)
            }
            Record::Pack { .. } => (Page(0), 1),
        };
        let end = first.0.checked_add(count.into()).filter(|end| *end <= self.page_count);
        let end = end.ok_or(AbortReason::Stream(StreamFault::Value))?;
        if let Record::Zero { .. } = received.record {
            if !received.agrees(Fold::default()) {
                return Err(AbortReason::Stream(StreamFault::PageIdentity));
            }
            self.counts.zero += u64::from(count);
            return (first.0..end).try_for_each(|page| self.zero(Page(page), ram));
        }
        self.current = Some(Current { received, done: 0, fold: Fold::default() });
        Ok(())
    }

    /// Takes the next piece of the record's content.
    pub(crate) fn content(&mut self, bytes: &[u8], ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        let bad = |fault| Err(AbortReason::Stream(fault));
        let Some(Current { received, done, mut fold }) = self.current.take() else {
            return bad(StreamFault::Unexpected);
        };
        match received.record {
            Record::Raw { first, count } => {
                let Some(content) = bytes.first_chunk::<PAGE_BYTES>() else {
                    return bad(StreamFault::Length);
                };
                fold.add(self.place(Page(first.0 + u32::from(done)), content, ram)?);
                self.counts.raw += 1;
                if done + 1 < count {
                    self.current = Some(Current { received, done: done + 1, fold });
                    return Ok(());
                }
            }
            Record::Pack { count, .. } => self.unpack(bytes, count.into(), &mut fold, ram)?,
            Record::Similar { page, reference, .. } => {
                let mut content = core::mem::replace(&mut self.page, Box::new([0; PAGE_BYTES]));
                ram.read_page(reference, &mut content).map_err(AbortReason::Ram)?;
                patch::apply(bytes, &mut content).map_err(AbortReason::Stream)?;
                fold.add(self.place(page, &content, ram)?);
                self.counts.referenced += 1;
            }
            Record::Zero { .. } => return bad(StreamFault::Unexpected),
        }
        if received.agrees(fold) { Ok(()) } else { bad(StreamFault::PageIdentity) }
    }

    fn unpack(
        &mut self,
        bytes: &[u8],
        count: usize,
        fold: &mut Fold,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        let Some((numbers, packed)) = bytes.split_at_checked(count * PACK_NUMBER_BYTES) else {
            return Err(AbortReason::Stream(StreamFault::Length));
        };
        let mut plain = core::mem::take(&mut self.plain);
        let result = self.decompressor.decompress(packed, &mut plain, count * PAGE_BYTES);
        let result = result.map_err(|_| AbortReason::Stream(StreamFault::Value));
        let (contents, _) = plain.as_chunks::<PAGE_BYTES>();
        let (numbers, _) = numbers.as_chunks::<PACK_NUMBER_BYTES>();
        let placed = result.and_then(|()| {
            for (number, content) in numbers.iter().zip(contents) {
                let page = Page(u32::from_le_bytes(*number));
                self.check_page(page)?;
                fold.add(self.place(page, content, ram)?);
                self.counts.compressed += 1;
            }
            Ok(())
        });
        self.plain = plain;
        placed
    }

    fn check_page(&self, page: Page) -> Result<(), AbortReason> {
        if page.0 < self.page_count { Ok(()) } else { Err(AbortReason::Stream(StreamFault::Value)) }
    }

    /// Writes a page, reads it back, and gives the identity of what was read.
    fn place(
        &mut self,
        page: Page,
        content: &PageBytes,
        ram: &mut dyn GuestRam,
    ) -> Result<Identity, AbortReason> {
        ram.write_page(page, content).map_err(AbortReason::Ram)?;
        ram.read_page(page, &mut self.page).map_err(AbortReason::Ram)?;
        let identity = Identity::of(&self.page);
        self.identities.set(page, identity);
        Ok(identity)
    }

    fn zero(&mut self, page: Page, ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        // Nothing was put there yet, and RAM was given to us reading as zero; or it was cleared here, and looked at.
        if self.identities.get(page) == Identity::ZERO {
            return Ok(());
        }
        ram.write_page(page, &[0; PAGE_BYTES]).map_err(AbortReason::Ram)?;
        if !ram.is_zero(page).map_err(AbortReason::Ram)? {
            return Err(AbortReason::DigestMismatch);
        }
        self.identities.set(page, Identity::ZERO);
        Ok(())
    }

    /// Takes part of a device section.
    pub(crate) fn section(&mut self, part: &SectionPart<'_>) -> Result<(), AbortReason> {
        let bad = |fault| Err(AbortReason::Stream(fault));
        let total = part.total_bytes as usize;
        if part.offset == 0 && self.section_missing == 0 {
            if total > SECTION_BYTES_MAX
                || self.state_bytes + total > SECTIONS_BYTES_MAX
                || self.state.len() == SECTIONS_MAX
            {
                return bad(StreamFault::Length);
            }
            self.state_bytes += total;
            self.section_missing = total;
            let necessity = if part.is_mandatory { Necessity::Mandatory } else { Necessity::Optional };
            let (id, instance, version) = (part.id, part.instance, part.version);
            self.state.push(Section { id, instance, version, necessity, bytes: Vec::new() });
        }
        let Some(section) = self.state.last_mut() else { return bad(StreamFault::Unexpected) };
        let continues =
            (section.id, section.instance, section.version) == (part.id, part.instance, part.version);
        if !continues
            || part.offset as usize != section.bytes.len()
            || part.bytes.len() > self.section_missing
        {
            return bad(StreamFault::Value);
        }
        self.section_missing -= part.bytes.len();
        section.bytes.extend_from_slice(part.bytes);
        Ok(())
    }

    /// Drops the sections that have come: others will.
    pub(crate) fn forget_sections(&mut self) {
        self.state = Vec::new();
        self.state_bytes = 0;
        self.section_missing = 0;
    }

    /// The digest over what is here, and the device state, which is given away. No section comes after it, unless
    /// [`Self::forget_sections`] is called before.
    pub(crate) fn seal(&mut self, sections: u32) -> Result<(u64, DeviceState), AbortReason> {
        if self.section_missing != 0 || self.state.len() != sections as usize || self.current.is_some() {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        let state = core::mem::take(&mut self.state);
        Ok((guest_digest(self.identities.sum(), self.page_count, section_digest(&state)), state))
    }
}
