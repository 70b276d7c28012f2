//! Which pages of a guest's RAM have not come yet, and who waits for one: what post-copy needs on every CPU.
//!
//! Two parties. The *publisher* (the CPU that serves the network) brings a page's content and then takes its bit away.
//! *Waiters* (the guest's processors, on their owners' CPUs; each has a place of its own) look at the bit before they
//! touch the page.
//!
//! # Why nothing is read too early
//! The publisher writes the content, then clears the bit with release; whoever finds the bit clear has loaded it with
//! acquire, and sees the content. A bit that is clear stays clear while the guest runs, so one look is enough.
//!
//! # Why nobody waits for ever
//! A waiter notes its page in its place and then looks at the bit again; the publisher clears the bit and then looks at
//! the places. Those four are sequentially consistent: if the waiter still finds the bit set, its note comes before the
//! publisher's look, which finds it and wakes the waiter. The same holds between a waiter and [`AbsentPages::forsake`].
//! And between a waiter and [`AbsentPages::take_wanted`]: a note comes before the news of it, and news is taken before
//! the notes are read.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::words::zeroed;

/// Pages per word.
const BITS: usize = 64;
/// In a waiter's place: nobody has been told yet.
const UNTOLD: u64 = 1 << 63;

/// See the module's documentation.
#[derive(Debug)]
pub struct AbsentPages {
    /// Whether any page may be absent: all that anybody looks at while none is.
    is_on: AtomicBool,
    /// Those that are absent will never come.
    is_lost: AtomicBool,
    left: AtomicUsize,
    bits: Box<[AtomicU64]>,
    /// By waiter: zero, or the number of the page plus one.
    places: Box<[AtomicU64]>,
    /// Some place may be untold.
    has_news: AtomicBool,
}

/// What became of an attempt to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// There is nothing to wait for: the page is there.
    Over,
    /// The waiter is noted, and is woken when the page comes.
    Noted,
    /// It would wait for ever: the page will never come.
    Lost,
}

impl AbsentPages {
    /// None of `pages` pages is absent; `waiters` may wait at one time.
    ///
    /// # Errors
    /// [`TryReserveError`] if there is no memory for that.
    pub fn new(pages: usize, waiters: usize) -> Result<Self, TryReserveError> {
        Ok(Self {
            is_on: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            left: AtomicUsize::new(0),
            bits: zeroed(pages.div_ceil(BITS))?,
            places: zeroed(waiters)?,
            has_news: AtomicBool::new(false),
        })
    }

    /// Whether any page may be absent, or its absence has not been settled.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Whether those that are absent will never come.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }

    /// Number of absent pages.
    #[must_use]
    pub fn left(&self) -> usize {
        if self.is_on() { self.left.load(Ordering::Relaxed) } else { 0 }
    }

    /// Whether `page` is absent.
    #[inline]
    #[must_use]
    pub fn is_absent(&self, page: usize) -> bool {
        self.is_on() && self.word(page / BITS) & 1 << (page % BITS) != 0
    }

    /// Which of the 64 pages from `word × 64` on are absent.
    #[must_use]
    pub fn word(&self, word: usize) -> u64 {
        self.bits.get(word).map_or(0, |bits| bits.load(Ordering::Acquire))
    }

    /// Makes exactly `pages` absent, which are in ascending order; those beyond the end are left out. The guest stands
    /// still, and whoever lets it run again does so through a lock: the order of these stores does not matter.
    pub fn set(&self, pages: impl Iterator<Item = usize>) {
        self.clear();
        let mut left = 0;
        let (mut current, mut gathered) = (0, 0);
        for page in pages.take_while(|page| page / BITS < self.bits.len()) {
            if page / BITS != current {
                self.merge(current, gathered);
                (current, gathered) = (page / BITS, 0);
            }
            left += usize::from(gathered & 1 << (page % BITS) == 0);
            gathered |= 1 << (page % BITS);
        }
        self.merge(current, gathered);
        self.left.store(left, Ordering::Relaxed);
        self.is_on.store(left > 0, Ordering::SeqCst);
    }

    fn merge(&self, word: usize, bits: u64) {
        if let Some(place) = self.bits.get(word) {
            place.fetch_or(bits, Ordering::Relaxed);
        }
    }

