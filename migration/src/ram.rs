//! Guest RAM as the engine sees it: a dense row of pages, by copies.
//!
//! Pages are numbered 0..count over the guest's RAM ranges in ascending order, holes left out; [`RamLayout`]
//! converts between that [`Page`] number and guest frame numbers. The engine keeps no reference to RAM: it is
//! passed in with every call.

use alloc::vec::Vec;
use core::fmt;

use crate::bitmap::PageBitmap;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// Most RAM ranges a guest may have.
pub const RAM_RANGES_MAX: usize = 32;
/// Most pages a guest may have (16 TiB).
pub const RAM_PAGES_MAX: u32 = u32::MAX - 1;

/// The content of one page.
pub type PageBytes = [u8; PAGE_BYTES];

/// A page's number among the guest's RAM pages, from 0 without holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page(pub u32);

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// Why RAM could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RamFailure {
    /// The page is not one of the guest's.
    OutOfRange(Page),
    /// The host has no memory left to back the page.
    OutOfMemory(Page),
    /// This host cannot make a guest wait for a page.
    CannotWait,
}

impl fmt::Display for RamFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange(page) => write!(f, "{page} is outside the guest's RAM"),
            Self::OutOfMemory(page) => write!(f, "the host has no memory left for {page}"),
            Self::CannotWait => f.write_str("the host cannot make a guest wait for its memory"),
        }
    }
}

impl core::error::Error for RamFailure {}

/// A guest's RAM and dirty log.
///
/// At the target the RAM reads as zero when the engine first sees it, and the engine relies on that. Writes made
/// through this trait need not show in the dirty log of the target.
pub trait GuestRam {
    /// Number of RAM pages; the same at every call of one migration, 0 while there is no guest yet.
    fn page_count(&self) -> u32;

    /// Copies a page out. The guest may be writing meanwhile: torn content is expected, and such a page shows
    /// in a later harvest.
    ///
    /// # Errors
    /// [`RamFailure::OutOfRange`] if there is no such page.
    fn read_page(&self, page: Page, into: &mut PageBytes) -> Result<(), RamFailure>;

    /// Replaces a page's content.
    ///
    /// # Errors
    /// [`RamFailure::OutOfRange`] if there is no such page, [`RamFailure::OutOfMemory`] if RAM is backed on
    /// first use and the host has none left.
    fn write_page(&mut self, page: Page, from: &PageBytes) -> Result<(), RamFailure>;

    /// Whether the page is all zero bytes. Worth overriding where RAM can be scanned in place.
    ///
    /// # Errors
    /// [`RamFailure::OutOfRange`] if there is no such page.
    fn is_zero(&self, page: Page) -> Result<bool, RamFailure> {
        let mut bytes = [0; PAGE_BYTES];
        self.read_page(page, &mut bytes)?;
        Ok(crate::zero::is_zero(&bytes))
    }

    /// A hint that the page is looked at next, for RAM that can be fetched into a cache: processors fetch ahead within a
    /// page by themselves, but not into the next one.
    fn prefetch(&self, _page: Page) {}

    /// Adds the pages of the last harvest to `into` and forgets them. Called after
    /// [`crate::GuestEvent::DirtyLogHarvested`] only.
    fn take_dirty(&mut self, into: &mut PageBitmap);

    /// Target, while the guest stands still: from now on exactly these pages are *absent*, all others present. This
    /// trait reads and writes absent pages like others; a guest that touches one waits until it is
    /// [published](Self::publish), and so does everything that acts for it. The wait is told with
    /// [`crate::GuestEvent::PageWanted`]. Whatever this needs is there when it returns, or when the next
    /// [`crate::GuestAction::RestoreState`] is answered.
    ///
    /// # Errors
    /// [`RamFailure::OutOfMemory`], or [`RamFailure::CannotWait`] where post-copy is not offered
    /// ([`crate::HostCapabilities::post_copy`]); then it counts as not asked for.
    fn set_absent(&mut self, absent: &PageBitmap) -> Result<(), RamFailure> {
        if absent.is_empty() { Ok(()) } else { Err(RamFailure::CannotWait) }
    }

    /// Target: an absent page has its content, whoever waits for it goes on. From here on it is the guest's: it is not
    /// written through this trait any more. Nothing happens if the page is not absent.
    fn publish(&mut self, _page: Page) {}
}

/// The RAM of a guest that does not exist yet: no pages. What a session passes before the guest is built.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRam;

impl GuestRam for NoRam {
    fn page_count(&self) -> u32 {
        0
    }

    fn read_page(&self, page: Page, _into: &mut PageBytes) -> Result<(), RamFailure> {
        Err(RamFailure::OutOfRange(page))
    }

    fn write_page(&mut self, page: Page, _from: &PageBytes) -> Result<(), RamFailure> {
        Err(RamFailure::OutOfRange(page))
    }

