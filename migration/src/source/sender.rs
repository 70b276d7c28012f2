//! Which pages are still to be sent, and how each goes.

use super::batch::Batch;
use super::packing::Codec;
use super::rewritten::Rewritten;
use crate::bitmap::PageBitmap;
use crate::codec::similar::Features;
use crate::identity::{Identities, Identity};
use crate::policy::Compression;
use crate::ram::{GuestRam, PAGE_BYTES, Page, RamFailure};
use crate::status::PageCounts;
use crate::wire::record::{PACK_NUMBER_BYTES, PACK_PAGES_MAX, RECORD_BYTES, ZERO_PAGES_MAX};

/// Most pages looked at for one frame, so that a call stays short where pages need no bytes.
const EXAMINED_MAX: u32 = 2048;
/// The same while somebody may wait for a page.
const EXAMINED_MAX_PUSHED: u32 = 64;
const _: () = assert!(EXAMINED_MAX <= ZERO_PAGES_MAX as u32, "a frame's zero pages may be one run");
/// A page whose differences from another are longer than this is compressed instead.
const PATCH_BYTES_WORTH: usize = 384;
/// Bytes that a page needs at most, besides its content.
const OVERHEAD_BYTES: usize = RECORD_BYTES + PACK_NUMBER_BYTES;

/// The pages of one outgoing guest.
#[derive(Debug)]
pub(crate) struct Sender {
    pending: PageBitmap,
    /// Where a harvest is put before it is merged; empty otherwise.
    harvest: PageBitmap,
    /// What this round passes over, if it does.
    rewritten: Option<Rewritten>,
    /// First page that this round has not looked at.
    cursor: Page,
    /// What the target holds.
    identities: Identities,
    codec: Option<Codec>,
    counts: PageCounts,
    /// Pages are to go as they are.
    is_hurried: bool,
    /// The guest runs at the target: pages go once, in any order, and none by reference to another, which the guest may
    /// have changed there.
    is_push: bool,
}

/// What a call of [`Sender::fill`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// The frame is full, or enough pages were looked at.
    More,
    /// All pages of this round are in this or an earlier frame.
    RoundDone,
}

impl Sender {
    /// For a guest of so many pages, all of them still to be sent.
    pub(crate) fn new(page_count: u32, compression: Compression) -> Result<Self, RamFailure> {
        let codec = match compression {
            Compression::Off => None,
            Compression::Adaptive => Some(Codec::new(page_count)?),
        };
        let identities = Identities::new(page_count, Identity::UNKNOWN)?;
        let set = || PageBitmap::try_empty(page_count).ok_or(RamFailure::OutOfMemory(Page(0)));
        let (mut pending, harvest) = (set()?, set()?);
        pending.fill();
        let (cursor, counts) = (Page(0), PageCounts::default());
        Ok(Self {
            pending,
            harvest,
            rewritten: None,
            cursor,
            identities,
            codec,
            counts,
            is_hurried: false,
            is_push: false,
        })
    }

    /// Bytes of the heap that it takes at most for so many pages.
    pub(super) fn bytes_for(page_count: u32) -> u64 {
        let sets = PageBitmap::bytes_for(page_count) * (2 + Rewritten::SETS);
        Identities::bytes_for(page_count) + Codec::bytes_for(page_count) + sets
    }

    /// Bytes of the heap that it has.
    pub(super) fn bytes(&self) -> u64 {
        let codec = self.codec.as_ref().map_or(0, Codec::bytes);
        let rewritten = self.rewritten.as_ref().map_or(0, Rewritten::bytes);
        self.identities.bytes() + codec + rewritten + self.pending.bytes() + self.harvest.bytes()
    }

    /// What is left of it when the attempt is over: the counts.
    pub(crate) fn into_summary(self) -> Self {
        let none = PageBitmap::empty(0);
        let identities = Identities::empty();
        Self {
            pending: none.clone(),
            harvest: none,
            rewritten: None,
            cursor: Page(0),
            identities,
            codec: None,
            counts: self.counts,
            is_hurried: false,
            is_push: false,
        }
    }

    /// The pages still to be sent, as far as is known; in a round that passes over some, without those.
    pub(crate) const fn pending(&self) -> &PageBitmap {
        &self.pending
    }

    /// How many pages are still to be sent, as far as is known.
    pub(crate) fn left(&self) -> u32 {
        self.pending.len() + self.rewritten.as_ref().map_or(0, Rewritten::len)
    }

    /// This round passes over what the guest writes meanwhile, if there is memory to remember it.
    pub(crate) fn pass_over_rewritten(&mut self) {
        self.rewritten = Rewritten::new(self.pending.page_count());
    }