    /// Makes all pages present. Nobody waits any more.
    pub fn clear(&self) {
        self.is_on.store(false, Ordering::SeqCst);
        self.is_lost.store(false, Ordering::SeqCst);
        self.has_news.store(false, Ordering::SeqCst);
        self.left.store(0, Ordering::Relaxed);
        for word in self.bits.iter().chain(&self.places) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// The content of `page` is there. Whether a waiter is to be woken.
    #[must_use]
    pub fn publish(&self, page: usize) -> bool {
        let bit = 1 << (page % BITS);
        let Some(word) = self.bits.get(page / BITS) else { return false };
        if !self.is_on() || word.fetch_and(!bit, Ordering::SeqCst) & bit == 0 {
            return false;
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        let mut places = self.places.iter().map(|place| place.load(Ordering::SeqCst));
        places.any(|noted| page_of(noted) == Some(page))
    }

    /// The absent pages will never come. Waiters are to be woken, and to try once more.
    pub fn forsake(&self) {
        self.is_lost.store(true, Ordering::SeqCst);
    }

    /// Notes that `waiter` waits for `page`, unless that is in vain or not needed.
    #[must_use]
    pub fn wait(&self, waiter: usize, page: usize) -> Wait {
        let Some(place) = self.places.get(waiter).filter(|_| self.is_absent(page)) else {
            return Wait::Over;
        };
        place.store((page as u64 + 1) | UNTOLD, Ordering::SeqCst);
        self.has_news.store(true, Ordering::SeqCst);
        let bits = self.bits.get(page / BITS).map_or(0, |word| word.load(Ordering::SeqCst));
        let result = match (bits & 1 << (page % BITS), self.is_lost()) {
            (0, _) => Wait::Over,
            (_, true) => Wait::Lost,
            (_, false) => return Wait::Noted,
        };
        place.store(0, Ordering::SeqCst);
        result
    }

    /// `waiter` waits no longer.
    pub fn end_wait(&self, waiter: usize) {
        if let Some(place) = self.places.get(waiter) {
            place.store(0, Ordering::SeqCst);
        }
    }

    /// Whether anybody waits for a page that is absent and may still come.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        self.is_on() && !self.is_lost() && self.waits().next().is_some()
    }

    /// Who waits, and for which page: as it was a moment ago.
    pub fn waits(&self) -> impl Iterator<Item = (usize, usize)> {
        let is_on = self.is_on();
        let places = self.places.iter().enumerate().filter(move |_| is_on);
        let noted =
            places.filter_map(|(waiter, place)| Some((waiter, page_of(place.load(Ordering::Relaxed))?)));
        noted.filter(|(_, page)| self.is_absent(*page))
    }

    /// Takes a page that somebody waits for and that was not taken for this wait; one look if there is no news.
    #[must_use]
    pub fn take_wanted(&self) -> Option<usize> {
        if !self.has_news.load(Ordering::Relaxed) {
            return None;
        }
        self.has_news.store(false, Ordering::SeqCst);
        for place in &self.places {
            let noted = place.load(Ordering::SeqCst);
            if noted & UNTOLD == 0 {
                continue;
            }
            let told = place.compare_exchange(noted, noted & !UNTOLD, Ordering::SeqCst, Ordering::Relaxed);
            let wanted = page_of(noted).filter(|page| told.is_ok() && self.is_absent(*page));
            if wanted.is_some() {
                // There may be others: they are looked for next time.
                self.has_news.store(true, Ordering::SeqCst);
                return wanted;
            }
        }
        None
    }
}

/// The page in a waiter's place.
const fn page_of(noted: u64) -> Option<usize> {
    match noted & !UNTOLD {
        0 => None,
        page => Some(page as usize - 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn absent(pages: impl IntoIterator<Item = usize>) -> AbsentPages {
        let absent = AbsentPages::new(256, 2).unwrap();
        absent.set(pages.into_iter());
        absent
    }

    fn wanted(absent: &AbsentPages) -> Vec<usize> {
        core::iter::from_fn(|| absent.take_wanted()).collect()
    }

    #[test]
    fn while_nothing_is_absent_nobody_waits() {
        let absent = absent([]);
        assert!(!absent.is_on() && !absent.is_absent(3) && !absent.publish(3));
        assert_eq!(absent.wait(0, 3), Wait::Over);
        assert_eq!(wanted(&absent), []);
    }

    #[test]
    fn a_wait_is_told_once_and_ends_with_its_page_alone() {
        let absent = absent([3, 70, 71]);
        assert_eq!(absent.wait(0, 70), Wait::Noted);
        assert_eq!(absent.wait(1, 3), Wait::Noted);
        assert_eq!(wanted(&absent), [70, 3]);
        assert_eq!(absent.waits().collect::<Vec<_>>(), [(0, 70), (1, 3)]);
        assert!(!absent.publish(71), "nobody waits for that one");
        assert!(absent.publish(70));
        assert!(!absent.publish(70), "it has come already");
        absent.end_wait(0);
        assert!(absent.is_waited_for());
        assert!(absent.publish(3));
        assert!(!absent.is_waited_for() && absent.is_on() && absent.left() == 0);
        assert_eq!(wanted(&absent), []);
    }

    #[test]
    fn a_page_that_came_before_its_wait_was_told_is_not_asked_for() {
        let absent = absent([5, 6]);
        assert_eq!(absent.wait(0, 5), Wait::Noted);
        assert!(absent.publish(5));
        assert_eq!(wanted(&absent), []);
        absent.end_wait(0);
        assert_eq!(absent.wait(0, 5), Wait::Over);
        assert_eq!(absent.wait(0, 6), Wait::Noted);
        assert_eq!(wanted(&absent), [6]);
    }

    #[test]
    fn what_is_lost_is_not_waited_for() {
        let absent = absent([5]);
        assert_eq!(absent.wait(1, 5), Wait::Noted);
        absent.forsake();
        assert_eq!(absent.wait(0, 5), Wait::Lost);
        assert!(!absent.is_waited_for() && absent.left() == 1);
        absent.clear();
        assert!(!absent.is_lost() && !absent.is_on());
    }

    #[test]
    fn another_set_replaces_the_one_before() {
        let absent = absent([5, 200]);
        absent.set([6, 6, 300].into_iter());
        assert!(absent.is_absent(6) && !absent.is_absent(5) && !absent.is_absent(200));
        assert_eq!(absent.left(), 1);
        absent.set(core::iter::empty());
        assert!(!absent.is_on());
    }

    /// No wake-up is lost, whatever runs when: a waiter that goes to sleep is woken.
    #[test]
    fn a_page_that_comes_while_its_waiter_goes_to_sleep_wakes_it() {
        const ROUNDS: usize = 20_000;
        let pages = Arc::new(AbsentPages::new(ROUNDS, 1).unwrap());
        pages.set(0..ROUNDS);
        let woken = Arc::new(AtomicUsize::new(usize::MAX));
        let publisher = std::thread::spawn({
            let (pages, woken) = (Arc::clone(&pages), Arc::clone(&woken));
            move || {
                for page in 0..ROUNDS {
                    if pages.publish(page) {
                        woken.store(page, Ordering::SeqCst);
                    }
                }
            }
        });
        for page in 0..ROUNDS {
            if pages.wait(0, page) == Wait::Noted {
                while woken.load(Ordering::SeqCst) != page {
                    std::thread::yield_now();
                }
                pages.end_wait(0);
            }
            assert!(!pages.is_absent(page));
        }
        publisher.join().unwrap();
        assert_eq!(pages.left(), 0);
    }

    proptest! {
        #[test]
        fn it_behaves_like_a_set(
            first: BTreeSet<u8>,
            steps in proptest::collection::vec((any::<u8>(), any::<bool>()), 0..100),
        ) {
            let mut model = first;
            let absent = absent(model.iter().map(|page| usize::from(*page)));
            for (page, comes) in steps {
                let (number, was) = (usize::from(page), model.contains(&page));
                if comes {
                    prop_assert!(!absent.publish(number));
                    model.remove(&page);
                } else {
                    let result = absent.wait(1, number);
                    prop_assert_eq!(result, if was { Wait::Noted } else { Wait::Over });
                    prop_assert_eq!(absent.take_wanted(), was.then_some(number));
                    absent.end_wait(1);
                }
                prop_assert_eq!(absent.is_absent(number), model.contains(&page));
                prop_assert_eq!(absent.left(), model.len());
            }
        }
    }
}
