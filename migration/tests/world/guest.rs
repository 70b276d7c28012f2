//! A guest at one host: RAM with a dirty log, a life cycle, and a program that keeps writing.

use std::cell::Cell;

use godwit_migration::{
    GuestRam, Necessity, PAGE_BYTES, Page, PageBitmap, PageBytes, RamFailure, RunPermit, Section, is_zero,
};

use super::random::Random;

/// RAM and dirty log of one host's instance of the guest.
pub(crate) struct Ram {
    pub(crate) pages: Vec<Box<PageBytes>>,
    log: Option<PageBitmap>,
    published: PageBitmap,
    /// Pages that can still be written for the first time before memory runs out.
    pub(crate) free_pages: u32,
    touched: PageBitmap,
    /// Pages for which the guest would wait.
    pub(crate) absent: PageBitmap,
    /// What a page of the log held before the guest's last write.
    before: Vec<Box<PageBytes>>,
    /// Where a write stands that goes on while the page is read: whoever reads a page of the log may get any part of both.
    torn: Cell<usize>,
}

impl Ram {
    pub(crate) fn new(count: u32, free_pages: u32) -> Self {
        Self {
            pages: (0..count).map(|_| Box::new([0; PAGE_BYTES])).collect(),
            log: None,
            published: PageBitmap::empty(count),
            free_pages,
            touched: PageBitmap::empty(count),
            absent: PageBitmap::empty(count),
            before: Vec::new(),
            torn: Cell::new(0),
        }
    }

    pub(crate) fn start_log(&mut self) {
        self.log = Some(PageBitmap::empty(self.pages.len() as u32));
        self.before.clone_from(&self.pages);
    }

    pub(crate) fn stop_log(&mut self) {
        self.log = None;
        self.published.clear();
    }

    pub(crate) fn log_is_on(&self) -> bool {
        self.log.is_some()
    }

    pub(crate) fn harvest(&mut self) {
        let count = self.pages.len() as u32;
        let log = self.log.as_mut().expect("a harvest is asked for only while the log is on");
        self.published.merge(&std::mem::replace(log, PageBitmap::empty(count)));
    }

    /// A write by the guest itself.
    pub(crate) fn guest_writes(&mut self, page: u32, content: &PageBytes) {
        if let Some(log) = &mut self.log {
            log.insert(Page(page));
            self.before[page as usize].clone_from(&self.pages[page as usize]);
        }
        *self.pages[page as usize] = *content;
    }

    /// How much of the page is as the guest's last write makes it. One that is in no later harvest is whole.
    fn written(&self, page: Page) -> usize {
        if !self.log.as_ref().is_some_and(|log| log.contains(page)) {
            return PAGE_BYTES;
        }
        self.torn.set((self.torn.get() * 5 + 1237) % (2 * PAGE_BYTES));
        self.torn.get().min(PAGE_BYTES)
    }
}

impl GuestRam for Ram {
    fn page_count(&self) -> u32 {
        self.pages.len() as u32
    }

    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure> {
        let content = self.pages.get(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        *into = **content;
        let written = self.written(page);
        if written < PAGE_BYTES {
            into[written..].copy_from_slice(&self.before[page.0 as usize][written..]);
        }
        Ok(())
    }

    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure> {
        let content = self.pages.get_mut(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        if !self.touched.contains(page) {
            self.touched.insert(page);
            self.free_pages = self.free_pages.checked_sub(1).ok_or(RamFailure::OutOfMemory(page))?;
        }
        **content = *from;
        Ok(())
    }

    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let content = self.pages.get(page.0 as usize).ok_or(RamFailure::OutOfRange(page))?;
        Ok(is_zero(if self.written(page) > 0 { content } else { &self.before[page.0 as usize] }))
    }

    fn take_dirty(&mut self, into: &mut PageBitmap) {
        into.merge(&self.published);
        self.published.clear();
    }

    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        self.absent = absent.clone();
        Ok(())
    }

    fn publish(&mut self, page: Page) {
        assert!(self.absent.remove(page), "{page} is published once");
    }
}

/// One host's instance of the guest.
pub(crate) struct Instance {
    pub(crate) ram: Ram,
    /// Present exactly while the guest runs here.
    pub(crate) permit: Option<RunPermit>,
    pub(crate) throttle: u8,
    pub(crate) restored: Option<Vec<Section>>,
}

/// What the guest has written so far, wherever it ran: what its RAM must be when it runs.
#[derive(Clone)]
pub(crate) struct Truth {
    pub(crate) pages: Vec<Box<PageBytes>>,
    pub(crate) writes: u64,
    working_set: u64,
    drifts: bool,
    contents: Contents,
}