    pub(crate) const fn counts(&self) -> PageCounts {
        self.counts
    }

    /// The digest of RAM as the target has it when everything sent has arrived.
    pub(crate) const fn digest(&self) -> u64 {
        self.identities.sum()
    }

    /// Adds the pages of a harvest; how many.
    pub(crate) fn take_dirty(&mut self, ram: &mut dyn GuestRam) -> u32 {
        ram.take_dirty(&mut self.harvest);
        if let Some(rewritten) = &mut self.rewritten {
            rewritten.take(&self.harvest);
            self.pending.subtract(&self.harvest);
        } else {
            self.pending.merge(&self.harvest);
        }
        let pages = self.harvest.len();
        self.harvest.clear();
        pages
    }

    /// Of the pages still to be sent only each `stride`th is.
    pub(crate) fn sample(&mut self, stride: u32) {
        let mut sample = PageBitmap::empty(self.pending.page_count());
        (0..sample.page_count()).step_by(stride as usize).for_each(|page| sample.insert(Page(page)));
        self.pending = sample;
    }

    /// Starts over at the first page. What an interrupted round had put together and not sent is looked at again: its
    /// content may be old by now, and must not go behind a newer one.
    pub(crate) fn begin_round(&mut self) {
        self.cursor = Page(0);
        if let Some(rewritten) = self.rewritten.take() {
            rewritten.give_up(&mut self.pending);
        }
        if let Some(codec) = &mut self.codec {
            let staged = &mut codec.staged;
            staged.pages.iter().for_each(|(page, _)| self.pending.insert(*page));
            let (pages, features) =
                (core::mem::take(&mut staged.pages), core::mem::take(&mut staged.features));
            staged.recycle(pages, features);
        }
    }

    /// The pages still to be sent will be absent at the target: what that holds of them counts for nothing. How many.
    pub(crate) fn declare_absent(&mut self) -> u32 {
        let mut next = self.pending.next(Page(0));
        while let Some(page) = next {
            self.identities.set(page, Identity::UNKNOWN);
            next = self.pending.next(Page(page.0 + 1));
        }
        self.pending.len()
    }

    /// The guest runs at the target, which lacks the pages still to be sent, or `lacks` if it has said so.
    pub(crate) fn begin_push(&mut self, lacks: Option<PageBitmap>) {
        self.begin_round();
        self.is_push = true;
        self.is_hurried = false;
        if let Some(lacks) = lacks {
            self.pending = lacks;
        }
    }

    /// Adds `page` to a frame, for which the guest waits, if it has not been sent yet. What lies behind it goes next: who
    /// needs a page often needs its neighbours.
    pub(crate) fn urgent(
        &mut self,
        page: Page,
        ram: &dyn GuestRam,
        batch: &mut Batch<'_>,
    ) -> Result<(), RamFailure> {
        if !self.pending.remove(page) {
            return Ok(());
        }
        self.cursor = Page(page.0 + 1);
        let identity = batch.page(page, ram)?;
        *(if identity == Identity::ZERO { &mut self.counts.zero } else { &mut self.counts.raw }) += 1;
        self.identities.set(page, identity);
        Ok(())
    }

    /// Behind which page the push goes on.
    pub(crate) const fn cursor(&self) -> Page {
        self.cursor
    }

    /// Whether compressing takes longer than sending as it is would: nothing is compressed then.
    pub(crate) const fn hurry(&mut self, is_hurried: bool) {
        self.is_hurried = is_hurried;
    }

    /// Fills a frame, to its end or, while the guest waits for pages, until about so many bytes are in it.
    pub(crate) fn fill(
        &mut self,
        ram: &dyn GuestRam,
        batch: &mut Batch<'_>,
        enough: usize,
    ) -> Result<Filled, RamFailure> {
        for _ in 0..if self.is_push { EXAMINED_MAX_PUSHED } else { EXAMINED_MAX } {
            if !self.has_room(batch, enough) {
                return Ok(Filled::More);
            }
            let next = self.pending.next(self.cursor);
            let next = if self.is_push { next.or_else(|| self.pending.next(Page(0))) } else { next };
            let Some(page) = next else {
                // What waits to be compressed may be among what was written since, and must not go behind it.
                self.flush_staged(batch);
                if let Some(rewritten) = &mut self.rewritten
                    && rewritten.revisit(&mut self.pending)
                {
                    self.cursor = Page(0);
                    continue;
                }
                if self.pending.next(self.cursor).is_some() {
                    continue;
                }
                return Ok(Filled::RoundDone);
            };
            self.pending.remove(page);
            self.cursor = Page(page.0 + 1);
            if self.pending.contains(self.cursor) {
                ram.prefetch(self.cursor);
            }
            self.page(page, ram, batch)?;
        }
        if self.is_push {
            self.flush_staged(batch);
        }
        Ok(Filled::More)
    }

