//! A memory pattern that finds a single lost or stale page.
//!
//! Pages are rewritten in a pseudo-random order. Each carries a [`page::Stamp`] in several places: the number of the
//! write (its *sequence number*), the page's own index, and a check word made of both. A [`table::Table`] elsewhere in
//! memory says which sequence number each page got last. Before a page is written it must hold exactly that; so a page
//! that lost one write, fell back to an older content, was swapped with another or was damaged is found when its turn comes.
//!
//! The table lies in the same endangered memory. Its records carry check words of their own, and the sum of all its
//! sequence numbers is kept apart: a page and its record that fall back *together* break the sum.
//!
//! Pure and without a clock: the Linux and the bare-metal guest pace it, measure it and print what it finds.

mod filling;
mod order;
mod page;
mod table;
mod violation;

#[cfg(test)]
mod tests;

pub use self::filling::Filling;
pub use self::page::{Page, Stamp};
pub use self::table::{Record, Table};
pub use self::violation::{Fault, Violation};

use self::order::Order;

/// The pattern in a piece of memory.
#[derive(Debug)]
pub struct Pattern<'m> {
    pages: &'m [Page],
    table: Table<'m>,
    filling: Filling,
    order: Order,
    counts: Counts,
}

/// What was done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages written, the first filling included.
    pub writes: u64,
    /// Pages found to hold what was written to them last.
    pub verified: u64,
    /// Times that every page was visited.
    pub sweeps: u64,
    /// What was found wrong.
    pub violations: u64,
}

impl<'m> Pattern<'m> {
    /// Fills all pages for the first time. `table` must have a record for each page.
    ///
    /// # Panics
    ///
    /// If there is no page, or `table` is of another length.
    pub fn new(pages: &'m [Page], table: &'m [Record], filling: Filling) -> Self {
        assert!(!pages.is_empty() && pages.len() == table.len(), "one record for each of at least one page");
        let mut pattern = Self {
            pages,
            table: Table::new(table),
            filling,
            order: Order::new(pages.len()),
            counts: Counts::default(),
        };
        for (index, page) in pages.iter().enumerate() {
            page.fill(index as u64, filling);
            pattern.rewrite(index);
        }
        pattern
    }

    /// Verifies the next page and writes it anew; at the end of a sweep verifies the table's sum too.
    ///
    /// # Errors
    ///
    /// What was wrong. The page has been rewritten all the same, so that each fault is reported once.
    pub fn step(&mut self) -> Result<(), Violation> {
        let index = self.order.next();
        let mut found = self.verify(index);
        if found.is_ok() {
            self.counts.verified += 1;
        }
        self.rewrite(index);
        if self.order.is_at_end() {
            self.counts.sweeps += 1;
            found = found.and(self.table.verify_sum());
        }
        self.counts.violations += u64::from(found.is_err());
        found
    }

    /// Verifies every byte of every page, every record and the sum, and writes nothing. Violations go to `report`.
    /// Gives their number.
    pub fn check(&mut self, mut report: impl FnMut(Violation)) -> u64 {
        let mut violations = 0;
        for index in 0..self.pages.len() {
            let (page, filling) = (&self.pages[index], self.filling);
            let found = self.verify(index).and_then(|()| page.verify_filling(index as u64, filling));
            if let Err(violation) = found {
                violations += 1;
                report(violation);
            }
        }
        if let Err(violation) = self.table.verify_sum() {
            violations += 1;
            report(violation);
        }
        self.counts.violations += violations;
        violations
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    fn verify(&self, index: usize) -> Result<(), Violation> {
        let sequence = self.table.sequence(index)?;
        self.pages[index].verify(Stamp { sequence, page: index as u64 })
    }

    fn rewrite(&mut self, index: usize) {
        self.counts.writes += 1;
        let sequence = self.counts.writes;
        self.pages[index].write(Stamp { sequence, page: index as u64 });
        self.table.set(index, sequence);
    }
}
