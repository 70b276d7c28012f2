//! The order of visits: each sweep visits every page once, and no two sweeps in the same order.

use super::page::mix;

/// Where a sweep stands.
#[derive(Debug)]
pub(crate) struct Order {
    pages: usize,
    /// Half the bits of an index, rounded up: the shuffle works on the next power of four.
    half_bits: u32,
    sweep: u64,
    position: u64,
    visited: usize,
}

impl Order {
    pub(crate) fn new(pages: usize) -> Self {
        let bits = pages.next_power_of_two().trailing_zeros();
        Self { pages, half_bits: bits.div_ceil(2), sweep: 0, position: 0, visited: 0 }
    }

    /// The next page's index. The first call after the last page of a sweep begins the next sweep.
    pub(crate) fn next(&mut self) -> usize {
        if self.is_at_end() {
            self.sweep += 1;
            self.position = 0;
            self.visited = 0;
        }
        let positions = 1 << (2 * self.half_bits);
        while self.position < positions {
            let index = self.shuffle(self.position);
            self.position += 1;
            if index < self.pages as u64 {
                self.visited += 1;
                return index as usize;
            }
        }
        unreachable!("a shuffle of all positions meets every page");
    }

    /// Whether every page was visited in this sweep.
    pub(crate) fn is_at_end(&self) -> bool {
        self.visited == self.pages
    }

    /// A permutation of the positions: three rounds of a Feistel network, keyed by the sweep.
    fn shuffle(&self, position: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (position >> self.half_bits, position & mask);
        for round in 0..3 {
            let key = self.sweep << 34 | round << 32;
            (left, right) = (right, left ^ mix(key | right) & mask);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    fn sweep(order: &mut Order) -> Vec<usize> {
        (0..order.pages).map(|_| order.next()).collect()
    }

    #[test]
    fn each_sweep_visits_every_page_once() {
        for pages in [1, 2, 3, 4, 5, 31, 256, 1000] {
            let mut order = Order::new(pages);
            for _ in 0..3 {
                let mut visited = sweep(&mut order);
                assert!(order.is_at_end());
                visited.sort();
                assert!(visited.into_iter().eq(0..pages), "{pages} pages");
            }
        }
    }

    #[test]
    fn two_sweeps_differ_and_neither_is_in_sequence() {
        let mut order = Order::new(1000);
        let (first, second) = (sweep(&mut order), sweep(&mut order));
        assert_ne!(first, second);
        for visited in [first, second] {
            let neighbours = visited.windows(2).filter(|pair| pair[1] == pair[0] + 1).count();
            assert!(neighbours < 50, "{neighbours} of 999 steps go to the next page");
        }
    }
}
