//! RAM that a guest writes while the engine reads it, with the log of what is written and the set of what is absent.
//! All of it is atomic words: what the guest and the engine do to one page at one time is torn, never undefined.
//!
//! **The dirty log.** The guest stores first and marks the page then, releasing; a harvest takes the marks, acquiring, and
//! the engine reads pages after it. So whoever sees the mark sees the store, and a store that a reader missed has its mark
//! still to come: it shows in a later harvest, torn or not. The other order would lose it. A mark is always set, also
//! where it stands already: only a read-modify-write orders it with a harvest that runs at the same time.
//!
//! **Absence.** The engine writes an absent page and publishes it, releasing; the guest looks, acquiring, before each page
//! that it touches, and then at the content.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use godwit_migration::{GuestRam, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure};
use memmap2::MmapMut;
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::FromBytes;

use super::common::Failure;

pub(crate) const WORDS: usize = PAGE_BYTES / 8;
/// The guest waits for no page.
const NONE: u32 = u32::MAX;

/// See the module.
pub(crate) struct Memory {
    words: &'static [AtomicU64],
    dirty: Vec<AtomicU64>,
    absent: Vec<AtomicU64>,
    /// Whether any page may be absent.
    has_absent: AtomicBool,
    /// The page that the guest waits for, and who that is.
    waits_for: AtomicU32,
    guest: OnceLock<Thread>,
    is_given_up: AtomicBool,
    /// Pages that were waited for and are still to be told to the engine.
    wanted: Mutex<Vec<Page>>,
    doorbell: File,
}

