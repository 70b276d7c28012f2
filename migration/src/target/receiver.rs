//! Puts what arrives into the guest's RAM and keeps account of what RAM then holds. Identities are of what was
//! read back from RAM, so the digest speaks of RAM and not of the stream.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::bitmap::PageBitmap;
use crate::codec::lz::Decompressor;
use crate::codec::patch;
use crate::device::{DeviceState, Necessity, SECTION_BYTES_MAX, SECTION_BYTES_NOTED, SECTIONS_MAX, Section};
use crate::identity::{Identities, Identity};
use crate::io::Channel;
use crate::ram::{GuestRam, PAGE_BYTES, Page, PageBytes, RamFailure};
use crate::reason::{AbortReason, StreamFault};
use crate::status::PageCounts;
use crate::wire::absent::AbsentPart;
use crate::wire::control::{SectionPart, guest_digest, section_digest};
use crate::wire::record::{Fold, PACK_NUMBER_BYTES, Received, Record};

/// A record whose content is awaited.
#[derive(Debug)]
struct Current {
    received: Received,
    /// Pages of it that have come.
    done: u16,
    fold: Fold,
    /// Absent pages that it has written and that are the guest's once its check agrees.
    written: Vec<Page>,
}

/// Where the record of a channel is kept.
fn slot(channel: Channel) -> usize {
    usize::from(channel.0.min(Channel::SPOOL.0))
}

/// What has arrived of a guest.
#[derive(Debug)]
pub(crate) struct Receiver {
    page_count: u32,
    identities: Identities,
    /// Of the channels.
    current: [Option<Current>; 3],
    page: Box<PageBytes>,
    /// There, except while the pages that it gave are placed.
    decompressor: Option<Decompressor>,
    state: DeviceState,
    state_bytes: usize,
    /// Most of them.
    state_bytes_max: usize,
    /// Bytes that the last section still lacks.
    section_missing: usize,
    counts: PageCounts,
    /// Pages that are not here, as far as the source has said; that number of them is in the seal.
    absent: PageBitmap,
    /// Whether RAM was told of absent pages.
    is_hidden: bool,
    /// The guest runs: only absent pages are written, and each is the guest's once it is here.
    is_live: bool,
    /// Pages that have come to the guest since they were asked for.
    arrived: Vec<Page>,
}

impl Receiver {
    /// For RAM of so many zero pages, and so many bytes of device state.
    pub(crate) fn new(page_count: u32, state_bytes_max: usize) -> Result<Self, RamFailure> {
        Ok(Self {
            page_count,
            identities: Identities::new(page_count, Identity::ZERO)?,
            current: [const { None }; 3],
            page: Box::new([0; PAGE_BYTES]),
            decompressor: Some(Decompressor::new()),
            state: Vec::new(),
            state_bytes: 0,
            state_bytes_max,
            section_missing: 0,
            counts: PageCounts::default(),
            absent: PageBitmap::try_empty(page_count).ok_or(RamFailure::OutOfMemory(Page(0)))?,
            is_hidden: false,
            is_live: false,
            arrived: Vec::new(),
        })
    }

    /// Bytes of the heap that one takes for any number of pages.
    pub(crate) const BYTES: u64 = (Decompressor::BYTES + 2 * PAGE_BYTES) as u64;

    /// Bytes of the heap that one takes at most for so many pages, without the device state.
    pub(crate) const fn bytes_for(page_count: u32) -> u64 {
        Identities::bytes_for(page_count) + PageBitmap::bytes_for(page_count) + Self::BYTES
    }

    /// Bytes of the heap that it has, without the device state.
    pub(crate) const fn bytes(&self) -> u64 {
        self.identities.bytes() + self.absent.bytes() + Self::BYTES
    }

    /// For pages that are kept for another host: each is taken once, none refers to another. `absent` is all of them.
    pub(crate) fn for_spool(absent: PageBitmap) -> Self {
        Self {
            page_count: absent.page_count(),
            identities: Identities::empty(),
            current: [const { None }; 3],
            page: Box::new([0; PAGE_BYTES]),
            decompressor: Some(Decompressor::new()),
            state: Vec::new(),
            state_bytes: 0,
            state_bytes_max: 0,
            section_missing: 0,
            counts: PageCounts::default(),
            absent,
            is_hidden: false,
            is_live: true,
            arrived: Vec::new(),
        }
    }

