//! Making a guest's RAM ready: clearing it, and copying in what is long of what the guest begins with.
//!
//! That takes seconds for a large guest. The CPU that will run the guest does it, in portions between its other duties:
//! it has the [`Work`]. Everybody else has the [`Site`], which says how far it is and takes the word that the guest is
//! not wanted any more. Pure but for the memory.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use godwit_vmx::addr::Gpa;

use super::memory::{GuestRam, PIECE_BYTES, RawRam};
use crate::guest_memory::{GuestMemory, MemoryError};
use crate::sync::{Level, Lock};

/// What is to be copied into a guest's RAM before it begins.
#[derive(Clone, Copy, Debug)]
pub struct Content {
    /// Where it goes.
    pub address: Gpa,
    /// What it is.
    pub bytes: &'static [u8],
}

/// Why RAM did not become ready. All of it has been given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// [`Site::give_up`].
    GivenUp,
    /// The CPU that was to run the guest runs none.
    NotTaken,
    /// What was to be copied in has no place there.
    Memory(MemoryError),
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GivenUp => f.write_str("it was stopped while its memory was cleared"),
            Self::NotTaken => f.write_str("the CPU that was to run it runs no guests"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Unready {}

/// What everybody but the CPU at work holds of RAM that is being made ready.
#[derive(Debug)]
pub struct Site {
    owner: usize,
    ram_bytes: u64,
    /// Bytes to be cleared and copied.
    total: u64,
    /// How many of them are.
    done: AtomicU64,
    is_given_up: AtomicBool,
    outcome: Lock<Option<Result<GuestRam, Unready>>>,
}

impl Site {
    /// The CPU at work, which will run the guest.
    #[must_use]
    pub const fn owner(&self) -> usize {
        self.owner
    }

    /// Bytes of the RAM.
    #[must_use]
    pub const fn ram_bytes(&self) -> u64 {
        self.ram_bytes
    }

    /// How much is done, in percent; 100 only when all is.
    fn percent(&self) -> u64 {
        // No RAM is so large that this overflows.
        self.done.load(Ordering::Relaxed) * 100 / self.total
    }

    /// The guest is not wanted any more. The outcome says when the memory has been given back.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    /// Whether it is not wanted any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// What has come of it, once. RAM that was ready before the word that it is not wanted is given back here.
    pub fn take_outcome(&self) -> Option<Result<GuestRam, Unready>> {
        let outcome = self.outcome.lock().take()?;
        Some(outcome.and_then(|ram| if self.is_given_up() { Err(Unready::GivenUp) } else { Ok(ram) }))
    }

    /// Takes the word for it.
    fn end(&self, outcome: Result<GuestRam, Unready>) {
        *self.outcome.lock() = Some(outcome);
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_given_up() {
            true => f.write_str("its memory is being given back"),
            false => write!(f, "{} % of its memory is ready", self.percent()),
        }
    }
}

#[derive(Debug)]
enum Stage {
    Clearing(RawRam),
    /// Copying, so many bytes of the first of the contents.
    Copying(GuestRam, u64),
}

/// RAM that is being made ready, for the CPU at work.
#[derive(Debug)]
pub struct Work {
    site: Arc<Site>,
    stage: Stage,
    /// Still to be copied; the last is the next.
    contents: Vec<Content>,
}

impl Work {
    /// Work for CPU `owner`, and what others have of it: clearing `ram` and copying `contents` into it.
    #[must_use]
    pub fn new(ram: RawRam, contents: Vec<Content>, owner: usize) -> (Arc<Site>, Self) {
        let long = contents.iter().map(|content| content.bytes.len() as u64).sum::<u64>();
        let site = Arc::new(Site {
            owner,
            ram_bytes: ram.bytes(),
            total: ram.bytes() + long,
            done: AtomicU64::new(0),
            is_given_up: AtomicBool::new(false),
            outcome: Lock::new(Level::Guest, None),
        });
        (Arc::clone(&site), Self { site, stage: Stage::Clearing(ram), contents })
    }

    /// Whether there is nothing to do but to give the memory back.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.site.is_given_up()
    }

    /// Goes on until `is_over` says so after some piece, at least one; what is left of it, `None` if it has come to its end.
    pub fn go_on(self, mut is_over: impl FnMut() -> bool) -> Option<Self> {
        let Self { site, stage, contents } = self;
        if site.is_given_up() {
            drop(stage);
            site.end(Err(Unready::GivenUp));
            return None;
        }
        let stage = match stage {
            Stage::Clearing(mut ram) => {
                ram.clear(&mut is_over);
                site.done.store(ram.cleared(), Ordering::Relaxed);
                match ram.into_clear() {
                    Err(raw) => Stage::Clearing(raw),
                    Ok(ram) => Stage::Copying(ram, 0),
                }
            }
            copying @ Stage::Copying(..) => copying,
        };
        Self { site, stage, contents }.copy_on(is_over)
    }

    /// Copies, if everything is clear.
    fn copy_on(mut self, mut is_over: impl FnMut() -> bool) -> Option<Self> {
        let Stage::Copying(ram, copied) = &mut self.stage else { return Some(self) };
        let mut is_first = true;
        while let Some(content) = self.contents.last() {
            let rest = content.bytes.get(*copied as usize..).unwrap_or_default();
            if rest.is_empty() {
                self.contents.pop();
                *copied = 0;
                continue;
            }
            if !core::mem::take(&mut is_first) && is_over() {
                return Some(self);
            }
            let piece = &rest[..rest.len().min(PIECE_BYTES as usize)];
            let address = content.address.checked_add(*copied).unwrap_or(Gpa::new(u64::MAX));
            if let Err(error) = ram.write(address, piece) {
                return self.fail(Unready::Memory(error));
            }
            *copied += piece.len() as u64;
            self.site.done.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        let Self { site, stage, .. } = self;
        if let Stage::Copying(ram, _) = stage {
            site.end(Ok(ram));
        }
        None
    }

    /// Ends the work of a CPU that runs no guests.
    pub fn refuse(self) {
        let _nothing_left = self.fail(Unready::NotTaken);
    }

    /// Gives the memory back, and then says so.
    fn fail(self, why: Unready) -> Option<Self> {
        let Self { site, stage, .. } = self;
        drop(stage);
        site.end(Err(why));
        None
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;
    use std::sync::Mutex;
    use std::vec;

    use super::super::memory::testing::HeapBlocks;
    use super::super::memory::{BLOCK_BYTES, Block, BlockSource};
    use super::*;

    /// Blocks of which it is known how many are out.
    struct Counted(HeapBlocks);

    static OUT: Mutex<usize> = Mutex::new(0);
    /// Tests that count take turns.
    static TURN: Mutex<()> = Mutex::new(());

    impl BlockSource for Counted {
        fn blocks_free(&self) -> usize {
            self.0.blocks_free()
        }

        fn table_bytes_free(&self) -> usize {
            self.0.table_bytes_free()
        }

        fn allocate(&mut self) -> Option<Block> {
            *OUT.lock().unwrap() += 1;
            self.0.allocate()
        }

        fn release(block: Block) {
            *OUT.lock().unwrap() -= 1;
            HeapBlocks::release(block);
        }
    }

    fn work(contents: Vec<Content>) -> (Arc<Site>, Work) {
        let ram = RawRam::take(&mut Counted(HeapBlocks { left: 2 }), 2 * BLOCK_BYTES, 1).unwrap();
        Work::new(ram, contents, 3)
    }

    /// Two contents that end in the middle of a piece, the first across blocks.
    fn contents() -> Vec<Content> {
        let long: &'static [u8] = vec![7; 2 * PIECE_BYTES as usize + 9].leak();
        let address = Gpa::new(BLOCK_BYTES - PIECE_BYTES - 1);
        vec![Content { address, bytes: long }, Content { address: Gpa::new(0x1000), bytes: &[8; 5] }]
    }

    /// Portions as short as they can be until nothing is left; how many.
    fn finish(mut work: Work) -> u64 {
        let mut portions = 0;
        loop {
            portions += 1;
            match work.go_on(|| true) {
                Some(rest) => work = rest,
                None => return portions,
            }
        }
    }

    #[test]
    fn a_guest_s_memory_is_clear_but_for_what_it_begins_with() {
        let _turn = TURN.lock();
        let (site, work) = work(contents());
        assert_eq!((site.owner(), site.ram_bytes(), site.to_string().as_str()), {
            (3, 2 * BLOCK_BYTES, "0 % of its memory is ready")
        });
        assert!(site.take_outcome().is_none());
        let pieces = 2 * BLOCK_BYTES / PIECE_BYTES;
        assert!((pieces..pieces + 8).contains(&finish(work)), "each portion gets on by a piece");
        assert_eq!(site.percent(), 100);
        let ram = site.take_outcome().unwrap().unwrap();
        assert!(site.take_outcome().is_none(), "only once");
        let mut all = vec![0; BLOCK_BYTES as usize];
        ram.read(Gpa::new(0x10_0000), &mut all).unwrap();
        let begin = (BLOCK_BYTES - PIECE_BYTES - 1 - 0x10_0000) as usize;
        let end = begin + 2 * PIECE_BYTES as usize + 9;
        assert!(all[begin..end].iter().all(|byte| *byte == 7));
        assert!(all[..begin].iter().chain(&all[end..]).all(|byte| *byte == 0));
        let mut few = [0; 7];
        ram.read(Gpa::new(0xfff), &mut few).unwrap();
        assert_eq!(few, [0, 8, 8, 8, 8, 8, 0]);
    }

    #[test]
    fn progress_is_told_and_is_whole_only_at_the_end() {
        let _turn = TURN.lock();
        let (site, work) = work(contents());
        let mut rest = work.go_on(|| true);
        let mut before = 0;
        while let Some(work) = rest {
            let percent = site.percent();
            assert!((before..100).contains(&percent), "{percent}");
            before = percent;
            rest = work.go_on(|| true);
        }
        assert_eq!(site.percent(), 100);
    }

    #[test]
    fn memory_is_given_back_before_it_is_said_that_the_guest_was_given_up() {
        let _turn = TURN.lock();
        for portions in [0, 1, 40, 66] {
            let (site, work) = work(contents());
            let mut work = Some(work);
            for _ in 0..portions {
                work = work.and_then(|work| work.go_on(|| true));
            }
            let work = work.expect("it is not ready yet");
            site.give_up();
            assert!(work.is_given_up() && site.take_outcome().is_none());
            assert_eq!(*OUT.lock().unwrap(), 2);
            assert_eq!(site.to_string(), "its memory is being given back");
            assert!(work.go_on(|| panic!("there is nothing to be done")).is_none());
            assert_eq!(*OUT.lock().unwrap(), 0);
            assert_eq!(site.take_outcome().unwrap().unwrap_err(), Unready::GivenUp);
        }
    }

    #[test]
    fn who_gives_up_a_guest_that_has_just_become_ready_does_not_get_it() {
        let _turn = TURN.lock();
        let (site, work) = work(Vec::new());
        assert!(work.go_on(|| false).is_none());
        site.give_up();
        assert_eq!(site.take_outcome().unwrap().unwrap_err(), Unready::GivenUp);
        assert_eq!(*OUT.lock().unwrap(), 0);
    }

    #[test]
    fn work_that_fails_gives_the_memory_back_and_says_why() {
        let _turn = TURN.lock();
        let (site, work) = work(vec![Content { address: Gpa::new(2 * BLOCK_BYTES - 1), bytes: &[1, 2] }]);
        assert!(work.go_on(|| false).is_none());
        assert!(matches!(site.take_outcome(), Some(Err(Unready::Memory(_)))));
        let (site, work) = self::work(Vec::new());
        work.refuse();
        assert_eq!(site.take_outcome().unwrap().unwrap_err(), Unready::NotTaken);
        assert_eq!(*OUT.lock().unwrap(), 0);
    }
}