    /// Fills a frame for a spool with the pages that `next` names, until about so many bytes are in it. They are not counted,
    /// and as pending as before; but the digest over RAM is known before the target has them.
    pub(crate) fn fill_for_spool(
        &mut self,
        ram: &dyn GuestRam,
        batch: &mut Batch<'_>,
        enough: usize,
        mut next: impl FnMut() -> Option<Page>,
    ) -> Result<(), RamFailure> {
        let counts = self.counts;
        let mut result = Ok(());
        for _ in 0..EXAMINED_MAX_PUSHED {
            if result.is_err() || !self.has_room(batch, enough) {
                break;
            }
            let Some(page) = next() else { break };
            result = self.page(page, ram, batch);
        }
        self.flush_staged(batch);
        self.counts = counts;
        result
    }

    /// Whether one page more goes into a frame of about `enough` bytes, however it goes. What is staged goes while it fits.
    fn has_room(&mut self, batch: &mut Batch<'_>, enough: usize) -> bool {
        if self.is_push && batch.len() + self.codec.as_ref().map_or(0, Codec::staged_bytes) >= enough {
            self.flush_staged(batch);
            if batch.len() >= enough {
                return false;
            }
        }
        let staged = self.codec.as_ref().map_or(0, |codec| codec.staged.pages.len());
        let has_room = batch.room() >= (staged + 2) * (PAGE_BYTES + OVERHEAD_BYTES);
        if !has_room && (batch.is_empty() || self.is_push) {
            self.flush_staged(batch);
        }
        has_room
    }

    fn page(&mut self, page: Page, ram: &dyn GuestRam, batch: &mut Batch<'_>) -> Result<(), RamFailure> {
        // What is pushed the target lacks, whatever was sent before.
        let known = if self.is_push { Identity::UNKNOWN } else { self.identities.get(page) };
        if ram.is_zero(page)? {
            if known == Identity::ZERO {
                self.counts.unchanged += 1;
            } else {
                batch.zero(page);
                self.identities.set(page, Identity::ZERO);
                self.counts.zero += 1;
            }
            return Ok(());
        }
        let content = batch.slot(page);
        ram.read_page(page, content)?;
        let identity = Identity::of(content);
        if known == identity {
            self.counts.unchanged += 1;
            return Ok(());
        }
        let mut features = Features::default();
        if let Some(codec) = self.codec.as_mut().filter(|_| !self.is_hurried) {
            if !self.is_push {
                features = Features::of(content);
                let mut patch = [0; PATCH_BYTES_WORTH];
                if let Some((reference, length)) =
                    codec.find(page, content, &features, &self.identities, ram, &mut patch)
                {
                    batch.similar(page, reference, identity, &patch[..length]);
                    self.identities.set(page, identity);
                    self.counts.referenced += 1;
                    return Ok(());
                }
            }
            if codec.wants(content) {
                codec.staged.push(page, identity, content, features);
                if codec.staged.pages.len() == PACK_PAGES_MAX {
                    self.flush(batch);
                }
                return Ok(());
            }
        }
        batch.raw(page, identity);
        self.counts.raw += 1;
        self.sent(page, identity, &features);
        Ok(())
    }

    /// Sends what is staged, if anything is.
    fn flush_staged(&mut self, batch: &mut Batch<'_>) {
        if self.codec.as_ref().is_some_and(|codec| !codec.staged.pages.is_empty()) {
            self.flush(batch);
        }
    }

    /// Sends what is staged.
    fn flush(&mut self, batch: &mut Batch<'_>) {
        let Some(codec) = &mut self.codec else { return };
        let plain_bytes = codec.staged.plain.len();
        let packed =
            batch.pack(&codec.staged.pages, |into| codec.compressor.compress(&codec.staged.plain, into));
        codec.learn(packed, plain_bytes);
        let pages = core::mem::take(&mut codec.staged.pages);
        let features = core::mem::take(&mut codec.staged.features);
        let mut went = pages.len();
        if packed.is_none() {
            went = 0;
            for ((page, identity), content) in pages.iter().zip(codec.staged.plain.pages()) {
                if !batch.has_room_for_page() {
                    break;
                }
                batch.slot(*page).copy_from_slice(content);
                batch.raw(*page, *identity);
                went += 1;
            }
            self.counts.raw += went as u64;
        } else {
            self.counts.compressed += went as u64;
        }
        // This frame is shorter than those before, since a person has lowered the cap: they are looked at again.
        for (page, _) in &pages[went..] {
            self.pending.insert(*page);
            self.cursor = self.cursor.min(*page);
        }
        for ((page, identity), features) in pages.iter().zip(&features).take(went) {
            self.sent(*page, *identity, features);
        }
        if let Some(codec) = &mut self.codec {
            codec.staged.recycle(pages, features);
        }
    }

