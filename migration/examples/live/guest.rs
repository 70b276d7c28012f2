//! A guest of one thread that writes memory at a known rate and notices a lost page, as `guest.asm` of the comparison
//! with QEMU does.
//!
//! Sweep s = 1, 2, 3 … visits each page of the working set once and stores s at its begin and a check word, `s * MIX ^
//! page`, at its end. Before storing it expects both as sweep s - 1 left them, so a lost, stale, torn or misplaced page
//! adds to the errors when the sweep reaches it. Its statistics lie in a page of its memory, its position in registers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use godwit_migration::Page;

use super::memory::{Memory, WORDS};

const MIX: u32 = 0x9E37_79B1;
/// The page of the statistics, and the first of the working set.
const STATS: Page = Page(0x200);
const WORKSET: u32 = 0x1000;
/// Words of the statistics.
const ERRORS: usize = 0;
const WRITTEN: usize = 1;
const FIRST_BAD: usize = 2;
/// Sweeps are a prime number of pages wide where they are not in order: it divides no working set.
const STRIDE: u64 = 7919;
/// How often it wakes to do what is due.
const TICK: Duration = Duration::from_millis(1);
/// The period of a throttle, as the hypervisor's.
const THROTTLE_PERIOD: Duration = Duration::from_millis(20);

/// What the guest does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Pages that it writes, and how many in a second.
    pub(crate) pages: u32,
    pub(crate) pages_per_second: u32,
    /// The order of a sweep: ascending, or all over the working set.
    pub(crate) is_scattered: bool,
    /// How much time standing still it makes good.
    pub(crate) catch_up: Duration,
}

impl Work {
    fn page(self, position: u32) -> Page {
        let index = if self.is_scattered {
            (u64::from(position) * STRIDE % u64::from(self.pages)) as u32
        } else {
            position
        };
        Page(WORKSET + index)
    }

    /// Whether the guest writes this page.
    pub(crate) fn writes(self, page: Page) -> bool {
        page == STATS || (WORKSET..WORKSET + self.pages).contains(&page.0)
    }
}

/// Where it is: what its device state consists of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub(crate) sweep: u32,
    pub(crate) position: u32,
}

impl Registers {
    pub(crate) const START: Self = Self { sweep: 1, position: 0 };

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.sweep.to_le_bytes(), self.position.to_le_bytes()].concat()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let [sweep, position] = words.try_into().ok()?;
        Some(Self { sweep: u32::from_le_bytes(sweep), position: u32::from_le_bytes(position) })
    }
}

/// What is known of the guest from outside, on either host.
pub(crate) struct Watch {
    origin: Instant,
    /// Nanoseconds since the origin of the first and last page written here; 0 for none.
    first: AtomicU64,
    last: AtomicU64,
}

impl Watch {
    fn wrote(&self) {
        let now = self.origin.elapsed().as_nanos() as u64;
        if self.first.load(Ordering::Relaxed) == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
        self.last.store(now, Ordering::Relaxed);
    }

    fn time(of: &AtomicU64) -> Option<Duration> {
        Some(Duration::from_nanos(of.load(Ordering::Relaxed))).filter(|time| !time.is_zero())
    }

    pub(crate) fn first(&self) -> Option<Duration> {
        Self::time(&self.first)
    }

    pub(crate) fn last(&self) -> Option<Duration> {
        Self::time(&self.last)
    }
}

const PAUSE: u8 = 0;
const RUN: u8 = 1;
const STOP: u8 = 2;

struct Control {
    wish: AtomicU8,
    /// The guest stands still.
    is_still: AtomicBool,
    is_paced: AtomicBool,
    throttle: AtomicU8,
}

/// A guest on one host.
pub(crate) struct Guest {
    memory: Arc<Memory>,
    control: Arc<Control>,
    registers: Arc<Mutex<Registers>>,
    pub(crate) watch: Arc<Watch>,
    /// How long it waited for pages, each time.
    pub(crate) waits: Arc<Mutex<Vec<Duration>>>,
    work: Work,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// A guest that stands still.
    pub(crate) fn new(memory: Arc<Memory>, work: Work, origin: Instant) -> Self {
        let control = Arc::new(Control {
            wish: AtomicU8::new(PAUSE),
            is_still: AtomicBool::new(true),
            is_paced: AtomicBool::new(true),
            throttle: AtomicU8::new(0),
        });
        let registers = Arc::new(Mutex::new(Registers::START));
        let watch = Arc::new(Watch { origin, first: AtomicU64::new(0), last: AtomicU64::new(0) });
        let waits = Arc::new(Mutex::new(Vec::new()));
        let mut mind = Mind {
            memory: Arc::clone(&memory),
            control: Arc::clone(&control),
            watch: Arc::clone(&watch),
            waits: Arc::clone(&waits),
            work,
            at: Registers::START,
        };
        let shared = Arc::clone(&registers);
        let thread = Some(thread::spawn(move || mind.live(&shared)));
        Self { memory, control, registers, watch, waits, work, thread }
    }