    fn take_dirty(&mut self, _into: &mut PageBitmap) {}
}

/// A run of guest-physical page frames that are RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamRange {
    /// First guest frame number (guest-physical address / 4096).
    pub first_frame: u64,
    /// Number of frames, at least 1.
    pub frames: u64,
}

/// Why ranges are no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadLayout {
    /// There is no range, or more than [`RAM_RANGES_MAX`].
    RangeCount(usize),
    /// The range of this number is empty, overflows, or does not lie above the one before.
    Range(usize),
    /// More than [`RAM_PAGES_MAX`] pages in all.
    TooLarge,
}

impl fmt::Display for BadLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RangeCount(count) => write!(f, "{count} RAM ranges, 1 to {RAM_RANGES_MAX} are possible"),
            Self::Range(index) => write!(f, "RAM range {index} is empty, overflows or is out of order"),
            Self::TooLarge => write!(f, "more than {RAM_PAGES_MAX} pages of RAM"),
        }
    }
}

impl core::error::Error for BadLayout {}

/// Where a guest's RAM lies: ascending, disjoint ranges of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RamLayout {
    ranges: Vec<RamRange>,
    page_count: u32,
}

impl RamLayout {
    /// A layout of ascending, disjoint ranges.
    ///
    /// # Errors
    /// [`BadLayout`] says which range is wrong.
    pub fn new(ranges: &[RamRange]) -> Result<Self, BadLayout> {
        if ranges.is_empty() || ranges.len() > RAM_RANGES_MAX {
            return Err(BadLayout::RangeCount(ranges.len()));
        }
        let (mut next_free, mut pages) = (0u64, 0u64);
        for (index, range) in ranges.iter().enumerate() {
            let end = range.first_frame.checked_add(range.frames).ok_or(BadLayout::Range(index))?;
            if range.frames == 0 || range.first_frame < next_free {
                return Err(BadLayout::Range(index));
            }
            next_free = end;
            pages = pages.checked_add(range.frames).ok_or(BadLayout::TooLarge)?;
        }
        match u32::try_from(pages) {
            Ok(page_count) if page_count <= RAM_PAGES_MAX => Ok(Self { ranges: ranges.to_vec(), page_count }),
            _ => Err(BadLayout::TooLarge),
        }
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// Pages of all ranges together.
    #[must_use]
    pub const fn page_count(&self) -> u32 {
        self.page_count
    }

    /// Bytes of all ranges together.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.page_count as u64 * PAGE_BYTES as u64
    }

    /// The guest frame number of a page, `None` if there is no such page.
    #[must_use]
    pub fn frame_of(&self, page: Page) -> Option<u64> {
        let mut left = u64::from(page.0);
        for range in &self.ranges {
            if left < range.frames {
                return Some(range.first_frame + left);
            }
            left -= range.frames;
        }
        None
    }

    /// The page at a guest frame number, `None` if that frame is not RAM.
    #[must_use]
    pub fn page_of(&self, frame: u64) -> Option<Page> {
        let mut before = 0u64;
        for range in &self.ranges {
            if frame < range.first_frame {
                return None;
            }
            if frame - range.first_frame < range.frames {
                return u32::try_from(before + (frame - range.first_frame)).ok().map(Page);
            }
            before += range.frames;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_pages_convert_both_ways_across_a_hole() {
        let low = RamRange { first_frame: 0, frames: 0xa0 };
        let high = RamRange { first_frame: 0x100, frames: 0x7f00 };
        let layout = RamLayout::new(&[low, high]).unwrap();
        assert_eq!(layout.page_count(), 0x7fa0);
        assert_eq!(layout.frame_of(Page(0x9f)), Some(0x9f));
        assert_eq!(layout.frame_of(Page(0xa0)), Some(0x100));
        assert_eq!(layout.frame_of(Page(0x7fa0)), None);
        assert_eq!(layout.page_of(0xa0), None);
        assert_eq!(layout.page_of(0x100), Some(Page(0xa0)));
        assert_eq!(layout.page_of(0x8000), None);
    }

    #[test]
    fn wrong_ranges_are_named() {
        let range = |first_frame, frames| RamRange { first_frame, frames };
        assert_eq!(RamLayout::new(&[]), Err(BadLayout::RangeCount(0)));
        assert_eq!(RamLayout::new(&[range(0, 0)]), Err(BadLayout::Range(0)));
        assert_eq!(RamLayout::new(&[range(0, 4), range(3, 1)]), Err(BadLayout::Range(1)));
        assert_eq!(RamLayout::new(&[range(u64::MAX, 2)]), Err(BadLayout::Range(0)));
        assert_eq!(RamLayout::new(&[range(0, 1 << 33)]), Err(BadLayout::TooLarge));
    }
}