    fn sent(&mut self, page: Page, identity: Identity, features: &Features) {
        self.identities.set(page, identity);
        if let Some(codec) = self.codec.as_mut().filter(|_| !self.is_push) {
            codec.index.insert(page, features);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::OUTPUT_BYTES_MIN;
    use crate::ram::PageBytes;
    use core::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    struct Ram(Vec<PageBytes>, RefCell<Vec<Page>>);

    impl Ram {
        fn new(pages: Vec<PageBytes>) -> Self {
            Self(pages, RefCell::default())
        }
    }

    impl GuestRam for Ram {
        fn page_count(&self) -> u32 {
            self.0.len() as u32
        }
        fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
            *into = self.0[page.0 as usize];
            Ok(())
        }
        fn write_page(&mut self, page: Page, _from: &PageBytes) -> Result<(), RamFailure> {
            Err(RamFailure::OutOfRange(page))
        }
        fn prefetch(&self, page: Page) {
            self.1.borrow_mut().push(page);
        }
        fn take_dirty(&mut self, into: &mut PageBitmap) {
            into.insert(Page(1));
        }
    }

    /// A page without any order in it, or one that compresses.
    fn page(is_noise: bool) -> PageBytes {
        let mut word = 1u64;
        let mut bytes = [0; PAGE_BYTES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = if is_noise { (word >> 56) as u8 } else { b"a line of a log, "[index % 17] };
        }
        bytes
    }

    /// Pages that the push has not reached yet.
    #[test]
    fn what_goes_to_a_spool_is_compressed_and_is_still_to_be_sent() {
        let ram = Ram::new(vec![page(false), page(true), [0; PAGE_BYTES], page(false), page(false)]);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut bytes = |compression| {
            let mut sender = Sender::new(5, compression).unwrap();
            sender.begin_push(None);
            let mut pages = (0..5).map(Page);
            let mut bytes = 0;
            while pages.len() > 0 {
                let mut batch = Batch::new(&mut buffer);
                sender.fill_for_spool(&ram, &mut batch, usize::MAX, || pages.next()).unwrap();
                bytes += batch.len();
            }
            assert_eq!((sender.pending().len(), sender.counts()), (5, PageCounts::default()));
            for (content, page) in ram.0.iter().zip((0..).map(Page)) {
                let is_zero = content == &[0; PAGE_BYTES];
                let identity = if is_zero { Identity::ZERO } else { Identity::of(content) };
                assert_eq!(sender.identities.get(page), identity, "{page:?}");
            }
            bytes
        };
        let (plain, packed) = (bytes(Compression::Off), bytes(Compression::Adaptive));
        assert!(
            plain > 4 * PAGE_BYTES && packed < 2 * PAGE_BYTES,
            "{plain} bytes as they are, {packed} packed"
        );
    }

    /// It shares the wire with what somebody waits for.
    #[test]
    fn a_frame_for_a_spool_is_no_longer_than_it_is_to_be() {
        let ram = Ram::new((0..8).map(|_| page(true)).collect());
        let mut buffer = vec![0; 8 * OUTPUT_BYTES_MIN];
        let mut sender = Sender::new(8, Compression::Adaptive).unwrap();
        sender.begin_push(None);
        let mut pages = (0..8).map(Page);
        let mut batch = Batch::new(&mut buffer);
        sender.fill_for_spool(&ram, &mut batch, PAGE_BYTES, || pages.next()).unwrap();
        assert!((PAGE_BYTES..2 * PAGE_BYTES).contains(&batch.len()), "{} bytes", batch.len());
        assert_eq!(pages.len(), 7, "what did not go is not taken");
    }

    /// A stop that is called back interrupts a round in which a page waits to be compressed with others. The guest then
    /// changes it.
    #[test]
    fn old_content_never_goes_behind_new() {
        let mut ram = Ram::new(vec![page(true), page(false)]);
        let mut sender = Sender::new(2, Compression::Adaptive).unwrap();
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let filled = sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX).unwrap();
        assert_eq!((filled, sender.pending().len()), (Filled::More, 0), "page 1 was taken and did not go");
        ram.0[1] = [0; PAGE_BYTES];
        sender.take_dirty(&mut ram);
        sender.begin_round();
        while sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX).unwrap() == Filled::More {}
        assert_eq!(sender.identities.get(Page(1)), Identity::ZERO, "the last that went is what RAM holds");
    }

    #[test]
    fn what_was_taken_and_did_not_go_is_still_to_be_sent() {
        let ram = Ram::new(vec![page(true), page(false)]);
        let mut sender = Sender::new(2, Compression::Adaptive).unwrap();
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX).unwrap();
        sender.begin_round();
        assert!(sender.pending().contains(Page(1)));
        while sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX).unwrap() == Filled::More {}
        assert_eq!(sender.identities.get(Page(1)), Identity::of(&page(false)));
    }

    #[test]
    fn a_frame_is_soon_done_while_somebody_may_wait() {
        let ram = Ram::new(vec![[0; PAGE_BYTES]; 1000]);
        let mut sender = Sender::new(1000, Compression::Adaptive).unwrap();
        sender.begin_push(None);
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        let mut batch = Batch::new(&mut buffer);
        assert_eq!(sender.fill(&ram, &mut batch, PAGE_BYTES), Ok(Filled::More));
        assert_eq!(sender.counts().zero, 64);
    }

    #[test]
    fn what_comes_next_is_fetched_ahead() {
        let ram = Ram::new(vec![page(true); 4]);
        let mut sender = Sender::new(4, Compression::Off).unwrap();
        sender.pending.remove(Page(2));
        let mut buffer = vec![0; 8 * OUTPUT_BYTES_MIN];
        assert_eq!(sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX), Ok(Filled::RoundDone));
        assert_eq!(*ram.1.borrow(), [Page(1)], "pages that do not go are not fetched");
    }

    /// A hybrid move's round goes back at its end. A page that waits to be compressed with others has changed meanwhile.
    #[test]
    fn a_round_that_goes_back_never_sends_old_content_behind_new() {
        let mut ram = Ram::new(vec![page(false), page(true), page(true)]);
        let mut sender = Sender::new(3, Compression::Adaptive).unwrap();
        sender.pass_over_rewritten();
        let mut buffer = vec![0; OUTPUT_BYTES_MIN];
        assert_eq!(sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX), Ok(Filled::More));
        ram.0[0] = [0; PAGE_BYTES];
        let harvest = |sender: &mut Sender, pages: &[u32]| {
            pages.iter().for_each(|page| sender.harvest.insert(Page(*page)));
            let Sender { rewritten, harvest, .. } = sender;
            rewritten.as_mut().unwrap().take(harvest);
            sender.harvest.clear();
        };
        harvest(&mut sender, &[0]);
        (0..8).for_each(|_| harvest(&mut sender, &[]));
        while sender.fill(&ram, &mut Batch::new(&mut buffer), usize::MAX).unwrap() == Filled::More {}
        assert_eq!(sender.identities.get(Page(0)), Identity::ZERO, "the last that went is what RAM holds");
    }

    /// A person lowers the cap, and frames get shorter than what waits to be compressed.
    #[test]
    fn pages_that_neither_compress_nor_fit_a_shorter_frame_go_in_the_next() {
        let half: Vec<u8> = page(true)[..2048].iter().chain(&page(false)[..2048]).copied().collect();
        let distinct = |first: u8| {
            let mut page: PageBytes = half.as_slice().try_into().unwrap();
            page.iter_mut().take(2048).for_each(|byte| *byte = byte.wrapping_mul(2 * first + 1));
            page
        };
        let ram = Ram::new((0..13).map(distinct).collect());
        let mut sender = Sender::new(13, Compression::Adaptive).unwrap();
        let mut long = vec![0; 64 << 10];
        let mut batch = Batch::new(&mut long);
        for number in 0..13 {
            sender.pending.remove(Page(number));
            sender.page(Page(number), &ram, &mut batch).unwrap();
        }
        sender.cursor = Page(13);
        let staged = |sender: &Sender| sender.codec.as_ref().unwrap().staged.pages.len();
        assert_eq!((staged(&sender), batch.is_empty()), (13, true), "all wait");
        let mut short = vec![0; OUTPUT_BYTES_MIN];
        let mut frames = 0;
        while sender.fill(&ram, &mut Batch::new(&mut short), usize::MAX).unwrap() == Filled::More {
            frames += 1;
            assert!(frames < 20, "it comes to an end");
        }
        assert_eq!((staged(&sender), sender.left()), (0, 0));
        for (content, page) in ram.0.iter().zip((0..).map(Page)) {
            assert_eq!(sender.identities.get(page), Identity::of(content), "{page:?}");
        }
    }
}