    pub(crate) const fn counts(&self) -> PageCounts {
        self.counts
    }

    /// Takes a record's header.
    pub(crate) fn record(
        &mut self,
        channel: Channel,
        received: Received,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        let (first, count) = match received.record {
            Record::Zero { first, count } | Record::Raw { first, count } => (first, count),
            // The guest may have changed the other page.
            Record::Similar { .. } if self.is_live => return Err(AbortReason::Stream(StreamFault::Value)),
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
        let current = Current { received, done: 0, fold: Fold::default(), written: Vec::new() };
        self.current[slot(channel)] = Some(current);
        Ok(())
    }

    /// Takes the next piece of the record's content.
    pub(crate) fn content(
        &mut self,
        channel: Channel,
        bytes: &[u8],
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        let bad = |fault| Err(AbortReason::Stream(fault));
        let Some(mut current) = self.current[slot(channel)].take() else {
            return bad(StreamFault::Unexpected);
        };
        match current.received.record {
            Record::Raw { first, count } => {
                let Some(content) = bytes.first_chunk::<PAGE_BYTES>() else {
                    return bad(StreamFault::Length);
                };
                self.place(Page(first.0 + u32::from(current.done)), content, &mut current, ram)?;
                self.counts.raw += 1;
                current.done += 1;
                if current.done < count {
                    self.current[slot(channel)] = Some(current);
                    return Ok(());
                }
            }
            Record::Pack { count, .. } => self.unpack(bytes, count.into(), &mut current, ram)?,
            Record::Similar { page, reference, .. } => {
                let mut content = core::mem::replace(&mut self.page, Box::new([0; PAGE_BYTES]));
                ram.read_page(reference, &mut content).map_err(AbortReason::Ram)?;
                patch::apply(bytes, &mut content).map_err(AbortReason::Stream)?;
                self.place(page, &content, &mut current, ram)?;
                self.counts.referenced += 1;
            }
            Record::Zero { .. } => return bad(StreamFault::Unexpected),
        }
        if !current.received.agrees(current.fold) {
            return bad(StreamFault::PageIdentity);
        }
        current.written.into_iter().for_each(|page| self.hand_over(page, ram));
        Ok(())
    }

    fn unpack(
        &mut self,
        bytes: &[u8],
        count: usize,
        current: &mut Current,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        let Some((numbers, packed)) = bytes.split_at_checked(count * PACK_NUMBER_BYTES) else {
            return Err(AbortReason::Stream(StreamFault::Length));
        };
        let mut decompressor = self.decompressor.take().unwrap_or_else(Decompressor::new);
        let result = decompressor.decompress(packed, count * PAGE_BYTES);
        let result = result.map_err(|_| AbortReason::Stream(StreamFault::Value));
        let (numbers, _) = numbers.as_chunks::<PACK_NUMBER_BYTES>();
        let placed = result.and_then(|plain| {
            for (number, content) in numbers.iter().zip(plain.pages()) {
                let page = Page(u32::from_le_bytes(*number));
                self.check_page(page)?;
                self.place(page, content, current, ram)?;
                self.counts.compressed += 1;
            }
            Ok(())
        });
        self.decompressor = Some(decompressor);
        placed
    }

    fn check_page(&self, page: Page) -> Result<(), AbortReason> {
        if page.0 < self.page_count { Ok(()) } else { Err(AbortReason::Stream(StreamFault::Value)) }
    }

    /// Writes a page of a record, reads it back, and takes note of the identity of what was read. A page that is the
    /// guest's already stays as it is.
    fn place(
        &mut self,
        page: Page,
        content: &PageBytes,
        current: &mut Current,
        ram: &mut dyn GuestRam,
    ) -> Result<(), AbortReason> {
        if self.is_the_guests(page) {
            current.fold.add(Identity::of(content));
            return Ok(());
        }
        ram.write_page(page, content).map_err(AbortReason::Ram)?;
        ram.read_page(page, &mut self.page).map_err(AbortReason::Ram)?;
        let identity = Identity::of(&self.page);
        self.identities.set(page, identity);
        current.fold.add(identity);
        if self.is_live {
            current.written.push(page);
        }
        Ok(())
    }

    fn zero(&mut self, page: Page, ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        if self.is_the_guests(page) {
            return Ok(());
        }
        // Nothing was put there yet, and RAM was given to us reading as zero; or it was cleared here, and looked at.
        if self.identities.get(page) == Identity::ZERO {
            return Ok(());
        }
        if !ram.is_zero(page).map_err(AbortReason::Ram)? {
            ram.write_page(page, &[0; PAGE_BYTES]).map_err(AbortReason::Ram)?;
            if !ram.is_zero(page).map_err(AbortReason::Ram)? {
                return Err(AbortReason::DigestMismatch);
            }
        }
        self.identities.set(page, Identity::ZERO);
        if self.is_live {
            self.hand_over(page, ram);
        }
        Ok(())
    }

    /// Whether nobody but the guest may write the page.
    fn is_the_guests(&self, page: Page) -> bool {
        self.is_live && !self.absent.contains(page)
    }

    /// An absent page is complete.
    fn hand_over(&mut self, page: Page, ram: &mut dyn GuestRam) {
        if self.absent.remove(page) {
            ram.publish(page);
            self.arrived.push(page);
        }
    }

    /// Takes part of the set of pages that will be absent when the guest runs here.
    pub(crate) fn absent(&mut self, part: &AbsentPart<'_>) -> Result<(), StreamFault> {
        part.take(&mut self.absent)
    }

    /// The pages that are not here.
    pub(crate) const fn absent_pages(&self) -> &PageBitmap {
        &self.absent
    }

    /// Tells RAM which pages are absent, before devices are restored.
    pub(crate) fn hide_absent(&mut self, ram: &mut dyn GuestRam) -> Result<(), AbortReason> {
        if self.is_hidden || !self.absent.is_empty() {
            ram.set_absent(&self.absent).map_err(AbortReason::Ram)?;
            self.is_hidden = !self.absent.is_empty();
        }
        Ok(())
    }

    /// The guest runs; whether pages are absent.
    pub(crate) fn go_live(&mut self) -> bool {
        self.is_live = !self.absent.is_empty();
        self.is_live
    }

    /// Pages that have come since this was asked last.
    pub(crate) fn take_arrived(&mut self) -> Vec<Page> {
        core::mem::take(&mut self.arrived)
    }

    /// The guest has ended: nothing is absent that anybody would miss.
    pub(crate) fn need_nothing(&mut self) {
        self.absent.clear();
    }

    /// What was under way on an earlier connection of this channel will not come.
    pub(crate) fn link_is_new(&mut self, channel: Channel) {
        self.current[slot(channel)] = None;
    }

    /// The digest of RAM.
    pub(crate) const fn ram_digest(&self) -> u64 {
        self.identities.sum()
    }

    pub(crate) const fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Takes part of a device section.
    pub(crate) fn section(&mut self, part: &SectionPart<'_>) -> Result<(), AbortReason> {
        let bad = |fault| Err(AbortReason::Stream(fault));
        let total = part.total_bytes as usize;
        if part.offset == 0 && self.section_missing == 0 {
            let counted = total + SECTION_BYTES_NOTED;
            if total > SECTION_BYTES_MAX
                || self.state_bytes + counted > self.state_bytes_max
                || self.state.len() == SECTIONS_MAX
            {
                return bad(StreamFault::Length);
            }
            let mut bytes = Vec::new();
            if bytes.try_reserve_exact(total).is_err() {
                return Err(AbortReason::Ram(RamFailure::OutOfMemory(Page(0))));
            }
            self.state_bytes += counted;
            self.section_missing = total;
            let necessity = if part.is_mandatory { Necessity::Mandatory } else { Necessity::Optional };
            let (id, instance, version) = (part.id, part.instance, part.version);
            self.state.push(Section { id, instance, version, necessity, bytes });
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

    /// Drops the sections that have come, and what was said of absent pages: others will.
    pub(crate) fn forget_sections(&mut self) {
        self.absent.clear();
        self.state = Vec::new();
        self.state_bytes = 0;
        self.section_missing = 0;
    }

    /// The digest over what is here, absent pages left out, and the device state, which is given away. No section comes after it, unless
    /// [`Self::forget_sections`] is called before.
    pub(crate) fn seal(&mut self, sections: u32, absent: u32) -> Result<(u64, DeviceState), AbortReason> {
        let is_whole = self.section_missing == 0 && self.current.iter().all(Option::is_none);
        if !is_whole || self.state.len() != sections as usize || self.absent.len() != absent {
            return Err(AbortReason::Stream(StreamFault::Value));
        }
        let mut next = self.absent.next(Page(0));
        while let Some(page) = next {
            self.identities.set(page, Identity::UNKNOWN);
            next = self.absent.next(Page(page.0 + 1));
        }
        let state = core::mem::take(&mut self.state);
        Ok((guest_digest(self.identities.sum(), self.page_count, section_digest(&state)), state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    struct Ram {
        pages: [PageBytes; 3],
        published: Vec<Page>,
    }

    impl GuestRam for Ram {
        fn page_count(&self) -> u32 {
            3
        }
        fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
            *into = self.pages[page.0 as usize];
            Ok(())
        }
        fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
            self.pages[page.0 as usize] = *from;
            Ok(())
        }
        fn take_dirty(&mut self, _into: &mut PageBitmap) {}
        fn set_absent(&mut self, _absent: &PageBitmap) -> Result<(), RamFailure> {
            Ok(())
        }
        fn publish(&mut self, page: Page) {
            self.published.push(page);
        }
    }

    fn raw(page: u32, fill: u8, is_right: bool) -> Received {
        let mut fold = Fold::default();
        fold.add(Identity::of(&[fill + u8::from(!is_right); PAGE_BYTES]));
        Record::decode(&Record::Raw { first: Page(page), count: 1 }.encode(fold)).unwrap()
    }

    #[test]
    fn what_is_the_guests_is_written_by_nobody_else_and_what_is_wrong_does_not_become_its() {
        let mut ram = Ram { pages: [[0; PAGE_BYTES]; 3], published: Vec::new() };
        let mut receiver = Receiver::new(3, 0).unwrap();
        receiver.absent.insert(Page(1));
        assert!(receiver.go_live());
        let mut send = |page, fill, is_right| {
            receiver.record(Channel::MAIN, raw(page, fill, is_right), &mut ram).unwrap();
            let result = receiver.content(Channel::MAIN, &[fill; PAGE_BYTES], &mut ram);
            (result.is_ok(), ram.pages.map(|page| page[0]), ram.published.len())
        };
        assert_eq!(send(0, 7, true), (true, [0, 0, 0], 0), "it was here before");
        assert_eq!(send(1, 8, false), (false, [0, 8, 0], 0), "its check is wrong: nobody sees it");
        assert_eq!(send(1, 9, true), (true, [0, 9, 0], 1));
        assert_eq!(send(1, 5, true), (true, [0, 9, 0], 1), "it came twice");
        let zero = Record::Zero { first: Page(0), count: 3 }.encode(Fold::default());
        receiver.record(Channel::MAIN, Record::decode(&zero).unwrap(), &mut ram).unwrap();
        assert_eq!(ram.pages.map(|page| page[0]), [0, 9, 0]);
        assert_eq!(receiver.take_arrived(), [Page(1)]);
    }

    #[test]
    fn records_of_two_channels_do_not_disturb_each_other() {
        let mut ram = Ram { pages: [[0; PAGE_BYTES]; 3], published: Vec::new() };
        let mut receiver = Receiver::new(3, 0).unwrap();
        (0..3).for_each(|page| receiver.absent.insert(Page(page)));
        receiver.go_live();
        receiver.record(Channel::MAIN, raw(0, 1, true), &mut ram).unwrap();
        receiver.record(Channel::URGENT, raw(2, 3, true), &mut ram).unwrap();
        receiver.content(Channel::URGENT, &[3; PAGE_BYTES], &mut ram).unwrap();
        receiver.content(Channel::MAIN, &[1; PAGE_BYTES], &mut ram).unwrap();
        assert_eq!(receiver.take_arrived(), [Page(2), Page(0)]);
    }
}