/// What is in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Zeros, noise, text and what resembles it.
    Mixed,
    /// So little of it compresses that what does waits long for more of its kind.
    MostlyNoise,
    /// Most of it looks as if it compressed, and hardly does.
    HalfNoise,
    /// Noise in one page of fifty, zeros in the others.
    Sparse,
    /// Few different pages, so that most are like others, and each soon is again what it was.
    Recurring,
}

/// The kind of such a page.
const HALF_NOISE: u64 = 8;

/// Pages that a guest whose writing drifts writes at a time, and how often it writes before it writes others.
const DRIFT_PAGES: u64 = 4;
const DRIFT_WRITES: u64 = 24;

/// One of few contents.
fn recur(content: &mut PageBytes, kind: u64, place: u64) {
    let mut random = Random::new(place);
    match kind {
        0 => {}
        1..=3 => {
            content
                .as_chunks_mut()
                .0
                .iter_mut()
                .for_each(|word: &mut [u8; 8]| *word = random.next().to_le_bytes());
            // What resembles it.
            content[700] ^= kind as u8;
        }
        _ => content.iter_mut().zip(b"a line of a log, ".iter().cycle()).for_each(|(to, from)| *to = *from),
    }
}

impl Truth {
    pub(crate) fn new(count: u32, working_set: u64, drifts: bool, contents: Contents) -> Self {
        let pages = (0..count).map(|_| Box::new([0; PAGE_BYTES])).collect();
        Self { pages, writes: 0, working_set: working_set.clamp(1, count.into()), drifts, contents }
    }

    /// Fills RAM as after a boot.
    pub(crate) fn boot(&mut self, random: &mut Random) {
        for page in 0..self.pages.len() as u32 {
            let content = self.invent(random, page);
            *self.pages[page as usize] = content;
        }
    }

    /// The page that the guest's program writes next.
    pub(crate) fn choose(&self, random: &mut Random) -> u32 {
        if !self.drifts {
            return random.below(self.working_set) as u32;
        }
        let first = self.writes / DRIFT_WRITES * DRIFT_PAGES;
        ((first + random.below(DRIFT_PAGES)) % self.working_set) as u32
    }

    /// The next write of the guest's program: the new content of a page.
    pub(crate) fn write(&mut self, random: &mut Random, page: u32) -> PageBytes {
        let content = self.invent(random, page);
        *self.pages[page as usize] = content;
        content
    }

    fn invent(&mut self, random: &mut Random, page: u32) -> PageBytes {
        self.writes += 1;
        let mut content = [0; PAGE_BYTES];
        if self.contents == Contents::Recurring {
            let (kind, place) = (random.below(5), u64::from(page) % 3);
            recur(&mut content, kind, place);
            return content;
        }
        let kind = match self.contents {
            Contents::Mixed => random.below(8),
            Contents::MostlyNoise if random.one_in(8) => random.below(8),
            Contents::MostlyNoise => 2,
            Contents::HalfNoise if random.one_in(3) => random.below(8),
            Contents::HalfNoise => HALF_NOISE,
            Contents::Recurring => 0,
            Contents::Sparse => {
                if random.one_in(50) {
                    2
                } else {
                    0
                }
            }
        };
        let mut noise = |words: &mut [[u8; 8]]| {
            words.iter_mut().for_each(|word| *word = random.next().to_le_bytes());
        };
        match kind {
            0 | 1 => return content,
            2 | 3 => noise(content.as_chunks_mut().0),
            HALF_NOISE => noise(content[PAGE_BYTES / 2..].as_chunks_mut().0),
            4 | 5 => {
                let line = format!(
                    "{:08} page {page} is written, generation {} of many\n",
                    self.writes, self.writes
                );
                content.iter_mut().zip(line.bytes().cycle()).for_each(|(to, from)| *to = from);
            }
            6 => {
                content = **random.pick(&self.pages);
                for _ in 0..random.below(12) {
                    content[random.below(PAGE_BYTES as u64) as usize] ^= random.next() as u8;
                }
            }
            _ => content = *self.pages[page as usize],
        }
        // A mark that makes each write differ from every other.
        content[64..72].copy_from_slice(&self.writes.to_le_bytes());
        content
    }

    /// The device state of a guest that has come so far.
    pub(crate) fn devices(&self) -> Vec<Section> {
        let section = |id: u32, length: usize, necessity| Section {
            id,
            instance: id % 3,
            version: 1,
            necessity,
            bytes: (0..length).map(|at| (self.writes as usize + at * id as usize) as u8).collect(),
        };
        let length = (self.writes % 5) as usize * 9000;
        vec![
            section(1, 300, Necessity::Mandatory),
            section(2, length, Necessity::Mandatory),
            section(3, 0, Necessity::Optional),
        ]
    }
}