    fn wish(&self, wish: u8) {
        self.control.wish.store(wish, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }

    /// Clears the statistics of a guest that has never run.
    pub(crate) fn boot(&self) {
        self.memory.page(STATS).into_iter().flatten().for_each(|word| word.store(0, Ordering::Relaxed));
        self.run();
    }

    pub(crate) fn run(&self) {
        self.control.is_still.store(false, Ordering::SeqCst);
        self.wish(RUN);
    }

    /// Comes back when it stands still between two pages.
    pub(crate) fn pause(&self) {
        self.wish(PAUSE);
        while !self.control.is_still.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }

    /// Whether it writes at its rate, or as fast as it can.
    pub(crate) fn set_paced(&self, is_paced: bool) {
        self.control.is_paced.store(is_paced, Ordering::SeqCst);
        self.wish(self.control.wish.load(Ordering::SeqCst));
    }

    pub(crate) fn throttle(&self, percent: u8) {
        self.control.throttle.store(percent, Ordering::SeqCst);
    }

    /// Of a guest that stands still.
    pub(crate) fn registers(&self) -> Registers {
        *self.registers.lock().expect("nobody panics with it")
    }

    /// For a guest that stands still.
    pub(crate) fn set_registers(&self, registers: Registers) {
        *self.registers.lock().expect("nobody panics with it") = registers;
    }

    /// The guest's count of the pages that it has written.
    pub(crate) fn written(&self) -> u64 {
        self.memory.page(STATS).map_or(0, |stats| stats[WRITTEN].load(Ordering::Relaxed))
    }

    /// The errors that it found, and pages of it that are not as its position demands. It stands still.
    pub(crate) fn wrong_pages(&self) -> u64 {
        let Registers { sweep, position } = self.registers();
        let errors = self.memory.page(STATS).map_or(1, |stats| stats[ERRORS].load(Ordering::Relaxed));
        let wrong = (0..self.work.pages).filter(|&at| {
            let expected = if at < position { sweep } else { sweep - 1 };
            !is_as_left(&self.memory, self.work.page(at), expected)
        });
        errors + wrong.count() as u64
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.memory.give_up();
        self.wish(STOP);
        if let Some(thread) = self.thread.take() {
            // It has panicked: that was seen on the console.
            let _ = thread.join();
        }
    }
}

/// A page's two words, as sweep `sweep` leaves them.
const fn check_word(sweep: u32, page: Page) -> u32 {
    sweep.wrapping_mul(MIX) ^ page.0
}

fn is_as_left(memory: &Memory, page: Page, sweep: u32) -> bool {
    memory.page(page).is_ok_and(|words| {
        let (first, last) = (words[0].load(Ordering::Relaxed), words[WORDS - 1].load(Ordering::Relaxed));
        first as u32 == sweep && (last >> 32) as u32 == check_word(sweep, page)
    })
}

/// The guest's own thread.
struct Mind {
    memory: Arc<Memory>,
    control: Arc<Control>,
    watch: Arc<Watch>,
    waits: Arc<Mutex<Vec<Duration>>>,
    work: Work,
    at: Registers,
}

impl Mind {
    fn live(&mut self, registers: &Mutex<Registers>) {
        let mut paid_until = Instant::now();
        loop {
            match self.control.wish.load(Ordering::SeqCst) {
                STOP => return,
                PAUSE => {
                    *registers.lock().expect("nobody panics with it") = self.at;
                    self.control.is_still.store(true, Ordering::SeqCst);
                    while self.control.wish.load(Ordering::SeqCst) == PAUSE {
                        thread::park();
                    }
                    self.at = *registers.lock().expect("nobody panics with it");
                }
                _ if self.control.is_paced.load(Ordering::SeqCst) => self.tick(&mut paid_until),
                _ => self.burst(64),
            }
        }
    }

    /// Writes what has become due, then sleeps until the next tick.
    fn tick(&mut self, paid_until: &mut Instant) {
        let now = Instant::now();
        let page_time = Duration::from_secs(1) / self.work.pages_per_second;
        if now.duration_since(*paid_until) > self.work.catch_up {
            *paid_until = now.checked_sub(self.work.catch_up).unwrap_or(now);
        }
        let due = (now.duration_since(*paid_until).as_nanos() / page_time.as_nanos()) as u32;
        *paid_until += page_time * due;
        self.burst(due);
        thread::park_timeout(TICK);
        let percent = self.control.throttle.load(Ordering::SeqCst);
        if percent > 0 {
            let period = THROTTLE_PERIOD.as_nanos();
            let into = self.watch.origin.elapsed().as_nanos() % period;
            let own = period * u128::from(100 - percent) / 100;
            if into >= own {
                thread::park_timeout(Duration::from_nanos((period - into) as u64));
            }
        }
    }

    fn burst(&mut self, pages: u32) {
        for _ in 0..pages {
            if self.control.wish.load(Ordering::SeqCst) != RUN {
                return;
            }
            self.write_page();
        }
    }

    fn touch(&self, page: Page) {
        if let Some(wait) = self.memory.touch(page) {
            self.waits.lock().expect("nobody panics with it").push(wait);
        }
    }

    fn write_page(&mut self) {
        let Registers { sweep, position } = self.at;
        let page = self.work.page(position);
        self.touch(page);
        let is_good = sweep == 1 || is_as_left(&self.memory, page, sweep - 1);
        let words = self.memory.page(page).expect("the working set lies in memory");
        let low = words[0].load(Ordering::Relaxed) & !u64::from(u32::MAX);
        words[0].store(low | u64::from(sweep), Ordering::Relaxed);
        let high = words[WORDS - 1].load(Ordering::Relaxed) & u64::from(u32::MAX);
        words[WORDS - 1].store(high | u64::from(check_word(sweep, page)) << 32, Ordering::Relaxed);
        self.memory.mark(page);
        self.touch(STATS);
        let stats = self.memory.page(STATS).expect("the statistics lie in memory");
        let add = |word: usize| {
            let before = stats[word].load(Ordering::Relaxed);
            stats[word].store(before + 1, Ordering::Relaxed);
            before
        };
        add(WRITTEN);
        if !is_good && add(ERRORS) == 0 {
            stats[FIRST_BAD].store(page.0.into(), Ordering::Relaxed);
        }
        self.memory.mark(STATS);
        self.at = if position + 1 == self.work.pages {
            Registers { sweep: sweep + 1, position: 0 }
        } else {
            Registers { sweep, position: position + 1 }
        };
        self.watch.wrote();
    }
}