/// A block of memory that one guest after the other has: mapped once and never unmapped.
#[derive(Clone, Copy)]
pub(crate) struct Block(&'static [AtomicU64]);

impl Block {
    pub(crate) fn new(map: MmapMut) -> Result<Self, Failure> {
        let map: &'static mut MmapMut = Box::leak(Box::new(map));
        let words = <[AtomicU64]>::mut_from_bytes(&mut map[..]).map_err(|_| "the mapping is not aligned")?;
        Ok(Self(words))
    }

    /// Makes it `image`.
    pub(crate) fn load(self, image: &[u8]) {
        let (words, _) = image.as_chunks::<8>();
        for (to, from) in self.0.iter().zip(words) {
            to.store(u64::from_ne_bytes(*from), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

fn bits(pages: usize) -> Vec<AtomicU64> {
    (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect()
}

const fn bit(page: Page) -> (usize, u64) {
    (page.0 as usize / 64, 1 << (page.0 % 64))
}

impl Memory {
    pub(crate) fn new(block: Block) -> Result<Arc<Self>, Failure> {
        let pages = block.0.len() / WORDS;
        Ok(Arc::new(Self {
            words: block.0,
            dirty: bits(pages),
            absent: bits(pages),
            has_absent: AtomicBool::new(false),
            waits_for: AtomicU32::new(NONE),
            guest: OnceLock::new(),
            is_given_up: AtomicBool::new(false),
            wanted: Mutex::new(Vec::new()),
            doorbell: File::from(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?),
        }))
    }

    pub(crate) fn page_count(&self) -> u32 {
        (self.words.len() / WORDS) as u32
    }

    pub(crate) fn page(&self, page: Page) -> Result<&[AtomicU64], RamFailure> {
        let at = page.0 as usize * WORDS;
        self.words.get(at..at + WORDS).ok_or(RamFailure::OutOfRange(page))
    }

    pub(crate) fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let words = self.page(page)?;
        Ok(words
            .chunks(8)
            .all(|line| line.iter().fold(0, |seen, word| seen | word.load(Ordering::Relaxed)) == 0))
    }

    /// Whether both have the same in these pages.
    pub(crate) fn equals(&self, other: &Self, page: Page) -> bool {
        let pair = (self.page(page), other.page(page));
        let (Ok(ours), Ok(theirs)) = pair else { return false };
        ours.iter().zip(theirs).all(|(a, b)| a.load(Ordering::Relaxed) == b.load(Ordering::Relaxed))
    }

    /// The guest has written a page.
    pub(crate) fn mark(&self, page: Page) {
        let (index, bit) = bit(page);
        self.dirty[index].fetch_or(bit, Ordering::Release);
    }

    fn is_absent(&self, page: Page) -> bool {
        let (index, bit) = bit(page);
        self.absent[index].load(Ordering::SeqCst) & bit != 0
    }

    /// The guest is about to touch a page: waits until that is there; how long.
    pub(crate) fn touch(&self, page: Page) -> Option<Duration> {
        if !self.has_absent.load(Ordering::Acquire) || !self.is_absent(page) {
            return None;
        }
        let began = Instant::now();
        let _ = self.guest.get_or_init(thread::current);
        // Before the second look, so that who publishes the page in between sees it.
        self.waits_for.store(page.0, Ordering::SeqCst);
        if self.is_absent(page) {
            self.wanted.lock().expect("nobody panics with it").push(page);
            self.ring();
        }
        while self.is_absent(page) && !self.is_given_up.load(Ordering::SeqCst) {
            thread::park();
        }
        self.waits_for.store(NONE, Ordering::SeqCst);
        Some(began.elapsed())
    }

    /// Pages that have been waited for since this was asked last.
    pub(crate) fn take_wanted(&self) -> Vec<Page> {
        let mut rings = [0; 8];
        // Nobody may have rung.
        let _ = (&self.doorbell).read(&mut rings);
        core::mem::take(&mut self.wanted.lock().expect("nobody panics with it"))
    }

    fn ring(&self) {
        (&self.doorbell).write_all(&1u64.to_ne_bytes()).expect("a doorbell can be rung 2^64 times");
    }

    /// What is ready to be read when somebody waits.
    pub(crate) fn doorbell(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }

    /// Pages that are absent will not come.
    pub(crate) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::SeqCst);
        if let Some(guest) = self.guest.get() {
            guest.unpark();
        }
    }

    /// Nothing is absent any more.
    pub(crate) fn settle(&self) {
        self.has_absent.store(false, Ordering::Release);
    }
}

/// The memory as the engine sees it.
pub(crate) struct Ram {
    pub(crate) memory: Arc<Memory>,
    harvested: PageBitmap,
}

impl Ram {
    pub(crate) fn new(memory: Arc<Memory>) -> Self {
        let harvested = PageBitmap::empty(memory.page_count());
        Self { memory, harvested }
    }

    /// Takes the marks.
    pub(crate) fn harvest(&mut self) {
        for (index, word) in self.memory.dirty.iter().enumerate() {
            if word.load(Ordering::Relaxed) != 0 {
                self.harvested.merge_word(index, word.swap(0, Ordering::AcqRel));
            }
        }
    }

    /// Recording begins.
    pub(crate) fn start_log(&mut self) {
        self.harvest();
        self.harvested.clear();
    }
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        self.memory.page_count()
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        let (into, _) = into.as_chunks_mut::<8>();
        for (to, from) in into.iter_mut().zip(self.memory.page(page)?) {
            *to = from.load(Ordering::Relaxed).to_ne_bytes();
        }
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        let (from, _) = from.as_chunks::<8>();
        for (to, from) in self.memory.page(page)?.iter().zip(from) {
            to.store(u64::from_ne_bytes(*from), Ordering::Relaxed);
        }
        Ok(())
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        self.memory.is_zero(page)
    }

    fn take_dirty(&mut self, into: &mut PageBitmap) {
        into.merge(&self.harvested);
        self.harvested.clear();
    }

    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        self.memory.absent.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        let mut next = absent.next(Page(0));
        while let Some(page) = next {
            let (index, bit) = bit(page);
            self.memory.absent[index].fetch_or(bit, Ordering::SeqCst);
            next = absent.next(Page(page.0 + 1));
        }
        self.memory.has_absent.store(!absent.is_empty(), Ordering::Release);
        Ok(())
    }

    fn publish(&mut self, page: Page) {
        let (index, bit) = bit(page);
        self.memory.absent[index].fetch_and(!bit, Ordering::SeqCst);
        if self.memory.waits_for.load(Ordering::SeqCst) == page.0
            && let Some(guest) = self.memory.guest.get()
        {
            guest.unpark();
        }
    }
}
